"""A model in two stages gives what its whole file gives, on every shipped model."""

import dataclasses

import numpy as np
import onnx
import pytest

from reion.prediction.emulator import Emulator
from reion.prediction.model_file import shipped_models
from reion.prediction.sessions import open_session
from reion.prediction.tiles import Tiling, predict_tile
from reion.prediction.trunks import KernelTrunk, SessionTrunk, blocks, trunk_runner
from reion_exports.residual_trunk import read_residual_trunk
from reion_exports.trunk import NoTrunkError

CLOSE = {"rtol": 0, "atol": 1e-5}


def box(card, shape, batch=1, seed=0):
    """Fields and conditions of random boxes with a few sources, partly ionised."""
    rng = np.random.default_rng(seed)
    fields = {}
    for name in card.inputs:
        if name == "n_igm":
            fields[name] = (4.2e-31 * rng.lognormal(-0.1, 0.4, (batch, *shape))).astype(np.float32)
        else:
            bright = rng.random((batch, *shape)) < 0.004
            brightness = (700 if name == "n_ion" else 3e4) * rng.lognormal(0, 1, bright.shape)
            fields[name] = np.where(bright, brightness, 0).astype(np.float32)
    numbers = {"redshift": np.linspace(8, 7, batch, dtype=np.float32)}
    numbers |= {name: np.linspace(30, 12, batch, dtype=np.float32) for name in card.conditions}
    return fields, numbers


def whole_file(content, fields, numbers):
    """What onnxruntime alone makes of the file."""
    session = open_session(content, "cpu", 2, None)
    outputs = [output.name for output in session.get_outputs()]
    return np.stack(session.run(outputs, {**fields, **numbers}))


@pytest.mark.slow
@pytest.mark.parametrize("name", shipped_models())
def test_two_stages_equal_the_whole_file_with_several_boxes_at_once(name):
    emulator = Emulator(name, device="cpu")
    assert emulator.stages is not None
    fields, numbers = box(emulator.card, (34, 21, 27), batch=2)
    expected = whole_file(emulator.file_content, fields, numbers)
    assert 0.05 < expected[0].mean() < 0.95
    xi = emulator.predict_arrays(
        numbers["redshift"], **fields, **{k: numbers[k] for k in emulator.card.conditions}
    )
    np.testing.assert_allclose(xi, expected[0], **CLOSE)
    if emulator.has_spread:
        answers = np.empty_like(expected)
        emulator.stages.run(numbers, fields, (1, 1, 1), answers)
        np.testing.assert_allclose(answers, expected, **CLOSE)


def test_a_prediction_does_not_depend_on_those_before():
    """They leave their memory to it, of another size."""
    emulator = Emulator("rt-worlds-fast", device="cpu")
    large, small = (box(emulator.card, shape)[0] for shape in ((20, 9, 12), (7, 8, 9)))
    large, small = ({name: field[0] for name, field in fields.items()} for fields in (large, small))
    expected = emulator.predict_arrays(8.0, **small, max_mfp=20.0)
    for fields in (large, large):
        emulator.predict_arrays(8.0, **fields, max_mfp=20.0)
    received = emulator.predict_arrays(8.0, **small, max_mfp=20.0)
    np.testing.assert_array_equal(received, expected)


@pytest.mark.parametrize("name", shipped_models())
def test_our_kernel_equals_onnxruntime_on_the_trunk(name):
    emulator = Emulator(name, device="cpu")
    stages, shape = emulator.stages, (9, 21, 70)
    assert isinstance(stages.runner, KernelTrunk)
    other = SessionTrunk(stages.trunk, stages.trunk_radius_cells, None, None)
    fields, told = box(emulator.card, shape)
    channels = stages.first_stage({name: values[0] for name, values in fields.items()}, 30.0)
    answers = np.empty((2, 1 + stages.has_spread, *shape), dtype=np.float32)
    for runner, answer in zip((stages.runner, other), answers, strict=True):
        runner.run(channels, stages.trunk_numbers(told), answer, periodic=(1, 1, 1))
    assert np.ptp(answers[0][0]) > 0.5
    np.testing.assert_allclose(answers[0], answers[1], **CLOSE)


