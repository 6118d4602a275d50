"""Advisory locks on files, released by the system when a process dies: one for the writer of a knowledge base, one for
its index, and one for whatever two processes must not make at once."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bowerbird.core.errors import BowerbirdError

WAIT_SECONDS = 30.0
INDEX_SECONDS = 24 * 3600.0
HELD = (errno.EACCES, errno.EAGAIN)
"""What the system answers where another process has the lock."""


@contextmanager
def writer_lock(folder: Path, wait: float = WAIT_SECONDS) -> Iterator[None]:
    """Hold the writer's lock of `folder`, waiting up to `wait` seconds.

    Raises: BowerbirdError when another process writes for longer, or the folder cannot be written.
    """
    busy = f"{folder}: another process has been writing for {wait:.0f} s; wait for it and run this again"
    with ExitStack() as held:
        try:
            held.enter_context(lock(folder / ".lock", busy, wait))
        except OSError as error:
            raise BowerbirdError(
                f"{folder}: cannot be written ({error.strerror or error}); copy it to a place that can"
            ) from error
        yield


@contextmanager
def lock(path: Path, busy: str, wait: float = INDEX_SECONDS) -> Iterator[None]:
    """Hold the lock file `path`, waiting up to `wait` seconds. Raises: BowerbirdError(`busy`) after them, OSError where
    no file can be locked."""
    from filelock import FileLock, Timeout

    _check_locks(path)
    try:
        with FileLock(path, timeout=wait):
            yield
    except Timeout as error:
        raise BowerbirdError(busy) from error


def _check_locks(path: Path) -> None:
    """Raises: OSError where the file system has no locks (NFS without its lock daemon, Lustre mounted without flock).

    There filelock waits for ever, or takes a file for a lock that no death of a process takes away.
    """
    if os.name == "nt":
        return
    import fcntl

    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in HELD:
            reason = f"this file system has no file locks ({error.strerror})"
            raise OSError(error.errno, reason, str(path)) from error
    finally:
        os.close(handle)
