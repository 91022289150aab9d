"""The mean of the gradients of all processes, taken inside the compiled step of any Keras backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import keras
import numpy as np

from reion.training.processes import Processes


def average_gradients(optimizer: keras.Optimizer, processes: Processes, weight: float) -> None:
    """Make an optimiser apply the mean of the gradients of all processes, also from inside a compiled step.

    The mean is taken before the optimiser sees the gradients: loss scaling, clipping and the schedule then
    act on the gradient of the whole batch, as for one process. `weight` is the share of the batch that this
    process computes.
    """
    apply = optimizer.apply

    def mean(flat: Any) -> np.ndarray:
        return processes.sum(np.asarray(flat) * np.float32(weight))

    def apply_mean(gradients: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> Any:
        arrays = [_values(gradient) for gradient in gradients]
        flat = keras.ops.concatenate([keras.ops.reshape(array, (-1,)) for array in arrays])
        flat = _call_from_graph(mean, flat)
        ends = np.cumsum([int(np.prod(array.shape)) for array in arrays])[:-1]
        parts = keras.ops.split(flat, [int(end) for end in ends])
        averaged = [keras.ops.reshape(part, array.shape) for part, array in zip(parts, arrays, strict=True)]
        return apply(
            [_with_values(gradient, values) for gradient, values in zip(gradients, averaged, strict=True)],
            trainable_variables,
        )

    optimizer.apply = apply_mean


def _values(gradient: Any) -> Any:
    # In TensorFlow the gradient of a lookup is a list of slices that are not added up yet; every process has
    # the same slices. Adding them up here would change the norm that clipping measures.
    return gradient.values if hasattr(gradient, "dense_shape") else gradient


def _with_values(gradient: Any, values: Any) -> Any:
    if hasattr(gradient, "dense_shape"):
        return type(gradient)(values, gradient.indices, gradient.dense_shape)
    return values


def _call_from_graph(function: Callable[[Any], np.ndarray], flat: Any) -> Any:
    """Call a function of a NumPy array, which returns the same shape and dtype, inside a compiled step."""
    match keras.backend.backend():
        case "tensorflow":
            result = import_module("tensorflow").numpy_function(function, [flat], flat.dtype)
            result.set_shape(flat.shape)
            return result
        case "jax":
            shape = import_module("jax").ShapeDtypeStruct(flat.shape, flat.dtype)
            return import_module("jax.experimental").io_callback(function, shape, flat, ordered=True)
        case _:
            return keras.ops.convert_to_tensor(function(keras.ops.convert_to_numpy(flat)))
