"""Rewrite a graph node by node, in an order that depends only on its computation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx


class Rewriting:
    """One pass over a graph. The pass reads `graph` in the order of computation and writes new nodes.

    Parameters
    ----------
    model
        The model to read; it stays as it is.

    Attributes
    ----------
    graph
        The graph that is read.
    constants
        Values of the constants by name: the initializers that no input can replace, and those that the pass
        adds.
    shapes
        Sizes of the axes of each value by name, 0 if unknown; values that shape inference cannot follow are
        absent.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        import onnx

        self._onnx = onnx
        self._model = model
        self.graph = model.graph
        inputs = {value.name for value in self.graph.input}
        self.constants: dict[str, np.ndarray] = {
            tensor.name: onnx.numpy_helper.to_array(tensor)
            for tensor in self.graph.initializer
            if tensor.name not in inputs
        }
        inferred = onnx.shape_inference.infer_shapes(model).graph
        self.shapes: dict[str, list[int]] = {
            value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            for value in (*inferred.value_info, *inferred.output, *inferred.input)
        }
        self._nodes: list[onnx.NodeProto] = []

    def attributes(self, node: onnx.NodeProto) -> dict[str, Any]:
        """The attributes of a node by name."""
        return {item.name: self._onnx.helper.get_attribute_value(item) for item in node.attribute}

    def keep(self, node: onnx.NodeProto, inputs: Sequence[str] | None = None) -> None:
        """Write a node unchanged, or with other inputs."""
        kept = self._onnx.NodeProto()
        kept.CopyFrom(node)
        if inputs is not None:
            kept.input[:] = inputs
        self._nodes.append(kept)

    def write(
        self, operator: str, inputs: Sequence[str], *, output: str | None = None, **attributes: Any
    ) -> str:
        """Write a new node and return the name of its only output."""
        output = output or f"written_{len(self._nodes)}"
        self._nodes.append(self._onnx.helper.make_node(operator, inputs, [output], **attributes))
        return output

    def constant(self, value: np.ndarray | Sequence[int]) -> str:
        """Add a constant and return its name. Integers are int64, as shapes and axes are in ONNX."""
        name = f"written_constant_{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def finish(self) -> onnx.ModelProto:
        """Return the model of the written nodes, with the same inputs, outputs and metadata.

        Nodes and constants that no output depends on are dropped, and equal constants are merged. Nodes are
        ordered depth first from the outputs, and values are numbered in that order: the conversion from
        TensorFlow orders and names them differently each time it runs.
        """
        model = self._onnx.ModelProto()
        model.CopyFrom(self._model)
        graph = model.graph
        nodes = _depth_first(self._nodes, [value.name for value in graph.output])
        overridable = [tensor for tensor in graph.initializer if tensor.name not in self.constants]
        names = {value.name: value.name for value in (*graph.input, *graph.output)} | {"": ""}
        tensors: dict[tuple[str, tuple[int, ...], bytes], onnx.TensorProto] = {}
        for name in dict.fromkeys(name for node in nodes for name in node.input):
            if name in self.constants:
                value = self.constants[name]
                content = (value.dtype.str, value.shape, value.tobytes())
                if content not in tensors:
                    tensors[content] = self._onnx.numpy_helper.from_array(value, f"constant_{len(tensors)}")
                names[name] = tensors[content].name
        for number, name in enumerate(name for node in nodes for name in node.output):
            names.setdefault(name, f"value_{number}")
        for node in nodes:
            node.ClearField("name")
            node.ClearField("doc_string")
            node.input[:] = [names[name] for name in node.input]
            node.output[:] = [names[name] for name in node.output]
        del graph.node[:], graph.value_info[:], graph.initializer[:]
        graph.node.extend(nodes)
        graph.initializer.extend([*overridable, *tensors.values()])
        return model


def fold_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model that computes nothing from constants alone, in the order of `Rewriting.finish`."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    rewriting = Rewriting(model)
    constants = rewriting.constants
    for node in model.graph.node:
        names = dict.fromkeys(name for name in node.input if name)
        if not all(name in constants for name in names) or not (names or node.op_type == "Constant"):
            rewriting.keep(node)
            continue
        inputs, outputs = (
            [onnx.helper.make_empty_tensor_value_info(name) for name in side] for side in (names, node.output)
        )
        alone = onnx.helper.make_model(
            onnx.helper.make_graph([node], "constant", inputs, outputs), opset_imports=model.opset_import
        )
        results = ReferenceEvaluator(alone).run(None, {name: constants[name] for name in names})
        constants.update(zip(node.output, map(np.asarray, results), strict=True))
    return rewriting.finish()


def _depth_first(nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> list[onnx.NodeProto]:
    """The nodes that the outputs depend on, each after the nodes that it needs, and as late as possible."""
    producers = {name: node for node in nodes for name in node.output if name}
    visited: set[int] = set()
    ordered = []
    waiting = [(name, False) for name in reversed(outputs)]
    while waiting:
        name, inputs_are_there = waiting.pop()
        node = producers.get(name)
        if node is None:
            continue
        if inputs_are_there:
            ordered.append(node)
        elif id(node) not in visited:
            visited.add(id(node))
            waiting.append((name, True))
            waiting.extend((needed, False) for needed in reversed(node.input))
    return ordered
