"""Files that are damaged or hostile are refused with one clear error before anything in them runs."""

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from reion.emulator import Emulator
from reion.errors import InputError
from reion_exports import HostileFileError, dissect


@pytest.fixture
def model(toy_model):
    return onnx.load(toy_model)


def refuse(model, message):
    with pytest.raises(HostileFileError, match=message):
        dissect(model.SerializeToString())
    with pytest.raises(InputError, match=message):
        Emulator(model.SerializeToString(), device="cpu")


def test_it_reads_what_the_onnx_package_reads(toy_model, model):
    anatomy = dissect(toy_model.read_bytes())
    assert dict(anatomy.opsets) == {"": 18}
    assert anatomy.inputs == tuple(value.name for value in model.graph.input)
    assert anatomy.outputs == tuple(value.name for value in model.graph.output)
    assert anatomy.initializers == tuple(tensor.name for tensor in model.graph.initializer)
    assert anatomy.metadata == {item.key: item.value for item in model.metadata_props}
    assert sum(anatomy.operators.values()) == len(model.graph.node)


def test_data_outside_the_file(model, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(np.arange(1000, dtype=np.float32).tobytes())
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=str(secret))
    refuse(model, "data inside the file; some lie in another file")


def test_data_outside_the_file_in_a_constant_node(model):
    tensor = helper.make_tensor("t", TensorProto.FLOAT, [1], [0.0])
    tensor.external_data.add(key="location", value="/etc/hostname")
    model.graph.node.append(helper.make_node("Constant", [], ["outside"], value=tensor))
    refuse(model, "some lie in another file")


def test_operators_of_others(model):
    model.graph.node[0].domain = "com.example"
    refuse(model, "operators of ONNX itself")


@pytest.mark.parametrize("operator", ["RandomNormal", "NonZero", "DequantizeLinear", "FusedConv"])
def test_operators_a_model_of_ours_never_has(model, operator):
    model.graph.node[0].op_type = operator
    refuse(model, f"the file has .*{operator}")


def test_graphs_in_nodes(model):
    branch = helper.make_graph([], "branch", [], [])
    model.graph.node.append(helper.make_node("If", ["c"], ["d"], then_branch=branch, else_branch=branch))
    refuse(model, "one holds a graph")


def test_functions(model):
    model.functions.add(name="f", domain="")
    refuse(model, "brings functions")


@pytest.mark.parametrize(
    "opsets", [[("", 17)], [("", 25)], [("", 18), ("ai.onnx.ml", 3)], [("", 18), ("", 18)], []]
)
def test_other_opsets(model, opsets):
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(*opset) for opset in opsets)
    refuse(model, "opset|operator set")


def test_two_graphs(toy_model):
    content = toy_model.read_bytes()
    with pytest.raises(HostileFileError, match="comes twice"):
        dissect(content + content)


def test_other_names_than_the_card_promises(model):
    for value in (*model.graph.input, *model.graph.output):
        if value.name == "n_ion":
            value.name = "n_src"
    for node in model.graph.node:
        node.input[:] = ["n_src" if name == "n_ion" else name for name in node.input]
    with pytest.raises(InputError, match="metadata promise the inputs n_igm, n_ion, redshift"):
        Emulator(model.SerializeToString(), device="cpu")


def test_a_box_of_one_size_only(model):
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 64
    with pytest.raises(InputError, match="any size of box"):
        Emulator(model.SerializeToString(), device="cpu")


@pytest.mark.parametrize("content", [b"", b"\x00", b"not a model", b"PK\x03\x04" + bytes(100), bytes(1000)])
def test_other_files(content):
    with pytest.raises(InputError):
        Emulator(content, device="cpu")


@given(share=st.floats(0, 1, exclude_max=True))
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_truncated_files_are_refused(toy_model, share):
    content = toy_model.read_bytes()
    with pytest.raises(InputError):
        Emulator(content[: int(share * len(content))], device="cpu")


@given(data=st.data())
@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mutated_files_open_or_are_refused(toy_model, data):
    content = bytearray(toy_model.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        emulator = Emulator(bytes(content), device="cpu", threads=1)
        emulator.predict_arrays(8.0, n_igm=np.full((4, 4, 4), 4e-31), n_ion=np.zeros((4, 4, 4)))
    except InputError:
        pass
