"""Mean and σ in one pass, against scikit-learn and numpy in two."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from reion.normalizer import Normalizer, fit_normalizer


def snapshots(count=3, shape=(6, 5, 4)):
    rng = np.random.default_rng(1)
    for index in range(count):
        channels = np.stack([4e-31 * rng.lognormal(0, 1, shape), rng.lognormal(3, 2, shape)])
        yield 8.0 - index, channels.astype(np.float32), rng.random(shape).astype(np.float32)


def test_it_is_what_a_standard_scaler_measures():
    fitted = fit_normalizer(["n_igm", "n_ion"], (1 / 4e-31, 1.0), ("log1p", "none"), snapshots())
    scaler = StandardScaler()
    xi = []
    for _, channels, truth in snapshots():
        table = np.stack([np.log1p(channels[0].astype(np.float64) / 4e-31), channels[1]], axis=-1)
        scaler.partial_fit(table.reshape(-1, 2))
        xi.append(truth)
    np.testing.assert_allclose(fitted.mean, scaler.mean_, rtol=1e-6)
    np.testing.assert_allclose(fitted.std, np.sqrt(scaler.var_), rtol=1e-6)
    assert fitted.xi_mean == pytest.approx(np.mean(xi, dtype=np.float64), rel=1e-6)
    assert fitted.xi_std == pytest.approx(np.std(xi, dtype=np.float64), rel=1e-6)
    assert (fitted.redshift_mean, fitted.redshift_std) == pytest.approx((7.0, np.std([8, 7, 6])))


def test_a_constant_channel_and_a_single_redshift_do_not_divide_by_zero():
    one = [(8.0, np.ones((1, 3, 3, 3), np.float32), np.zeros((3, 3, 3), np.float32))]
    fitted = fit_normalizer(["n_igm"], (1.0,), ("none",), one)
    assert fitted.std == (1.0,)
    assert fitted.redshift_std == 1.0
    assert fitted.xi_std == 1.0


def test_json_and_back():
    fitted = fit_normalizer(["a", "b"], (1.0, 1.0), ("none", "asinh"), snapshots())
    assert Normalizer.from_dict(fitted.to_dict()) == fitted
