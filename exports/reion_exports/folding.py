"""What can be computed once and for all: constants, and what a convolution can do besides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from reion_exports.constants import constants_of, put_back

if TYPE_CHECKING:
    import onnx


def fold_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model in which nothing is computed from constants alone."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    folded = onnx.ModelProto()
    folded.CopyFrom(model)
    graph = folded.graph
    constants = constants_of(graph)
    stays = []
    for node in graph.node:
        names = [name for name in node.input if name]
        if not all(name in constants for name in names) or not (names or node.op_type == "Constant"):
            stays.append(node)
            continue
        values, results = (
            [onnx.helper.make_empty_tensor_value_info(name) for name in some]
            for some in (dict.fromkeys(names), node.output)
        )
        alone = onnx.helper.make_graph([node], "constant", values, results)
        single = onnx.helper.make_model(alone, opset_imports=folded.opset_import)
        computed = ReferenceEvaluator(single).run(None, {name: constants[name] for name in names})
        for name, value in zip(node.output, computed, strict=True):
            constants[name] = np.asarray(value)
    del graph.node[:]
    graph.node.extend(stays)
    put_back(constants, graph)
    return folded


def fold_into_convolutions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model without multiplications and additions of constants right before a convolution.

    A normalisation, for one: W (x s + o) + b = (W s) x + (W o + b), in float64. Convolutions that pad their
    input with zeros or have groups stay as they are, and so does what something else uses too.
    """
    import onnx

    folded = onnx.ModelProto()
    folded.CopyFrom(model)
    graph = folded.graph
    constants = constants_of(graph)
    producers = {node.output[0]: node for node in graph.node}
    uses: dict[str, int] = {value.name: 1 for value in graph.output}
    for node in graph.node:
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1
    gone: list[onnx.NodeProto] = []
    for node in graph.node:
        if not _can_fold(node, constants):
            continue
        kernel = constants[node.input[1]].astype(np.float64)
        bias = (
            constants[node.input[2]].astype(np.float64) if len(node.input) > 2 else np.zeros(kernel.shape[0])
        )
        before = producers.get(node.input[0])
        begun = len(gone)
        while before is not None and before.op_type in ("Add", "Mul") and uses[before.output[0]] == 1:
            value = next((name for name in before.input if name not in constants), "")
            numbers = [_by_channel(constants[name], kernel) for name in before.input if name in constants]
            if len(numbers) != 1 or numbers[0] is None:
                break
            if before.op_type == "Mul":
                kernel = kernel * numbers[0].reshape(1, -1, *(1,) * (kernel.ndim - 2))
            else:
                bias = bias + kernel.sum(axis=tuple(range(2, kernel.ndim))) @ numbers[0]
            gone.append(before)
            node.input[0] = value
            before = producers.get(value)
        if len(gone) > begun:
            arrays = {f"{node.output[0]}, kernel": kernel, f"{node.output[0]}, bias": bias}
            node.input[1:] = list(arrays)
            constants.update({name: array.astype(np.float32) for name, array in arrays.items()})
    for node in gone:
        graph.node.remove(node)
    put_back(constants, graph)
    return folded


def _can_fold(node: onnx.NodeProto, constants: dict[str, np.ndarray]) -> bool:
    import onnx

    attributes: dict[str, Any] = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    return (
        node.op_type == "Conv"
        and all(name in constants for name in node.input[1:])
        and attributes.get("group", 1) == 1
        and attributes.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
        and not any(attributes.get("pads", ()))
    )


def _by_channel(number: np.ndarray, kernel: np.ndarray) -> np.ndarray | None:
    """One number a channel of the convolution's input, if the constant is that."""
    channels = kernel.shape[1]
    if number.size == 1:
        return np.full(channels, number.ravel()[0], dtype=np.float64)
    shape = (1,) * (kernel.ndim - number.ndim) + number.shape
    alone = len(shape) == kernel.ndim and shape[1] == number.size == channels
    return number.ravel().astype(np.float64) if alone else None
