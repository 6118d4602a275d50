"""Views of a picture for copy detection: the whole, its mirror image, and windows on a grid at two scales.

A copy may be mirrored, cut out, or pasted into something else; whichever it is, some view of the one looks like some
view of the other. A descriptor of any kind is taken of every view. Source: the whole and "split" similarities of
Somepalli et al., arXiv 2212.03860; differs from the paper: chunks are windows of the picture, not parts of the
descriptor, so they mean the same for every descriptor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bowerbird.core.images import square

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.core.types import FeatureExtractor

SCALES = (0.7, 0.5)
"""Edges of the windows as shares of the picture's; three by three of each."""
PER_PICTURE = 1 + 9 * len(SCALES)


def windows(image: Image.Image) -> list[Image.Image]:
    """The middle square of `image`, then its windows, 19 pictures: the whole first, scale by scale, row by row."""
    whole = square(image, min(image.size))
    made = [whole]
    for scale in SCALES:
        side = max(1, round(scale * whole.width))
        places = [round(i * (whole.width - side) / 2) for i in range(3)]
        made += [whole.crop((x, y, x + side, y + side)) for y in places for x in places]
    return made


@dataclass(frozen=True)
class Similarity:
    """Of n queries and m references, `(n, m)` each: `whole`, one of the two is seen whole; `split`, the best pair of
    windows."""

    whole: np.ndarray
    split: np.ndarray


def information(window: Image.Image) -> float:
    """How much a window shows, 0 to 1: the share of an 8 x 8 grid in which there is an edge, 1 from 60% on.

    A round corner looks like every other round corner, so a match of such windows says little.
    """
    from PIL import Image

    gray = np.asarray(window.convert("L").resize((32, 32), Image.Resampling.BOX), np.float32)
    edges = np.zeros((32, 32), bool)
    edges[:, 1:] |= np.abs(np.diff(gray, axis=1)) > 10
    edges[1:] |= np.abs(np.diff(gray, axis=0)) > 10
    return min(1.0, float(edges.reshape(8, 4, 8, 4).any((1, 3)).mean()) / 0.6)


def describe(extractor: FeatureExtractor, pictures: Sequence[Image.Image], *, mirrored: bool = False) -> np.ndarray:
    """Descriptors of every view, float32 `(n, 19, d)`, or `(n, 38, d)` with the mirrored views after them.

    Of the whole picture it has length 1, of a window the root of its `information`, so that the product of two such
    windows is small.
    """
    from PIL import ImageOps

    seen = [view for picture in pictures for view in windows(picture)]
    weights = np.sqrt([1.0 if i % PER_PICTURE == 0 else information(view) for i, view in enumerate(seen)]).astype(
        np.float32
    )
    vectors = extractor.embed_images(seen).reshape(len(pictures), PER_PICTURE, -1)
    if mirrored:
        other = extractor.embed_images([ImageOps.mirror(view) for view in seen]).reshape(vectors.shape)
        vectors = np.concatenate([vectors, other], 1)
    lengths = np.tile(weights.reshape(len(pictures), PER_PICTURE), (1, vectors.shape[1] // PER_PICTURE))
    return np.asarray(
        vectors / np.linalg.norm(vectors, axis=2, keepdims=True).clip(min=1e-9) * lengths[:, :, None], np.float32
    )


def compare(queries: np.ndarray, references: np.ndarray) -> Similarity:
    """Products (cosines, less where windows show little) of described queries `(n, 19 or 38, d)` (mirrored or not) and
    references `(m, 19, d)`.

    Work is n m 722 d products at most; give parts of the references at a time.
    """
    n, m = len(queries), len(references)
    best = np.full((2, n, m), -1.0, np.float32)
    flat = np.ascontiguousarray(references.reshape(-1, references.shape[-1]).T)
    for start in range(0, queries.shape[1], PER_PICTURE):
        for i in range(n):
            table = (queries[i, start : start + PER_PICTURE] @ flat).reshape(PER_PICTURE, m, PER_PICTURE)
            whole = np.maximum(table[0].max(1), table[:, :, 0].max(0))
            best[0, i] = np.maximum(best[0, i], whole)
            best[1, i] = np.maximum(best[1, i], table[1:, :, 1:].max((0, 2)))
    return Similarity(best[0], best[1])
