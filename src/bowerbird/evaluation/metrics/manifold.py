"""Fidelity and diversity told apart: what share of the pictures lies where the other side's pictures are, by nearest
neighbors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PART = 2048
"""Rows whose distances are held at a time: 50,000 pictures against as many fit into 1 GB."""


@dataclass(frozen=True)
class Manifold:
    """`precision`, `recall`: shares within the other side's k-NN balls. `density` (can exceed 1), `coverage`: the
    sturdier pair."""

    precision: float
    recall: float
    density: float
    coverage: float


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Euclidean distances `(n, m)` of features `(n, d)` and `(m, d)`, in float64."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return np.sqrt(squared.clip(min=0))


def radii(x: np.ndarray, k: int) -> np.ndarray:
    """Distance of each row to its k-th nearest other row: `(n,)`. Raises: ValueError when there are no k others."""
    if not 1 <= k < len(x):
        raise ValueError(f"k is {k}, and each of {len(x)} pictures has {len(x) - 1} others")
    found = np.empty(len(x))
    for start in range(0, len(x), PART):
        d = distances(x[start : start + PART], x)
        d[np.arange(len(d)), start + np.arange(len(d))] = np.inf  # not itself
        found[start : start + PART] = np.partition(d, k - 1, axis=1)[:, k - 1]
    return found


def manifold(generated: np.ndarray, real: np.ndarray, *, k: int = 5) -> Manifold:
    """Improved precision and recall, density and coverage of features `(n, d)` against `(m, d)`.

    Source: Kynkäänniemi et al., arXiv 1904.06991 (they use k = 3), and Naeem et al., arXiv 2002.09797 (k = 5).
    """
    of_real, of_generated = radii(real, k), radii(generated, k)
    balls = np.empty(len(generated), np.int64)  # of real pictures, that each generated one lies in
    recalled, covered = np.zeros(len(real), bool), np.zeros(len(real), bool)
    for start in range(0, len(generated), PART):
        between = distances(generated[start : start + PART], real)
        inside = between <= of_real[None]
        balls[start : start + PART] = inside.sum(1)
        covered |= inside.any(0)
        recalled |= (between <= of_generated[start : start + PART, None]).any(0)
    return Manifold(float((balls > 0).mean()), float(recalled.mean()), float(balls.mean() / k), float(covered.mean()))
