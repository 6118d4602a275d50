"""Where the pictures of neighbors come from, by their ids: a knowledge base's, a person's own, or several of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

ABSENT = -1
"""The id of a neighbor that is not there; absent ones stand last in their row. Below it are those of no knowledge
base."""
LoadPictures = Callable[[np.ndarray], "list[list[Image.Image | None]]"]
"""Ids `(Q, K)` -> Q rows of K pictures, None where one is not at hand."""
Part = tuple[np.ndarray, LoadPictures | None]
"""Ids `(Q, K)` of neighbors and what loads their pictures."""


def own_pictures(pictures: Sequence[Image.Image]) -> LoadPictures:
    """Of a person's own pictures by their ids, which count down from -2; None for any other."""

    def load(ids: np.ndarray) -> list[list[Image.Image | None]]:
        return [[pictures[-2 - i] if -2 - len(pictures) < i <= -2 else None for i in row] for row in ids.tolist()]

    return load


def pictures_of_both(first: Part, second: Part) -> LoadPictures | None:
    """Of ids below -1 the pictures of `first`, of items those of `second`."""
    (ids, own), (others, items) = first, second
    if own is None or items is None or (others < ABSENT).any() or (ids > ABSENT).any():
        return items

    def load(ids: np.ndarray) -> list[list[Image.Image | None]]:
        mine, theirs = own(np.minimum(ids, ABSENT)), items(np.maximum(ids, ABSENT))
        return [
            [a if b is None else b for a, b in zip(*lines, strict=True)] for lines in zip(mine, theirs, strict=True)
        ]

    return load


def stack_pictures(parts: Sequence[Part]) -> tuple[np.ndarray, LoadPictures | None]:
    """The ids of all parts along Q, and what loads their pictures. Where parts load differently, each has its own
    pictures: their ids, which begin at -2 in each, then go on counting down from part to part."""
    loads = [load for _, load in parts]
    if all(load == loads[0] for load in loads):
        return np.concatenate([ids for ids, _ in parts]), loads[0]
    stacked: list[np.ndarray] = []
    places: dict[int, tuple[int, int]] = {}  # from an id to its part and the id there
    own = 0
    for at, (ids, _) in enumerate(parts):
        stacked.append(np.where(ids < ABSENT, ids - own, ids))
        for new, old in zip(stacked[-1].reshape(-1).tolist(), ids.reshape(-1).tolist(), strict=True):
            places.setdefault(new, (at, old))
        own = max(own, ABSENT - int(stacked[-1].min(initial=ABSENT)))

    def load(ids: np.ndarray) -> list[list[Image.Image | None]]:
        wanted: dict[int, list[int]] = {}
        for number in dict.fromkeys(ids.reshape(-1).tolist()):
            if number != ABSENT and number in places:
                wanted.setdefault(places[number][0], []).append(number)
        found: dict[int, Image.Image | None] = {}
        for at, numbers in wanted.items():
            read = loads[at]
            if read is not None:
                there = np.asarray([[places[number][1] for number in numbers]], np.int64)
                found.update(zip(numbers, read(there)[0], strict=True))
        return [[found.get(number) for number in row] for row in ids.tolist()]

    return np.concatenate(stacked), load
