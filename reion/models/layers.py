"""Layers that Keras lacks: normalisation with constants, and symmetric convolutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
        # Constants of one multiplication and one addition, computed in float64.
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
    Training uses the symmetry: output and both gradients are four matrix products each, instead of 27, of
    sums over neighbours. On a CPU a step takes 0.8 of its time with convolutions, and convolutions with
    TensorFlow's own gradients take several times as long again.

    Input: (batch, x, y, z, channel). Output: (batch, x − 2, y − 2, z − 2, filters).
    """

    own_gradients = True
    """Whether training uses the gradients above, or those of the backend: a switch to compare the two."""

    by_sums = True
    """Whether training multiplies sums over neighbours (faster on CPUs) or convolves (faster on GPUs)."""

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

    def call(self, values: Channels, training: bool | None = None) -> Channels:
        convolve = (
            ops.custom_gradient(self._with_gradient) if training and self.own_gradients else self._convolve
        )
        # The reshape turns the variable into a tensor, which TensorFlow needs.
        weights = ops.reshape(self.kernel, (4, values.shape[-1], self.filters))
        return self.activation(convolve(values, weights) + self.bias)

    def _convolve(self, values: Channels, weights: Any) -> Channels:
        taps = ops.take(weights, self._ORBIT, axis=0)
        kernel = ops.reshape(taps, (3, 3, 3, *weights.shape[1:]))
        return ops.conv(values, kernel, strides=1, padding="valid", data_format="channels_last")

    def _with_gradient(self, values: Channels, weights: Any) -> tuple[Channels, Callable[..., Any]]:
        """The convolution, and the function from the gradient of its output to those of its arguments."""
        # Kept for the gradients: on a GPU only the cells, a quarter of the memory of the four sums.
        sums = _orbit_sums(values) if self.by_sums else None

        def gradients(*arguments: Any, upstream: Any = None) -> tuple[Channels, Any]:
            outer = arguments[0] if upstream is None else upstream  # backends pass it differently
            padded = ops.pad(outer, ((0, 0), (2, 2), (2, 2), (2, 2), (0, 0)))
            mirrored = ops.transpose(weights, (0, 2, 1))
            flat = _rows(outer)
            orbits = _orbit_sums(values) if sums is None else sums
            products = ops.stack([ops.matmul(ops.transpose(_rows(orbit)), flat) for orbit in orbits])
            if self.by_sums:
                return _mix_orbits(_orbit_sums(padded), mirrored), products
            return self._convolve(padded, mirrored), products

        return self._convolve(values, weights) if sums is None else _mix_orbits(sums, weights), gradients

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
class PointwiseConv3D(keras.layers.Conv3D):
    """A 1x1x1 convolution: the output in a cell depends on the channels of that cell only.

    Training computes it as a matrix product, whose gradients are matrix products too; TensorFlow's gradients
    of a convolution take several times as long on a CPU.
    """

    own_gradients = True
    """Whether training uses the matrix product, or the backend's convolution: a switch to compare the two."""

    def __init__(self, filters: int, **options: Any) -> None:
        super().__init__(filters, **{**options, "kernel_size": 1})

    def call(self, values: Channels, training: bool | None = None) -> Channels:
        if not (training and self.own_gradients):
            return super().call(values)
        fan_in = values.shape[-1]
        rows = ops.reshape(values, (-1, fan_in))
        mixed = ops.matmul(rows, ops.reshape(self.kernel, (fan_in, self.filters)))
        if self.use_bias:
            mixed = mixed + self.bias
        return self.activation(ops.reshape(mixed, (*ops.shape(values)[:-1], self.filters)))


def _orbit_sums(values: Channels) -> tuple[Channels, Channels, Channels, Channels]:
    """Every inner cell, and the sums of its 6 neighbours at faces, 12 at edges and 8 at corners.

    `values` is (batch, x, y, z, channel); each of the four results (batch, x − 2, y − 2, z − 2, channel).
    """

    def along(axis: int, cells: Channels) -> tuple[Channels, Channels]:
        def part(start: int, stop: int | None) -> Channels:
            return cells[(*[slice(None)] * axis, slice(start, stop))]

        return part(1, -1), part(0, -2) + part(2, None)

    centre, pair = along(1, values)
    line, cross = along(2, centre), along(2, pair)
    one = line[1] + cross[0]  # a neighbour along exactly one of x and y
    (centre, face_z), (face, edge), (edge_xy, corner) = along(3, line[0]), along(3, one), along(3, cross[1])
    return centre, face_z + face, edge + edge_xy, corner


def _mix_orbits(sums: Sequence[Channels], weights: Any) -> Channels:
    """Add up the sums of each orbit times its weights; `weights` is (orbit, channel, filter)."""
    mixed = ops.matmul(_rows(sums[0]), weights[0])
    for number in range(1, len(sums)):
        mixed = mixed + ops.matmul(_rows(sums[number]), weights[number])
    return ops.reshape(mixed, (*ops.shape(sums[0])[:-1], weights.shape[-1]))


def _rows(values: Channels) -> Any:
    """The values with all cells along one axis: (cell, channel)."""
    return ops.reshape(values, (-1, values.shape[-1]))


@keras.saving.register_keras_serializable(package="reion")
class StopGradient(keras.layers.Layer):
    """The identity, which passes no gradient back to the layers before it."""

    def call(self, values: Channels) -> Channels:
        return ops.stop_gradient(values)

    def compute_output_spec(self, values: Channels) -> Channels:
        return keras.KerasTensor(values.shape, dtype=self.compute_dtype)


def add_conditions(values: Channels, conditions: Conditions, name: str, hidden: int = 16) -> Channels:
    """Add a learnt function of the conditions to every cell: one number for each channel.

    A dense layer of `hidden` units precedes the one that gives the numbers; layer names begin with `name`.
    """
    width = values.shape[-1]
    inner = keras.layers.Dense(hidden, activation="silu", name=f"{name}_hidden")(conditions)
    bias = keras.layers.Dense(width, use_bias=False, name=f"{name}_bias")(inner)
    return keras.layers.Add(name=f"{name}_add")([values, keras.layers.Reshape((1, 1, 1, width))(bias)])
