"""Training data in memory: decoded pictures with their metadata, the form every recipe of this size starts from.

Knows sources and pixels; knows no model and draws no batch (each system draws its own, from a seed and a step).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from bowerbird.core import images
from bowerbird.core.errors import BowerbirdError, PictureError
from bowerbird.data.filters import filter_rows
from bowerbird.data.item import content_id, decode_item
from bowerbird.data.report import SourceReport
from bowerbird.data.sources import registry
from bowerbird.data.sources.edit_rows import INSTRUCTION, ROLE

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.core.types import Neighbors


CHUNK = 64
"""Pictures of a knowledge base that are in memory at full size at once."""


class PictureStore(Protocol):
    """What training data needs of a knowledge base."""

    @property
    def path(self) -> Path | str: ...
    def ids(self, where: str | None = None) -> np.ndarray: ...
    def get(self, ids: Sequence[int]) -> Neighbors: ...
    def pictures(self, ids: np.ndarray) -> list[list[Image.Image | None]]: ...


@dataclass(frozen=True)
class Pictures:
    """`pixels` uint8 `(n, 3, S, S)` on white, `captions`, flat `metadata` and content `ids`, row by row.

    `left_out`: what the source also holds and could not be read or has no picture, a line each. `alpha` uint8 `(n, S,
    S)`: where transparency was kept. `source`: what reading the source passed over.
    """

    pixels: Tensor
    captions: tuple[str, ...]
    metadata: tuple[dict[str, Any], ...]
    ids: tuple[int, ...]
    left_out: tuple[str, ...] = ()
    alpha: Tensor | None = None
    source: SourceReport = field(default_factory=SourceReport)

    def __len__(self) -> int:
        return len(self.captions)

    @property
    def size(self) -> int:
        """Edge length in pixels."""
        return int(self.pixels.shape[-1])

    @property
    def columns(self) -> frozenset[str]:
        """The metadata that at least one row has."""
        return frozenset(key for row in self.metadata for key, value in row.items() if value is not None)

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
            self.left_out,
            None if self.alpha is None else self.alpha[rows],
            self.source,
        )

    def opacity(self) -> Tensor:
        """Alpha uint8 `(n, S, S)`: 255 everywhere where no transparency was kept."""
        return torch.full_like(self.pixels[:, 0], 255) if self.alpha is None else self.alpha

    def concat(self, others: Pictures) -> Pictures:
        """These pictures, then the others, which are of the same size."""
        return Pictures(
            torch.cat([self.pixels, others.pixels]),
            self.captions + others.captions,
            self.metadata + others.metadata,
            self.ids + others.ids,
            self.left_out + others.left_out,
            None if self.alpha is None and others.alpha is None else torch.cat([self.opacity(), others.opacity()]),
            self.source,
        )

    def filter(self, where: str | None, limit: int | None = None) -> Pictures:
        """The first `limit` rows that satisfy `where` (SQL over the metadata; None: all).

        Raises: BowerbirdError when there are none, or the condition does not work on these columns.
        """
        rows = filter_rows(self.metadata, where)[:limit]
        if not rows:
            raise BowerbirdError(f"no readable picture satisfies `where` {where!r}, of {len(self)}; give another one")
        return self if len(rows) == len(self) else self.select(rows)

    def fingerprint(self) -> str:
        """A hash of the pixels and captions, and of what a table of edits says: two runs on the same data agree on
        it."""
        digest = hashlib.sha256(np.ascontiguousarray(self.pixels.numpy()).tobytes())
        digest.update("\0".join(self.captions).encode())
        if {ROLE, INSTRUCTION} <= self.columns:
            digest.update("\0".join((*self.column(ROLE), *self.column(INSTRUCTION))).encode())
        return digest.hexdigest()[:16]


def load_pictures(
    source: str | Path,
    *,
    size: int = 64,
    where: str | None = None,
    limit: int | None = None,
    transparency: bool = False,
    caption_column: str | None = None,
) -> Pictures:
    """Decode `source` (any SOURCE of the command line) to squares of `size` pixels, keeping the rows that satisfy
    `where`, and with `transparency` their alpha beside what is seen on white. `caption_column`: see `SourceOptions`.

    One file is in memory at a time. Raises: BowerbirdError when nothing is left.
    """
    arrays, alphas, captions, metadata, ids, left_out = [], [], [], [], [], []
    report = SourceReport()
    for item in islice(
        registry.read(source, caption_column=caption_column, report=report), limit if where is None else None
    ):
        try:
            image = decode_item(item)
            alpha = images.decode(item.data, item.name, None).getchannel("A") if transparency else None
        except PictureError as error:
            left_out.append(str(error))
            continue
        arrays.append(np.asarray(images.square(image, size)))
        if alpha is not None:
            alphas.append(np.asarray(images.square(alpha, size)))
        captions.append(item.caption)
        metadata.append(item.metadata)
        ids.append(content_id(item))
    if not arrays:
        first = f" (the first: {left_out[0]})" if left_out else ""
        raise BowerbirdError(f"{source}: no readable picture there{first}; give another source")
    kept = torch.from_numpy(np.stack(alphas)) if alphas else None
    found = Pictures(_stack(arrays), tuple(captions), tuple(metadata), tuple(ids), tuple(left_out), kept, report)
    return found if where is None else found.filter(where, limit)


def pictures_of(kb: PictureStore, *, size: int = 64, where: str | None = None, limit: int | None = None) -> Pictures:
    """The items of a knowledge base as training data; one without a picture is left out whole.

    Raises: BowerbirdError when none satisfies `where`, or none of those has a picture.
    """
    ids = kb.ids(where)[:limit]
    if not len(ids):
        condition = "" if where is None else f" satisfies `where` {where!r}"
        raise BowerbirdError(f"{kb.path}: no item{condition or ' is in it'}")
    hits = kb.get(ids.tolist())
    arrays, kept, left_out = [], [], []
    for start in range(0, len(ids), CHUNK):
        for row, image in enumerate(kb.pictures(ids[None, start : start + CHUNK])[0], start):
            if image is None:
                left_out.append(f"item {ids[row]}: it has no picture that can be read")
                continue
            arrays.append(np.asarray(images.square(image, size)))
            kept.append(row)
    if not kept:
        raise BowerbirdError(f"{kb.path}: none of the {len(ids)} items has a picture that can be read")
    return Pictures(
        _stack(arrays),
        tuple(hits.captions[0][row] for row in kept),
        tuple(hits.metadata[0][row] for row in kept),
        tuple(ids[kept].tolist()),
        tuple(left_out),
    )


def _stack(arrays: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


def others_of(names: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """For each row the other rows of its name."""
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    return tuple(tuple(other for other in rows[name] if other != row) for row, name in enumerate(names))
