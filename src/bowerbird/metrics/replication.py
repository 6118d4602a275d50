"""Similarities to training pictures, summed up against what training pictures have to each other.

Source: Somepalli et al., "Diffusion art or digital forgery?", arXiv 2212.03860, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Summary:
    """Of n top-1 similarities: mean, standard deviation, percentiles, and the share over each threshold."""

    mean: float
    deviation: float
    p75: float
    p90: float
    p95: float
    over: dict[str, float]


def summarize(similarities: np.ndarray, thresholds: dict[str, float]) -> Summary:
    """`similarities` `(n,)`, one a picture; `thresholds` by label."""
    p75, p90, p95 = np.quantile(similarities, (0.75, 0.9, 0.95))
    over = {label: float((similarities > value).mean()) for label, value in thresholds.items()}
    return Summary(float(similarities.mean()), float(similarities.std()), float(p75), float(p90), float(p95), over)


def calibrated(baseline: np.ndarray) -> dict[str, float]:
    """Thresholds that 5% and 1% of honest pictures pass: quantiles of the train-train similarities `(n,)`."""
    return {f"{quantile:.0%} quantile of the baseline": float(np.quantile(baseline, quantile)) for quantile in (0.95, 0.99)}


def recall_at(planted: np.ndarray, baseline: np.ndarray, false_alarms: float = 0.01) -> float:
    """Share of `planted` copies above the value that only `false_alarms` of the `baseline` pass."""
    return float((planted > np.quantile(baseline, 1 - false_alarms)).mean())
