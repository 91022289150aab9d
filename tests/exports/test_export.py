"""A file agrees with the network it came from, or there is no file."""

import dataclasses

import numpy as np
import onnx
import onnxruntime
import pytest

from reion_exports import PERIODIC, TOLERANCE, ExportError, ModelCard, convert, dissect, export, restate
from reion_exports.parity import own_rounding

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


def test_on_no_multiple_of_the_stride_the_answer_rolls_where_the_blocks_do(strided_toy_network, tmp_path):
    network, card = strided_toy_network
    session = open_session(export(network, card, tmp_path / "strided.onnx").path.read_bytes())
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


@pytest.mark.parametrize(("steepness", "low", "high"), [(1.0, 0, 1e-7), (1e4, 1e-4, 3e-3)])
def test_rounding_counts_as_much_as_the_network_is_steep(steepness, low, high):
    def network(inputs, training):
        return 1 / (1 + np.exp(steepness * (1 - inputs["n_igm"].astype(np.float64) / 4.2e-31)))

    values = np.linspace(4e-31, 4.4e-31, 1001, dtype=np.float32)
    inputs = {"n_igm": values, "n_ion": np.zeros_like(values), "redshift": np.float32([8])}
    assert low <= own_rounding(network, inputs) < high


def test_nothing_is_overwritten_without_force(toy_network, tmp_path):
    network, card = toy_network
    path = tmp_path / "toy.onnx"
    path.write_bytes(b"precious")
    with pytest.raises(FileExistsError, match="force"):
        export(network, card, path)
    assert path.read_bytes() == b"precious"
    export(network, card, path, force=True)
    assert open_session(path.read_bytes()).get_outputs()[0].name == "xi"


def test_half_weights_halve_the_weights_and_hardly_change_the_answer(toy_network, toy_model, tmp_path):
    network, card = toy_network
    half = export(network, card, tmp_path / "half.onnx", half=True).path
    kernels = [tensor for tensor in onnx.load(half).graph.initializer if np.prod(tensor.dims) > 16]
    assert {tensor.data_type for tensor in kernels} == {onnx.TensorProto.FLOAT16}
    box = random_box((1, 8, 8, 8))
    (full,) = open_session(toy_model.read_bytes()).run(["xi"], box)
    (rounded,) = open_session(half.read_bytes()).run(["xi"], box)
    assert 0 < np.max(np.abs(full - rounded)) < 5e-3


def test_weights_that_float16_cannot_hold_are_refused(toy_network):
    from reion_exports.convert import to_onnx
    from reion_exports.onnx_file import with_half_weights

    model = to_onnx(*toy_network)
    kernel = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
    values = onnx.numpy_helper.to_array(kernel) * 1e8
    kernel.CopyFrom(onnx.numpy_helper.from_array(values, kernel.name))
    with pytest.raises(ExportError, match="float16 can hold; layer toy"):
        with_half_weights(model)


def test_a_file_of_an_earlier_version_is_restated_in_its_place(toy_network, tmp_path, monkeypatch):
    network, card = toy_network
    path = tmp_path / "toy.onnx"
    with monkeypatch.context() as earlier:
        earlier.setattr(convert, "in_planes", lambda model: model)
        export(network, card, path)
    before = path.read_bytes()
    assert {len(t.dims) for t in onnx.load(path).graph.initializer if np.prod(t.dims) > 64} == {5}
    report = restate(path)
    assert report.difference < TOLERANCE
    assert {len(t.dims) for t in onnx.load(path).graph.initializer if np.prod(t.dims) > 64} == {4}
    box = random_box((2, 7, 5, 6))
    (old,), (new,) = (open_session(content).run(["xi"], box) for content in (before, path.read_bytes()))
    np.testing.assert_allclose(new, old, rtol=0, atol=1e-5)
    assert list(tmp_path.iterdir()) == [path]


def test_the_layer_that_differs_is_named(toy_network, tmp_path):
    import keras
    import tensorflow as tf

    class TwoFaced(keras.layers.Layer):
        """Computes one thing when called and another in a graph, as a conversion that goes wrong does."""

        def call(self, values):
            return values if tf.executing_eagerly() else 0.9 * values

    _, card = toy_network
    inner_input = keras.Input((None, None, None, 2))
    hidden = keras.layers.Conv3D(4, 1, name="innocent")(inner_input)
    hidden = TwoFaced(name="culprit")(hidden)
    hidden = keras.layers.Conv3D(1, 1, activation="sigmoid", name="misled")(hidden)
    trunk = keras.Model(inner_input, hidden, name="trunk")
    fields = {name: keras.Input((None, None, None), name=name) for name in INPUTS}
    redshift = keras.Input((), name="redshift")
    scaled = [
        keras.layers.Rescaling(scale)(keras.ops.expand_dims(field, -1))
        for field, scale in zip(fields.values(), (1 / 4e-31, 1e-2), strict=True)
    ]
    xi = keras.ops.squeeze(trunk(keras.layers.Concatenate()(scaled)), -1)
    network = keras.Model({**fields, "redshift": redshift}, xi)
    with pytest.raises(ExportError, match="the first layer that differs is trunk/culprit"):
        export(network, dataclasses.replace(card, receptive_radius_cells=0), tmp_path / "wrong.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_network_in_mixed_precision_is_exported_in_single(toy_network, tmp_path):
    import keras

    _, card = toy_network
    fields = {name: keras.Input((None, None, None), name=name) for name in INPUTS}
    redshift = keras.Input((), name="redshift")
    scaled = [
        keras.layers.Rescaling(scale)(keras.ops.expand_dims(field, -1))
        for field, scale in zip(fields.values(), (1 / 4e-31, 1e-3), strict=True)
    ]
    x = keras.layers.Conv3D(8, 3, activation="silu", dtype="mixed_float16")(
        keras.layers.Concatenate()(scaled)
    )
    xi = keras.layers.Conv3D(1, 1, activation="sigmoid", dtype="float32")(x)
    network = keras.Model({**fields, "redshift": redshift}, keras.ops.squeeze(xi, -1))
    card = dataclasses.replace(card, receptive_radius_cells=1)
    report = export(network, card, tmp_path / "single.onnx")
    assert "Cast" not in report.operators
    assert report.difference < TOLERANCE


def test_an_operation_that_onnx_lacks_is_named_with_its_layer(toy_network, tmp_path):
    import keras

    _, card = toy_network
    fields = {name: keras.Input((None, None, None), name=name) for name in INPUTS}
    redshift = keras.Input((), name="redshift")
    xi = keras.ops.sigmoid(
        keras.layers.Lambda(lambda x: keras.ops.erfinv(x), name="strange")(fields["n_ion"])
    )
    network = keras.Model({**fields, "redshift": redshift}, xi)
    with pytest.raises(ExportError, match="strange"):
        export(network, dataclasses.replace(card, receptive_radius_cells=0), tmp_path / "wrong.onnx")
    assert list(tmp_path.iterdir()) == []
