"""A new directory for a knowledge base: made whole or not at all, and gone on with after a kill."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bowerbird.core import files
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.progress import OnMessage
from bowerbird.core.text import in_shell
from bowerbird.knowledge.search.analyzer import PLAIN, Analyzer
from bowerbird.knowledge.storage.directory import FORMAT, DirectoryStore
from bowerbird.knowledge.storage.file_list import record_files
from bowerbird.knowledge.storage.lance import FOLDER as ROWS_FOLDER
from bowerbird.knowledge.storage.lance import Rows
from bowerbird.knowledge.storage.manifest import MANIFEST, read_manifest


@contextmanager
def create(
    path: Path,
    encoder: dict[str, Any],
    words: Sequence[int],
    tag: dict[str, Any],
    memory: int,
    on_message: OnMessage,
    analyzer: Analyzer = PLAIN,
) -> Iterator[DirectoryStore]:
    """An empty directory to be filled in the block; it appears at `path` when that ends well, and is gone on with by
    the next block of the same `tag`.

    Raises: BowerbirdError when `path` is taken.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        what = (
            f"a knowledge base is there already; add to it: bowerbird kb add {in_shell(path)} SOURCE"
            if (path / MANIFEST).is_file()
            else "this path is taken; the knowledge base is a new path, before the source: bowerbird kb build KB SOURCE"
        )
        raise BowerbirdError(f"{path}: {what}")
    with files.resumable_directory(path, tag, worth=_has_items) as target:
        try:
            yield _begin(target, encoder, words, memory, on_message, analyzer)
        except BowerbirdError as error:
            line = str(error).replace(
                str(target), str(path)
            )  # the name it has while it is made says nothing to anybody
            raise type(error)(line) from error


def _begin(
    path: Path,
    encoder: dict[str, Any],
    words: Sequence[int],
    memory: int,
    on_message: OnMessage,
    analyzer: Analyzer,
) -> DirectoryStore:
    """An empty one in the folder `path`, or what a killed build and the changes after it left there.

    `encoder`: name, fingerprint, dim, normalize. `words`: how often a word of a caption and of the tags counts.
    """
    if not (path / MANIFEST).is_file():
        shutil.rmtree(path / ROWS_FOLDER, ignore_errors=True)  # of a build that was killed this early
        Rows.create(path, int(encoder["dim"]))
        record_files(path)
        entry = {"version": 0, "items": 0, "rows_version": 1, "token": 0}
        metric = "cosine" if encoder["normalize"] else "inner product"
        embeddings = {
            key: encoder[key] for key in ("fingerprint", "dim", "normalize")
        }  # sealed; of `encoder` the name may be edited
        facts = {
            "format": FORMAT,
            "id": secrets.token_hex(8),
            **entry,
            "metric": metric,
            "encoder": encoder,
            "embeddings": embeddings,
            "words": list(words),
            **analyzer.recorded(),
        }
        files.write_sealed(path / MANIFEST, {**facts, "history": [entry]})
    return DirectoryStore(path, read_manifest(path), memory, on_message)


def _has_items(folder: Path) -> bool:
    """Whether a build that ended in an error has committed items, which the same command then need not embed again."""
    try:
        return int(files.read_sealed(folder / MANIFEST, "knowledge base")["items"]) > 0
    except BowerbirdError:
        return False
