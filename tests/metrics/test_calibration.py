"""Reliability and error by density, against scipy's binned statistics."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binned_statistic

from reion import InputError
from reion.metrics import DensityErrors, Reliability, error_by_density, mse, reliability
from reion.metrics.calibration import spread_calibration


def fields(seed, shape=(9, 10, 11)):
    rng = np.random.default_rng(seed)
    return rng.beta(0.4, 0.4, shape), rng.beta(0.4, 0.4, shape), rng.lognormal(0, 0.5, shape)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 1000))
def test_bins_agree_with_scipy(seed):
    pred, true, density = fields(seed)
    curve = reliability(pred, true)
    edges = np.linspace(0, 1, 21)
    expected = binned_statistic(pred.ravel(), [pred.ravel(), true.ravel()], "mean", edges).statistic
    assert np.allclose(curve.mean_pred, expected[0])
    assert np.allclose(curve.mean_true, expected[1])
    errors = error_by_density(pred, true, density)
    edges = np.quantile(density, np.linspace(0, 1, 11))
    error = (pred - true).ravel()
    expected = binned_statistic(density.ravel(), [error, error**2], "mean", edges).statistic
    assert np.allclose(errors.bias, expected[0])
    assert np.allclose(errors.mse, expected[1])


def test_a_calibrated_prediction_has_no_calibration_error():
    rng = np.random.default_rng(0)
    pred = rng.random((60, 60, 60))
    true = (rng.random(pred.shape) < pred).astype(np.float32)
    assert reliability(pred, true).error < 0.01
    assert reliability(pred, pred).error == 0
    assert reliability(np.full(pred.shape, 0.7), true).error == pytest.approx(0.2, abs=0.01)


def test_density_bins_hold_equal_volumes_and_all_of_the_error():
    pred, true, density = fields(1)
    errors = error_by_density(pred, true, density)
    assert np.ptp(errors.cells) <= 1
    assert np.all(np.diff(errors.mean_overdensity) > 0)
    assert errors.squared_error.sum() / errors.cells.sum() == pytest.approx(mse(pred, true))
    assert errors.overdensity.sum() / errors.cells.sum() == pytest.approx(1)


def test_adding_pools_cells():
    (p1, t1, d1), (p2, t2, _) = fields(1), fields(2)
    both = reliability(p1, t1) + reliability(p2, t2)
    at_once = reliability(np.concatenate([p1, p2]), np.concatenate([t1, t2]))
    assert np.allclose(both.mean_true, at_once.mean_true)
    twice = error_by_density(p1, t1, d1) + error_by_density(p1, t1, d1)
    assert np.allclose(twice.bias, error_by_density(p1, t1, d1).bias)


def test_empty_bins_are_nan_and_nothing_is_none():
    curve = reliability(np.full((3, 3, 3), 1.0), np.zeros((3, 3, 3)))
    assert np.isnan(curve.mean_true[:-1]).all()
    assert curve.mean_true[-1] == 0
    assert Reliability().error is None
    assert np.isnan(DensityErrors().bias).all()
    uniform = error_by_density(np.zeros((3, 3, 3)), np.zeros((3, 3, 3)), np.ones((3, 3, 3)))
    assert uniform.cells.sum() == 27
    with pytest.raises(InputError, match="empty box"):
        error_by_density(np.zeros((3, 3, 3)), np.zeros((3, 3, 3)), np.zeros((3, 3, 3)))


def test_spread_bins_agree_with_scipy_and_pool():
    rng = np.random.default_rng(0)
    pred, true = rng.random((2, 8, 8, 8))
    spread = 0.45 * rng.random(pred.shape)
    found = spread_calibration(pred, spread, true)
    edges = np.linspace(0, 0.5, 11)
    squares = [np.square(spread).ravel(), np.square(pred - true).ravel()]
    expected = np.sqrt(binned_statistic(spread.ravel(), squares, "mean", edges).statistic)
    assert np.allclose(found.predicted, expected[0], equal_nan=True)
    assert np.allclose(found.found, expected[1], equal_nan=True)
    halves = [spread_calibration(pred[part], spread[part], true[part]) for part in (slice(3), slice(3, None))]
    assert np.allclose((halves[0] + halves[1]).found, found.found, equal_nan=True)
    assert spread_calibration(pred, 0 * spread + 0.7, true).cells[-1] == pred.size
    with pytest.raises(InputError, match="at least 0"):
        spread_calibration(pred, -spread, true)


def test_errors_as_large_as_their_spread_lie_on_the_diagonal():
    rng = np.random.default_rng(0)
    spread = 0.1 + 0.3 * rng.random((40, 40, 40))
    found = spread_calibration(0.5 + spread * rng.standard_normal(spread.shape), spread, 0 * spread + 0.5)
    full = found.cells > 1000
    assert full.sum() == 6
    assert found.found[full] == pytest.approx(found.predicted[full], rel=0.05)
