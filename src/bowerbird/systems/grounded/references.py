"""A reference: one picture that a base model attends to, for which words and which part of the picture."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.types import ABSENT, Neighbors

if TYPE_CHECKING:
    from PIL import Image

WHOLE = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """One picture for one picture to be generated.

    `item`: its id, as in `Neighbors`. `embedding`: what the adapter's encoder makes of it, or `picture`, whichever the
    injector reads. `phrase`: the words that it serves, "" for the whole prompt. `region`: the part of the picture
    that it is for, as shares of it: left, top, right, bottom.
    """

    item: int
    embedding: np.ndarray | None = None
    picture: Image.Image | None = None
    caption: str = ""
    phrase: str = ""
    weight: float = 1.0
    region: tuple[float, float, float, float] = WHOLE

    def mask(self, height: int, width: int) -> np.ndarray:
        """Its region as float32 `(height, width)`, 1 inside. A part of a cell counts as a whole one."""
        left, top, right, bottom = self.region
        inside = np.zeros((height, width), np.float32)
        rows = slice(int(np.floor(top * height)), int(np.ceil(bottom * height)))
        inside[rows, int(np.floor(left * width)) : int(np.ceil(right * width))] = 1
        return inside

    def key(self) -> tuple[Any, ...]:
        """What tells it from another reference of the same call."""
        data = b"" if self.embedding is None else np.ascontiguousarray(self.embedding).tobytes()
        return (self.item, self.weight, self.region, self.phrase, hashlib.sha256(data).digest())


def references_of(hits: Neighbors, row: int, pictures: Sequence[Image.Image | None] | None) -> list[Reference]:
    """The neighbors of one row as references, without those that are absent or of weight 0.

    `pictures`: those of the row, None where embeddings serve. Raises: BowerbirdError when one has no picture.
    """
    found, weights = [], hits.effective_weights[row]
    for column in range(hits.k):
        item = int(hits.ids[row, column])
        if item == ABSENT or weights[column] == 0:
            continue
        if pictures is not None and pictures[column] is None:
            raise BowerbirdError(
                f"neighbor {item} has no picture, and this adapter reads pictures; search a knowledge base that stores"
                " them, or give pictures of your own"
            )
        region = WHOLE if hits.regions is None else tuple(float(edge) for edge in hits.regions[row, column])
        found.append(
            Reference(
                item=item,
                embedding=hits.embeddings[row, column] if pictures is None else None,
                picture=None if pictures is None else pictures[column],
                caption=hits.captions[row][column],
                phrase=hits.phrases[row][column] if hits.phrases else "",
                weight=float(weights[column]),
                region=(region[0], region[1], region[2], region[3]),
            )
        )
    return found


def relative_weights(references: Sequence[Reference]) -> list[float] | None:
    """How the scale is shared among references, 1 in all; None where all count the same and none has a region, so that
    they are one set.

    With regions each counts by its own weight inside its region.
    """
    own = [reference.weight for reference in references]
    if any(reference.region != WHOLE for reference in references):
        return own
    if len(set(own)) <= 1:
        return None
    return [weight / sum(own) for weight in own]


def stack_embeddings(references: Sequence[Reference]) -> np.ndarray:
    """Their embeddings `(K, …)`. Raises: BowerbirdError when one has none."""
    missing = [reference.item for reference in references if reference.embedding is None]
    if missing:
        raise BowerbirdError(f"reference {missing[0]} has no embedding, which this adapter reads")
    return np.stack([reference.embedding for reference in references if reference.embedding is not None])


def square_picture(picture: Image.Image, size: int, fit: str) -> Image.Image:
    """`picture` as `size` x `size` RGB: `pad` keeps all of it on white, `squash` stretches it, `crop` keeps the
    middle. A picture that has this size is given back as it is."""
    from PIL import Image as Pictures

    from bowerbird.core.images import on_background

    plain = on_background(picture)
    if plain.size == (size, size):
        return plain
    bicubic = Pictures.Resampling.BICUBIC
    if fit == "squash":
        return plain.resize((size, size), bicubic)
    longest = max(plain.size) if fit == "pad" else min(plain.size)
    scale = size / longest
    width, height = (max(1, round(edge * scale)) for edge in plain.size)
    resized = plain.resize((width, height), bicubic)
    left, top = (size - width) // 2, (size - height) // 2
    if fit == "pad":
        canvas = Pictures.new("RGB", (size, size), "white")
        canvas.paste(resized, (left, top))
        return canvas
    return resized.crop((-left, -top, size - left, size - top))
