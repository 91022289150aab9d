"""Layers that Keras lacks: constants for normalisation, convolutions that are symmetric by construction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from reion.models.shapes import Channels, Conditions


@keras.saving.register_keras_serializable(package="reion")
class Standardise(keras.layers.Layer):
    """(x − mean) / σ along the last axis, with constants that are part of the configuration."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], **options: Any) -> None:
        super().__init__(**{**options, "trainable": False})
        self.mean = tuple(mean)
        self.std = tuple(std)
        # One multiplication and one addition, folded in float64.
        self._slope = (1.0 / np.asarray(self.std)).astype(np.float32)
        self._offset = (-np.asarray(self.mean) / np.asarray(self.std)).astype(np.float32)

    def call(self, values: Channels) -> Channels:
        return values * ops.convert_to_tensor(self._slope) + ops.convert_to_tensor(self._offset)

    def compute_output_spec(self, values: Channels) -> Channels:
        return keras.KerasTensor(values.shape, dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "mean": list(self.mean), "std": list(self.std)}


@keras.saving.register_keras_serializable(package="reion")
class SymmetricConv3D(keras.layers.Layer):
    """A valid 3x3x3 convolution whose kernel is the same under all 48 symmetries of the cube.

    The 27 taps fall into four orbits (centre, 6 faces, 12 edges, 8 corners) that share their weights, so the
    layer commutes exactly with rotations and reflections and costs the same as any other 3x3x3 convolution.

    Input: (batch, x, y, z, channel). Output: (batch, x − 2, y − 2, z − 2, filters).
    """

    _ORBIT = np.abs(np.indices((3, 3, 3)) - 1).sum(axis=0).ravel()

    def __init__(self, filters: int, activation: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.filters = filters
        self.activation = keras.activations.get(activation)

    def build(self, shape: Sequence[int | None]) -> None:
        fan_in = shape[-1] or 1
        self.kernel = self.add_weight(
            name="kernel",
            shape=(4, fan_in, self.filters),
            initializer=keras.initializers.RandomNormal(stddev=float(np.sqrt(2 / (27 * fan_in)))),
        )
        self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer="zeros")

    def call(self, values: Channels) -> Channels:
        taps = ops.take(self.kernel, self._ORBIT, axis=0)
        kernel = ops.reshape(taps, (3, 3, 3, values.shape[-1], self.filters))
        summed = ops.conv(values, kernel, strides=1, padding="valid", data_format="channels_last")
        return self.activation(summed + self.bias)

    def compute_output_spec(self, values: Channels) -> Channels:
        batch, *sides, _ = values.shape
        smaller = [None if side is None else side - 2 for side in sides]
        return keras.KerasTensor((batch, *smaller, self.filters), dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "filters": self.filters,
            "activation": keras.activations.serialize(self.activation),
        }


@keras.saving.register_keras_serializable(package="reion")
class StopGradient(keras.layers.Layer):
    """The same values, through which what comes after does not change what comes before in training."""

    def call(self, values: Channels) -> Channels:
        return ops.stop_gradient(values)

    def compute_output_spec(self, values: Channels) -> Channels:
        return keras.KerasTensor(values.shape, dtype=self.compute_dtype)


def add_conditions(values: Channels, conditions: Conditions, name: str, hidden: int = 16) -> Channels:
    """Add a learnt function of redshift and other conditions to every cell: one number for each channel."""
    width = values.shape[-1]
    inner = keras.layers.Dense(hidden, activation="silu", name=f"{name}_hidden")(conditions)
    bias = keras.layers.Dense(width, use_bias=False, name=f"{name}_bias")(inner)
    return keras.layers.Add(name=f"{name}_add")([values, keras.layers.Reshape((1, 1, 1, width))(bias)])
