"""Convert a Keras network to an ONNX graph that takes whole periodic boxes."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from reion_exports.anatomy import OPERATORS, OPSET
from reion_exports.card import ModelCard
from reion_exports.channels_first import channels_first
from reion_exports.cost import working_bytes
from reion_exports.data_sheet import stamp
from reion_exports.field_graph import PREFIX
from reion_exports.planes import in_planes
from reion_exports.rewriting import fold_constants

if TYPE_CHECKING:
    import onnx

AXES = ("x", "y", "z")
PERIODIC = "periodic"
"""Name of the optional input int64[3]: 1 for an axis that wraps (the default), 0 for an axis along which the
fields include a halo of the receptive radius on both sides, which the output does not have."""


OUTPUTS = ("xi", "xi_std")
"""Outputs of a file: the ionised fraction and, if the network has learnt it, the standard deviation of its
error."""

CHANNELS = "channels"
"""Name of the value between the stem of a network and its trunk."""
CELL_SIZE = "cell_size"
"""Name of the constant () that gives the trunk the cell size, in files for any cell size."""


def trunk_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes of the trunk in a file whose stem is written separately."""
    return [
        node
        for node in graph.node
        if not node.output[0].startswith(PREFIX) and node.output[0] not in (CHANNELS, *OUTPUTS)
    ]


class ExportError(ValueError):
    """A network cannot be exported as a correct file; nothing is written."""


class Network(Protocol):
    """A Keras network in float32 on the TensorFlow backend.

    It is called with a dictionary of the fields of the card's inputs, each (batch, X + 2 R, Y + 2 R, Z + 2 R)
    float32 in the card's units, and of `redshift` and the card's conditions, each (batch,) float32. It
    returns xi, (batch, X, Y, Z), or a dictionary of the two `OUTPUTS`. R is the card's receptive radius;
    X, Y, Z are multiples of the card's stride.
    """

    def __call__(self, inputs: Mapping[str, Any], /, *, training: bool) -> Any:
        """Return xi."""
        ...


def to_onnx(network: Network, card: ModelCard) -> onnx.ModelProto:
    """Convert a network and the periodic wrap around it to an ONNX model of opset 18.

    Parameters
    ----------
    network
        The network, see `Network`.
    card
        Gives inputs, receptive radius and stride. Completed with the working memory of the graph, it becomes
        the metadata of the file.

    Returns
    -------
    A model that takes the inputs of the network, its fields as (batch, x, y, z) for any x, y, z, and
    `periodic`, and returns the outputs of the network. The same network and card give the same bytes.

    Raises
    ------
    ExportError
        If the network has an operation that ONNX cannot express; the message names the layer.
    """
    _require_tensorflow()
    import tensorflow as tf

    fields = list(card.inputs)
    radius, stride = card.receptive_radius_cells, card.stride_cells

    def whole_box(*arrays: Any) -> Any:
        *volumes, redshift, periodic = arrays
        size = tf.shape(volumes[0], out_type=tf.int64)[1:]
        cells = size - 2 * radius * (1 - periodic)
        padded = (cells + (stride - 1)) // stride * stride if stride > 1 else cells
        # A gather along z, the fastest axis, costs most, so it is done first, while the box is still small.
        for axis in reversed(range(3)):
            start = -radius * periodic[axis]
            index = tf.range(start, start + padded[axis] + 2 * radius, dtype=tf.int64)
            index = tf.math.floormod(index, size[axis])
            volumes = [tf.gather(volume, index, axis=axis + 1) for volume in volumes]
        xi = network({**dict(zip(fields, volumes, strict=True)), "redshift": redshift}, training=False)
        if stride > 1:
            xi = xi[:, : cells[0], : cells[1], : cells[2]]
        return tf.cast(xi, tf.float32)

    signature = [
        *(tf.TensorSpec([None] * 4, tf.float32, name=name) for name in fields),
        tf.TensorSpec([None], tf.float32, name="redshift"),
        tf.TensorSpec([3], tf.int64, name=PERIODIC),
    ]
    model = _convert(whole_box, signature)
    _name(model, card)
    model = in_planes(channels_first(fold_constants(model)))
    working = working_bytes(model, radius_cells=card.receptive_radius_cells, stride_cells=card.stride_cells)
    stamp(model, dataclasses.replace(card, working_bytes=working))
    return model


def trunk_to_onnx(network: Network, card: ModelCard, channels: int) -> onnx.ModelProto:
    """Convert a network that takes channels to an ONNX graph without a stem.

    Parameters
    ----------
    network
        Called with `channels` (batch, X + 2 r, Y + 2 r, Z + 2 r, channel), `redshift` and the card's
        conditions, each (batch,), and `cell_size` (), see `Stem`; it returns xi, (batch, X, Y, Z), or a
        dictionary of the two `OUTPUTS`.
    card
        Gives the conditions.
    channels
        Number of channels.

    Returns
    -------
    A model that `reion_exports.stem.with_stem` completes. Its channels are (batch, channel, x, y, z).

    Raises
    ------
    ExportError
        As `to_onnx` does.
    """
    _require_tensorflow()
    import tensorflow as tf

    numbers = ["redshift", *card.conditions]

    def trunk(volume: Any, *rest: Any) -> Any:
        told = dict(zip([*numbers, CELL_SIZE], rest, strict=True))
        answer = network({CHANNELS: tf.transpose(volume, [0, 2, 3, 4, 1]), **told}, training=False)
        return tuple(answer[name] for name in OUTPUTS) if isinstance(answer, Mapping) else answer

    model = _convert(
        trunk,
        [
            tf.TensorSpec([None, channels, None, None, None], tf.float32, name=CHANNELS),
            *(tf.TensorSpec([None], tf.float32, name=name) for name in numbers),
            tf.TensorSpec([], tf.float32, name=CELL_SIZE),
        ],
    )
    return in_planes(channels_first(fold_constants(model)))


