"""the copy check: does a generated picture copy a training picture, or a neighbor it was given?

For each generation the nearest training picture and the nearest used neighbor, seen whole and by windows (`windows.py`)
and then laid over the likeliest (`registration.py`), against the same for training pictures among themselves, each
without itself. A generation is suspicious only where it is nearer than those are. Copies made on purpose
(`synthetic.py`) say what the check can see in this collection with this descriptor, and what it cannot.
Source: Somepalli et al., arXiv 2212.03860, section 4. Differs from the paper: any descriptor, neighbors too, and
synthetic copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.progress import Progress, within
from bowerbird.evaluation.copies import synthetic
from bowerbird.evaluation.copies.calibration import Calibration, calibrate_collection
from bowerbird.evaluation.copies.nearest import KINDS, Nearest, nearest, to_neighbors
from bowerbird.evaluation.copies.thresholds import RATES, Alarm, alarm, quantiles, summarize

if TYPE_CHECKING:
    from PIL import Image

    from bowerbird.core.types import FeatureExtractor

DESCRIPTOR = "tiny-copies"
"""What is used where none is named."""

COPY_THRESHOLD = 0.975
"""Of `DESCRIPTOR`, whole: above it a picture made from a neighbor counts as its near copy. One in a hundred emoji is
as near to one of its four neighbors (`benchmarks/copy_detection.py`)."""
GUARD = f"{COPY_THRESHOLD} of the copy guard"
"""What that threshold is called in reports."""

COPIES_PER_KIND = 60
"""Synthetic copies of each kind that are looked for."""


@dataclass(frozen=True)
class Recall:
    """What of the synthetic copies is found, in `found[kind of copy][test]` as shares: each of `KINDS` at the
    levels of `strict`, `any` of them at those and at those of `loose`, and `source first` whatever the score."""

    found: dict[str, dict[str, float]]
    strict: Alarm
    loose: Alarm


@dataclass(frozen=True)
class CopyReport:
    """Similarities of the generations to training pictures and to used neighbors (None without records), and of the
    baseline.

    `calibration.baseline` leaves out training pictures that the training set holds twice. `recall`: None for one
    training picture, which has no others to be compared with.
    """

    training: Nearest
    calibration: Calibration
    neighbors: Nearest | None
    thresholds: dict[str, dict[str, float]]
    recall: Recall | None

    @property
    def baseline(self) -> Nearest:
        """Training pictures against the other training pictures."""
        return self.calibration.baseline

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
            "pictures": len(self.calibration.rows),
            "left out, as the training set holds them twice": self.calibration.near_duplicates,
        }
        return {
            "thresholds": self.thresholds,
            "baseline": counts | {f"most alike, {kind}": pair for kind, pair in self.most_alike().items()},
            **found,
            "synthetic copies found": {} if self.recall is None else _recall_report(self.recall),
        }

    def most_alike(self) -> dict[str, list[int]]:
        """By kind the two training pictures of the baseline that are most alike: they set the strictest threshold."""
        pairs = {}
        for kind in KINDS if len(self.calibration.rows) else ():
            first = int(np.argmax(getattr(self.baseline, kind)))
            pairs[kind] = [int(self.calibration.rows[first]), int(getattr(self.baseline, f"{kind}_at")[first])]
        return pairs


def _recall_report(recall: Recall) -> dict[str, Any]:
    return {
        "false alarms": recall.strict.rate,
        "false alarms, at most": recall.strict.at_most,
        "false alarms, loose": recall.loose.rate,
        "false alarms, loose, at most": recall.loose.at_most,
        **recall.found,
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

    Thresholds are SSCD's own (0.5, 0.75) with SSCD, else quantiles of the baseline, and with `DESCRIPTOR` also that of
    `guard`; the recall of synthetic copies is always at the baseline's. What depends on `training` alone is kept in the
    cache. Raises: BowerbirdError without generated or training pictures.
    """
    if not generated or not training:
        raise BowerbirdError(
            f"the check compares generated pictures with training pictures; got {len(generated)} and {len(training)}"
        )
    calibration = calibrate_collection(
        extractor, training, baseline=baseline, copies_per_kind=copies_per_kind, seed=seed, progress=progress
    )
    to_training = nearest(extractor, generated, training, progress=within(progress, "comparing"))
    used = None if neighbors is None else to_neighbors(extractor, generated, neighbors)
    thresholds = {kind: quantiles(getattr(calibration.baseline, kind)) for kind in KINDS}
    if extractor.name == "sscd":
        from bowerbird.encoders.sscd import THRESHOLDS

        thresholds["whole"] = thresholds["split"] = {f"{value} (SSCD)": value for value in THRESHOLDS}
    elif extractor.name == DESCRIPTOR:
        thresholds["whole"] = {**thresholds["whole"], GUARD: COPY_THRESHOLD}
    recall = (
        recall_of_synthetic(calibration.copies, calibration.sources, calibration.baseline)
        if len(calibration.rows)
        else None
    )
    return CopyReport(to_training, calibration, used, thresholds, recall)


def recall_of_synthetic(found: Nearest, sources: np.ndarray, baseline: Nearest) -> Recall:
    """By kind of copy the share that is found: its source first, above what 1% of `baseline` reach (`n > 0`)."""
    honest = baseline.similarities()
    loose, strict = (alarm(honest, rate) for rate in RATES.values())
    right = {kind: getattr(found, f"{kind}_at") == sources for kind in KINDS}
    values = {kind: np.where(right[kind], getattr(found, kind), -np.inf) for kind in KINDS}
    table = {
        **{kind: values[kind] > strict.levels[kind] for kind in KINDS},
        "any": strict.passed(values),
        "any, loose": loose.passed(values),
        "source first": np.any(list(right.values()), axis=0),
    }
    shares = {name: share.reshape(len(synthetic.KINDS), -1).mean(1) for name, share in table.items()}
    return Recall(
        {kind: {name: float(share[i]) for name, share in shares.items()} for i, kind in enumerate(synthetic.KINDS)},
        strict,
        loose,
    )


def working_size(extractor: FeatureExtractor) -> int:
    """Edge in pixels at which pictures are handed to a check: SSCD's 320, 128 for descriptors that look at 64."""
    return 320 if extractor.name == "sscd" else 128
