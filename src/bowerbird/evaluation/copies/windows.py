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

    from bowerbird.core.progress import Progress
    from bowerbird.core.types import FeatureExtractor

SCALES = (0.7, 0.5)
"""Edges of the windows as shares of the picture's; three by three of each."""
PER_PICTURE = 1 + 9 * len(SCALES)
PART = 32
"""Pictures whose views are in memory at once."""


def windows(image: Image.Image) -> list[Image.Image]:
    """The middle square of `image`, then its windows, 19 pictures: the whole first, scale by scale, row by row."""
    whole = square(image, min(image.size))
    made = [whole]
    for side, places in _grid(whole.width):
        made += [whole.crop((x, y, x + side, y + side)) for y in places for x in places]
    return made


def _grid(edge: int) -> list[tuple[int, list[int]]]:
    """By scale the edge of the windows of a square with this `edge`, and where the three of a row begin."""
    sides = [max(1, round(scale * edge)) for scale in SCALES]
    return [(side, [round(i * (edge - side) / 2) for i in range(3)]) for side in sides]


MIRRORED_ORDER = np.array(
    [0, *(1 + 9 * s + 3 * row + 2 - x for s in range(len(SCALES)) for row in range(3) for x in range(3))]
)
"""Which view of a picture is the mirror image of each view of its mirror image."""


def are_symmetric(image: Image.Image) -> bool:
    """Whether the windows of the mirror image of `image` are the mirror images of its windows."""
    edge = min(image.size)
    even = (image.width - edge) % 2 == 0  # the middle square is in the middle
    return even and all(places[1] * 2 == edge - side for side, places in _grid(edge))


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


def describe(
    extractor: FeatureExtractor,
    pictures: Sequence[Image.Image],
    *,
    mirrored: bool = False,
    progress: Progress | None = None,
) -> np.ndarray:
    """Descriptors of every view, float32 `(n, 19, d)`; `mirrored`: of the mirror images of those views, in their order.

    Of the whole picture it has length 1, of a window the root of its `information`, so that the product of two such
    windows is small. `progress` counts pictures.
    """
    return _describe(extractor, pictures, (mirrored,), progress)[0]


def describe_sides(
    extractor: FeatureExtractor, pictures: Sequence[Image.Image], *, progress: Progress | None = None
) -> np.ndarray:
    """`describe` and `describe` mirrored, float32 `(2, n, 19, d)`, in one pass: for few pictures batches are fuller."""
    return _describe(extractor, pictures, (False, True), progress)


def _describe(
    extractor: FeatureExtractor, pictures: Sequence[Image.Image], sides: tuple[bool, ...], progress: Progress | None
) -> np.ndarray:
    from PIL import ImageOps

    made = [np.zeros((len(sides), 0, PER_PICTURE, extractor.dim), np.float32)]
    for start in range(0, len(pictures), PART):
        views = [view for picture in pictures[start : start + PART] for view in windows(picture)]
        weights = [1.0 if i % PER_PICTURE == 0 else information(view) for i, view in enumerate(views)]
        vectors = extractor.embed_images(
            [ImageOps.mirror(view) if mirrored else view for mirrored in sides for view in views]
        )
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(min=1e-9)
        scaled = unit.reshape(len(sides), len(views), -1) * np.sqrt(np.asarray(weights, np.float32))[None, :, None]
        made.append(scaled.reshape(len(sides), -1, PER_PICTURE, extractor.dim))
        if progress is not None:
            progress(min(start + PART, len(pictures)), len(pictures))
    return np.concatenate(made, 1).astype(np.float32, copy=False)


def compare(queries: np.ndarray, references: np.ndarray) -> Similarity:
    """Products (cosines, less where windows show little) of described queries `(n, 19, d)` and references `(m, 19, d)`.

    Work is n m 361 d products; give parts of the references at a time.
    """
    import torch

    n, m = len(queries), len(references)
    best = torch.empty((2, n, m))
    asked = torch.from_numpy(queries)
    flat = torch.from_numpy(references).flatten(0, 1).T.contiguous()
    with torch.inference_mode():
        for i in range(n):
            table = (asked[i] @ flat).view(PER_PICTURE, m, PER_PICTURE)
            best[0, i] = torch.maximum(table[0].amax(1), table[:, :, 0].amax(0))
            best[1, i] = table[1:].amax(0)[:, 1:].amax(1)
    return Similarity(best[0].numpy(), best[1].numpy())
