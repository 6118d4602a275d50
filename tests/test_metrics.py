"""The Fréchet distance against closed forms and an independent computation; intervals that cover."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg

from bowerbird.evaluation.metrics.diversity import (
    clip_score,
    hubness,
    inception_score,
    mean_pairwise_distance,
    vendi_score,
)
from bowerbird.evaluation.metrics.frechet import frechet_distance, frechet_infinity
from bowerbird.evaluation.metrics.intervals import over_groups, over_halves, over_seeds
from bowerbird.evaluation.metrics.kernel import gaussian_mmd, kernel_distance, polynomial_mmd
from bowerbird.evaluation.metrics.manifold import Manifold, manifold


def test_frechet_equals_the_matrix_square_root_form() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(300, 6)) @ rng.normal(size=(6, 6)), rng.normal(size=(200, 6)) * 2 + 1
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * scipy.linalg.sqrtm(ca @ cb).real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-8)
    assert frechet_distance(a, a + 3) == pytest.approx(6 * 9)


def test_frechet_of_fewer_samples_than_features_is_finite() -> None:
    rng = np.random.default_rng(1)
    assert np.isfinite(frechet_distance(rng.normal(size=(5, 20)), rng.normal(size=(7, 20))))


def test_bootstrap_draws_groups_and_covers() -> None:
    rng = np.random.default_rng(0)
    covered, narrow = 0, 0.0
    for trial in range(60):
        groups = rng.normal(size=(80, 1)) + 0.1 * rng.normal(size=(80, 10))
        estimate = over_groups(groups, draws=400, seed=trial)
        covered += estimate.low <= 0 <= estimate.high
        narrow += (estimate.high - estimate.low) / 60
    assert 50 <= covered <= 60
    assert narrow == pytest.approx(2 * 1.96 / np.sqrt(80), rel=0.1)  # the spread of groups, not of the 800 values


def test_interval_over_seeds_is_students() -> None:
    estimate = over_seeds([1.0, 2.0, 3.0])
    assert (estimate.mean, estimate.high - estimate.mean) == pytest.approx((2.0, 4.302652 / np.sqrt(3)), rel=1e-4)


def test_kernel_distances_equal_sums_over_pairs() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(7, 4)), rng.normal(size=(5, 4)) + 0.5

    def mean(x: np.ndarray, y: np.ndarray, k: Callable[[np.ndarray, np.ndarray], float], same: bool) -> float:
        return float(np.mean([k(p, q) for i, p in enumerate(x) for j, q in enumerate(y) if not (same and i == j)]))

    def cubic(p: np.ndarray, q: np.ndarray) -> float:
        return float((p @ q / 4 + 1) ** 3)

    def gaussian(p: np.ndarray, q: np.ndarray) -> float:
        return float(np.exp(-((p - q) ** 2).sum() / (2 * 1.5**2)))

    assert polynomial_mmd(a, b) == pytest.approx(
        mean(a, a, cubic, True) + mean(b, b, cubic, True) - 2 * mean(a, b, cubic, False), rel=1e-9
    )
    expected = 1000 * (mean(a, a, gaussian, False) + mean(b, b, gaussian, False) - 2 * mean(a, b, gaussian, False))
    assert gaussian_mmd(a, b, sigma=1.5) == pytest.approx(expected, rel=1e-9)


def test_kid_is_unbiased_where_frechet_is_not() -> None:
    rng = np.random.default_rng(3)
    kid = [
        kernel_distance(rng.normal(size=(60, 8)), rng.normal(size=(60, 8)), subsets=5, subset_size=50, seed=s)[0]
        for s in range(40)
    ]
    assert abs(np.mean(kid)) < 3 * np.std(kid) / np.sqrt(40)
    few, many = (frechet_distance(rng.normal(size=(n, 8)), rng.normal(size=(4000, 8))) for n in (60, 2000))
    assert few > 5 * many


def test_frechet_infinity_takes_the_small_sample_bias_away() -> None:
    rng = np.random.default_rng(4)
    real = rng.normal(size=(20_000, 8))
    generated = rng.normal(size=(600, 8)) + 0.2
    true = 8 * 0.2**2
    plain, extrapolated = frechet_distance(generated, real), frechet_infinity(generated, real)
    assert abs(extrapolated - true) < abs(plain - true)
    assert frechet_infinity(generated, real) == extrapolated
    with pytest.raises(ValueError, match="20"):
        frechet_infinity(generated[:10], real)


def test_manifold_against_a_count_by_hand() -> None:
    rng = np.random.default_rng(5)
    generated, real, k = rng.normal(size=(30, 3)), rng.normal(size=(40, 3)) + 0.7, 3

    def ball(x: np.ndarray, i: int) -> float:
        return float(sorted(np.linalg.norm(x - x[i], axis=1))[k])

    inside = np.array([[np.linalg.norm(g - r) <= ball(real, j) for j, r in enumerate(real)] for g in generated])
    recalled = [any(np.linalg.norm(g - r) <= ball(generated, i) for i, g in enumerate(generated)) for r in real]
    found = manifold(generated, real, k=k)
    assert found.precision == pytest.approx(inside.any(1).mean())
    assert found.recall == pytest.approx(np.mean(recalled))
    assert found.density == pytest.approx(inside.sum() / (k * 30))
    assert found.coverage == pytest.approx(inside.any(0).mean())
    assert manifold(real, real, k=k).coverage == 1
    assert manifold(real + 100, real, k=k) == Manifold(0, 0, 0, 0)


def test_diversity_of_known_sets() -> None:
    five = np.eye(5).repeat(4, axis=0)
    assert vendi_score(five) == pytest.approx(5)
    assert vendi_score(np.ones((6, 3))) == pytest.approx(1)
    assert mean_pairwise_distance(np.eye(5)) == pytest.approx(1)
    assert inception_score(five, splits=1)[0] == pytest.approx(5)
    assert inception_score(np.full((20, 5), 0.2), splits=2)[0] == pytest.approx(1)
    assert clip_score(np.array([[2.0, 0], [0, 1]]), np.array([[1.0, 1], [0, -3]])) == pytest.approx(
        [100 / np.sqrt(2), 0]
    )
    even, hub = hubness(np.full(50, 10)), hubness(np.array([500] + [0] * 49))
    assert (even.skewness, even.never) == (0, 0)
    assert hub.skewness > 6
    assert hub.never == pytest.approx(0.98)


def test_halves_give_the_spread_of_the_mean() -> None:
    rng = np.random.default_rng(6)
    estimate = over_halves(lambda x: float(x.mean()), rng.normal(size=(400, 1)), draws=400)
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 / 20, rel=0.15)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance`:UserWarning")
def test_distances_equal_an_independent_library() -> None:
    """FID and KID as torchmetrics computes them from the same features; precision and recall by faiss's neighbors."""
    import faiss
    import torch
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    class Pass(torch.nn.Module):
        num_features = 6

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.float().mean((2, 3)).repeat(1, 2) * torch.tensor([1.0, 1, 1, 0.5, 2, 3]) / 100

    rng = np.random.default_rng(8)
    a, b = (torch.from_numpy(rng.integers(0, top, (80, 3, 4, 4), dtype=np.uint8)) for top in (255, 200))
    theirs = FrechetInceptionDistance(feature=Pass(), input_img_size=(3, 4, 4)).set_dtype(torch.float64)
    kid = KernelInceptionDistance(feature=Pass(), subsets=1, subset_size=80)
    for metric in (theirs, kid):
        metric.update(a, real=True)
        metric.update(b, real=False)
    fa, fb = Pass()(a).double().numpy(), Pass()(b).double().numpy()
    assert frechet_distance(fb, fa) == pytest.approx(float(theirs.compute()), rel=1e-3)
    assert polynomial_mmd(fb, fa) == pytest.approx(float(kid.compute()[0]), rel=1e-3)

    def radii(x: np.ndarray) -> np.ndarray:
        index = faiss.IndexFlatL2(6)
        index.add(x.astype(np.float32))
        return index.search(x.astype(np.float32), 4)[0][:, 3]

    def inside(queries: np.ndarray, x: np.ndarray) -> float:
        index = faiss.IndexFlatL2(6)
        index.add(x.astype(np.float32))
        near, which = index.search(queries.astype(np.float32), len(x))
        return float((near <= radii(x)[which]).any(1).mean())

    found = manifold(fb, fa, k=3)
    assert found.precision == pytest.approx(inside(fb, fa), abs=1e-3)
    assert found.recall == pytest.approx(inside(fa, fb), abs=1e-3)
