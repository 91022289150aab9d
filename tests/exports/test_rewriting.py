"""A graph that is written anew computes the same, whatever order and names its nodes had."""

import collections

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from reion_exports.rewriting import Rewriting, fold_constants

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 3)).astype(np.float32)


def graph(nodes, constants, *, default=None):
    """A model from x, (batch, 3), to y; `default` is the value of an input `p` that may be left out."""
    made = [helper.make_node(kind, inputs.split(), [out], **attrs) for kind, inputs, out, attrs in nodes]
    value = helper.make_tensor_value_info
    inputs = [value("x", TensorProto.FLOAT, ["batch", 3])]
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    if default is not None:
        inputs.append(value("p", TensorProto.FLOAT, [1]))
        tensors.append(numpy_helper.from_array(np.float32([default]), "p"))
    outputs = [value("y", TensorProto.FLOAT, None)]
    return helper.make_model(
        helper.make_graph(made, "test", inputs, outputs, tensors),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
    )


def run(model, **inputs):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": X, **inputs})[0]


def rewritten(model):
    """The model after a pass that keeps every node."""
    rewriting = Rewriting(model)
    for node in model.graph.node:
        rewriting.keep(node)
    return rewriting.finish()


def operators(model):
    return collections.Counter(node.op_type for node in model.graph.node)


SUM = [("Exp", "x", "e", {}), ("Mul", "e two", "m", {}), ("Sin", "x", "s", {}), ("Add", "m s", "y", {})]


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (2, 0, 1, 3), (0, 2, 1, 3)])
def test_order_and_names_of_the_nodes_do_not_matter(order):
    renamed = [
        (
            kind,
            " ".join({"x": "x", "two": "two"}.get(n, f"{n}{order[0]}") for n in inputs.split()),
            out,
            attrs,
        )
        for kind, inputs, out, attrs in SUM
    ]
    renamed = [(kind, i, out if out == "y" else f"{out}{order[0]}", a) for kind, i, out, a in renamed]
    model = graph([renamed[index] for index in order], {"two": np.float32(2)})
    expected = rewritten(graph(SUM, {"two": np.float32(2)}))
    assert rewritten(model).SerializeToString() == expected.SerializeToString()
    np.testing.assert_array_equal(run(expected), run(model))


def test_what_no_output_needs_goes_and_equal_constants_become_one():
    nodes = [*SUM[:3], ("Mul", "s again", "t", {}), ("Add", "m t", "y", {}), ("Cos", "x", "unused", {})]
    constants = {"two": np.float32(2), "again": np.float32(2), "other": np.float32(3)}
    model = graph(nodes, constants)
    new = rewritten(model)
    assert operators(new) == operators(model) - collections.Counter(["Cos"])
    assert len(new.graph.initializer) == 1
    np.testing.assert_array_equal(run(new), run(model))


@pytest.mark.parametrize(
    ("one", "other"),
    [(np.float32(1), np.float32([1])), (np.float32([0.0]), np.float32([-0.0]))],
    ids=["shape", "sign of zero"],
)
def test_constants_that_differ_stay_apart(one, other):
    model = graph([("Mul", "x one", "m", {}), ("Add", "m other", "y", {})], {"one": one, "other": other})
    assert len(rewritten(model).graph.initializer) == 2


def test_a_chain_longer_than_python_recurses():
    chain = [("Neg", "x" if n == 0 else f"n{n}", "y" if n == 4999 else f"n{n + 1}", {}) for n in range(5000)]
    assert len(rewritten(graph(chain, {})).graph.node) == 5000


@pytest.mark.parametrize("rewrite", [rewritten, fold_constants])
def test_an_input_with_a_default_is_no_constant(rewrite):
    nodes = [("Sub", "one p", "q", {}), ("Mul", "x q", "y", {})]
    new = rewrite(graph(nodes, {"one": np.float32(1)}, default=0.5))
    assert operators(new) == {"Sub": 1, "Mul": 1}
    np.testing.assert_array_equal(run(new), 0.5 * X)
    np.testing.assert_array_equal(run(new, p=np.float32([0.25])), np.float32(0.75) * X)


def test_what_is_computed_from_constants_alone_is_computed_once():
    constants = {"a": RNG.normal(size=3).astype(np.float32), "s": np.float32([0.1])}
    nodes = [
        ("Neg", "a", "b", {}),
        ("Less", "b s", "c", {}),
        ("Where", "c a s", "d", {}),
        ("Add", "x d", "y", {}),
    ]
    model = graph(nodes, constants)
    folded = fold_constants(model)
    assert operators(folded) == {"Add": 1}
    assert len(folded.graph.initializer) == 1
    np.testing.assert_array_equal(run(folded), run(model))
