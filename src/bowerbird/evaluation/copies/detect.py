"""the copy check: does a generated picture copy a training picture, or a neighbor it was given?

For each generation the nearest training picture and the nearest used neighbor, seen whole and by windows (`windows.py`)
and then laid over the likeliest (`registration.py`), against the same for training pictures among themselves, each
without itself. A generation is suspicious only where it is nearer than those are. Copies made on purpose
(`synthetic.py`) say what the check can see in this collection with this descriptor, and what it cannot.
Source: Somepalli et al., arXiv 2212.03860, section 4. Differs from the paper: any descriptor, neighbors too, and
synthetic copies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.core import seeds
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.progress import Progress, for_stage
from bowerbird.evaluation import features
from bowerbird.evaluation.copies import registration, synthetic, windows
from bowerbird.evaluation.copies.thresholds import alarm_level, calibrate, ranks, summarize

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.core.types import FeatureExtractor

DESCRIPTOR = "tiny-copies"
"""What is used where none is named."""

COPY_THRESHOLD = 0.975
"""Of `DESCRIPTOR`, whole: above it a picture made from a neighbor counts as its near copy. One in a hundred emoji is
as near to one of its four neighbors (`benchmarks/copy_detection.py`)."""

KINDS = ("whole", "split", "aligned")
"""What is measured of a pair: cosines of the wholes, of the best windows, and the evidence in nats that one lies over
the other."""

PART = 256
LIKELY = 2
"""References that are laid over a picture, by each of the two cosines."""
COPIES_PER_KIND = 60
"""Copies of each kind that a check copies_per_kind."""

DUPLICATE_DISTANCE = 4.0
"""Root mean square difference in levels of 255, at 16 x 16 px, below which two training pictures are one picture under
two names."""


@dataclass(frozen=True)
class Nearest:
    """For each of n pictures the most similar reference by each of `KINDS`: similarities and the references'
    positions, all `(n,)`.

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
        """The similarities by kind."""
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
    align: bool = True,
    progress: Progress | None = None,
) -> Nearest:
    """The nearest of `references` for each of `pictures`; `own[i]` is the reference that is picture i itself, which is
    left out.

    `align=False` leaves `aligned` at zero.
    """
    queries = windows.describe(extractor, pictures, mirrored=True)
    best = {name: np.full((len(pictures), LIKELY), -1.0, np.float32) for name in ("whole", "split")}
    at = {name: np.full((len(pictures), LIKELY), -1, np.int64) for name in best}
    for start in range(0, len(references), PART):
        part = (describe_cached if len(references) > PART else windows.describe)(
            extractor, references[start : start + PART]
        )
        found = windows.compare(queries, part)
        for name, table in (("whole", found.whole), ("split", found.split)):
            if own is not None:
                here = np.flatnonzero((own >= start) & (own < start + len(part)))
                table[here, own[here] - start] = -1.0
            values = np.concatenate([best[name], table], 1)
            places = np.concatenate([at[name], np.broadcast_to(np.arange(start, start + len(part)), table.shape)], 1)
            order = np.argsort(-values, axis=1, kind="stable")[:, :LIKELY]
            best[name], at[name] = np.take_along_axis(values, order, 1), np.take_along_axis(places, order, 1)
        if progress is not None:
            progress(start + len(part), len(references))
    first = {name: (best[name][:, 0], np.where(best[name][:, 0] > -1, at[name][:, 0], -1)) for name in best}
    likely = [
        np.unique(row[value > -1])
        for row, value in zip(np.hstack(list(at.values())), np.hstack(list(best.values())), strict=True)
    ]
    evidence, evidence_at, window = _align(pictures, references, likely if align else [row[:0] for row in likely])
    (whole, whole_at), (split, split_at) = first["whole"], first["split"]
    return Nearest(whole, split, evidence, whole_at, split_at, evidence_at, window)


