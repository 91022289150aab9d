"""Files that are damaged or hostile are refused with one clear error before anything in them runs."""

import dataclasses
import hashlib
import json

import numpy as np
import onnx
import onnxruntime
import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from reion.errors import InputError
from reion.prediction.emulator import Emulator
from reion.prediction.model_file import read_model, shipped_models
from reion.simulation.contract import FIELDS
from reion_exports import CardError, HostileFileError, ModelCard, anatomy, dissect, read_card, restamp
from reion_exports.data_sheet import MEANINGS, stamp


@pytest.fixture
def model(toy_model):
    return onnx.load(toy_model)


def refuse(model, message):
    with pytest.raises(HostileFileError, match=message):
        dissect(model.SerializeToString())
    with pytest.raises(InputError, match=message):
        Emulator(model.SerializeToString(), device="cpu")


def sealed(model):
    """The bytes of a changed model with the checksum made right, as by somebody who means harm."""
    card = ModelCard.from_metadata({item.key: item.value for item in model.metadata_props})
    stamp(model, card)
    return model.SerializeToString()


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
        Emulator(sealed(model), device="cpu")


def test_a_box_of_one_size_only(model):
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 64
    with pytest.raises(InputError, match="any size of box"):
        Emulator(sealed(model), device="cpu")


@pytest.mark.parametrize(
    ("operator", "inputs"),
    [("ConstantOfShape", ["large"]), ("Expand", ["one", "large"]), ("Concat", ["large", "large"])],
)
def test_constants_that_are_computed(model, operator, inputs):
    """A few bytes of this can fill any memory while the file is opened."""
    model.graph.initializer.append(numpy_helper.from_array(np.array([1 << 20, 1 << 20]), "large"))
    model.graph.initializer.append(numpy_helper.from_array(np.ones((1, 1), np.float32), "one"))
    attributes = {"axis": 0} if operator == "Concat" else {}
    model.graph.node.insert(0, helper.make_node(operator, inputs, ["bomb"], **attributes))
    refuse(model, f"constants as numbers; the file computes 'bomb' of them by {operator}")


def test_a_node_without_an_output(model):
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), "zero"))
    model.graph.node.insert(0, helper.make_node("Neg", ["zero"], []))
    refuse(model, "constants as numbers; the file computes '' of them by Neg")


def test_a_circle(model):
    first = next(index for index, node in enumerate(model.graph.node) if node.op_type == "Log")
    model.graph.node[first].input[0] = model.graph.node[-2].output[0]
    refuse(model, "nodes in the order of computation; Log needs")


def test_names_that_come_twice(model):
    model.graph.node[-2].output[0] = model.graph.node[0].output[0]
    refuse(model, "one value of each name")


def test_metadata_that_come_twice(model):
    model.metadata_props.add(key="reion.name", value='"another"')
    refuse(model, "'reion.name' comes twice")


def test_more_nodes_than_any_model_has(model):
    node = helper.make_node("Identity", ["n_igm"], ["copy"]).SerializeToString()
    serialized = model.graph.SerializeToString()
    for number in range(anatomy.MOST_NODES + 1):
        name = f"{number:06d}".encode()
        serialized += b"\x0a" + bytes([len(node) + 2]) + node.replace(b"\x12\x04copy", b"\x12\x06" + name)
    model.graph.ParseFromString(serialized)
    refuse(model, "at most 10000 nodes")


def test_more_fields_than_any_model_has():
    with pytest.raises(HostileFileError, match="over 1000000 fields"):
        dissect(b"\x10\x01" * (anatomy.MOST_FIELDS + 1))


def test_claims_of_size_that_the_data_do_not_keep(model):
    tensor = next(tensor for tensor in model.graph.initializer if len(tensor.raw_data) > 64)
    tensor.dims[:] = [1 << 40, 1 << 20]
    with pytest.raises(InputError, match="cannot open the model"):
        Emulator(sealed(model), device="cpu")


@pytest.mark.parametrize("radius", [0, 1, 3, 2000])
def test_a_radius_that_is_not_the_graphs(toy_model, radius):
    content = restamp(toy_model.read_bytes(), receptive_radius_cells=radius)
    with pytest.raises(InputError, match=f"promise that it looks {radius} cells far"):
        Emulator(content, device="cpu")


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_stride_that_is_not_the_graphs(strided_toy_model, stride):
    """Tiles cut by a smaller one would be wrong along their edges, and nothing would show it."""
    content = strided_toy_model.read_bytes()
    assert Emulator(content, device="cpu").card.stride_cells == 4
    with pytest.raises(InputError, match=f"blocks of {stride} cells; .* differs from the whole box"):
        Emulator(restamp(content, stride_cells=stride), device="cpu")


