"""Folders of results: what an earlier run left gives way to the new set as a whole, and nothing else is touched.

A folder is an earlier run's when it holds the set's last file and nothing that does not belong to the set. Any other
folder that is not empty is refused, best before the work begins (`check_output`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from bowerbird.core import leftovers
from bowerbird.core.disk import disk_errors
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.files import atomic_directory, fsync_path, fsync_paths


@dataclass(frozen=True)
class FileSet:
    """The files that one kind of run leaves: `last`, which is written last and says that the set is whole, and the
    patterns of the `others`."""

    last: str
    others: tuple[str, ...]

    def __contains__(self, name: str) -> bool:
        return name == self.last or any(fnmatchcase(name, pattern) for pattern in self.others)


def check_folder(out: str | Path) -> Path:
    """`out` as a path. Raises: BowerbirdError when it is not a folder, or none can be made or written there."""
    out = Path(out)
    there = next(place for place in (out, *out.absolute().parents) if place.exists() or place.is_symlink())
    if not there.is_dir():
        raise BowerbirdError(f"{there}: is not a folder; give the results a folder of their own")
    if not os.access(there, os.W_OK | os.X_OK):
        raise BowerbirdError(f"{there}: cannot be written; give the results another folder")
    return out


def check_output(out: str | Path, files: FileSet) -> Path:
    """`check_folder`, and that nothing in `out` would be mixed with a new set of `files`.

    Raises: BowerbirdError naming what is in the way.
    """
    out = check_folder(out)
    names = sorted(entry.name for entry in out.iterdir()) if out.is_dir() else []
    names = [name for name in names if not leftovers.is_temporary(name)]
    foreign = [name for name in names if name not in files]
    if foreign or (names and files.last not in names):
        more = " and more" if len(names) > 1 else ""
        why = "is no result of this command" if foreign else f"is there without {files.last}"
        raise BowerbirdError(
            f"{out}: holds {(foreign or names)[0]}{more}, which {why}; give a new folder, or empty this one"
        )
    return out


@contextmanager
def output_directory(out: str | Path, files: FileSet) -> Iterator[Path]:
    """An empty folder to write a set of `files` to. When the block ends well it takes the place of the set in `out`;
    when it does not, `out` is as it was.

    Raises: BowerbirdError as `check_output` does.
    """
    out = check_output(out, files)
    if not out.exists():
        with atomic_directory(out) as made:
            yield made
        return
    # `out` may be the current directory or a mount, which nothing can be renamed onto
    leftovers.clear_once(out)
    made = leftovers.temporary_name(out / "new", "tmp")
    try:
        with disk_errors(out, made):
            made.mkdir()
            yield made
            fsync_paths(made.iterdir())
            old = [entry for entry in out.iterdir() if entry.name in files]
            for entry in sorted(old, key=lambda entry: entry.name != files.last):
                entry.unlink()
            for entry in sorted(made.iterdir(), key=lambda entry: entry.name == files.last):
                entry.rename(out / entry.name)
            fsync_path(out)
    finally:
        shutil.rmtree(made, ignore_errors=True)