def _align(
    pictures: Sequence[Image.Image], references: Sequence[Image.Image], likely: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best of the `likely` references of each picture, laid over it: evidence, position (-1: none), window."""
    rows = np.repeat(np.arange(len(pictures)), [len(r) for r in likely])
    pairs = np.stack([rows, np.concatenate([*likely, np.zeros(0, np.int64)])], 1)
    found = registration.match(pictures, references, pairs)
    evidence, at, window = (
        np.zeros(len(pictures), np.float32),
        np.full(len(pictures), -1),
        np.zeros((len(pictures), 3), np.float32),
    )
    for n in np.argsort(found.evidence, kind="stable"):  # the highest is written last
        i = rows[n]
        evidence[i], at[i], window[i] = found.evidence[n], pairs[n, 1], found.window[n]
    return evidence, at, window


def working_size(extractor: FeatureExtractor) -> int:
    """Edge in pixels at which pictures are handed to a check: SSCD's 320, 128 for descriptors that look at 64."""
    return 320 if extractor.name == "sscd" else 128


def describe_cached(extractor: FeatureExtractor, pictures: Sequence[Image.Image]) -> np.ndarray:
    """`windows.describe` of a part of the references, float32 `(n, 19, d)`, cached by their content: describing them is
    most of a check."""
    import torch

    digest = hashlib.sha256(f"{extractor.name} {extractor.fingerprint} {windows.SCALES}".encode())
    for picture in pictures:
        digest.update(f"{picture.mode} {picture.size}".encode() + picture.tobytes())

    def describe() -> dict[str, torch.Tensor]:  # rounded also when new, so that a second check says the same
        return {"views": torch.from_numpy(windows.describe(extractor, pictures)).half()}

    return features.load_or_make("views", digest.hexdigest()[:32], describe)["views"].float().numpy()


@dataclass(frozen=True)
class CopyReport:
    """Similarities of the generations to training pictures and to used neighbors (None without records), and of the
    baseline.

    `baseline` leaves out training pictures that the training set holds twice (`near_duplicates` of them);
    `recall`: of synthetic copies, by kind.
    """

    training: Nearest
    baseline: Nearest
    baseline_rows: np.ndarray
    near_duplicates: int
    neighbors: Nearest | None
    thresholds: dict[str, dict[str, float]]
    recall: dict[str, dict[str, float]]
    false_alarms: float

    def report(self) -> dict[str, Any]:
        """Summaries of each kind and side, as plain values."""
        sides = {"generated to training": self.training, "training to training": self.baseline}
        if self.neighbors is not None:
            sides["generated to used neighbors"] = self.neighbors.known()
        found = {
            kind: {
                name: asdict(summarize(getattr(side, kind), self.thresholds[kind]))
                for name, side in sides.items()
                if len(side.whole)
            }
            for kind in KINDS
        }
        counts = {
            "pictures": len(self.baseline_rows),
            "left out, as the training set holds them twice": self.near_duplicates,
        }
        return {
            "thresholds": self.thresholds,
            "baseline": counts,
            **found,
            "synthetic copies found": {"false alarms": self.false_alarms, **self.recall},
        }


def check_copies(
    extractor: FeatureExtractor,
    generated: Sequence[Image.Image],
    training: Sequence[Image.Image],
    *,
    neighbors: Sequence[Sequence[Image.Image]] | None = None,
    baseline: int = 300,
    copies_per_kind: int = COPIES_PER_KIND,
    seed: int = 0,
    progress: Progress | None = None,
) -> CopyReport:
    """Compare `generated` with `training` and, picture by picture, with `neighbors`; `baseline` training pictures are
    compared with the rest; `copies_per_kind` synthetic copies of each kind are looked for too.

    Thresholds are SSCD's own (0.5, 0.75) with SSCD, else quantiles of the baseline; the recall of synthetic copies is
    always at the baseline's. Raises: BowerbirdError for too few pictures.
    """
    if not generated or len(training) < 20:
        raise BowerbirdError(
            f"the check needs a generated picture and 20 training pictures; got {len(generated)} and {len(training)}"
        )

    drawn = np.sort(
        seeds.numpy_generator(seed, "baseline").choice(len(training), min(baseline, len(training)), replace=False)
    )
    twice = near_duplicates(training, drawn)
    rows = drawn[~twice] if (~twice).sum() >= 10 else drawn  # a set made of pairs is compared as it is
    copies = synthesize(training, copies_per_kind, seed)
    # one walk over the training pictures serves all sides: describing them is most of the work
    everything = nearest(
        extractor,
        [*generated, *(training[i] for i in rows), *copies.pictures],
        training,
        own=np.concatenate([np.full(len(generated), -1), rows, copies.hosts]),
        progress=for_stage(progress, "comparing"),
    )
    first, last = len(generated), len(generated) + len(rows)
    to_training, among, of_copies = (
        everything.part(s) for s in (slice(0, first), slice(first, last), slice(last, None))
    )
    used = None if neighbors is None else to_neighbors(extractor, generated, neighbors)
    thresholds = {kind: calibrate(getattr(among, kind)) for kind in KINDS}
    if extractor.name == "sscd":
        from bowerbird.encoders.sscd import THRESHOLDS

        thresholds["whole"] = thresholds["split"] = {f"{value} (SSCD)": value for value in THRESHOLDS}
    recall, level = recall_of_synthetic(of_copies, copies.sources, among)
    return CopyReport(to_training, among, rows, int(twice.sum()), used, thresholds, recall, level)


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


def recall_of_synthetic(
    found: Nearest, sources: np.ndarray, baseline: Nearest
) -> tuple[dict[str, dict[str, float]], float]:
    """By kind of copy the share that is found, its source first, above what 1% of `baseline` reach; and the rate of
    false alarms that really is.

    Each of `KINDS` alone; `any` of them, at the same rate for the three together; `source first`, whatever the score.
    """
    honest = baseline.similarities()
    right = {kind: getattr(found, f"{kind}_at") == sources for kind in KINDS}
    over = {kind: right[kind] & (getattr(found, kind) > alarm_level(honest[kind])[0]) for kind in KINDS}
    level, rate = alarm_level(np.max([ranks(honest[kind], honest[kind], own=True) for kind in KINDS], axis=0))
    best = np.max([np.where(right[kind], ranks(getattr(found, kind), honest[kind]), 0) for kind in KINDS], axis=0)
    table = {**over, "any": best > level, "source first": np.any(list(right.values()), axis=0)}
    shares = {name: share.reshape(len(synthetic.KINDS), -1).mean(1) for name, share in table.items()}
    return {
        kind: {name: float(share[i]) for name, share in shares.items()} for i, kind in enumerate(synthetic.KINDS)
    }, rate


def to_neighbors(
    extractor: FeatureExtractor, generated: Sequence[Image.Image], neighbors: Sequence[Sequence[Image.Image]]
) -> Nearest:
    """Each generation against its own neighbors only; one without neighbors has similarity -1 at -1."""
    found = []
    for picture, near in zip(generated, neighbors, strict=True):
        found.append(nearest(extractor, [picture], list(near)))
    return Nearest(*(np.concatenate([getattr(f, field.name) for f in found]) for field in fields(Nearest)))
