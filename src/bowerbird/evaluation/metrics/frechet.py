"""The Fréchet distance between two sets of features seen as Gaussians.

Source: Heusel et al., arXiv 1706.08500, equation 6. Biased upwards for small samples: compare only equal sample sizes.
"""

from __future__ import annotations

import numpy as np

from bowerbird.core import seeds


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)) of features `(n, d)` and `(m, d)`, in float64."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    covariance_a, covariance_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # tr (A B)^(1/2) is the sum of the square roots of the eigenvalues of A B, which are those of the symmetric sqrt(A)
    # B sqrt(A)
    values, vectors = np.linalg.eigh(covariance_a)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ covariance_b @ root).clip(min=0)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(covariance_a) + np.trace(covariance_b) - 2 * cross)


POINTS = 15
"""Sizes of subsets that the line of `frechet_infinity` goes through."""


def frechet_infinity(generated: np.ndarray, real: np.ndarray, *, seed: int = 0) -> float:
    """The distance as if infinitely many pictures had been generated: a line through distances at several n against
    1/n, at 1/n = 0.

    `generated` `(n, d)` and `real` `(m, d)` are features. Subsets of `generated` go from a fifth (and more than d where
    there are enough) to all; `real` is kept whole. Source: Chong and Forsyth, arXiv 1911.07023. Raises: ValueError for
    fewer than 20 generated pictures.
    """
    n = len(generated)
    if n < 20:
        raise ValueError(f"extrapolation needs 20 generated pictures or more; got {n}")
    first = max(10, min(n // 2, max(n // 5, generated.shape[1] + 1)))
    rng = seeds.numpy_generator(seed, "fd infinity")
    sizes = np.linspace(first, n, POINTS).astype(int)
    values = [frechet_distance(generated[rng.choice(n, size, replace=False)], real) for size in sizes]
    _, at_zero = np.polyfit(1 / sizes, values, 1)
    return float(at_zero)
