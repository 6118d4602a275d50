"""Several pictures for each that is asked for, and the one kept whose embedding is nearest to the prompt's.

Source: RA-CM3, arXiv 2211.12561, section 4.1, whose figures are of the best of ten; so is DALL-E's. It is an option of
its own and never silently on: a figure with it is not to be compared with one without.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bowerbird.core import seeds
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.progress import Progress
from bowerbird.core.types import Encoder, Neighbors
from bowerbird.systems import generation

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.systems.base import System


@dataclass(frozen=True)
class Ranked:
    """The pictures that were kept, one a row of neighbors, the seeds they were drawn from, and their cosine to the
    prompt."""

    images: list[Image.Image]
    seeds: list[int]
    scores: list[float]


def generate_best(
    pipe: System,
    hits: Neighbors,
    settings: generation.Settings,
    encoder: Encoder,
    best_of: int,
    *,
    progress: Progress | None = None,
) -> Ranked:
    """The best of so many pictures for each row of `hits`, by `encoder`. Picture i is drawn from the seeds `seed + i
    best_of` and on, and is made again from the one it was kept by.

    Raises: BowerbirdError for rows without a text to compare with.
    """
    if best_of < 1:
        raise BowerbirdError(f"`best_of` is the number of pictures that one is chosen from, 1 or more; got {best_of}")
    if not hits.queries or not all(text.strip() for text in hits.queries):
        raise BowerbirdError("`best_of` compares pictures with a text; give a `prompt`, or leave it out")
    numbers = [(settings.seed + i) % (seeds.LARGEST + 1) for i in range(len(hits) * best_of)]
    images = generation.generate(pipe, hits.repeat(best_of), settings, picture_seeds=numbers, progress=progress)
    scores = _cosines(encoder, images, hits.queries, best_of)
    chosen = [row * best_of + int(best) for row, best in enumerate(scores.argmax(1))]
    return Ranked([images[i] for i in chosen], [numbers[i] for i in chosen], [float(s) for s in scores.max(1)])


def _cosines(encoder: Encoder, images: Sequence[Image.Image], texts: Sequence[str], best_of: int) -> np.ndarray:
    """Of each text with its pictures, in the dimensions that both have, `(n, best_of)`."""
    shared = encoder.shared_dim

    def unit(vectors: np.ndarray) -> np.ndarray:
        part = vectors[:, :shared]
        scaled: np.ndarray = part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12)
        return scaled

    asked, made = unit(encoder.embed_text(list(texts))), unit(encoder.embed_images(list(images)))
    found: np.ndarray = np.einsum("qd,qnd->qn", asked, made.reshape(len(texts), best_of, -1))
    return found
