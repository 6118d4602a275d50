"""Distances between sets of features by kernels: KID and CMMD. Unlike the Fréchet distance they assume no Gaussian."""

from __future__ import annotations

import numpy as np

from bowerbird.core import seeds


def polynomial_mmd(a: np.ndarray, b: np.ndarray) -> float:
    """Unbiased squared MMD of features `(n, d)` and `(m, d)` under the kernel (x.y / d + 1)^3; it can be negative.

    Source: KID, Binkowski et al., arXiv 1801.01401, section 4.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def off_diagonal_mean(k: np.ndarray) -> float:
        return float((k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)))

    return off_diagonal_mean(kernel(a, a)) + off_diagonal_mean(kernel(b, b)) - 2 * float(kernel(a, b).mean())


def kernel_distance(
    a: np.ndarray, b: np.ndarray, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """KID: mean and standard deviation of `polynomial_mmd` over random subsets, drawn without replacement from either
    side.

    Subsets are no larger than the smaller side; papers quote subsets of 1,000.
    """
    size = min(subset_size, len(a), len(b))
    rng = seeds.numpy_generator(seed, "kid")
    values = [
        polynomial_mmd(a[rng.choice(len(a), size, replace=False)], b[rng.choice(len(b), size, replace=False)])
        for _ in range(subsets)
    ]
    return float(np.mean(values)), float(np.std(values))


def gaussian_mmd(a: np.ndarray, b: np.ndarray, *, sigma: float = 10.0) -> float:
    """CMMD: 1000 times the squared MMD under exp(-|x - y|^2 / (2 sigma^2)), means over all pairs (self included).

    Made for unit-length CLIP embeddings; on other features sigma needs choosing again. Source: Jayasumana et al., arXiv
    2401.09603.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)

    def mean_kernel(x: np.ndarray, y: np.ndarray) -> float:
        total = 0.0
        for part in np.array_split(x, -(-len(x) // 2048)):  # the whole table of 50,000 pictures would be 20 GB
            squared = (part**2).sum(1)[:, None] + (y**2).sum(1)[None] - 2 * part @ y.T
            total += float(np.exp(-squared.clip(min=0) / (2 * sigma**2)).sum())
        return total / (len(x) * len(y))

    return 1000 * (mean_kernel(a, a) + mean_kernel(b, b) - 2 * mean_kernel(a, b))
