"""Similarities to training pictures, summed up against what training pictures have to each other.

Source: Somepalli et al., "Diffusion art or digital forgery?", arXiv 2212.03860, section 4.
"""

from __future__ import annotations

from collections.abc import Mapping
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


RATES = {"95% quantile": 0.05, "99% quantile": 0.01}
"""Shares of honest pictures that pass the two thresholds, by name; the stricter one last."""


def quantiles(baseline: np.ndarray) -> dict[str, float]:
    """Thresholds that 5% and 1% of honest pictures pass: quantiles of the train-train similarities `(n,)`; none for
    n = 0."""
    return {
        f"{name} of the baseline": float(np.quantile(baseline, 1 - rate))
        for name, rate in RATES.items()
        if len(baseline)
    }


@dataclass(frozen=True)
class Alarm:
    """What a picture must pass, in any kind of similarity, to be called a copy: `levels` by kind.

    `rate`: the share of honest pictures that pass one; no rate below 1 / (n + 1) shows in n pictures. `at_most`: the
    true rate is below that, with 95% confidence.
    """

    levels: dict[str, float]
    rate: float
    at_most: float

    def passed(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """Whether each picture passes a level, bool `(n,)`."""
        return np.any([values[kind] > level for kind, level in self.levels.items()], axis=0)


def alarm(honest: Mapping[str, np.ndarray], rate: float) -> Alarm:
    """The levels that at most the share `rate` of honest pictures pass, in all kinds together; each `(n,)`, n > 0.

    Every kind gets a level of its own, equally high among its own values, so that a kind with one odd pair spoils no
    other. Where n is too small for `rate`, nobody of the n passes.
    """
    from scipy import stats

    ordered = {kind: np.sort(values)[::-1] for kind, values in honest.items()}
    n = len(next(iter(ordered.values())))

    def count(rank: int) -> int:
        """Pictures that reach the value of this rank in any kind."""
        return int(np.any([values >= ordered[kind][rank] for kind, values in honest.items()], axis=0).sum())

    rank = 0
    while rank + 1 < n and count(rank + 1) <= rate * (n + 1):
        rank += 1
    reached = min(count(rank), n)
    return Alarm(
        {kind: float(values[rank]) for kind, values in ordered.items()},
        reached / (n + 1),
        float(stats.beta.ppf(0.95, reached, n + 1 - reached)),
    )


def ranks(values: np.ndarray, honest: np.ndarray) -> np.ndarray:
    """The share of `honest` values that each of `values` is above, comparable between measures of any scale; zeros
    without honest ones.

    Where all are passed, by how much still counts: a little is added, less than one of them is worth.
    """
    if not len(honest):
        return np.zeros(len(values))
    middle, high = np.quantile(honest, (0.5, 0.99))
    share = np.searchsorted(np.sort(honest), values) / len(honest)
    return share + 0.9 / len(honest) * np.tanh((values - middle) / (4 * max(1e-9, high - middle)))
