"""2D convolutions over planes give what the 3D convolution they stand for gives."""

import collections

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from reion_exports.planes import in_planes

RNG = np.random.default_rng(0)


def graph(nodes, constants, channels, *, rank=5):
    """Return a model from x, (batch, channels, x, y, z), to y."""
    made = helper.make_graph(
        [helper.make_node(kind, inputs.split(), [out], **attrs) for kind, inputs, out, attrs in nodes],
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", channels, "x", "y", "z"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * rank)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model, x):
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def operators(model):
    return collections.Counter(node.op_type for node in model.graph.node)


def weights(*shape, mirrored=False):
    kernel = (RNG.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
    return kernel + kernel[:, :, ::-1] if mirrored else kernel


def ranks_of_kernels(model):
    dims = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    return [dims[node.input[1]] for node in model.graph.node if node.op_type == "Conv"]


def agree(model, channels, *, batches=(1, 3), mesh=(9, 7, 8)):
    rewritten = in_planes(model)
    for batch in batches:
        x = RNG.normal(size=(batch, channels, *mesh)).astype(np.float32)
        expected, received = run(model, x), run(rewritten, x)
        assert received.shape == expected.shape
        np.testing.assert_allclose(received, expected, rtol=0, atol=1e-5)
    return rewritten


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("kernel", [(3, 3, 3), (2, 3, 1), (4, 1, 2), (5, 5, 5)])
@pytest.mark.parametrize(("inside", "outside"), [(6, 4), (3, 8), (1, 2)])
@pytest.mark.parametrize("bias", [False, True])
def test_one_convolution(kernel, inside, outside, mirrored, bias):
    constants = {"k": weights(outside, inside, *kernel, mirrored=mirrored)}
    if bias:
        constants["b"] = weights(outside)
    rewritten = agree(graph([("Conv", "x k b" if bias else "x k", "y", {})], constants, inside), inside)
    assert ranks_of_kernels(rewritten) == [4]
    (size,) = [np.prod(t.dims) for t in rewritten.graph.initializer if t.data_type == 1 and len(t.dims) == 4]
    whole = np.prod(constants["k"].shape)
    assert size == (whole * ((kernel[0] + 1) // 2) / kernel[0] if mirrored else whole)


def test_a_residual_network_with_everything_between_its_convolutions():
    width, hidden, inside = 8, 4, 5
    crop = {"from": np.array([1, 1, 1]), "to": np.array([-1, -1, -1]), "axes": np.array([2, 3, 4])}
    constants = {
        "mix": weights(width, inside, 1, 1, 1),
        "k0": weights(hidden, width, 3, 3, 3, mirrored=True),
        "m0": weights(width, hidden, 1, 1, 1),
        "k1": weights(width, width, 3, 3, 3),
        "slope": weights(width, 1, 1, 1),
        "half": np.float32(0.5),
        "ones": np.ones((1, 1, 1, 1, 1), np.float32),
        "head": weights(1, 2 * width, 1, 1, 1),
        "one": np.array([1]),
        **crop,
    }
    nodes = [
        ("Conv", "x mix", "a", {}),
        ("PRelu", "a slope", "b", {}),
        ("Conv", "b k0", "c", {}),
        ("Sigmoid", "c", "d", {}),
        ("Mul", "c d", "e", {}),
        ("Conv", "e m0", "f", {}),
        ("Add", "f ones", "g", {}),
        ("Slice", "b from to axes", "h", {}),
        ("Add", "h g", "i", {}),
        ("Conv", "i k1", "j", {}),
        ("Slice", "i from to axes", "k", {}),
        ("Mul", "k half", "l", {}),
        ("Concat", "j l", "m", {"axis": 1}),
        ("MaxPool", "m", "n", {"kernel_shape": [2, 1, 1], "strides": [1, 1, 1]}),
        ("Conv", "n head", "o", {}),
        ("Tanh", "o", "p", {}),
        ("Squeeze", "p one", "y", {}),
    ]
    rewritten = agree(graph(nodes, constants, inside, rank=4), inside)
    assert operators(rewritten)["Transpose"] <= 3, "in, and around the pool"


@pytest.mark.parametrize(
    "attributes", [{"strides": [2, 2, 2]}, {"pads": [1] * 6}, {"dilations": [2, 2, 2]}, {"group": 2}]
)
def test_other_convolutions_stay_as_they_are(attributes):
    inside = 4 // attributes.get("group", 1)
    model = graph([("Conv", "x constant_0", "y", attributes)], {"constant_0": weights(4, inside, 3, 3, 3)}, 4)
    assert in_planes(model).graph.node == model.graph.node


def test_a_volume_is_there_for_the_nodes_that_stay_as_they_are():
    constants = {"k": weights(3, 3, 3, 3, 3), "stride": weights(2, 3, 2, 2, 2)}
    nodes = [("Conv", "x k", "a", {}), ("Conv", "a stride", "y", {"strides": [2, 2, 2]})]
    agree(graph(nodes, constants, 3), 3)


def test_channels_that_shape_inference_does_not_know():
    constants = {"k": weights(3, 4, 3, 3, 3), "shape": np.array([0, -1, 4, 4, 4])}
    # The sum of a shape and zeros is no constant to shape inference.
    constants["zeros"] = np.zeros(5, np.int64)
    nodes = [
        ("Shape", "x", "size", {}),
        ("Abs", "size", "positive", {}),
        ("Mul", "positive zeros", "nothing", {}),
        ("Add", "nothing shape", "to", {}),
        ("Reshape", "x to", "a", {}),
        ("Conv", "a k", "y", {}),
    ]
    model = graph(nodes, constants, 4)
    x = RNG.normal(size=(2, 4, 4, 4, 4)).astype(np.float32)
    rewritten = in_planes(model)
    assert ranks_of_kernels(rewritten) == [4]
    np.testing.assert_allclose(run(rewritten, x), run(model, x), rtol=0, atol=1e-5)


def test_nothing_to_rewrite_changes_nothing():
    model = graph([("Relu", "x", "y", {})], {}, 2)
    assert in_planes(model) == model
    rewritten = in_planes(graph([("Conv", "x k", "y", {})], {"k": weights(2, 2, 3, 3, 3)}, 2))
    assert in_planes(rewritten) == rewritten
