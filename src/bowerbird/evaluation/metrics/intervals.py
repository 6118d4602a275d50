"""95% intervals: over groups by bootstrap, over a few seeds by Student's t."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bowerbird.core import seeds


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95% interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def over_groups(values: np.ndarray, *, draws: int = 2000, seed: int = 0) -> Estimate:
    """Mean of `values` `(groups, repeats)`; the bootstrap draws whole groups, so pictures of one entity stay
    together."""
    per_group = np.asarray(values, np.float64).reshape(len(values), -1).mean(1)
    rng = seeds.numpy_generator(seed, "bootstrap")
    means = per_group[rng.integers(len(per_group), size=(draws, len(per_group)))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return Estimate(float(per_group.mean()), float(low), float(high))


def over_seeds(values: list[float]) -> Estimate:
    """Mean of one value a seed with the t-interval; needs two or more."""
    from scipy import stats

    array = np.asarray(values, np.float64)
    half = float(stats.t.ppf(0.975, len(array) - 1) * array.std(ddof=1) / np.sqrt(len(array)))
    return Estimate(float(array.mean()), float(array.mean()) - half, float(array.mean()) + half)


def over_halves(
    metric: Callable[[np.ndarray], float], features: np.ndarray, *, draws: int = 40, seed: int = 0
) -> Estimate:
    """A measure of a whole set (a distance, a precision) with its interval from random halves, drawn without
    replacement.

    Drawing with replacement would show such measures duplicates, which they take for a narrower set. Halves are biased
    too, but their spread about their own mean is that of the whole (the delete-half jackknife); the interval is that
    spread, moved to the value of all `features` `(n, d)`. What the other side's pictures add to the uncertainty is not
    in it.
    """
    rng = seeds.numpy_generator(seed, "halves")
    whole = metric(features)
    halves = np.array([metric(features[rng.permutation(len(features))[: len(features) // 2]]) for _ in range(draws)])
    half = 1.96 * float(halves.std(ddof=1))  # quantiles of 40 draws would be too narrow
    return Estimate(float(whole), float(whole) - half, float(whole) + half)
