"""R2, MSE and MAE against scikit-learn, and where they are not defined."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

from reion import InputError
from reion.metrics import mae, mse, r2
from reion.metrics.pointwise import ErrorSums


def pair(seed, shape=(5, 4, 3), dtype=np.float32):
    rng = np.random.default_rng(seed)
    return rng.random(shape).astype(dtype), rng.random(shape).astype(dtype)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), dtype=st.sampled_from([np.float32, np.float64]))
def test_agree_with_scikit_learn(seed, dtype):
    pred, true = pair(seed, dtype=dtype)
    p, t = pred.ravel().astype(np.float64), true.ravel().astype(np.float64)
    assert r2(pred, true) == pytest.approx(r2_score(t, p), rel=1e-10)
    assert mse(pred, true) == pytest.approx(mean_squared_error(t, p), rel=1e-10)
    assert mae(pred, true) == pytest.approx(mean_absolute_error(t, p), rel=1e-10)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 1000), parts=st.integers(1, 4))
def test_adding_sums_is_pooling_cells(seed, parts):
    pairs = [pair(seed + i, shape=(2, 3, 4 + i)) for i in range(parts)]
    sums = sum((ErrorSums.of(p, t) for p, t in pairs), ErrorSums())
    pred, true = (np.concatenate([field.ravel() for field in fields]) for fields in zip(*pairs, strict=True))
    assert sums.r2 == pytest.approx(r2_score(true.astype(np.float64), pred.astype(np.float64)), abs=1e-9)
    assert sums.std_true == pytest.approx(true.std(dtype=np.float64), rel=1e-9)
    assert sums.mean_pred == pytest.approx(pred.mean(dtype=np.float64), rel=1e-12)


def test_r2_is_one_for_the_truth_and_zero_for_its_mean():
    _, true = pair(0)
    assert r2(true, true) == 1.0
    assert r2(np.full(true.shape, true.mean(dtype=np.float64)), true) == pytest.approx(0.0, abs=1e-12)


def test_r2_of_a_uniform_truth_is_undefined():
    true = np.full((4, 4, 4), 2e-4, dtype=np.float32)
    true[0, 0, 0] = np.nextafter(true[0, 0, 0], np.float32(1))
    assert r2(np.full(true.shape, 0.5), true) is None
    assert ErrorSums().r2 is None
    assert ErrorSums().mse is None


def test_bad_fields_are_refused():
    pred, true = pair(0)
    with pytest.raises(InputError, match=r"shape \(5, 4, 3\).*received \(5, 4, 2\)"):
        r2(pred[..., :2], true)
    broken = pred.copy()
    broken[1, 2, 0] = np.nan
    with pytest.raises(InputError, match=r"prediction: expected finite.*received 1 .*\(1, 2, 0\)"):
        mse(broken, true)
    broken[0, 0, 1] = np.inf
    broken[0, 0, 2] = -np.inf
    with pytest.raises(InputError, match=r"truth: expected finite.*received 3 "):
        mae(pred, broken)
    with pytest.raises(InputError, match=r"\(x, y, z\)"):
        r2(pred[0], true[0])
    with pytest.raises(InputError, match="real numbers"):
        r2(pred.astype(complex), true)
