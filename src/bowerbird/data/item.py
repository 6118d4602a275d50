"""One picture of a source, before anybody looked at it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.core import images
from bowerbird.core.errors import PictureError
from bowerbird.data.columns import clean, plain
from bowerbird.data.report import SourceReport
from bowerbird.data.text import spelled

if TYPE_CHECKING:
    from PIL import Image

CAPTION_EMBEDDING = "caption_embedding"
PACKED_COLUMNS = ("token_matrix", CAPTION_EMBEDDING)
"""Columns of a row's own vectors as bytes, where the knowledge base has them: its tokens (`knowledge.rerank.tokens`),
and its caption's vector, float32 numbers."""
OWN_COLUMNS = ("id", "caption", "name", "image", "embedding", "added", "check", "content_hash", *PACKED_COLUMNS)
"""Columns of a knowledge base that are not metadata. `content_hash`: what the id of an item would be by its picture and
caption, where it has another one, kept through a change of them; else empty or not there."""
RENAMED_COLUMNS = frozenset(f"source_{name}" for name in OWN_COLUMNS)
"""What a source's columns of the same names are called."""
HIDDEN_COLUMNS = ("image", "embedding", "check", *PACKED_COLUMNS)
"""Those of them that are never shown as text or number."""
LONGEST_NAME = 160
"""A longer name is cut: it is for reports alone."""


@dataclass(frozen=True)
class SourceItem:
    """A picture's bytes, a name for reports, a caption, flat metadata, and the raw embedding where the source brings
    one `(d,)`.

    With an embedding, the picture may be missing (no bytes). `fingerprint`: of the encoder that made the embedding,
    where that is known. `problem`: why there is no picture, where the source knows; the item is then left out with it.
    """

    data: bytes
    name: str
    caption: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    embedding: np.ndarray | None = None
    fingerprint: str = ""
    problem: str = ""


def decode_item(item: SourceItem, *, at_least: int | None = None, max_pixels: int = images.MAX_PIXELS) -> Image.Image:
    """`images.decode` of an item's picture. Raises: PictureError, with the source's own words where it has a
    `problem`."""
    if item.problem:
        raise PictureError(f"{item.name}: {item.problem}")
    return images.decode(item.data, item.name, at_least=at_least, max_pixels=max_pixels)


def content_id(item: SourceItem) -> int:
    """`hash_of` an item; of one without a picture, its embedding stands for it."""
    return (
        hash_of(item.data, item.caption) if item.embedding is None else item_id(item.data, item.embedding, item.caption)
    )


class Cleaner:
    """Makes what a source gives storable, item by item: texts of whole characters, plain values, and metadata under
    names that can be columns.

    Two columns of a row never share a name; what was called in two ways in different rows is one column.
    """

    def __init__(self, report: SourceReport) -> None:
        self.report = report
        self._names: dict[str, str] = {}

    def clean(self, item: SourceItem) -> SourceItem:
        """The item as it can be stored."""
        name = clean(spelled(item.name))
        return replace(
            item,
            caption=clean(item.caption),
            name=name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…",
            metadata=self._metadata(item),
        )

    def _metadata(self, item: SourceItem) -> dict[str, Any]:
        made: dict[str, Any] = {}
        taken: set[str] = set()
        for key, value in item.metadata.items():
            try:
                stored = plain(value)
            except ValueError as error:
                self.report.note("values_left_out", clean(f"{item.name[:80]}, {key}: {error}"))
                continue
            if stored is None:
                continue
            name = self._names.get(key)
            if name is None or name.casefold() in taken:
                name = self._name(key, taken)
            taken.add(name.casefold())
            made[name] = stored
        return made

    def _name(self, key: str, taken: set[str]) -> str:
        """The name for a column called `key`, none of those `taken` in the same row."""
        name = wanted = column_name(key)
        number = 2
        while name.casefold() in taken:
            name, number = f"{wanted}_{number}", number + 1
        name = next((n for n in self._names.values() if n.casefold() == name.casefold()), name)
        if name != key and key not in self._names:
            self.report.note("columns_renamed", f"{clean(key)!r} is {name}")
        self._names[key] = name
        return name


def column_name(key: str) -> str:
    """A metadata name that can be a column and a condition: letters, digits and `_`, not ours and not LanceDB's."""
    name = re.sub(r"\W", "_", clean(str(key))) or "_"
    return f"source_{name}" if name.lower() in OWN_COLUMNS or name.lower().startswith("_row") else name


def clean_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    """Metadata from elsewhere as it can be stored; values may be None, which empties them."""
    return {column_name(key): plain(value) for key, value in metadata.items()}


def hash_of(picture: bytes, caption: str) -> int:
    """63-bit hash of a picture's bytes and caption: the same picture with the same caption has the same id
    everywhere."""
    digest = hashlib.sha256(len(picture).to_bytes(8, "big") + picture + caption.encode("utf-8", "surrogatepass"))
    return int.from_bytes(digest.digest()[:8], "big") >> 1


def free_id(content: int, taken: Callable[[int], bool]) -> int:
    """The id of a new item of that content hash: the same number, or one made of it where an item that has changed
    since, or one with another key, has that."""
    number = content
    while taken(number):
        number = int.from_bytes(hashlib.sha256(number.to_bytes(8, "big")).digest()[:8], "big") >> 1
    return number


def item_id(picture: bytes, embedding: np.ndarray, caption: str) -> int:
    """The id of an item with this caption; of one without a picture its embedding stands for it."""
    return hash_of(picture or np.ascontiguousarray(embedding, np.float32).tobytes(), caption)
