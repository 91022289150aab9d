"""Losses against their definitions in numpy, and what each is smallest for."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

keras = pytest.importorskip("keras")

from reion.config import LossConfig  # noqa: E402
from reion.training.losses import build_loss  # noqa: E402


def fields(seed=0, shape=(3, 8, 7, 6, 1)):
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), (0, 1, 1, 1, 0), mode="wrap")
    true = (smooth > 0).astype(np.float32)
    pred = ndimage.gaussian_filter(true, (0, 1, 1, 1, 0), mode="wrap").clip(0.01, 0.99)
    return true, pred.astype(np.float32)


def loss_of(true, pred, **config):
    return float(
        build_loss(LossConfig(**config))(keras.ops.convert_to_tensor(true), keras.ops.convert_to_tensor(pred))
    )


def test_the_pointwise_losses():
    true, pred = fields()
    assert loss_of(true, pred, kind="mse") == pytest.approx(((true - pred) ** 2).mean(), rel=1e-5)
    entropy = -(true * np.log(pred) + (1 - true) * np.log(1 - pred))
    assert loss_of(true, pred, kind="binary_cross_entropy") == pytest.approx(entropy.mean(), rel=1e-4)
    right = np.where(true == 1, pred, 1 - pred)
    assert loss_of(true, pred, kind="focal") == pytest.approx(((1 - right) ** 2 * entropy).mean(), rel=1e-4)


def test_the_gradient_term():
    true, pred = fields()
    error = (pred - true).astype(np.float64)
    expected = sum((np.diff(error, axis=axis) ** 2).mean() for axis in (1, 2, 3))
    added = loss_of(true, pred, kind="mse", gradient=1.0) - loss_of(true, pred, kind="mse")
    assert added == pytest.approx(expected, rel=1e-4)


def test_the_power_term():
    true, pred = fields()

    def variance(values):
        smooth = ndimage.uniform_filter(values.astype(np.float64), (1, 3, 3, 3, 1))
        return ((values - smooth)[:, 1:-1, 1:-1, 1:-1] ** 2).mean(axis=(1, 2, 3, 4))

    expected = (np.log((variance(pred) + 1e-4) / (variance(true) + 1e-4)) ** 2).mean()
    added = loss_of(true, pred, kind="mse", power=1.0) - loss_of(true, pred, kind="mse")
    assert added == pytest.approx(expected, rel=1e-3)
    assert expected > 0.1
    assert loss_of(true, true, kind="mse", gradient=1.0, power=1.0) == pytest.approx(0.0, abs=1e-6)


def test_the_spread_term_is_least_where_the_spread_is_the_error():
    true, pred = fields()
    error = float(np.sqrt(((true - pred) ** 2).mean()))

    def added(spread):
        both = np.concatenate([pred, np.full_like(pred, spread)], axis=-1)
        return loss_of(true, both, kind="mse") - loss_of(true, pred, kind="mse")

    least = added(error)
    for factor in (0.5, 0.9, 1.1, 2.0):
        assert added(min(0.6, factor * error)) > least
    entropy = -(error**2 * np.log(error**2) + (1 - error**2) * np.log(1 - error**2))
    assert least == pytest.approx(entropy, rel=1e-3)


def test_where_the_target_has_a_variance_the_spread_is_of_both():
    """The spread is right where its square is the squared error to the target plus the target's variance."""
    true, pred = fields()
    variance = 0.04
    both = float(np.sqrt(((true - pred) ** 2).mean() + variance))
    target = np.concatenate([true, np.full_like(true, variance)], axis=-1)

    def added(spread):
        predicted = np.concatenate([pred, np.full_like(pred, spread)], axis=-1)
        return loss_of(target, predicted, kind="mse") - loss_of(target, pred, kind="mse")

    for factor in (0.5, 0.9, 1.1, 1.5):
        assert added(factor * both) > added(both)
    assert loss_of(target, pred, kind="mse") == loss_of(true, pred, kind="mse")
