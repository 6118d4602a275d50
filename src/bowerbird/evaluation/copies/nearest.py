"""Of many references the one that a picture is most like: seen whole, by windows, and laid over it.

Descriptors of views (`windows.py`) are compared with those of every reference; the likeliest are laid over the picture
(`registration.py`). Describing is most of the work, so a picture is described once, and what stands among the
references is looked up there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from bowerbird.core import cache
from bowerbird.core.progress import Progress, for_stage
from bowerbird.evaluation.copies import registration, windows

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.core.types import FeatureExtractor

KINDS = ("whole", "split", "aligned")
"""What is measured of a pair: cosines of the wholes, of the best windows, and the evidence in nats that one lies over
the other."""

PART = 256
KEPT = 20
"""References from which on their descriptors are kept in the cache: a collection, no handful of neighbors."""
LIKELY = 2
"""References that are laid over a picture, by each of the two cosines."""


@dataclass(frozen=True)
class Nearest:
    """For each of n pictures the most similar reference by each of `KINDS`: similarities and the references'
    positions, all `(n,)`; a position is -1 where there was nothing to compare with.

    `window` `(n, 3)`: where in the picture `aligned` found the reference, as left, top and edge, shares of the
    picture.
    """

    whole: np.ndarray
    split: np.ndarray
    aligned: np.ndarray
    whole_at: np.ndarray
    split_at: np.ndarray
    aligned_at: np.ndarray
    window: np.ndarray

    def similarities(self) -> dict[str, np.ndarray]:
        """The similarities by kind, each `(n,)`."""
        return {kind: getattr(self, kind) for kind in KINDS}

    def known(self) -> Nearest:
        """Only the pictures that had something to be compared with."""
        return self.part(self.whole_at >= 0)

    def part(self, rows: slice | np.ndarray) -> Nearest:
        """The same of some of the pictures."""
        return Nearest(*(getattr(self, f.name)[rows] for f in fields(self)))


def nearest(
    extractor: FeatureExtractor,
    pictures: Sequence[Image.Image],
    references: Sequence[Image.Image],
    *,
    own: np.ndarray | None = None,
    among: Sequence[Sequence[int]] | None = None,
    align: bool = True,
    progress: Progress | None = None,
) -> Nearest:
    """The nearest of `references` for each of `pictures`.

    `own[i]` is the reference that is picture i itself, which is left out (-1: none); `among[i]` are the only ones that
    picture i is compared with. `align=False` leaves `aligned` at zero.
    """
    best = {name: np.full((len(pictures), LIKELY), -1.0, np.float32) for name in ("whole", "split")}
    at = {name: np.full((len(pictures), LIKELY), -1, np.int64) for name in best}
    for start, found in _similarities(extractor, pictures, references, progress):
        width = found.whole.shape[1]
        barred = np.zeros(found.whole.shape, bool)
        if own is not None:
            here = np.flatnonzero((own >= start) & (own < start + width))
            barred[here, own[here] - start] = True
        if among is not None:
            for i, allowed in enumerate(among):
                barred[i, np.setdiff1d(np.arange(width), np.asarray(allowed, np.int64) - start)] = True
        for name, table in (("whole", found.whole), ("split", found.split)):
            values = np.concatenate([best[name], np.where(barred, -1.0, table)], 1)
            places = np.concatenate([at[name], np.broadcast_to(np.arange(start, start + width), table.shape)], 1)
            order = np.argsort(-values, axis=1, kind="stable")[:, :LIKELY]
            best[name], at[name] = np.take_along_axis(values, order, 1), np.take_along_axis(places, order, 1)
    first = {name: (best[name][:, 0], np.where(best[name][:, 0] > -1, at[name][:, 0], -1)) for name in best}
    likely = [
        np.unique(row[value > -1])
        for row, value in zip(np.hstack(list(at.values())), np.hstack(list(best.values())), strict=True)
    ]
    evidence, evidence_at, window = _align(
        pictures,
        references,
        likely if align else [row[:0] for row in likely],
        None if progress is None else for_stage(progress, "laying over"),
    )
    (whole, whole_at), (split, split_at) = first["whole"], first["split"]
    return Nearest(whole, split, evidence, whole_at, split_at, evidence_at, window)


def to_neighbors(
    extractor: FeatureExtractor, generated: Sequence[Image.Image], neighbors: Sequence[Sequence[Image.Image]]
) -> Nearest:
    """Each generation against its own neighbors only; one without neighbors has similarity -1 at -1. Positions are
    among its own."""
    places: dict[bytes, int] = {}
    references: list[Image.Image] = []
    among = []
    for row in neighbors:
        for picture in row:
            if places.setdefault(_key(picture), len(references)) == len(references):
                references.append(picture)
        among.append([places[_key(picture)] for picture in row])
    found = nearest(extractor, generated, references, among=among)
    own = {
        name: np.asarray([-1 if j < 0 else row.index(j) for j, row in zip(getattr(found, name), among, strict=True)])
        for name in ("whole_at", "split_at", "aligned_at")
    }
    return Nearest(found.whole, found.split, found.aligned, **own, window=found.window)


def describe_cached(
    extractor: FeatureExtractor,
    pictures: Sequence[Image.Image],
    *,
    mirrored: bool = False,
    progress: Progress | None = None,
) -> np.ndarray:
    """`windows.describe` of a part of the references, float32 `(n, 19, d)`, cached by their content."""
    import torch

    key = cache.key(
        extractor.name,
        extractor.fingerprint,
        str(windows.SCALES),
        "mirrored" if mirrored else "",
        *(_key(picture) for picture in pictures),
    )
    made = cache.memoize(  # rounded also when new, so that a second check says the same
        cache.directory("views") / f"{key[:32]}.safetensors",
        key,
        lambda: {
            "views": torch.from_numpy(
                windows.describe(extractor, pictures, mirrored=mirrored, progress=progress)
            ).half()
        },
    )
    return made["views"].float().numpy()


def _key(picture: Image.Image) -> bytes:
    return hashlib.sha256(f"{picture.mode} {picture.size} ".encode() + picture.tobytes()).digest()


@dataclass
class _Describer:
    """Describes pictures and counts them: `total` in all."""

    extractor: FeatureExtractor
    total: int
    progress: Progress | None
    done: int = 0

    def __call__(self, pictures: Sequence[Image.Image], *, mirrored: bool = False, cached: bool = False) -> np.ndarray:
        describe, before = describe_cached if cached else windows.describe, self.done
        views = describe(self.extractor, pictures, mirrored=mirrored, progress=lambda n, *_: self._report(before + n))
        self._report(before + len(pictures))
        return views

    def sides(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """Both sides of each picture."""
        before = self.done
        views = windows.describe_sides(self.extractor, pictures, progress=lambda n, *_: self._report(before + 2 * n))
        self._report(before + 2 * len(pictures))
        return views

    def _report(self, done: int) -> None:
        if self.progress is not None and done > self.done:
            self.progress(done, self.total, "describing")
        self.done = max(done, self.done)


def _similarities(
    extractor: FeatureExtractor,
    pictures: Sequence[Image.Image],
    references: Sequence[Image.Image],
    progress: Progress | None,
) -> Iterator[tuple[int, windows.Similarity]]:
    """Similarities of all pictures to the references from each start on.

    A mirrored copy is found when one side of the pair is seen mirrored: that is the side with fewer pictures.
    """
    cached = len(references) >= KEPT
    parts = [references[start : start + PART] for start in range(0, len(references), PART)]
    if len(references) > len(pictures):
        describe = _Describer(extractor, 2 * len(pictures) + len(references), progress)
        asked = describe.sides(pictures)
        for n, part in enumerate(parts):
            there = describe(part, cached=cached)
            yield n * PART, _either([windows.compare(side, there) for side in asked])
        return
    rows, flipped = _looked_up(pictures, references)
    unknown = np.flatnonzero(rows < 0)
    describe = _Describer(extractor, 2 * len(references) + len(unknown), progress)
    empty = np.zeros((0, windows.PER_PICTURE, extractor.dim), np.float32)
    sides = [
        np.concatenate([empty, *(describe(part, mirrored=side, cached=cached) for part in parts)])
        for side in (False, True)
    ]
    seen = np.empty((len(pictures), windows.PER_PICTURE, extractor.dim), np.float32)
    for side, mirrored in zip(sides, (False, True), strict=True):
        here = (rows >= 0) & (flipped == mirrored)
        seen[here] = side[rows[here]][:, windows.MIRRORED_ORDER if mirrored else slice(None)]
    seen[unknown] = describe([pictures[i] for i in unknown.tolist()])
    found = _either([windows.compare(side, seen) for side in sides])
    yield 0, windows.Similarity(found.whole.T, found.split.T)


def _looked_up(pictures: Sequence[Image.Image], references: Sequence[Image.Image]) -> tuple[np.ndarray, np.ndarray]:
    """Which of `references` each picture is, pixel by pixel (-1: none), and whether it is that one's mirror image."""
    from PIL import ImageOps

    plain = {_key(picture): i for i, picture in enumerate(references)}
    mirrored = {_key(ImageOps.mirror(p)): i for i, p in enumerate(references) if windows.are_symmetric(p)}
    keys = [_key(picture) for picture in pictures]
    rows = np.asarray([plain.get(key, mirrored.get(key, -1)) for key in keys], np.int64)
    return rows, np.asarray([key not in plain for key in keys], bool)


def _either(sides: Sequence[windows.Similarity]) -> windows.Similarity:
    return windows.Similarity(
        np.max([side.whole for side in sides], axis=0), np.max([side.split for side in sides], axis=0)
    )


def _align(
    pictures: Sequence[Image.Image],
    references: Sequence[Image.Image],
    likely: list[np.ndarray],
    progress: Progress | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best of the `likely` references of each picture, laid over it: evidence, position (-1: none), window."""
    rows = np.repeat(np.arange(len(pictures)), [len(r) for r in likely])
    pairs = np.stack([rows, np.concatenate([*likely, np.zeros(0, np.int64)])], 1)
    found = registration.match(pictures, references, pairs, progress=progress)
    evidence, at, window = (
        np.zeros(len(pictures), np.float32),
        np.full(len(pictures), -1),
        np.zeros((len(pictures), 3), np.float32),
    )
    for n in np.argsort(found.evidence, kind="stable"):  # the highest is written last
        i = rows[n]
        evidence[i], at[i], window[i] = found.evidence[n], pairs[n, 1], found.window[n]
    return evidence, at, window
