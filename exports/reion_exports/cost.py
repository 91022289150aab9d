"""Memory and arithmetic that a graph takes, computed from the sizes of its values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from reion_exports.card import ModelCard

if TYPE_CHECKING:
    import onnx

_ALIASES = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Identity"})
"""Operators whose result shares the memory of their input."""


def working_bytes(model: onnx.ModelProto, *, radius_cells: int, stride_cells: int) -> tuple[float, float]:
    """Bytes (a, b) that the graph holds at once: a per cell of the window, b per cell of the output.

    The first operators have few channels and work on the window, which includes the halo R; the later ones
    have many channels and work on hardly more cells than the output. So a (n + 2 R)³ + b n³ bounds the bytes
    for cubes of n cells up to 512. Every intermediate value counts from the node that computes it to the last
    node that needs it, in the order of the file. Inputs and scratch space of operators do not count.
    """
    sides = [stride_cells * -(-side // stride_cells) for side in (8, 32, 64, 128, 256, 512)]
    windows = [side + 2 * radius_cells for side in sides]
    peaks = [_alive_bytes(model, (window,) * 3) for window in windows]
    per_window_cell = peaks[0] / windows[0] ** 3
    per_cell = max(
        (peak - per_window_cell * window**3) / side**3
        for peak, window, side in zip(peaks, windows, sides, strict=True)
    )
    return per_window_cell, max(per_cell, 0.0)


def convolution_flops(model: onnx.ModelProto, window: Sequence[int]) -> int:
    """Floating-point operations of all convolutions for one window of this shape, halo included."""
    model = _without_first_stage(model, window)
    sizes = _sizes(model, window)
    kernels = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    return sum(
        2 * (sizes[node.output[0]] // 4) * math.prod(kernels[node.input[1]][1:])
        for node in model.graph.node
        if node.op_type == "Conv"
    )


def _without_first_stage(model: onnx.ModelProto, window: Sequence[int]) -> onnx.ModelProto:
    """The trunk of a file whose stem is written separately (`reion_exports.stem`); any other file unchanged.

    Such a stem has no convolutions, and wraps a box depending on values, which shape inference cannot follow.
    """
    import onnx

    from reion_exports.convert import CHANNELS, trunk_nodes

    if not any(CHANNELS in node.output for node in model.graph.node):
        return model
    card = ModelCard.from_metadata({item.key: item.value for item in model.metadata_props})
    trunk = onnx.ModelProto()
    trunk.CopyFrom(model)
    graph = trunk.graph
    nodes = trunk_nodes(graph)
    kernels = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    n_channels = next(kernels[node.input[1]][1] for node in nodes if node.op_type == "Conv")
    used = 2 * (card.receptive_radius_cells - (card.trunk_radius_cells or 0))
    shape = (1, n_channels, *(side - used for side in window))
    del graph.node[:], graph.output[:]
    graph.node.extend(nodes)
    graph.input.append(onnx.helper.make_tensor_value_info(CHANNELS, onnx.TensorProto.FLOAT, shape))
    return trunk


def _alive_bytes(model: onnx.ModelProto, window: Sequence[int]) -> int:
    sizes = _sizes(model, window)
    graph = model.graph
    owner: dict[str, str] = {}  # the value whose memory an alias shares
    last_use: dict[str, int] = {}
    for position, node in enumerate(graph.node):
        for name in node.input:
            last_use[owner.get(name, name)] = position
        if node.op_type in _ALIASES:
            owner[node.output[0]] = owner.get(node.input[0], node.input[0])
    computed = {name for node in graph.node for name in node.output if name not in owner}
    alive = peak = 0
    for position, node in enumerate(graph.node):
        alive += sum(sizes.get(name, 0) for name in node.output if name in computed)
        peak = max(peak, alive)
        used = {owner.get(name, name) for name in node.input} & computed
        alive -= sum(sizes.get(name, 0) for name in used if last_use[name] == position)
    return peak


def _sizes(model: onnx.ModelProto, window: Sequence[int]) -> Mapping[str, int]:
    """Bytes of every float32 value by name, for a window (x, y, z) of this shape."""
    import numpy as np
    import onnx

    sized = onnx.ModelProto()
    sized.CopyFrom(model)
    graph = sized.graph
    constants = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        # The indices of the wrap depend on values of the input, which shape inference cannot follow.
        if node.op_type == "Gather" and node.input[1] not in constants:
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
            index = np.zeros(window[axis - 1], dtype=np.int64)
            node.input[1] = f"index of axis {axis} for {node.output[0]}"
            graph.initializer.append(onnx.numpy_helper.from_array(index, node.input[1]))
    for value in graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = {"batch": 1, "x": window[0], "y": window[1], "z": window[2]}[dim.dim_param]
    for value in graph.output:
        for dim in value.type.tensor_type.shape.dim:
            dim.Clear()
    inferred = onnx.shape_inference.infer_shapes(sized, data_prop=True).graph
    return {
        value.name: 4 * math.prod(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*inferred.value_info, *inferred.output)
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
