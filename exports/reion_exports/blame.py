"""Which layer of a network its ONNX graph computes differently."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reion_exports.anatomy import OPSET

_RELATIVE_TOLERANCE = 1e-4
"""Of a layer's largest value. Rounding stays two orders of magnitude below."""


def disagreeing_layer(network: Any, inputs: Mapping[str, np.ndarray]) -> str | None:
    """Return the first layer, in the order of computation, that ONNX computes differently.

    Parameters
    ----------
    network
        A functional `keras.Model` in float32, called with a dict.
    inputs
        What to call it with.

    Returns
    -------
    The layer's name, `outer/inner` inside nested models; None if there is none or if the network is not
    functional, so that one cannot look inside.
    """
    if not hasattr(network, "operations"):
        return None
    return _search(network, [inputs[tensor.name] for tensor in network.inputs])


def _search(network: Any, values: Sequence[np.ndarray]) -> str | None:
    import keras

    results = [
        (layer.name, layer, tensor)
        for layer in network.operations
        if layer.__class__.__name__ != "InputLayer"
        for tensor in layer._inbound_nodes[-1].output_tensors
    ]
    part = keras.Model(network.inputs, [tensor for _, _, tensor in results])
    expected = _call(part, values)
    received = _through_onnx(part, values)
    for (name, layer, _), keras_value, onnx_value in zip(results, expected, received, strict=True):
        scale = np.max(np.abs(keras_value), initial=1e-30)
        if keras_value.shape == onnx_value.shape and not np.any(
            np.abs(keras_value - onnx_value) > _RELATIVE_TOLERANCE * scale
        ):
            continue
        if not hasattr(layer, "operations"):
            return str(name)
        before = keras.Model(network.inputs, list(layer._inbound_nodes[-1].input_tensors))
        inner = _search(layer, _call(before, values))
        return f"{name}/{inner}" if inner else str(name)
    return None


def _call(part: Any, values: Sequence[np.ndarray]) -> list[np.ndarray]:
    import keras

    return [np.asarray(value) for value in keras.tree.flatten(part(list(values), training=False))]


def _through_onnx(part: Any, values: Sequence[np.ndarray]) -> list[np.ndarray]:
    import onnxruntime
    import tensorflow as tf
    import tf2onnx

    signature = [
        tf.TensorSpec(value.shape, tf.float32, name=f"input{index}") for index, value in enumerate(values)
    ]
    function = tf.function(lambda *tensors: part(list(tensors), training=False), autograph=False)
    model, _ = tf2onnx.convert.from_function(function, input_signature=signature, opset=OPSET)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feed = {f"input{index}": np.asarray(value, dtype=np.float32) for index, value in enumerate(values)}
    outputs: list[np.ndarray] = session.run(None, {i.name: feed[i.name] for i in session.get_inputs()})
    return outputs
