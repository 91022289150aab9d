"""Channels before the cells instead of behind them: the same to the last bit, fewer transpositions."""

from collections import Counter

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from reion_exports.channels_first import channels_first

RNG = np.random.default_rng(0)


def graph(nodes, constants, *, rank=4, out="y"):
    """A model of (operator, "inputs", "outputs", attributes); its input is `x`, its output `out`."""
    made = [helper.make_node(op, i.split(), o.split(), **attributes) for op, i, o, attributes in nodes]
    value = helper.make_tensor_value_info
    inputs = [value("x", TensorProto.FLOAT, ["b", *"xyzc"[: rank - 1]])]
    outputs = [value(out, TensorProto.FLOAT, None)]
    arrays = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    return helper.make_model(
        helper.make_graph(made, "g", inputs, outputs, arrays),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
    )


def run(model, x):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    ).run(None, {"x": x})[0]


def operators(model):
    return Counter(node.op_type for node in model.graph.node)


def rewritten(model, *, rank=4):
    """The model after the pass; it computes the same, and a second pass finds nothing to do."""
    new = channels_first(model)
    x = RNG.lognormal(size=(2, 6, 5, 7, 3)[:rank]).astype(np.float32)
    np.testing.assert_array_equal(run(new, x), run(model, x))
    assert operators(channels_first(new)) == operators(new)
    return new


def weights(*shape):
    return RNG.normal(size=shape).astype(np.float32)


BEHIND = ("Transpose", "c", "e", {"perm": [0, 4, 1, 2, 3]})
POOL = {"kernel_shape": [1, 2, 3], "strides": [1, 1, 1]}


def test_a_stem_as_the_conversion_writes_it():
    constants = {
        "last": np.array([4]),
        "one": np.float32(1),
        "scale": weights(1),
        "channels": weights(2),
        "starts": np.array([1, 1]),
        "ends": np.array([-1, -1]),
        "axes": np.array([1, 3]),
        "k": weights(4, 2, 1, 1, 1),
    }
    nodes = [
        ("Unsqueeze", "x last", "a", {}),
        ("Mul", "a scale", "s", {}),
        ("Sub", "one s", "t", {}),
        ("Concat", "s t", "u", {"axis": -1}),
        ("Slice", "u starts ends axes", "v", {}),
        ("Mul", "v channels", "c", {}),
        BEHIND,
        ("AveragePool", "e", "f", POOL),
        ("Conv", "f k", "y", {}),
    ]
    new = rewritten(graph(nodes, constants))
    assert "Transpose" not in operators(new)
    (concat,) = (node for node in new.graph.node if node.op_type == "Concat")
    assert concat.attribute[0].i == 1
    shapes = {tensor.name: tuple(tensor.dims) for tensor in new.graph.initializer}
    constants_of = [
        shapes[n]
        for node in new.graph.node
        if node.op_type in ("Mul", "Sub")
        for n in node.input
        if n in shapes
    ]
    assert sorted(constants_of) == [(), (), (1, 2, 1, 1, 1)]


def test_transpositions_in_disguise():
    """What moves an axis of length one is no work, however it is written."""
    constants = {
        "last": np.array([4]),
        "first": np.array([0]),
        "second": np.array([1]),
        "to_six": np.array([1, -1, 0, 0, 0, 1]),
        "to_five": np.array([-1, 1, 0, 0, 0]),
        "small": np.float32(0.5),
    }
    nodes = [
        ("Unsqueeze", "x last", "a", {}),
        ("Unsqueeze", "a first", "b", {}),
        ("Reshape", "b to_five", "c", {}),
        ("AveragePool", "c", "d", POOL),
        ("Reshape", "d to_six", "e", {}),
        ("Squeeze", "e first", "f", {}),
        ("Add", "f small", "g", {}),
        ("Squeeze", "g last", "y", {}),
    ]
    new = rewritten(graph(nodes, constants))
    assert operators(new) == {"Unsqueeze": 1, "AveragePool": 1, "Add": 1, "Squeeze": 1, "Identity": 1}


def test_values_are_there_in_their_own_layout_for_what_stays_as_it_is():
    constants = {"last": np.array([4]), "k": weights(3, 1, 1, 1, 1), "weights": weights(3, 2)}
    nodes = [
        ("Unsqueeze", "x last", "a", {}),
        ("Transpose", "a", "b", {"perm": [0, 4, 1, 2, 3]}),
        ("Conv", "b k", "c", {}),
        ("Transpose", "c", "d", {"perm": [0, 2, 3, 4, 1]}),
        ("Neg", "d", "e", {}),
        ("MatMul", "e weights", "y", {}),
    ]
    assert operators(rewritten(graph(nodes, constants)))["Transpose"] == 1


@pytest.mark.parametrize("rank", [4, 5])
def test_what_cannot_be_followed_stays(rank):
    nodes = [("Relu", "x", "value_0", {}), ("Transpose", "value_0", "y", {"perm": [0, 2, 3, 1, 4][:rank]})]
    model = graph(nodes, {}, rank=rank)
    assert rewritten(model, rank=rank).graph.node == model.graph.node


def test_an_axis_that_may_be_longer_is_not_dropped():
    constants = {"last": np.array([4]), "k": weights(2, 1, 1, 1, 1), "mix": np.array([-1, 2, 0, 0, 1])}
    nodes = [
        ("Unsqueeze", "x last", "a", {}),
        ("Transpose", "a", "b", {"perm": [0, 4, 1, 2, 3]}),
        ("Conv", "b k", "c", {}),
        ("Reshape", "c mix", "y", {}),
    ]
    assert operators(rewritten(graph(nodes, constants)))["Reshape"] == 1
