"""Measures of a set of pictures against another by their features: which there are, and all of them as a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from bowerbird.core import seeds
from bowerbird.evaluation.metrics import diversity, frechet, kernel
from bowerbird.evaluation.metrics.intervals import over_halves
from bowerbird.evaluation.metrics.manifold import manifold

LEAST = 4
"""Generated pictures, and half of them real ones, that set measures can be taken of."""

SetMetric = Callable[[np.ndarray, np.ndarray, int], float]
"""A measure of a set: features `(n, d)` of generated and `(m, d)` of real pictures, and a seed -> a number."""

SET_METRICS: dict[str, SetMetric] = {
    "frechet distance": lambda made, real, seed: frechet.frechet_distance(made, real),
    "kid x 1000": lambda made, real, seed: 1000 * kernel.kernel_distance(made, real, subsets=10, seed=seed)[0],
    "cmmd (unit features, sigma 10)": lambda made, real, seed: kernel.gaussian_mmd(
        diversity.unit(made), diversity.unit(real)
    ),
    "vendi score": lambda made, real, seed: diversity.vendi_score(made),
    "mean pairwise distance": lambda made, real, seed: diversity.mean_pairwise_distance(made),
}
"""What `distribution` reports, each with an interval, by the name it has there. A line here is a metric."""


SHORT = {
    "fid": "frechet distance",
    "kid": "kid x 1000",
    "cmmd": "cmmd (unit features, sigma 10)",
    "vendi": "vendi score",
    "diversity": "mean pairwise distance",
}
"""Short names of set measures for the command line."""
OF_MANIFOLD = ("precision", "recall", "density", "coverage")


def names() -> list[str]:
    """What a set can be measured by, in short names where there are some."""
    short = {name: key for key, name in SHORT.items()}
    return [*(short.get(name, name) for name in SET_METRICS), *OF_MANIFOLD]


def _measure(metric: SetMetric, real: np.ndarray, seed: int, made: np.ndarray) -> float:
    return metric(made, real, seed)


def distribution(
    made: np.ndarray,
    real: np.ndarray,
    *,
    chosen: Sequence[str] | None = None,
    manifold_k: int = 5,
    seed: int = 0,
) -> dict[str, Any]:
    """Set measures of features `(n, d)` against `(m, d)`, each with its interval, and the same for real against real
    as the floor. `chosen`: of `names()`, None for all; n is `LEAST` or more, and m half of it."""
    chosen = names() if chosen is None else chosen
    wanted = {SHORT.get(name, name) for name in chosen}
    bounded = partial(over_halves, features=made, seed=seed)
    k = max(1, min(manifold_k, len(made) // 2 - 1, len(real) - 1))
    found: dict[str, Any] = {"n generated": len(made), "n real": len(real)}
    for name, metric in SET_METRICS.items():
        if name not in wanted:
            continue
        found[name] = asdict(bounded(partial(_measure, metric, real, seed)))
    if "vendi score" in wanted:
        found["vendi score of as many real"] = diversity.vendi_score(some_of(real, len(made), seed))
    if "mean pairwise distance" in wanted:
        found["mean pairwise distance of real"] = diversity.mean_pairwise_distance(real)
    for name in (name for name in OF_MANIFOLD if name in wanted):
        estimate = bounded(partial(_of_manifold, real=real, k=k, name=name))
        most = np.inf if name == "density" else 1.0  # the others are shares
        found[f"{name} (k = {k})"] = {
            "mean": estimate.mean,
            "low": max(0.0, estimate.low),
            "high": min(most, estimate.high),
        }
    if "frechet distance" not in wanted:
        return found
    if len(made) >= 20:
        found["frechet distance, extrapolated to infinite n"] = frechet.frechet_infinity(made, real, seed=seed)
    half = seeds.numpy_generator(seed, "floor").permutation(len(real))
    size = min(len(made), len(real) // 2)
    if size >= 2:
        found["floor: frechet distance of two disjoint real sets"] = {
            "n": f"{size} and {len(real) - size}",
            "value": frechet.frechet_distance(real[half[:size]], real[half[size:]]),
            "generated at the same n": frechet.frechet_distance(made[:size], real[half[size:]]),
        }
    return found


def _of_manifold(made: np.ndarray, real: np.ndarray, k: int, name: str) -> float:
    return float(getattr(manifold(made, real, k=k), name))


def some_of(features: np.ndarray, n: int, seed: int) -> np.ndarray:
    """`n` of the features, at random, or all where there are fewer."""
    return features[seeds.numpy_generator(seed, "some").permutation(len(features))[:n]]
