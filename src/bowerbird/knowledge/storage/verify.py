"""Does a knowledge base still hold what was put into it? Every file against its hash, every row against its check, the
index against the rows.

What is derived from the rows can be repaired; a damaged file of the rows is named, and only a copy brings it back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bowerbird.core import checksums, files, images
from bowerbird.core.errors import BowerbirdError, PictureError
from bowerbird.core.lock import writer_lock
from bowerbird.core.progress import Progress
from bowerbird.knowledge.search import build
from bowerbird.knowledge.storage.batches import read_in_batches
from bowerbird.knowledge.storage.directory import DirectoryStore
from bowerbird.knowledge.storage.file_list import FILES
from bowerbird.knowledge.storage.id_set import Known
from bowerbird.knowledge.storage.lance import FOLDER as ROWS_FOLDER
from bowerbird.knowledge.storage.lance import HINT, version_of
from bowerbird.knowledge.storage.manifest import MANIFEST
from bowerbird.knowledge.storage.verify_index import index_fault


@dataclass
class Verdict:
    """What is `corrupt` (files and rows that differ from what was written), what is `outdated` (derived, can be
    made again), what was `repaired`."""

    items: int = 0
    pictures: int = 0
    corrupt: list[str] = field(default_factory=list)
    outdated: list[str] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Nothing is lost, and nothing stale is left."""
        return not self.corrupt and len(self.repaired) == len(self.outdated)

    def facts(self) -> dict[str, Any]:
        """What `kb verify --json` prints."""
        return {
            "good": self.good,
            "items": self.items,
            "pictures": self.pictures,
            "corrupt": self.corrupt,
            "outdated": self.outdated,
            "repaired": self.repaired,
        }


def verify(path: str | Path, *, repair: bool = False, progress: Progress | None = None) -> Verdict:
    """Read everything of the knowledge base at `path` and compare; with `repair`, make again what is derived.

    Raises: BowerbirdError when there is none at all.
    """
    path = Path(path)
    if not path.is_dir() or not any((path / name).exists() for name in (MANIFEST, ROWS_FOLDER)):
        raise BowerbirdError(f"{path}: no knowledge base here")
    before = _version(path)
    verdict = _read_everything(path, repair, progress)
    for _ in range(3):  # a writer may have been here meanwhile, and forgotten what was being read
        if not verdict.corrupt or before == (before := _version(path)):
            break
        verdict = _read_everything(path, repair, progress)
    return verdict


def _version(path: Path) -> int | None:
    """The version now, if it can be read."""
    try:
        return int(DirectoryStore.open(path).manifest["version"])
    except (BowerbirdError, KeyError, TypeError, ValueError, AttributeError):
        return None


def _read_everything(path: Path, repair: bool, progress: Progress | None) -> Verdict:
    verdict = Verdict()
    try:
        store = DirectoryStore.open(path)
        files.read_sealed(path / MANIFEST, "knowledge base", exactly=True)
        recorded = files.read_sealed(path / FILES, "list of files", exactly=True)
        verdict.corrupt += checksums.find_changes(path, recorded, thorough=True)
        verdict.corrupt += _rows(store, verdict, progress)
    except BowerbirdError as error:
        verdict.corrupt.append(str(error))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        verdict.corrupt.append(f"{path / MANIFEST}: damaged ({type(error).__name__}: {error})")
    if verdict.corrupt:
        return verdict
    derived = {"index": index_fault(store), "hint": _hint(path)}
    verdict.outdated = [line for line in derived.values() if line]
    if repair and verdict.outdated:
        with writer_lock(path):
            if derived["hint"]:
                (path / ROWS_FOLDER / "_versions" / HINT).unlink(missing_ok=True)
                verdict.repaired.append(derived["hint"])
            if derived["index"]:
                build.make(path, store.rows, store.tag(), store.dim, memory=store.memory, rebuild=True)
                verdict.repaired.append(derived["index"])
    return verdict


def _rows(store: DirectoryStore, verdict: Verdict, progress: Progress | None) -> list[str]:
    """Every row against its check, and every picture against its id."""
    wrong = []
    rows = store.rows
    if len(rows) != len(store):
        wrong.append(f"{store.path / MANIFEST}: says {len(store)} items, the rows are {len(rows)}")
    seen = Known(np.zeros(0, np.int64))
    for batch in rows.checked_batches(2048):
        ids = batch.column(batch.schema.get_field_index("id")).to_pylist()
        new = set(seen.new(ids))
        seen.add(ids)
        wrong += [f"{store.path}: id {number} is there twice" for at, number in enumerate(ids) if at not in new]
        for pictures in read_in_batches(ids, rows.pictures, lambda found: sum(map(len, found.values())), 256):
            for number, data in pictures.items():
                verdict.pictures += 1
                try:
                    images.decode(data, str(number), max_pixels=images.MOST_PIXELS)
                except PictureError as error:
                    wrong.append(str(error))
        verdict.items += len(ids)
        if progress is not None:
            progress(verdict.items, len(store))
    return wrong


def _hint(path: Path) -> str | None:
    """What is wrong with LanceDB's hint, if anything."""
    hint = path / ROWS_FOLDER / "_versions" / HINT
    if not hint.exists():
        return None
    try:
        newest = int(files.read_json(hint, "hint")["version"])
    except (BowerbirdError, ValueError, KeyError, TypeError, OverflowError):
        return f"{hint}: damaged"
    there = [version_of(p) for p in hint.parent.glob("*.manifest") if p.name.split(".")[0].isdigit()]
    return None if newest in there else f"{hint}: names version {newest}, which is not there"
