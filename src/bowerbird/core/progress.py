"""How long work is told of: `Progress(done, total or None)`, and lines for a person."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int | None], None]
Told = Callable[[str], None]


def quietly(_: str) -> None:
    """Tell nobody."""
