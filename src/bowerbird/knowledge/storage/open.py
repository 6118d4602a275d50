"""Where a knowledge base can lie: a directory, or Milvus by its address."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bowerbird.core import files
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.progress import OnMessage
from bowerbird.knowledge.storage.directory import MANIFEST, Store, holds_something
from bowerbird.knowledge.storage.milvus.client import is_address

if TYPE_CHECKING:
    from bowerbird.knowledge.storage.milvus.store import MilvusStore

    AnyStore = Store | MilvusStore


def open_store(place: str | Path, memory: int, on_message: OnMessage) -> AnyStore:
    """The store at `place`. Raises: BowerbirdError when there is none."""
    if not is_address(place):
        return Store.open(Path(place), memory, on_message)
    from bowerbird.knowledge.storage.milvus.store import MilvusStore

    return MilvusStore.open(str(place), memory, on_message)


@contextmanager
def making(
    place: str | Path,
    encoder: dict[str, Any],
    words: Sequence[int],
    tag: dict[str, Any],
    memory: int,
    on_message: OnMessage,
) -> Iterator[AnyStore]:
    """An empty store to be filled in the block; a directory appears when it ends well, and is gone on with by the next
    block of the same `tag`.

    Raises: BowerbirdError when `place` is taken.
    """
    if is_address(place):
        from bowerbird.knowledge.storage.milvus.store import MilvusStore

        there = MilvusStore.create(str(place), encoder, words, memory, on_message, tag)
        try:
            yield there
        except BowerbirdError:
            if not len(there):
                there.drop()
            raise
        there.ready()
        return
    path = Path(place)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        what = (
            "a knowledge base is there already; add to it: bowerbird kb add"
            if (path / MANIFEST).is_file()
            else "this path is taken; give a new one"
        )
        raise BowerbirdError(f"{path}: {what}")
    with files.resumable_directory(path, tag, worth=holds_something) as target:
        yield Store.create(target, encoder, words, memory, on_message)
