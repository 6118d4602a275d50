"""What similarities mean in one collection: those of its pictures among themselves, and of copies made on purpose.

It depends on the collection and the descriptor only, so it is made once for both and kept in the cache.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from bowerbird.core import cache, seeds
from bowerbird.core.progress import Progress, within
from bowerbird.evaluation.copies import registration, synthetic, windows
from bowerbird.evaluation.copies.nearest import LIKELY, Nearest, nearest

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.core.types import FeatureExtractor

METHOD = 1
"""Counts the changes of what is calibrated; a calibration kept under another number is made again."""

DUPLICATE_DISTANCE = 4.0
"""Root mean square difference in levels of 255, at 16 x 16 px, below which two training pictures are one picture under
two names."""


@dataclass(frozen=True)
class Calibration:
    """`baseline`: training pictures `rows` against the others; `near_duplicates` of those drawn are left out, as the
    training set holds them twice. `copies`: synthetic copies of `sources`, kind after kind."""

    baseline: Nearest
    rows: np.ndarray
    near_duplicates: int
    copies: Nearest
    sources: np.ndarray


def calibrate_collection(
    extractor: FeatureExtractor,
    training: Sequence[Image.Image],
    *,
    baseline: int,
    copies_per_kind: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> Calibration:
    """Compare `baseline` pictures of `training` with the rest, and `copies_per_kind` synthetic copies of each kind with
    all of it but the pictures they are laid on; or read what that gave before. One picture has no rest: nothing is
    compared.
    """
    import torch

    if len(training) < 2:
        none, nobody = nearest(extractor, [], training), np.zeros(0, np.int64)
        return Calibration(none, nobody, 0, none, nobody)
    digest = hashlib.sha256()
    for picture in training:
        digest.update(f"{picture.mode} {picture.size} ".encode() + picture.tobytes())
    method = f"{METHOD} {windows.SCALES} {registration.SCALES} {registration.WINDOWS} {LIKELY} {DUPLICATE_DISTANCE}"
    key = cache.key(method, extractor.name, extractor.fingerprint, digest.digest(), baseline, copies_per_kind, seed)

    def make() -> dict[str, torch.Tensor]:
        drawn = np.sort(
            seeds.numpy_generator(seed, "baseline").choice(len(training), min(baseline, len(training)), replace=False)
        )
        twice = near_duplicates(training, drawn)
        # a set made of pairs is compared as it is
        rows = drawn[~twice] if (~twice).sum() >= min(10, len(drawn) // 2 + 1) else drawn
        copies = synthesize(training, copies_per_kind, seed)
        # one walk over the training pictures serves both: describing them is most of the work
        found = nearest(
            extractor,
            [*(training[i] for i in rows), *copies.pictures],
            training,
            own=np.concatenate([rows, copies.hosts]),
            progress=within(progress, "calibrating"),
        )
        arrays = {
            "rows": rows,
            "near duplicates": np.asarray([len(drawn) - len(rows)]),
            "sources": copies.sources,
            **{f.name: getattr(found, f.name) for f in fields(Nearest)},
        }
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}

    kept = {
        name: tensor.numpy()
        for name, tensor in cache.memoize(
            cache.directory("calibrations") / f"{key[:32]}.safetensors", key, make
        ).items()
    }
    found, count = Nearest(*(kept[f.name] for f in fields(Nearest))), len(kept["rows"])
    return Calibration(
        found.part(slice(0, count)),
        kept["rows"],
        int(kept["near duplicates"][0]),
        found.part(slice(count, None)),
        kept["sources"],
    )


def near_duplicates(pictures: Sequence[Image.Image], rows: np.ndarray) -> np.ndarray:
    """For each of `rows` whether `pictures` holds it twice, as it is or mirrored: pictures under two names, and left
    and right arrows."""
    from bowerbird.core.images import square

    small = np.stack([np.asarray(square(p.convert("RGB"), 16), np.float32) for p in pictures])
    flat, apart = small.reshape(len(small), -1), np.full(len(rows), np.inf)
    lengths = (flat**2).sum(1)
    for view in (small[rows], small[rows][:, :, ::-1]):
        queries = view.reshape(len(rows), -1)
        square_distance = (queries**2).sum(1)[:, None] + lengths[None] - 2 * queries @ flat.T
        square_distance[np.arange(len(rows)), rows] = np.inf
        apart = np.minimum(apart, square_distance.min(1))
    return np.sqrt(apart.clip(min=0) / flat.shape[1]) < DUPLICATE_DISTANCE


@dataclass(frozen=True)
class SyntheticCopies:
    """Copies of `count` training pictures, kind after kind: the pictures, their sources and the pictures they are laid
    on, `(kinds * count,)`."""

    pictures: list[Image.Image]
    sources: np.ndarray
    hosts: np.ndarray


def synthesize(training: Sequence[Image.Image], count: int, seed: int = 0) -> SyntheticCopies:
    """Copies of every kind of `synthetic.KINDS`, laid on other training pictures where the kind wants it."""
    rng = seeds.numpy_generator(seed, "planted")
    sources = rng.choice(len(training), count, replace=len(training) < count)
    hosts = (sources + rng.integers(1, len(training), count)) % len(training)
    made = [
        make(training[i].convert("RGB"), training[j].convert("RGB"), rng)
        for make in synthetic.KINDS.values()
        for i, j in zip(sources, hosts, strict=True)
    ]
    return SyntheticCopies(made, np.tile(sources, len(synthetic.KINDS)), np.tile(hosts, len(synthetic.KINDS)))
