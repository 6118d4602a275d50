"""Which store a place belongs to: a directory, or Milvus by its address. A new store is one entry of `STORES`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.progress import OnMessage
from bowerbird.knowledge.search.analyzer import PLAIN, Analyzer
from bowerbird.knowledge.storage import directory, new_directory
from bowerbird.knowledge.storage.milvus.client import is_address
from bowerbird.knowledge.storage.protocol import Store


@dataclass(frozen=True)
class NewStore:
    """What a store is made with. `encoder`: its name, fingerprint, dim and whether embeddings are normalized.
    `words`: how often a word of a caption, and of the tags, counts. `tag`: what the items are made of; an interrupted
    build goes on when the next one has the same. `analyzer`: how texts become words."""

    encoder: dict[str, Any]
    words: Sequence[int]
    tag: dict[str, Any]
    analyzer: Analyzer = PLAIN


@dataclass(frozen=True)
class StoreKind:
    """`matches(place)`; `open(place, memory, on_message)`, at the newest version; `create(place, new, memory,
    on_message)`, a block with an empty store that is there for others when the block ends well, and gone when it ends
    in an error before anything was committed."""

    matches: Callable[[str], bool]
    open: Callable[[str, int, OnMessage], Store]
    create: Callable[[str, NewStore, int, OnMessage], AbstractContextManager[Store]]


def _open_milvus(place: str, memory: int, on_message: OnMessage) -> Store:
    from bowerbird.knowledge.storage.milvus.store import MilvusStore

    return MilvusStore.open(place, memory, on_message)


def _create_milvus(place: str, new: NewStore, memory: int, on_message: OnMessage) -> AbstractContextManager[Store]:
    from bowerbird.knowledge.storage.milvus import store

    return store.create(place, new.encoder, new.words, new.tag, memory, on_message, new.analyzer)


def _open_directory(place: str, memory: int, on_message: OnMessage) -> Store:
    return directory.DirectoryStore.open(Path(place), memory, on_message)


def _create_directory(place: str, new: NewStore, memory: int, on_message: OnMessage) -> AbstractContextManager[Store]:
    return new_directory.create(Path(place), new.encoder, new.words, new.tag, memory, on_message, new.analyzer)


STORES: list[StoreKind] = [
    StoreKind(is_address, _open_milvus, _create_milvus),
    StoreKind(lambda place: True, _open_directory, _create_directory),  # any other place is a path
]
"""The stores there are; the first that matches a place has it."""


def store_kind(place: str | Path) -> StoreKind:
    """The kind of store that `place` is of. Raises: BowerbirdError for an empty one, which would mean the current
    folder."""
    if not str(place).strip():
        raise BowerbirdError("the path of the knowledge base is empty; give a folder, as in my-kb")
    return next(kind for kind in STORES if kind.matches(str(place)))


def open_store(place: str | Path, memory: int, on_message: OnMessage) -> Store:
    """The store at `place`. Raises: BowerbirdError when there is none."""
    return store_kind(place).open(str(place), memory, on_message)


def create_store(place: str | Path, new: NewStore, memory: int, on_message: OnMessage) -> AbstractContextManager[Store]:
    """An empty store to be filled in the block. Raises: BowerbirdError when `place` is taken."""
    return store_kind(place).create(str(place), new, memory, on_message)