def test_a_trunk_that_is_not_symmetric_goes_through_onnxruntime():
    stages = Emulator("rt-worlds-fast", device="cpu").stages
    residual = read_residual_trunk(stages.trunk)
    # One outer plane of the first convolution, as the file has it: each kernel's corner comes first.
    kernel = residual.blocks[0].spread[:, 3].T
    one = np.ascontiguousarray(kernel[:1, :1]).tobytes()
    at = stages.trunk.content.index(one)
    content = stages.trunk.content[:at] + np.float32(7).tobytes() + stages.trunk.content[at + 4 :]
    other = dataclasses.replace(stages.trunk, content=content)
    with pytest.raises(NoTrunkError, match="symmetric"):
        read_residual_trunk(other)
    runner = trunk_runner(other, stages.trunk_radius_cells, threads=None, file=None)
    assert isinstance(runner, SessionTrunk)


@pytest.mark.slow
@pytest.mark.parametrize("cell_size_mpc", [1.7, 3.0])
def test_two_stages_equal_the_file_fitted_to_other_cells(cell_size_mpc):
    emulator = Emulator("rt-worlds", device="cpu").at_cell_size(cell_size_mpc)
    fields, numbers = box(emulator.card, (26, 26, 26))
    expected = whole_file(emulator.content, fields, numbers)
    xi = emulator.predict_arrays(numbers["redshift"], max_mfp=numbers["max_mfp"], **fields)
    np.testing.assert_allclose(xi, expected[0], **CLOSE)


@pytest.mark.parametrize("name", shipped_models())
@pytest.mark.parametrize("tile", [(12, 48, 20), (48, 48, 10)])
def test_tiles_equal_the_whole_box(name, tile):
    emulator = Emulator(name, device="cpu")
    mesh = (24, 48, 40)
    fields, numbers = box(emulator.card, mesh)
    told = {name: float(numbers[name][0]) for name in emulator.card.conditions}
    whole = emulator.predict_arrays(8.0, **fields, **told)[0]
    tiling = Tiling(
        mesh=mesh,
        tile=tuple(min(side, n) for side, n in zip(tile, mesh, strict=True)),
        halo_cells=emulator.card.receptive_radius_cells,
    )
    assert len(tiling) > 1

    def predict(windows, /, *, periodic):
        return emulator.predict_window(8.0, windows, periodic=periodic, conditions=told)

    for number in (0, len(tiling) - 1):
        part = predict_tile(predict, {name: values[0] for name, values in fields.items()}, tiling, number)
        np.testing.assert_allclose(part, whole[tiling.place(number)], rtol=0, atol=3e-6)


@pytest.mark.parametrize("shape", [(1, 1, 1), (128, 128, 128), (7, 300, 2), (40, 33, 300), (3, 5, 900)])
@pytest.mark.parametrize("cells", [1, 1000, 1 << 19])
def test_blocks_fill_a_box_once(shape, cells):
    if cells == 1 and np.prod(shape) > 1e4:
        cells = 500
    count = np.zeros(shape, dtype=int)
    for block in blocks(shape, cells):
        count[block] += 1
        assert count[block].size <= cells
    assert (count == 1).all()


def test_a_file_for_other_cells_says_with_which_cells_its_score_was_measured():
    emulator = Emulator("rt-worlds-fast", device="cpu")
    for fitted in (emulator.at_cell_size(1.5), emulator.at_cell_size(3.0).at_cell_size(1.5)):
        model = onnx.load_from_string(fitted.content)
        assert "kept out of training, with cells of 2 Mpc: 0.98" in model.doc_string
        assert "for cells of 1.5 comoving Mpc" in model.doc_string
        assert fitted.card.scores["pooled"] == emulator.card.scores["pooled"]
