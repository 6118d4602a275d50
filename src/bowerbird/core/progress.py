"""Progress of long work: `Progress` for bars, and `OnMessage` for lines to a person."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol


class Progress(Protocol):
    """What long work calls now and then; any function of these three arguments is one.

    `done` and `total` count the same things (pictures, rows, steps); `total` is None where nobody knows how many there
    are. `stage` names a part of the work that counts for itself, `""` where there is one part only. It is called from
    the thread that asked for the work, with `done` never falling within a stage, and what it raises ends the work.
    """

    def __call__(self, done: int, total: int | None = None, stage: str = "") -> None: ...


OnMessage = Callable[[str], None]
"""Gets one line for a person, without a line break at its end: what takes long, what was left undone, and why."""


def log_message(line: str) -> None:
    """The `OnMessage` of whoever gives none: `logging`, logger `bowerbird`, level INFO."""
    logging.getLogger("bowerbird").info(line)


def for_stage(progress: Progress | None, name: str, size: int | None = None) -> Progress:
    """`progress` for one stage of the work called `name`, of `size` steps where its caller does not say how many."""

    def report(done: int, total: int | None = None, stage: str = "") -> None:
        if progress is not None:
            progress(done, size if total is None else total, name)

    return report


def within(progress: Progress | None, name: str) -> Progress:
    """`progress` for a part of the work called `name` that has stages of its own."""

    def report(done: int, total: int | None = None, stage: str = "") -> None:
        if progress is not None:
            progress(done, total, f"{name}, {stage}" if stage else name)

    return report
