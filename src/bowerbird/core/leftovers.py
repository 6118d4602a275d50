"""Temporary files and folders: what they are called, and when one that a killed run left may be removed.

A name says who made it: a machine (or container) and a process. What a process of this machine made that is no more is
nobody's; what another machine made on a shared disk is left to it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
from contextlib import suppress
from functools import cache
from pathlib import Path

_NAME = re.compile(
    r"\.(?P<name>.+)\.(?P<machine>[0-9a-f]{8})-(?P<process>\d+)\.bowerbird\.(?P<kind>tmp|old)", re.DOTALL
)
_cleared: set[Path] = set()


def owner() -> str:
    """This machine and this process, as they stand in names."""
    return f"{_machine()}-{os.getpid()}"


def temporary_name(path: Path, kind: str) -> Path:
    """The sibling of `path` to write to (`tmp`), or to move it aside to (`old`)."""
    return path.with_name(f".{path.name}.{owner()}.bowerbird.{kind}")


def is_temporary(name: str) -> bool:
    """Whether a file or folder of this name is one of ours that is not finished."""
    return _NAME.fullmatch(name) is not None


def clear_once(folder: Path) -> None:
    """`clear` the first time that this process writes to `folder`."""
    if folder not in _cleared:
        _cleared.add(folder)
        clear(folder)


def clear(folder: Path, *, alone: bool = False) -> None:
    """Remove what killed runs left in `folder`; with `alone`, what others left too, as nobody else writes here now.

    What was moved aside stays where nothing has taken its place.
    """
    try:
        found = [(entry, match) for entry in os.scandir(folder) if (match := _NAME.fullmatch(entry.name))]
    except OSError:
        return
    for entry, match in found:
        maker = f"{match['machine']}-{match['process']}"
        gone = (alone and maker != owner()) or is_gone(maker)
        if gone and (match["kind"] == "tmp" or (folder / match["name"]).exists()):
            remove(Path(entry.path))


def is_gone(maker: str) -> bool:
    """Whether the process that `owner` named was one of this machine and is no more."""
    machine, _, process = maker.partition("-")
    if machine != _machine() or os.name != "posix":  # Windows has no question without an effect
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        pass
    return False


def remove(path: Path) -> None:
    """Remove a file or folder, if that can be."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


@cache
def _machine() -> str:
    """A short name of this machine; of a container, which numbers its processes itself."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return hashlib.sha256(f"{socket.gethostname()} {space}".encode()).hexdigest()[:8]
