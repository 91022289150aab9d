"""What a step of training costs, found out on random numbers: for plans, before there is any data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from reion.config import RunConfig
from reion.devices import resolve_precision
from reion.distribution import Workers
from reion.models import build_model
from reion.normalizer import Normalizer
from reion.training import Loop


@dataclass(frozen=True)
class TrainingCost:
    """What a step of training costs, found out on random numbers.

    Parameters
    ----------
    channels
        What the stem makes of a cell.
    parameters
        Of the trunk.
    forward_flops
        Operations of the convolutions of one batch, forwards; a step is three times that.
    step
        Takes a step.
    """

    channels: int
    parameters: int
    forward_flops: int
    step: Callable[[], None]


def training_cost(config: RunConfig) -> TrainingCost:
    """Build the network and a batch of random numbers for it, without any data."""
    model = build_model(config, precision=resolve_precision(config.training.precision))
    count, training = len(model.stem.channels), config.training
    stem = model.stem
    normalizer = Normalizer.unfitted(stem.channels, stem.scale, stem.transform)
    loop = Loop(Path(), config, model, normalizer, [], None, Workers())
    rng = np.random.default_rng(0)
    side = training.crop_cells + 2 * model.trunk_radius_cells
    values = rng.normal(size=(training.batch_size, side, side, side, count)).astype(np.float32)
    redshift = np.zeros((training.batch_size, 1), dtype=np.float32)
    xi = rng.random((training.batch_size, *(training.crop_cells,) * 3, 1), dtype=np.float32)

    def step() -> None:
        loop.trunk.train_on_batch([values, redshift], xi)

    step()
    return TrainingCost(
        count, int(loop.trunk.count_params()), _forward_flops(loop.trunk, values, redshift), step
    )


def _forward_flops(trunk: keras.Model, values: np.ndarray, redshift: np.ndarray) -> int:
    """Operations of all convolutions and matrix products for a batch; zero without TensorFlow."""
    if keras.backend.backend() != "tensorflow":
        return 0
    import tensorflow as tf

    specs = [tf.TensorSpec(array.shape, tf.float32) for array in (values, redshift)]
    graph = tf.function(lambda x, z: trunk([x, z], training=False)).get_concrete_function(*specs).graph
    total = 0
    for operation in graph.get_operations():
        if operation.type in ("Conv3D", "Conv2D", "MatMul"):
            kernel = operation.inputs[1].shape.as_list()
            total += 2 * math.prod(operation.outputs[0].shape.as_list()) * math.prod(kernel[:-1])
    return total
