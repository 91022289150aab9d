"""A file agrees with the network it came from, or there is no file."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest

from reion_exports import PERIODIC, TOLERANCE, ExportError, ModelCard, dissect, export
from reion_exports.parity import compare, own_rounding

INPUTS = ("n_igm", "n_ion")


def open_session(content):
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def random_box(shape, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "n_igm": (4e-31 * rng.lognormal(0, 0.5, shape)).astype(np.float32),
        "n_ion": (2e3 * rng.lognormal(0, 1, shape) * (rng.random(shape) < 0.1)).astype(np.float32),
        "redshift": np.full(shape[0], 8.0, dtype=np.float32),
    }


def test_the_file_agrees_with_keras(toy_network, tmp_path):
    network, card = toy_network
    report = export(network, card, tmp_path / "toy.onnx")
    assert report.difference < TOLERANCE
    assert len({case.batch for case in report.parity}) >= 2
    assert len({case.cells for case in report.parity}) >= 3
    assert all(case.highest - case.lowest > 0.01 for case in report.parity), "a constant proves nothing"


def test_a_box_that_no_test_of_the_export_saw_agrees_with_keras(toy_network, toy_model):
    network, card = toy_network
    box = random_box((2, 9, 5, 1))
    radius = card.receptive_radius_cells
    haloed = {name: np.pad(box[name], [(0, 0), *[(radius, radius)] * 3], mode="wrap") for name in INPUTS}
    expected = np.asarray(network({**haloed, "redshift": box["redshift"]}, training=False))
    (xi,) = open_session(toy_model.read_bytes()).run(["xi"], box)
    np.testing.assert_allclose(xi, expected, rtol=0, atol=1e-5)


def test_the_file_has_the_designed_interface_and_nothing_else(toy_model):
    model = onnx.load(toy_model)
    session = open_session(toy_model.read_bytes())
    assert [(i.name, i.shape) for i in session.get_inputs()] == [
        ("n_igm", ["batch", "x", "y", "z"]),
        ("n_ion", ["batch", "x", "y", "z"]),
        ("redshift", ["batch"]),
    ]
    assert [(i.name, i.shape) for i in session.get_outputs()] == [("xi", ["batch", "x", "y", "z"])]
    assert [(i.name, i.shape) for i in session.get_overridable_initializers()] == [(PERIODIC, [3])]
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)]
    assert set(dissect(toy_model.read_bytes()).operators) == {node.op_type for node in model.graph.node}


def test_batch_normalisation_is_folded_and_no_transposes_are_left_between_convolutions(toy_model):
    operators = dissect(toy_model.read_bytes()).operators
    assert "BatchNormalization" not in operators
    assert operators.get("Transpose", 0) <= 1


def test_the_card_travels_in_the_file(toy_network, toy_model):
    _, card = toy_network
    stored = ModelCard.from_metadata(dissect(toy_model.read_bytes()).metadata)
    assert all(part > 0 for part in stored.working_bytes)
    assert dataclasses.replace(stored, working_bytes=card.working_bytes) == card


def test_rolling_the_box_rolls_the_answer(toy_model):
    session = open_session(toy_model.read_bytes())
    box = random_box((1, 7, 6, 5))
    (still,) = session.run(["xi"], box)
    rolled = {name: np.roll(box[name], (3, -2, 4), axis=(1, 2, 3)) for name in INPUTS}
    (moved,) = session.run(["xi"], {**box, **rolled})
    np.testing.assert_allclose(moved, np.roll(still, (3, -2, 4), axis=(1, 2, 3)), rtol=0, atol=1e-6)


def test_a_network_with_a_stride_takes_any_box(strided_toy_network, tmp_path):
    network, card = strided_toy_network
    report = export(network, card, tmp_path / "strided.onnx")
    assert any(any(n % card.stride_cells for n in case.cells) for case in report.parity)
    session = open_session(report.path.read_bytes())
    box = random_box((1, 8, 12, 4))
    (still,) = session.run(["xi"], box)
    rolled = {name: np.roll(box[name], (4, -4, 8), axis=(1, 2, 3)) for name in INPUTS}
    (moved,) = session.run(["xi"], {**box, **rolled})
    np.testing.assert_allclose(moved, np.roll(still, (4, -4, 8), axis=(1, 2, 3)), rtol=0, atol=1e-6)


def test_on_no_multiple_of_the_stride_the_answer_rolls_where_the_blocks_do(
    strided_toy_network, strided_toy_model
):
    _, card = strided_toy_network
    session = open_session(strided_toy_model.read_bytes())
    cells, shift = 30, 4 * card.stride_cells
    box = random_box((1, cells, 8, 8))
    (still,) = session.run(["xi"], box)
    rolled = {name: np.roll(box[name], shift, axis=1) for name in INPUTS}
    (moved,) = session.run(["xi"], {**box, **rolled})
    difference = np.abs(np.roll(moved, -shift, axis=1) - still).max(axis=(0, 2, 3))
    reach = card.receptive_radius_cells + card.stride_cells
    np.testing.assert_allclose(difference[reach : cells - shift - reach], 0, atol=1e-6)
    assert difference[cells - shift :].min() > 1e-3, "blocks are cut two cells further here"


def test_a_wrong_receptive_radius_is_found_and_nothing_is_written(toy_network, tmp_path):
    network, card = toy_network
    wrong = dataclasses.replace(card, receptive_radius_cells=card.receptive_radius_cells + 1)
    with pytest.raises(ExportError, match="differs"):
        export(network, wrong, tmp_path / "wrong.onnx")
    assert list(tmp_path.iterdir()) == []


class Answering:
    """A session whose file gives what a function says."""

    def __init__(self, function):
        self.function = function

    def get_outputs(self):
        return [SimpleNamespace(name=name) for name in ("xi", "xi_std")]

    def run(self, names, inputs):
        answer = self.function(inputs, training=False)
        return [answer[name] for name in names]


@pytest.mark.parametrize("output", ["xi", "xi_std"])
def test_every_output_is_compared(toy_network, output):
    card = dataclasses.replace(toy_network[1], receptive_radius_cells=0)

    def network(inputs, training):
        photons = inputs["n_ion"] / (1 + inputs["n_ion"])
        return {"xi": photons, "xi_std": 0.3 * (1 - photons)}

    def disturbed(inputs, training):
        answer = network(inputs, training)
        return {**answer, output: answer[output] + np.float32(0.01)}

    assert max(case.difference for case in compare(network, Answering(network), card)) == 0
    for case in compare(network, Answering(disturbed), card):
        assert case.differences[output] == pytest.approx(0.01, rel=1e-3)
        assert case.differences[({"xi", "xi_std"} - {output}).pop()] == 0


@pytest.mark.parametrize(("steepness", "low", "high"), [(1.0, 0, 1e-7), (1e4, 1e-4, 3e-3)])
def test_rounding_counts_as_much_as_the_network_is_steep(steepness, low, high):
    def network(inputs, training):
        return 1 / (1 + np.exp(steepness * (1 - inputs["n_igm"].astype(np.float64) / 4.2e-31)))

    values = np.linspace(4e-31, 4.4e-31, 1001, dtype=np.float32)
    inputs = {"n_igm": values, "n_ion": np.zeros_like(values), "redshift": np.float32([8])}
    assert low <= own_rounding(network, inputs)["xi"] < high


def test_nothing_is_overwritten_without_force(toy_network, tmp_path):
    network, card = toy_network
    path = tmp_path / "toy.onnx"
    path.write_bytes(b"precious")
    with pytest.raises(FileExistsError, match="force"):
        export(network, card, path)
    assert path.read_bytes() == b"precious"
    export(network, card, path, force=True)
    assert open_session(path.read_bytes()).get_outputs()[0].name == "xi"


def test_an_operation_that_onnx_lacks_is_named_with_its_layer(toy_network, tmp_path):
    import keras

    _, card = toy_network
    fields = {name: keras.Input((None, None, None), name=name) for name in INPUTS}
    redshift = keras.Input((), name="redshift")
    strange = keras.layers.Lambda(lambda x: keras.ops.erfinv(x), name="strange")(fields["n_ion"])
    # Keras before 3.14 wants every input to be used.
    xi = keras.ops.sigmoid(strange + fields["n_igm"] * keras.ops.reshape(redshift, (-1, 1, 1, 1)))
    network = keras.Model({**fields, "redshift": redshift}, xi)
    with pytest.raises(ExportError, match="strange"):
        export(network, dataclasses.replace(card, receptive_radius_cells=0), tmp_path / "wrong.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_same_network_gives_the_same_bytes_wherever_it_is_exported(toy_network, toy_model, tmp_path):
    """TensorFlow and the conversion number and order values differently each time and in each process."""
    network, card = toy_network
    again = export(network, card, tmp_path / "again.onnx").path
    assert again.read_bytes() == toy_model.read_bytes()
    elsewhere = tmp_path / "elsewhere.onnx"
    code = (
        "import runpy, sys\n"
        "from reion_exports import export\n"
        "network, card = runpy.run_path(sys.argv[1])['build_toy_network']()\n"
        "export(network, card, sys.argv[2])"
    )
    conftest = Path(__file__).parents[1] / "conftest.py"
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", code, conftest, elsewhere], check=True, env=environment)
    assert elsewhere.read_bytes() == toy_model.read_bytes()
