"""The constants of a graph: taken out for a pass over it, and put back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx


def constants_of(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    """Return the initializers that no input can replace, by name."""
    import onnx

    overridable = {value.name for value in graph.input}
    return {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if tensor.name not in overridable
    }


def put_back(constants: Mapping[str, np.ndarray], graph: onnx.GraphProto) -> None:
    """Give a graph those constants that it uses, old and new; what inputs can replace stays."""
    import onnx

    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used or tensor.name not in constants]
    known = {tensor.name for tensor in kept}
    kept += [
        onnx.numpy_helper.from_array(value, name)
        for name, value in constants.items()
        if name in used and name not in known
    ]
    del graph.initializer[:]
    graph.initializer.extend(kept)
