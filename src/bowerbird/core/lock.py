"""Advisory locks on files in the knowledge base, released by the system when a process dies: one for its writer, one
for its index."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bowerbird.core.errors import BowerbirdError

WAIT_SECONDS = 30.0
INDEX_SECONDS = 24 * 3600.0


@contextmanager
def writer_lock(folder: Path, wait: float = WAIT_SECONDS) -> Iterator[None]:
    """Hold the writer's lock of `folder`, waiting up to `wait` seconds.

    Raises: BowerbirdError when another process writes for longer, or the folder cannot be written.
    """
    try:
        with lock(
            folder / ".lock",
            f"{folder}: another process has been writing for {wait:.0f} s; wait for it and run this again",
            wait,
        ):
            yield
    except OSError as error:
        raise BowerbirdError(f"{folder}: cannot be written ({error.strerror}); copy it to a place that can") from error


@contextmanager
def lock(path: Path, busy: str, wait: float = INDEX_SECONDS) -> Iterator[None]:
    """Hold the lock file `path`, waiting up to `wait` seconds. Raises: BowerbirdError(`busy`) after them."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(path, timeout=wait):
            yield
    except Timeout as error:
        raise BowerbirdError(busy) from error
