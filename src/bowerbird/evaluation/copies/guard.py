"""Generating with an eye on the neighbors: is a picture a near copy of one it was given, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.core import seeds
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.types import FeatureExtractor, Neighbors
from bowerbird.evaluation import features
from bowerbird.evaluation.copies import detect, windows
from bowerbird.evaluation.copies.nearest import nearest
from bowerbird.systems import generation

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.core.progress import Progress
    from bowerbird.systems.base import System

POLICIES = ("warn", "drop", "resample", "off")
ATTEMPTS = 3
MOST_VIEWS = 4000
"""Views that are remembered, of neighbors and of what was generated: about a hundred pictures, 3 MB."""
NEXT_SEED = 1_000_003
"""How far the seed moves when a picture is drawn again: beyond any run of consecutive seeds."""


@dataclass(frozen=True)
class Guarded:
    """Pictures with the neighbors (weight 0: dropped) and seeds they were really made from; `copies[i]`: what the check
    found, None where nothing could be compared."""

    images: list[Image.Image]
    hits: Neighbors
    seeds: list[int]
    copies: list[dict[str, Any] | None]


def check_policy(policy: str) -> None:
    """Raises: BowerbirdError when `policy` is none of `POLICIES`."""
    if policy not in POLICIES:
        raise BowerbirdError(f"policy {policy!r} for near copies is not known; choose one of {', '.join(POLICIES)}")


def generate(
    pipe: System,
    hits: Neighbors,
    settings: generation.Settings,
    *,
    sources: Sequence[Image.Image] | None = None,
    policy: str = "warn",
    threshold: float = detect.COPY_THRESHOLD,
    progress: Progress | None = None,
) -> Guarded:
    """`generation.generate` with an eye on near copies; see `guard`."""
    check_policy(policy)
    images = generation.generate(pipe, hits, settings, sources=sources, progress=progress)
    return guard(pipe, images, hits, settings, sources=sources, policy=policy, threshold=threshold)


def guard(
    pipe: System,
    images: Sequence[Image.Image],
    hits: Neighbors,
    settings: generation.Settings,
    *,
    sources: Sequence[Image.Image] | None = None,
    picture_seeds: Sequence[int] | None = None,
    policy: str = "warn",
    threshold: float = detect.COPY_THRESHOLD,
) -> Guarded:
    """Compare pictures that were generated with these `settings` with the neighbors of their rows, edits too.

    `policy` for near copies: `warn` keeps them, `drop` leaves out the neighbor that was copied and generates again,
    `resample` generates again from another seed (both up to three times), `off` compares nothing.
    Raises: BowerbirdError for another policy.
    """
    check_policy(policy)
    images = list(images)
    numbers = [settings.seed + i for i in range(len(hits))] if picture_seeds is None else list(picture_seeds)
    if policy == "off" or hits.load_images is None:
        return Guarded(images, hits, numbers, [None] * len(images))
    near = hits.images()
    weights = hits.effective_weights
    extractor = _descriptor()
    found = [_compare(extractor, images[i], near[i], hits.ids[i], threshold) for i in range(len(images))]
    for _ in range(ATTEMPTS if policy in ("drop", "resample") else 0):
        again = []
        for i, copy in enumerate(found):
            if copy is None or copy["score"] <= threshold:
                continue
            column = int(np.flatnonzero(hits.ids[i] == copy["neighbor"])[0])
            if policy == "resample":
                numbers[i] = (numbers[i] + NEXT_SEED) % (seeds.LARGEST + 1)
            elif weights[i, column] > 0 and (weights[i] > 0).sum() > 1:
                weights[i, column] = 0
            else:  # one that was left out and is copied still: the warning stands
                continue
            again.append(i)
        if not again:
            break
        hits = replace(hits, weights=weights.copy())
        made = generation.generate(
            pipe,
            hits.rows(again),
            settings,
            sources=None if sources is None else [sources[i] for i in again],
            picture_seeds=[numbers[i] for i in again],
        )
        for i, image in zip(again, made, strict=True):
            images[i], found[i] = image, _compare(extractor, image, near[i], hits.ids[i], threshold)
    return Guarded(images, hits, numbers, found)


def look_ahead(hits: Neighbors, policy: str) -> None:
    """Look at the neighbors already, so that `guard` has the pictures alone to look at: for the time in which they are
    being generated."""
    if policy != "off" and hits.load_images is not None:
        views = {
            number: picture
            for row, ids in zip(hits.images(), hits.ids.tolist(), strict=True)
            for number, picture in zip(ids, row, strict=True)
        }
        windows.describe(_descriptor(), [picture for picture in views.values() if picture is not None])


@cache
def _descriptor() -> FeatureExtractor:
    """The descriptor of near copies, opened once."""
    return features.Remembering(features.load(detect.DESCRIPTOR), MOST_VIEWS)


def _compare(
    extractor: FeatureExtractor, image: Image.Image, near: list[Image.Image | None], ids: np.ndarray, threshold: float
) -> dict[str, Any] | None:
    """The most similar of the neighbors retrieved, left out or not, as it goes into the picture's record."""
    there = [c for c, picture in enumerate(near) if picture is not None]
    if not there:
        return None
    found = nearest(extractor, [image], [picture for c in there if (picture := near[c]) is not None], align=False)
    return {
        "descriptor": extractor.name,
        "score": round(float(found.whole[0]), 4),
        "split": round(float(found.split[0]), 4),
        "neighbor": int(ids[there[int(found.whole_at[0])]]),
        "threshold": threshold,
    }