def test_weights_that_are_no_numbers(model):
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) > 64:
            tensor.raw_data = np.full(len(tensor.raw_data) // 4, np.nan, np.float32).tobytes()
    with pytest.raises(InputError, match="or no numbers at all"):
        Emulator(sealed(model), device="cpu")


def test_every_bit_counts(toy_model):
    """One of a weight changes nothing but the answer, and is found, as any other is."""
    content = toy_model.read_bytes()
    rng = np.random.default_rng(0)
    at = {*rng.integers(0, len(content), 300).tolist(), *range(200), *range(len(content) - 200, len(content))}
    for position in at:
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(rng.integers(8))
        with pytest.raises((HostileFileError, CardError)):
            read_card(bytes(damaged))


@pytest.mark.parametrize("name", shipped_models())
def test_a_weight_of_a_shipped_model_that_flipped(name, command, tmp_path):
    whole = read_model(name)[0]
    tensors = onnx.load_from_string(whole).graph.initializer
    weights = max((tensor.raw_data for tensor in tensors), key=len)
    content = bytearray(whole)
    content[whole.index(weights) + len(weights) // 2] ^= 0x40
    (tmp_path / "flipped.onnx").write_bytes(content)
    code, _, said = command("info", tmp_path / "flipped.onnx")
    assert code == 2
    assert "damaged" in said


def test_the_checksum_is_over_what_the_page_says(toy_model):
    """Worked out here from the words of docs/reference/onnx-file.md, with the onnx package's reading."""
    model = onnx.load(toy_model)
    fields = [(8, item.SerializeToString()) for item in model.opset_import]
    metadata = {item.key: item.SerializeToString() for item in model.metadata_props}
    stored = json.loads(next(item.value for item in model.metadata_props if item.key == "reion.checksum"))
    del metadata["reion.checksum"]
    fields += [
        (1, str(model.ir_version).encode()),
        (2, model.producer_name.encode()),
        (3, model.producer_version.encode()),
        (6, model.doc_string.encode()),
        (7, model.graph.SerializeToString()),
        *((14, entry) for entry in sorted(metadata.values())),
    ]
    digest = hashlib.sha256()
    for number, value in sorted(fields, key=lambda field: field[0]):
        digest.update(number.to_bytes(4, "little") + len(value).to_bytes(8, "little") + value)
    assert stored == digest.hexdigest()


def test_another_card_for_the_same_graph(toy_model):
    content = toy_model.read_bytes()
    assert restamp(content) == content
    card, _ = read_card(restamp(content, licence="CC0-1.0"))
    assert card == dataclasses.replace(read_card(content)[0], licence="CC0-1.0")
    with pytest.raises(CardError):
        restamp(content, stride_cells=0)


def test_the_file_explains_itself(model):
    """Opened in a viewer, it says what goes in, what comes out, in which units, and on what terms."""
    assert "ionised fraction" in model.doc_string
    assert "Licence of the weights: MIT" in model.doc_string
    texts = {value.name: value.doc_string for value in (*model.graph.input, *model.graph.output)}
    assert "g cm-3" in texts["n_igm"]
    assert "1e66 Mpc-3" in texts["n_ion"]
    assert "6 to 12" in texts["redshift"]
    assert "carries a halo" in texts["periodic"]
    assert "from 0 (neutral) to 1 (ionised)" in texts["xi"]


def test_users_of_onnxruntime_can_read_what_inputs_and_outputs_mean(toy_model, model):
    session = onnxruntime.InferenceSession(toy_model, providers=["CPUExecutionProvider"])
    meanings = json.loads(session.get_modelmeta().custom_metadata_map["reion.meanings"])
    assert meanings == {v.name: v.doc_string for v in (*model.graph.input, *model.graph.output)}
    assert {item.name for item in (*session.get_inputs(), *session.get_outputs())} <= set(meanings)
    assert meanings["n_igm"] == "baryon density, comoving; unit g cm-3; not negative"


@pytest.mark.parametrize("name", shipped_models())
def test_shipped_files_say_what_their_inputs_mean(name):
    card, parts = read_card(read_model(name)[0])
    meanings = json.loads(parts.metadata["reion.meanings"])
    assert {*card.inputs, *card.conditions, "redshift", "xi"} <= set(meanings)
    for field, unit in card.inputs.items():
        assert meanings[field].startswith(FIELDS[field].long_name)
        assert f"unit {unit}" in meanings[field]
    for condition in card.conditions:
        assert "unit Mpc" in meanings[condition]


def test_fields_mean_what_the_data_contract_says():
    for name in ("n_igm", "n_src", "n_ion", "propagation_mask", "xi"):
        assert MEANINGS[name] == FIELDS[name].long_name


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


@pytest.mark.filterwarnings("ignore:.* is an extrapolation")  # the range of redshifts may be what is changed
@given(data=st.data())
@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mutated_files_are_refused_by_their_checksum_or_what_they_do(toy_model, data):
    """Also where the checksum was made right again, and what is in the file is looked at."""
    whole = toy_model.read_bytes()
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    if content != whole:
        with pytest.raises(InputError):
            Emulator(bytes(content), device="cpu", threads=1)
    try:
        changed = sealed(onnx.load_from_string(bytes(content)))
    except (CardError, DecodeError, HostileFileError, UnicodeDecodeError):
        return  # the onnx package itself cannot read it, or it has no card any more
    try:
        emulator = Emulator(changed, device="cpu", threads=1)
        emulator.predict_arrays(8.0, n_igm=np.full((4, 4, 4), 4e-31), n_ion=np.ones((4, 4, 4)))
    except InputError:
        pass
