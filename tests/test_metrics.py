"""The Fréchet distance against closed forms and an independent computation; intervals that cover."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from bowerbird.metrics.frechet import frechet_distance
from bowerbird.metrics.intervals import over_groups, over_seeds


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
