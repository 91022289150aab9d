"""From a Keras network to an ONNX graph that takes whole periodic boxes."""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING, Any

from reion_exports.anatomy import OPERATORS, OPSET
from reion_exports.card import ModelCard
from reion_exports.channels_first import channels_first
from reion_exports.cost import working_bytes
from reion_exports.folding import fold_constants, fold_into_convolutions
from reion_exports.planes import in_planes

if TYPE_CHECKING:
    import onnx

AXES = ("x", "y", "z")
PERIODIC = "periodic"
"""Name of the optional input: int64[3], 1 where an axis wraps (the default), 0 where the input already
carries a halo of the receptive radius on both sides, of which only the interior comes back."""


class ExportError(ValueError):
    """A network that cannot become a correct file; nothing is written."""


def to_onnx(network: Any, card: ModelCard) -> onnx.ModelProto:
    """Convert a network and the periodic wrap around it to an ONNX model of opset 18.

    Parameters
    ----------
    network
        A `keras.Model` on the TensorFlow backend, called with a dict: each field of `card.inputs`
        (batch, X + 2 R, Y + 2 R, Z + 2 R) float32 in raw units and `redshift` (batch,) float32; returns
        xi (batch, X, Y, Z). R is the card's receptive radius; X, Y, Z are multiples of its stride.
    card
        Says inputs, receptive radius and stride; becomes the file's metadata.

    Returns
    -------
    The model: inputs as the network's but (batch, x, y, z), any x, y, z, and `periodic`; output `xi`.

    Raises
    ------
    ExportError
        If the network has an operation that ONNX cannot express; the message names the layer.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        raise ExportError(
            f"expected Keras on its TensorFlow backend; received {keras.backend.backend()}: set "
            "KERAS_BACKEND=tensorflow for the export (the network itself may come from any backend)"
        )
    import tensorflow as tf
    import tf2onnx

    single = in_single_precision(network)
    fields = list(card.inputs)
    radius, stride = card.receptive_radius_cells, card.stride_cells

    def whole_box(*arrays: Any) -> Any:
        *volumes, redshift, periodic = arrays
        size = tf.shape(volumes[0], out_type=tf.int64)[1:]
        cells = size - 2 * radius * (1 - periodic)
        padded = (cells + (stride - 1)) // stride * stride if stride > 1 else cells
        for axis in reversed(range(3)):  # the costliest axis, in memory order, while the others are short
            start = -radius * periodic[axis]
            index = tf.range(start, start + padded[axis] + 2 * radius, dtype=tf.int64)
            index = tf.math.floormod(index, size[axis])
            volumes = [tf.gather(volume, index, axis=axis + 1) for volume in volumes]
        xi = single({**dict(zip(fields, volumes, strict=True)), "redshift": redshift}, training=False)
        if stride > 1:
            xi = xi[:, : cells[0], : cells[1], : cells[2]]
        return tf.cast(xi, tf.float32)

    signature = [
        *(tf.TensorSpec([None] * 4, tf.float32, name=name) for name in fields),
        tf.TensorSpec([None], tf.float32, name="redshift"),
        tf.TensorSpec([3], tf.int64, name=PERIODIC),
    ]
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)  # what it logs, the checks after it raise
    function = tf.function(whole_box, autograph=False)
    model: onnx.ModelProto
    try:
        model, _ = tf2onnx.convert.from_function(function, input_signature=signature, opset=OPSET)
    except Exception as error:
        raise ExportError(f"the network does not become a graph: {error}") from error
    _spell_out_log1p(model)
    unknown = {node.op_type: node.name for node in model.graph.node if node.op_type not in OPERATORS}
    if unknown:
        raise ExportError(
            "expected a network whose every operation ONNX has; it has none for "
            + ", ".join(f"{operator} (layer {layer_of(name)})" for operator, name in unknown.items())
        )
    _name(model, card)
    return restated(model, card)


def restated(model: onnx.ModelProto, card: ModelCard) -> onnx.ModelProto:
    """Return the model as it runs best, and its card with what it works in."""
    model = in_planes(fold_into_convolutions(channels_first(fold_constants(model))))
    working = working_bytes(model, radius_cells=card.receptive_radius_cells, stride_cells=card.stride_cells)
    attach(dataclasses.replace(card, working_bytes=working), model)
    return model


def _spell_out_log1p(model: onnx.ModelProto) -> None:
    """Replace log1p, which ONNX lacks, by the logarithm of one more.

    That costs what float32 cannot hold of 1 + x, 6e-8 of the result's scale, not of the result.
    """
    import numpy as np
    import onnx

    one = onnx.numpy_helper.from_array(np.array(1, dtype=np.float32), "one")
    nodes = []
    for node in model.graph.node:
        if node.op_type != "Log1p":
            nodes.append(node)
            continue
        more = f"{node.output[0]}, one more"
        nodes.append(onnx.helper.make_node("Add", [node.input[0], one.name], [more], name=f"{node.name}/add"))
        nodes.append(onnx.helper.make_node("Log", [more], list(node.output), name=node.name))
    if len(nodes) > len(model.graph.node):
        model.graph.initializer.append(one)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def attach(card: ModelCard, model: onnx.ModelProto) -> None:
    """Make the card the model's metadata, in place of any other."""
    import onnx

    del model.metadata_props[:]
    onnx.helper.set_model_props(model, card.to_metadata())


def layer_of(node_name: str) -> str:
    """Return the layer a node came from, which tf2onnx keeps in the node's name."""
    return node_name.rpartition("/")[0] or node_name


def in_single_precision(network: Any) -> Any:
    """Return the network itself if it computes in float32, else its copy that does, weights the same."""
    import keras

    if all(layer.compute_dtype == "float32" for layer in network._flatten_layers()):
        return network
    config = _without_policies(keras.saving.serialize_keras_object(network))
    single = keras.saving.deserialize_keras_object(config)
    single.set_weights(network.get_weights())
    return single


def _without_policies(config: Any) -> Any:
    if isinstance(config, dict):
        if config.get("class_name") in ("DTypePolicy", "FloatDTypePolicy"):
            return {**config, "config": {"name": "float32"}}
        return {
            key: "float32" if key == "dtype" and isinstance(value, str) else _without_policies(value)
            for key, value in config.items()
        }
    if isinstance(config, list):
        return [_without_policies(value) for value in config]
    return config


def _name(model: onnx.ModelProto, card: ModelCard) -> None:
    """Name inputs, output and dimensions, and give `periodic` its default."""
    import onnx

    graph = model.graph
    (output,) = graph.output
    for node in graph.node:
        node.output[:] = ["xi" if name == output.name else name for name in node.output]
        node.input[:] = ["xi" if name == output.name else name for name in node.input]
        node.doc_string = ""
    dims = ["batch", *AXES]
    value = onnx.helper.make_tensor_value_info
    single, integer = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    inputs = [value(name, single, dims) for name in card.inputs]
    inputs += [value("redshift", single, dims[:1]), value(PERIODIC, integer, [3])]
    del graph.input[:], graph.output[:], graph.value_info[:]
    graph.input.extend(inputs)
    graph.output.append(value("xi", single, dims))
    graph.initializer.append(onnx.helper.make_tensor(PERIODIC, integer, [3], [1, 1, 1]))
    graph.name, graph.doc_string = card.name, ""
    model.producer_name, model.producer_version = "reion", card.version
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", OPSET))
