"""Training data in memory: decoded pictures with their metadata, the form every recipe of this size starts from.

Knows sources and pixels; knows no model and draws no batch (each system draws its own, from a seed and a step).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from bowerbird.core import images
from bowerbird.core.errors import BowerbirdError, PictureError
from bowerbird.data.filters import filter_rows
from bowerbird.data.item import content_id
from bowerbird.data.sources import registry

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.core.types import Neighbors


class PictureStore(Protocol):
    """What training data needs of a knowledge base."""

    @property
    def path(self) -> Path | str: ...
    def ids(self, where: str | None = None) -> np.ndarray: ...
    def get(self, ids: Sequence[int]) -> Neighbors: ...
    def pictures(self, ids: np.ndarray) -> list[list[Image.Image | None]]: ...


@dataclass(frozen=True)
class Pictures:
    """`pixels` uint8 `(n, 3, S, S)` on white, `captions`, flat `metadata` and content `ids`, row by row."""

    pixels: Tensor
    captions: tuple[str, ...]
    metadata: tuple[dict[str, Any], ...]
    ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.captions)

    @property
    def size(self) -> int:
        """Edge length in pixels."""
        return int(self.pixels.shape[-1])

    def column(self, key: str) -> list[str]:
        """Metadata `key` of every row as text, empty where a row lacks it."""
        return [str(row.get(key, "")) for row in self.metadata]

    def tags(self, row: int) -> list[str]:
        """The tags of a row, from a list or from text with commas; empty where there are none."""
        found = self.metadata[row].get("tags") or []
        parts = found if isinstance(found, (list, tuple)) else str(found).split(",")
        return [tag for part in parts if (tag := str(part).strip())]

    def groups(self, key: str) -> list[list[int]]:
        """The rows of each value of metadata `key`, in the order they are met; a row without a value is a group of its
        own."""
        found: dict[str, list[int]] = {}
        for row, value in enumerate(self.column(key)):
            found.setdefault(value or f"row {row}", []).append(row)
        return list(found.values())

    def select(self, rows: list[int]) -> Pictures:
        """The pictures at `rows`, in that order."""
        return Pictures(
            self.pixels[rows],
            tuple(self.captions[i] for i in rows),
            tuple(self.metadata[i] for i in rows),
            tuple(self.ids[i] for i in rows),
        )

    def fingerprint(self) -> str:
        """A hash of the pixels and captions: two runs on the same data agree on it."""
        digest = hashlib.sha256(np.ascontiguousarray(self.pixels.numpy()).tobytes())
        digest.update("\0".join(self.captions).encode())
        return digest.hexdigest()[:16]


def load_pictures(
    source: str | Path, *, size: int = 64, where: str | None = None, limit: int | None = None
) -> Pictures:
    """Decode `source` (any SOURCE of the command line) to squares of `size` pixels, keeping the rows that satisfy
    `where`.

    Unreadable pictures are left out. Raises: BowerbirdError when nothing is left.
    """
    items = list(registry.read(source))
    keep = filter_rows([item.metadata for item in items], where)[:limit]
    arrays, captions, metadata, ids = [], [], [], []
    for i in keep:
        try:
            image = images.square(images.decode(items[i].data, items[i].name), size)
        except PictureError:
            continue
        arrays.append(np.asarray(image))
        captions.append(items[i].caption)
        metadata.append(items[i].metadata)
        ids.append(content_id(items[i]))
    if not arrays:
        raise BowerbirdError(f"{source}: no readable picture" + (f" satisfies `where` {where!r}" if where else ""))
    return Pictures(
        torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous(),
        tuple(captions),
        tuple(metadata),
        tuple(ids),
    )


def pictures_of(kb: PictureStore, *, size: int = 64, where: str | None = None, limit: int | None = None) -> Pictures:
    """The items of a knowledge base as training data. Raises: BowerbirdError when none satisfies `where`."""
    ids = kb.ids(where)[:limit]
    if not len(ids):
        raise BowerbirdError(f"{kb.path}: no item satisfies `where` {where!r}")
    hits = kb.get(ids.tolist())
    arrays = [np.asarray(images.square(image, size)) for image in kb.pictures(ids[None])[0] if image is not None]
    pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
    return Pictures(pixels, hits.captions[0], hits.metadata[0], tuple(ids.tolist()))
