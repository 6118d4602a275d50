"""Similarities to training pictures, summed up against what training pictures have to each other.

Source: Somepalli et al., "Diffusion art or digital forgery?", arXiv 2212.03860, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Summary:
    """Of `n` top-1 similarities: mean, standard deviation, percentiles, and the share over each threshold."""

    n: int
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
    return Summary(
        len(similarities),
        float(similarities.mean()),
        float(similarities.std()),
        float(p75),
        float(p90),
        float(p95),
        over,
    )


def calibrate(baseline: np.ndarray) -> dict[str, float]:
    """Thresholds that 5% and 1% of honest pictures pass: quantiles of the train-train similarities `(n,)`."""
    return {
        f"{quantile:.0%} quantile of the baseline": float(np.quantile(baseline, quantile)) for quantile in (0.95, 0.99)
    }


def alarm_level(baseline: np.ndarray) -> tuple[float, float]:
    """The value that one in a hundred honest pictures passes, and the rate that really is: no rate below 1 / (n + 1)
    shows in n values."""
    n = len(baseline)
    over = max(0, (n + 1) // 100 - 1)  # honest values that may lie above it
    return float(np.sort(baseline)[n - 1 - over]), (over + 1) / (n + 1)


def ranks(values: np.ndarray, honest: np.ndarray, *, own: bool = False) -> np.ndarray:
    """The share of `honest` values that each of `values` is above, comparable between measures of any scale.

    `own`: `values` are the honest ones, and each is compared with the others. Where all are passed, by how much still
    counts: a little is added, less than one of them is worth.
    """
    middle, high = np.quantile(honest, (0.5, 0.99))
    share = np.searchsorted(np.sort(honest), values) / max(1, len(honest) - own)
    return share + 0.9 / len(honest) * np.tanh((values - middle) / (4 * max(1e-9, high - middle)))