def _require_tensorflow() -> None:
    import keras

    if keras.backend.backend() != "tensorflow":
        raise ExportError(
            f"expected Keras on its TensorFlow backend; received {keras.backend.backend()}: set "
            "KERAS_BACKEND=tensorflow for the export (the network itself may come from any backend)"
        )


def _convert(function: Callable[..., Any], signature: Sequence[Any]) -> onnx.ModelProto:
    """Convert a TensorFlow function; raise `ExportError` for an operation that ONNX cannot express."""
    import onnx
    import tensorflow as tf

    # tf2onnx only logs operations that it cannot convert; the checks below and those of the file raise.
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
    try:
        model = _graph_of(tf.function(function, autograph=False).get_concrete_function(*signature))
    except Exception as error:
        raise ExportError(f"the network does not become a graph: {error}") from error
    _spell_out_log1p(model)
    unknown = {node.op_type: node.name for node in model.graph.node if node.op_type not in OPERATORS}
    if unknown:
        raise ExportError(
            "expected a network whose every operation ONNX has; it has none for "
            + ", ".join(f"{operator} (layer {_layer_of(name)})" for operator, name in unknown.items())
        )
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", OPSET))
    return model


def _graph_of(function: Any) -> onnx.ModelProto:
    """Convert a concrete function as `tf2onnx.convert.from_function` does, in half the time.

    tf2onnx copies the whole graph before each of some fifty rounds of its optimisers, in case one of them
    fails. That is rare: the graph is converted without copies and, if an optimiser fails, again with copies.
    """
    import tensorflow as tf
    from tf2onnx import optimizer, tf_loader
    from tf2onnx.tfonnx import process_tf_graph

    inputs = [tensor.name for tensor in function.inputs if tensor.dtype != tf.resource]
    outputs = [tensor.name for tensor in function.outputs]
    with tf.device("/cpu:0"):
        frozen = tf_loader.from_function(function, inputs, outputs)

    def converted(*, with_copies: bool) -> onnx.ModelProto:
        with tf.Graph().as_default() as graph:
            tf.import_graph_def(frozen, name="")
            nodes = process_tf_graph(
                graph,
                continue_on_error=True,
                opset=OPSET,
                input_names=inputs,
                output_names=outputs,
                tensors_to_rename={name: name.partition(":")[0] for name in inputs},
            )
            model: onnx.ModelProto = optimizer.optimize_graph(nodes, with_copies).make_model("reion")
        return model

    try:
        return converted(with_copies=False)
    except Exception:  # noqa: BLE001 (whatever an optimiser of tf2onnx raises)
        return converted(with_copies=True)


def _spell_out_log1p(model: onnx.ModelProto) -> None:
    """Replace log1p, which ONNX lacks, by log(1 + x), with an absolute error of 6e-8 from rounding 1 + x."""
    import numpy as np
    import onnx

    one = onnx.numpy_helper.from_array(np.array(1, dtype=np.float32), "one")
    nodes = []
    for node in model.graph.node:
        if node.op_type != "Log1p":
            nodes.append(node)
            continue
        shifted = f"1 + {node.input[0]}, for {node.name}"
        nodes.append(onnx.helper.make_node("Add", [node.input[0], one.name], [shifted]))
        nodes.append(onnx.helper.make_node("Log", [shifted], list(node.output)))
    if len(nodes) > len(model.graph.node):
        model.graph.initializer.append(one)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _layer_of(node_name: str) -> str:
    """The layer that a node comes from, which tf2onnx keeps in the name of the node."""
    return node_name.rpartition("/")[0] or node_name


def _name(model: onnx.ModelProto, card: ModelCard) -> None:
    """Name the output and set the graph's interface."""
    graph = model.graph
    (output,) = graph.output
    for node in graph.node:
        node.output[:] = ["xi" if name == output.name else name for name in node.output]
        node.input[:] = ["xi" if name == output.name else name for name in node.input]
    set_interface(graph, card, OUTPUTS[:1])


def set_interface(
    graph: onnx.GraphProto, card: ModelCard, outputs: Sequence[str], *, periodic: bool = True
) -> None:
    """Replace the inputs and outputs of a graph by those of a model file, with named dimensions.

    Parameters
    ----------
    graph
        The graph, which is changed.
    card
        Gives fields and conditions.
    outputs
        Names of the outputs, (batch, x, y, z).
    periodic
        Whether `periodic` is an input; it is 1 for each axis by default.
    """
    import onnx

    dims = ["batch", *AXES]
    tensor = onnx.helper.make_tensor_value_info
    float32, int64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    del graph.input[:], graph.output[:], graph.value_info[:]
    graph.input.extend(tensor(name, float32, dims) for name in card.inputs)
    graph.input.extend(tensor(name, float32, dims[:1]) for name in ("redshift", *card.conditions))
    graph.output.extend(tensor(name, float32, dims) for name in outputs)
    if periodic:
        graph.input.append(tensor(PERIODIC, int64, [3]))
        graph.initializer.append(onnx.helper.make_tensor(PERIODIC, int64, [3], [1, 1, 1]))
