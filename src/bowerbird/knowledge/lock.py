"""One writer at a time: an advisory lock on a file in the knowledge base, released by the system when a process dies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bowerbird.errors import BowerbirdError

WAIT_SECONDS = 30.0


@contextmanager
def writer_lock(folder: Path, wait: float = WAIT_SECONDS) -> Iterator[None]:
    """Hold the writer's lock of `folder`, waiting up to `wait` seconds.

    Raises: BowerbirdError when another process writes for longer, or the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    try:
        with FileLock(folder / ".lock", timeout=wait):
            yield
    except Timeout as error:
        raise BowerbirdError(f"{folder}: another process has been writing for {wait:.0f} s; wait for it and run this again") from error
    except PermissionError as error:
        raise BowerbirdError(f"{folder}: cannot be written ({error.strerror}); copy it to a place that can") from error
