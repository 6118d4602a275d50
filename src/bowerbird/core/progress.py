"""How long work is told of: `Progress(done, total or None)`, and lines for a person."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int | None], None]
OnMessage = Callable[[str], None]


def ignore_message(_: str) -> None:
    """Tell nobody."""
