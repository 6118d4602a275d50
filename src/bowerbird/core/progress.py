"""Progress of long work, and messages about it: one form of each for the whole library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

OnMessage = Callable[[str], None]
"""Hears a line for a person."""


class Progress(Protocol):
    """Hears how far long work is: items `done` of `total` (None where that is not known), in the `stage` named."""

    def __call__(self, done: int, total: int | None = None, stage: str = "") -> None: ...


def ignore_message(_: str) -> None:
    """Let a message go."""
