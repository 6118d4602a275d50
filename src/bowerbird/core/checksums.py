"""What a folder's files were when they were written, and which of them are not that any more.

A record holds each file's size, time of change and sha256. Beyond some bytes in all, a file of the size and time
recorded is believed, as reading gigabytes at every start would be the price of not believing it; `thorough` believes
none.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from bowerbird.core import files

ALWAYS_READ = 256 * 1024**2
"""So many bytes are compared by their content at every opening, the smallest files first: a fifth of a second."""
WORKERS = 4
ALONE = 1024**2
"""Up to so many bytes in all, starting threads takes longer than reading."""


def sha256(path: Path) -> str:
    """Hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def facts_of(path: Path, *, durable: bool = False) -> dict[str, Any]:
    """Size, time of change and hash of a file; `durable` has the disk write it first."""
    if durable:
        files.fsync_path(path)
    stat = path.stat()
    return {"bytes": stat.st_size, "changed": stat.st_mtime_ns, "sha256": sha256(path)}


def list_files(folder: Path) -> list[str]:
    """Every file below `folder`, by its path in it."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def record(
    folder: Path,
    *without: str,
    known: Mapping[str, Any] | None = None,
    only: Iterable[str] | None = None,
    durable: bool = False,
) -> dict[str, Any]:
    """Facts of every file below `folder` but those named; what is `known` already is not read again, and the rest made
    `durable` if asked, with the folders that name them."""
    names = [n for n in (list_files(folder) if only is None else only) if n not in without]
    fresh = [n for n in names if n not in (known or {})]
    with ThreadPoolExecutor(WORKERS) as pool:
        found = dict(zip(fresh, pool.map(lambda n: facts_of(folder / n, durable=durable), fresh), strict=True))
    if durable:
        # a file is found after a power cut when every folder down to it has its entry: the first deletion, say, makes
        # a folder that the one above has to name
        for inside in sorted({above for n in fresh for above in PurePosixPath(n).parents}):
            files.fsync_path(folder / inside)
    return {n: found[n] if n in found else (known or {})[n] for n in names}


def find_changes(
    folder: Path,
    recorded: Mapping[str, Any],
    *,
    by_time: bool = True,
    thorough: bool = False,
    may_be_gone: bool = False,
) -> list[str]:
    """What is wrong with the files of a record, a line each: missing, another size, another content.

    Content is read of the smallest files up to `ALWAYS_READ` bytes in all; of the rest when its time is not the one
    recorded (`by_time`), or always (`thorough`).
    """
    ordered = sorted(recorded, key=lambda name: int(recorded[name]["bytes"]))
    until = dict(zip(ordered, itertools.accumulate(int(recorded[name]["bytes"]) for name in ordered), strict=True))

    def wrong(name: str) -> str | None:
        path, facts = folder / name, recorded[name]
        try:
            stat = path.stat()
            if stat.st_size != facts["bytes"]:
                return f"{path}: {stat.st_size} bytes, {facts['bytes']} were written"
            read = thorough or until[name] <= ALWAYS_READ or (by_time and stat.st_mtime_ns != facts["changed"])
            return (
                None if not read or sha256(path) == facts["sha256"] else f"{path}: its content is not what was written"
            )
        except FileNotFoundError:
            return None if may_be_gone else f"{path}: not there"
        except OSError as error:
            return f"{path}: {error.strerror or 'cannot be read'}"

    if not ordered or until[ordered[-1]] <= ALONE:
        return [line for line in map(wrong, recorded) if line]
    with ThreadPoolExecutor(WORKERS) as pool:
        return [line for line in pool.map(wrong, recorded) if line]
