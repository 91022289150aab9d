"""The loss of training: a mean over cells and, if the schema asks for them, terms that keep edges sharp."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import losses, ops

from reion.config import LossConfig
from reion.models.shapes import Channels, Scalar
from reion.registry import LOSSES
from reion.schema import Schema

_LEAST_VARIANCE = 1e-4
"""Added to the variances of xi that the term `power` compares: a crop with less variance has no edges."""

Loss = Callable[[Channels, Channels], Scalar]
"""The mean loss of a batch, from the target of a `reion.training.sampler.Batch` (batch, x, y, z, 1 or 2) and
the prediction of the trunk (batch, x, y, z, 1 or 2). A second channel of the prediction is the spread: the
standard deviation of the error of xi."""


def build_loss(config: LossConfig, *, target_mean: float = 0.0, target_std: float = 1.0) -> Loss:
    """The loss of the schema, for `model.compile`.

    For a network that predicts normalised xi, give the mean and σ of the normalisation: true values are then
    normalised before they are compared. Only the squared error suits such a network.
    """
    entry = LOSSES.find(config.kind)
    options = entry.settings.model_validate(config.options)

    def loss(target: Channels, predicted: Channels) -> Scalar:
        pred = predicted[..., :1]
        true = (ops.cast(target[..., :1], pred.dtype) - target_mean) / target_std
        total = ops.mean(entry.function(options, true, pred))
        if config.gradient and _has_room(true, 2):
            total = total + config.gradient * _gradient_error(true, pred)
        if config.power and _has_room(true, 3):
            total = total + config.power * _power_error(true, pred)
        if predicted.shape[-1] == 2:
            error = ops.square(true - ops.stop_gradient(pred))
            if target.shape[-1] == 2:
                error = ops.minimum(error + ops.cast(target[..., 1:], pred.dtype), 1.0)
            total = total + _spread_error(error, predicted[..., 1:])
        return total

    return loss


def _has_room(values: Channels, cells: int) -> bool:
    """Whether each axis whose length is known has at least `cells` cells: a slab may be thinner."""
    return all(side is None or side >= cells for side in values.shape[1:4])


def mse(settings: Schema, true: Channels, predicted: Channels) -> Scalar:  # noqa: ARG001 (a loss's)
    """The mean squared error."""
    return ops.mean(ops.square(true - predicted))


def binary_cross_entropy(settings: Schema, true: Channels, predicted: Channels) -> Scalar:  # noqa: ARG001
    """The binary cross-entropy, with xi taken as a probability."""
    return ops.mean(losses.binary_crossentropy(true, predicted))


def focal(settings: Schema, true: Channels, predicted: Channels) -> Scalar:  # noqa: ARG001
    """The binary cross-entropy in which cells that are already right count little (Lin et al. 2017)."""
    return ops.mean(losses.binary_focal_crossentropy(true, predicted))


def _spread_error(squared_error: Channels, spread: Channels) -> Scalar:
    """Mean cross-entropy of the squared error of xi, which is from 0 to 1, and the squared spread.

    It is smallest if the squared spread is the mean squared error (cross-entropy is a proper score). Its
    gradients are bounded; those of a Gaussian likelihood are not, and clipping them would slow the learning
    of xi.
    """
    return ops.mean(losses.binary_crossentropy(squared_error, ops.square(spread)))


def _gradient_error(true: Channels, pred: Channels) -> Scalar:
    """Mean squared error of the differences between neighbouring cells, summed over the three axes."""
    error = pred - true
    return (
        ops.mean(ops.square(error[:, 1:] - error[:, :-1]))
        + ops.mean(ops.square(error[:, :, 1:] - error[:, :, :-1]))
        + ops.mean(ops.square(error[:, :, :, 1:] - error[:, :, :, :-1]))
    )


def _power_error(true: Channels, pred: Channels) -> Scalar:
    """Mean over crops of ln²(predicted variance / true variance), both on scales below three cells."""
    ratio = (_small_scale_variance(pred) + _LEAST_VARIANCE) / (_small_scale_variance(true) + _LEAST_VARIANCE)
    return ops.mean(ops.square(ops.log(ratio)))


def _small_scale_variance(values: Channels) -> Any:
    """Variance of the difference between values and their mean over 3x3x3 cells, for each crop: (batch,)."""
    smooth = ops.average_pool(values, 3, strides=1, padding="valid", data_format="channels_last")
    return ops.mean(ops.square(values[:, 1:-1, 1:-1, 1:-1] - smooth), axis=(1, 2, 3, 4))
