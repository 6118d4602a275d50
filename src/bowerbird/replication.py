"""The replication check: does a generated picture copy a training picture, or a neighbour it was given?

For each generation the nearest training picture and the nearest used neighbour, seen whole and by windows (`views.py`), against the
same for training pictures among themselves, each without itself. A generation is suspicious only where it is nearer than those are.
Source: Somepalli et al., arXiv 2212.03860, section 4. Differs from the paper: any descriptor, neighbours as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird import seeds, views
from bowerbird.errors import BowerbirdError
from bowerbird.metrics.replication import calibrated, summarize

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.types import FeatureExtractor

COPY_THRESHOLD = 0.9
"""`gradients`, whole: above it a picture made from a neighbour counts as its near copy. Not calibrated yet: see docs/log.md."""

PART = 256


@dataclass(frozen=True)
class Nearest:
    """For each of n pictures the most similar reference: `whole`, `split` similarities and the references' positions, all `(n,)`."""

    whole: np.ndarray
    split: np.ndarray
    whole_at: np.ndarray
    split_at: np.ndarray


def nearest(
    extractor: FeatureExtractor,
    pictures: Sequence[Image.Image],
    references: Sequence[Image.Image],
    *,
    own: np.ndarray | None = None,
    groups: tuple[Sequence[str], Sequence[str]] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Nearest:
    """The nearest of `references` for each of `pictures`; `own[i]` is the reference that is picture i itself, which is left out.

    `groups`: a label for each picture and each reference; equal ones (not empty) are never compared, as the same thing drawn twice.
    """
    labels = None if groups is None else (np.asarray(groups[0]), np.asarray(groups[1]))
    queries = views.describe(extractor, pictures, mirrored=True)
    best = {name: np.full(len(pictures), -1.0, np.float32) for name in ("whole", "split")}
    at = {name: np.full(len(pictures), -1, np.int64) for name in best}
    for start in range(0, len(references), PART):
        part = views.describe(extractor, references[start : start + PART])
        found = views.compare(queries, part)
        for name, table in (("whole", found.whole), ("split", found.split)):
            if own is not None:
                here = np.flatnonzero((own >= start) & (own < start + len(part)))
                table[here, own[here] - start] = -1.0
            if labels is not None:
                table[(labels[0][:, None] == labels[1][None, start : start + len(part)]) & (labels[0][:, None] != "")] = -1.0
            column = table.argmax(1)
            value = table[np.arange(len(table)), column]
            better = value > best[name]
            best[name][better], at[name][better] = value[better], start + column[better]
        if progress is not None:
            progress(start + len(part))
    return Nearest(best["whole"], best["split"], at["whole"], at["split"])


@dataclass(frozen=True)
class Replication:
    """Similarities of the generations to training pictures and to used neighbours (None without records), and of the baseline."""

    training: Nearest
    baseline: Nearest
    baseline_rows: np.ndarray
    neighbors: Nearest | None
    thresholds: dict[str, dict[str, float]]

    def report(self) -> dict[str, Any]:
        """Summaries of each kind and side, as plain values."""
        sides = {"generated to training": self.training, "training to training": self.baseline, "generated to used neighbours": self.neighbors}
        found = {
            kind: {name: asdict(summarize(getattr(side, kind), self.thresholds[kind])) for name, side in sides.items() if side is not None}
            for kind in ("whole", "split")
        }
        return {"thresholds": self.thresholds, **found}


def check(
    extractor: FeatureExtractor,
    generated: Sequence[Image.Image],
    training: Sequence[Image.Image],
    *,
    neighbors: Sequence[Sequence[Image.Image]] | None = None,
    baseline: int = 300,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Replication:
    """Compare `generated` with `training` and, picture by picture, with `neighbors`; `baseline` training pictures are compared with the rest.

    Thresholds are SSCD's own (0.5, 0.75) with SSCD, else quantiles of the baseline. Raises: BowerbirdError for too few pictures.
    """
    if not generated or len(training) < 20:
        raise BowerbirdError(f"the check needs a generated picture and 20 training pictures; got {len(generated)} and {len(training)}")

    def tell(what: str) -> Callable[[int], None] | None:
        return None if progress is None else lambda done: progress(what, done, len(training))

    rows = np.sort(seeds.numpy_generator(seed, "baseline").choice(len(training), min(baseline, len(training)), replace=False))
    # one walk over the training pictures serves both sides: describing them is most of the work
    everything = nearest(
        extractor,
        [*generated, *(training[i] for i in rows)],
        training,
        own=np.concatenate([np.full(len(generated), -1), rows]),
        progress=tell("comparing"),
    )
    n = len(generated)
    to_training, among = (
        Nearest(*(getattr(everything, f)[part] for f in ("whole", "split", "whole_at", "split_at"))) for part in (slice(0, n), slice(n, None))
    )
    used = None if neighbors is None else to_neighbors(extractor, generated, neighbors)
    if extractor.name == "sscd":
        from bowerbird.encoders.sscd import THRESHOLDS

        fixed = {f"{value} (SSCD)": value for value in THRESHOLDS}
        thresholds = {"whole": fixed, "split": fixed}
    else:
        thresholds = {kind: calibrated(getattr(among, kind)) for kind in ("whole", "split")}
    return Replication(to_training, among, rows, used, thresholds)


def to_neighbors(extractor: FeatureExtractor, generated: Sequence[Image.Image], neighbors: Sequence[Sequence[Image.Image]]) -> Nearest:
    """Each generation against its own neighbours only; one without neighbours has similarity -1 at -1."""
    found = []
    for picture, near in zip(generated, neighbors, strict=True):
        if near:
            found.append(nearest(extractor, [picture], list(near)))
        else:
            found.append(Nearest(np.array([-1.0]), np.array([-1.0]), np.array([-1]), np.array([-1])))
    return Nearest(*(np.concatenate([getattr(f, name) for f in found]) for name in ("whole", "split", "whole_at", "split_at")))
