"""One picture of a source, before anybody looked at it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.core import images
from bowerbird.core.errors import PictureError

if TYPE_CHECKING:
    from PIL import Image

CAPTION_COLUMNS = ("caption", "text", "name", "title", "label")
"""Columns taken for the caption when none is named, first match wins."""
OWN_COLUMNS = ("id", "caption", "name", "image", "embedding", "added", "check")
"""Columns of a knowledge base that are not metadata."""
HIDDEN_COLUMNS = ("image", "embedding", "check")
"""Those of them that are never shown as text or number."""


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


def clean_item(item: SourceItem) -> SourceItem:
    """The item with texts and metadata names as they can be stored."""
    return replace(item, caption=clean(item.caption), name=clean(item.name), metadata=clean_metadata(item.metadata))


def clean(text: str) -> str:
    """Text that can be stored: what is no character (half of a pair, in JSON from elsewhere) becomes a question
    mark."""
    return text.encode("utf-8", "replace").decode("utf-8")


def clean_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    """Metadata under names that can be columns and conditions: letters, digits and `_`, not ours and not LanceDB's."""
    made: dict[str, Any] = {}
    for key, value in metadata.items():
        name = re.sub(r"\W", "_", clean(str(key))) or "_"
        name = f"source_{name}" if name in OWN_COLUMNS or name.startswith("_row") else name
        made[name] = clean(value) if isinstance(value, str) else value
    return made


def hash_of(picture: bytes, caption: str) -> int:
    """63-bit hash of a picture's bytes and caption: the same picture with the same caption has the same id
    everywhere."""
    digest = hashlib.sha256(len(picture).to_bytes(8, "big") + picture + caption.encode("utf-8", "surrogatepass"))
    return int.from_bytes(digest.digest()[:8], "big") >> 1


def item_id(picture: bytes, embedding: np.ndarray, caption: str) -> int:
    """The id of an item with this caption; of one without a picture its embedding stands for it."""
    return hash_of(picture or np.ascontiguousarray(embedding, np.float32).tobytes(), caption)
