"""Fidelity and diversity told apart: what share of the pictures lies where the other side's pictures are, by nearest neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Manifold:
    """`precision`, `recall`: shares within the other side's k-NN balls. `density` (can exceed 1), `coverage`: the sturdier pair."""

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
    d = distances(x, x)
    np.fill_diagonal(d, np.inf)
    return np.partition(d, k - 1, axis=1)[:, k - 1]


def manifold(generated: np.ndarray, real: np.ndarray, *, k: int = 5) -> Manifold:
    """Improved precision and recall, density and coverage of features `(n, d)` against `(m, d)`.

    Source: Kynkäänniemi et al., arXiv 1904.06991 (they use k = 3), and Naeem et al., arXiv 2002.09797 (k = 5).
    """
    between = distances(generated, real)
    within_real = between <= radii(real, k)[None]
    return Manifold(
        precision=float(within_real.any(1).mean()),
        recall=float((between <= radii(generated, k)[:, None]).any(0).mean()),
        density=float(within_real.sum(1).mean() / k),
        coverage=float(within_real.any(0).mean()),
    )
