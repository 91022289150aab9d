"""One network for any cells and any reach: trained, exported, fitted to other cells, trained further."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest
import xarray as xr

from reion.config import load_config
from reion.errors import InputError
from reion.evaluation.mean_error import calibrate
from reion.models.build import build_model
from reion.models.training_boxes import checksum_of
from reion.prediction.emulator import Emulator
from reion.prediction.predict import predict
from reion.simulation.contract import make_simulation, with_max_mfp
from reion.storage.store import write_simulation
from reion.training.export import export_run
from reion.training.parent import load_parent
from reion.training.run import train
from reion.training.run_folder import load_run
from reion_exports.cost import convolution_flops

pytestmark = pytest.mark.slow
SMALL = (
    *("model.name=transport", "model.smoothing_mpc=[5, 9]", "model.diffusion_mpc=[4, 7, 4]"),
    *("model.farthest_mpc=9", "model.width=6", "model.hidden=4", "model.blocks=1"),
    *("training.crop_cells=4", "training.batch_size=2", "training.steps=4", "training.round_steps=2"),
)


def world(toy, cell_mpc: float, reach_mpc: float, seed: int = 0) -> xr.Dataset:
    return with_max_mfp(toy(shape=(12, 10, 8), cell_mpc=cell_mpc, seed=seed), [reach_mpc] * 4)


@pytest.fixture(scope="module")
def run(toy, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("worlds") / "run"
    train([world(toy, 2.0, 15.0), world(toy, 4.0, 30.0, seed=1)], folder, load_config(settings=SMALL))
    return folder


@pytest.fixture(scope="module")
def model(run) -> Path:
    return export_run(run, run.parent / "model.onnx").output


@pytest.mark.parametrize("cell_mpc", [2.0, 2.7, 4.0])
def test_the_file_fitted_to_any_cells_agrees_with_keras(toy, run, model, cell_mpc):
    sim = world(toy, cell_mpc, 22.0, seed=3)
    received = Emulator(model).predict(sim)
    np.testing.assert_allclose(received, load_run(run).predict(sim), atol=1e-5)


def test_fitting_a_file_and_exporting_for_these_cells_give_the_same_bytes(run, model, tmp_path):
    exported = export_run(run, tmp_path / "finer.onnx", name="model", cell_size_mpc=3.0)
    assert Emulator(model).at_cell_size(3.0).content == exported.output.read_bytes()
    again = Emulator(model).at_cell_size(3.0).at_cell_size(Emulator(model).card.cell_size_mpc)
    assert again.content == model.read_bytes()


def test_the_weights_are_the_same_but_the_answer_depends_on_reach_and_cells(toy, model):
    sim = world(toy, 2.0, 15.0)
    near, far = (Emulator(model).predict(with_max_mfp(sim, [reach] * 4)) for reach in (16.0, 30.0))
    assert np.abs(near - far).max() > 1e-4
    coarse = Emulator(model).predict(world(toy, 3.0, 15.0))
    assert np.abs(near.values - coarse.values).max() > 1e-4


def test_tiles_are_parts_of_the_whole(toy, model, tmp_path):
    sim = world(toy, 3.0, 15.0)
    write_simulation(sim, tmp_path / "sim.zarr")
    emulator = Emulator(model).for_cells_of(sim)
    radius = emulator.card.receptive_radius_cells
    whole = emulator.predict(sim)
    fields = {name: sim[name][2].values for name in ("n_igm",)}
    from reion.simulation.photons import with_n_ion

    fields["n_ion"] = with_n_ion(sim)["n_ion"][2].values
    windows = {name: np.pad(values, radius, mode="wrap")[:-5, 3:, :] for name, values in fields.items()}
    part = emulator.predict_window(float(sim["redshift"][2]), windows, conditions={"max_mfp": 15.0})
    np.testing.assert_allclose(part, whole[2, :-5, 3:], atol=1e-6)
    predict(model, tmp_path / "sim.zarr", tmp_path / "xi.zarr")
    np.testing.assert_allclose(xr.open_zarr(tmp_path / "xi.zarr")["xi"], whole, atol=1e-6)


def test_it_says_how_far_it_is_off(toy, run, model, tmp_path, command):
    sim = world(toy, 3.0, 15.0)
    write_simulation(sim, tmp_path / "sim.zarr")
    line = ("predict", model, tmp_path / "sim.zarr", "--out", tmp_path / "xi.zarr", "--uncertainty", "--json")
    code, printed, _ = command(*line)
    assert code == 0
    written = xr.open_zarr(tmp_path / "xi.zarr")
    expected = Emulator(model).predict_with_spread(sim)
    np.testing.assert_allclose(written["xi_std"], expected["xi_std"], atol=1e-6)
    np.testing.assert_allclose(written["xi"], expected["xi"], atol=1e-6)
    assert written["xi_std"].min() > 0
    share = load_run(run).metrics.mean_error_share
    ratios = []
    for learnt in (world(toy, 2.0, 15.0), world(toy, 4.0, 30.0, seed=1)):
        answer = Emulator(model).predict_with_spread(learnt).mean(("x", "y", "z"))
        true = learnt["xi"].mean(("x", "y", "z"))
        ratios.append((abs(answer["xi"] - true) / answer["xi_std"])[(true > 0.001) & (true < 0.999)])
    assert share == pytest.approx(np.quantile(np.concatenate(ratios), 0.683), rel=1e-3)
    assert Emulator(model).card.mean_error_share == share
    means = [row["mean_xi_std"] for row in json.loads(printed)["history"]]
    np.testing.assert_allclose(means, share * written["xi_std"].mean(("x", "y", "z")), rtol=1e-5)
    for name in ("xi", "xi_std"):
        assert written[name].attrs["long_name"] == expected[name].attrs["long_name"]
    assert written["xi_std"].attrs["long_name"] != written["xi"].attrs["long_name"]
    # Fitted once to the cells, however often it is asked.
    emulator = Emulator(model)
    assert emulator.at_cell_size(3.0) is emulator.at_cell_size(3.0)
    code, _, said = command(
        "predict", "rt64-history", tmp_path / "sim.zarr", "--out", tmp_path / "no.zarr", "--uncertainty"
    )
    assert code == 2
    assert "does not say how far" in said
    assert not (tmp_path / "no.zarr").exists()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_error_of_mean_xi_is_not_measured_on_boxes_of_the_training(toy, model, tmp_path):
    with pytest.raises(InputError, match="has learnt from toy"):
        calibrate(model, [world(toy, 2.0, 15.0)], tmp_path / "mine.onnx")
    others = [world(toy, 2.0, 15.0, seed=5)] * 2
    assert calibrate(model, others, tmp_path / "mine.onnx").snapshots >= 5


def test_it_asks_for_the_reach_and_refuses_cells_far_from_its_own(toy, model):
    emulator = Emulator(model)
    with pytest.raises(InputError, match=r"(?s)how far photons reach.*--set max_mfp="):
        emulator.predict(toy())
    with pytest.raises(InputError, match=r"(?s)cells of 2 to 4 Mpc; received cells of 0\.5 Mpc.*regrid"):
        emulator.predict(world(toy, 0.5, 15.0))
    with pytest.raises(InputError, match="takes n_igm, n_ion, max_mfp"):
        emulator.predict_arrays(8.0, n_igm=np.ones((4, 4, 4)), n_ion=np.ones((4, 4, 4)))


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda sim: sim, None),
        (lambda sim: with_max_mfp(sim, [5.0] * 4), "max_mfp"),
        (lambda sim: sim.assign(n_src=sim["n_src"] * 10), "photons emitted"),
        (lambda sim: sim.assign(n_igm=sim["n_igm"] * 3), "mean of n_igm"),
        (
            lambda sim: sim.assign(n_src=sim["n_src"] + np.float32(0.1)),
            "number of cells with sources",
        ),
    ],
)
def test_what_it_has_not_learnt_is_named(toy, model, change, cause):
    sim = world(toy, 2.0, 15.0)
    changed = change(sim)
    for name in ("n_src", "n_igm"):
        changed[name].attrs.update(sim[name].attrs)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        Emulator(model).predict(changed)
    messages = [str(warning.message) for warning in said]
    if cause is None:
        assert not messages
    else:
        assert any(cause in message for message in messages), messages


def test_other_networks_still_refuse_boxes_of_two_cell_sizes(toy, tmp_path):
    with pytest.raises(InputError, match="one cell size"):
        train([world(toy, 2.0, 15.0), world(toy, 4.0, 15.0)], tmp_path / "run", load_config())


def test_a_run_starts_where_another_ended(toy, run, tmp_path):
    parent = load_parent(run)
    config = load_config(settings=["training.steps=2", "training.round_steps=2"], base=parent.defaults())
    assert config.training.learning_rate == pytest.approx(0.5 * parent.config.training.learning_rate)
    own = toy(shape=(12, 10, 8), redshift=(13.0, 10.0, 8.0, 7.0), cell_mpc=3.0, seed=5)
    own = with_max_mfp(own, [60.0] * 4)
    train([own], tmp_path / "run", config, parent=parent)
    child = load_run(tmp_path / "run")
    assert child.normalizer == parent.normalizer
    assert child.provenance.parent == parent.ancestor
    assert parent.ancestor.name == "run"
    before, after = parent.weights, child.model.trunk.get_weights()
    changes = [np.abs(a - b).max() for a, b in zip(before, after, strict=True)]
    assert 0 < max(changes) < 0.05
    # What either had learnt counts as covered.
    assert child.metrics.coverage["max_mfp"][0][1:] == (15.0, 60.0)
    card = Emulator(export_run(tmp_path / "run", tmp_path / "child.onnx").output).card
    assert card.provenance["training"]["parent"]["name"] == "run"
    assert card.redshift_range == (7.0, 13.0)
    learnt = (own, world(toy, 2.0, 15.0), world(toy, 4.0, 30.0, seed=1))
    assert card.training_data == tuple(checksum_of(sim) for sim in learnt)
    with pytest.raises(InputError, match=r"(?s)was started from run; received none.*--from run"):
        train([own], tmp_path / "run", config, resume=True)
    with pytest.raises(InputError, match="max_mfp of box 1"):
        train([with_max_mfp(own, [50.0] * 4)], tmp_path / "run", config, parent=parent, resume=True)


def test_a_run_may_narrow_the_network_it_starts_from(toy, run, tmp_path):
    """With channels that do nothing taken away, it answers as before; its crops rehearse those answers."""
    parent = load_parent(run)
    hidden = parent.config.model.hidden
    names = [variable.path for variable in parent.trunk().weights]
    weights = dict(zip(names, parent.weights, strict=True))
    for name in names:
        if name.endswith("_spread/kernel"):
            weights[name.replace("_spread", "_mix")][..., 1, :] = 0  # nothing comes from hidden channel 1
    parent = dataclasses.replace(parent, weights=list(weights.values()))
    narrow = [f"model.hidden={hidden - 1}", "training.steps=1", "training.round_steps=1"]
    config = load_config(settings=[*narrow, "training.rehearsal=0.5"], base=parent.defaults())
    parent.require_fit(config)
    model = build_model(config)
    model.trunk.set_weights(parent.weights_for(config))
    rng = np.random.default_rng(0)
    channels, conditions = (shape[-1] for shape in model.trunk.input_shape)
    inputs = [rng.standard_normal((2, 7, 7, 7, channels)), rng.standard_normal((2, conditions))]
    before, after = (keras.ops.convert_to_numpy(trunk(inputs)) for trunk in (parent.trunk(), model.trunk))
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-6)
    train([world(toy, 2.0, 15.0)], tmp_path / "run", config, parent=parent)
    assert load_run(tmp_path / "run").config.model.hidden == hidden - 1
    for other in (f"model.hidden={hidden + 1}", "model.width=5", "model.blocks=0"):
        with pytest.raises(InputError, match=r"only fewer model\.hidden"):
            parent.require_fit(load_config(settings=[other], base=parent.defaults()))


@pytest.mark.parametrize("field", ["n_src", "n_ion"])
def test_a_run_does_not_start_from_one_that_knows_other_sources(toy, run, tmp_path, field):
    sim = world(toy, 2.0, 15.0)
    masses = make_simulation(
        {"n_igm": sim["n_igm"].values, field: 1e9 * sim["n_src"].values, "xi": sim["xi"].values},
        redshift=sim["redshift"].values,
        box_size=sim.attrs["box_size"],
        n_src_units="Msun Mpc-3",
    )
    parent = load_parent(run)
    config = load_config(base=parent.defaults())
    with pytest.raises(InputError, match=r"sources in 1e48 s-1 Mpc-3; received sources in Msun Mpc-3"):
        train([masses], tmp_path / "run", config, parent=parent)
    assert not (tmp_path / "run").exists()


def test_another_network_is_not_started_from(toy, run, tmp_path, command):
    write_simulation(world(toy, 2.0, 15.0), tmp_path / "sim.zarr")
    code, _, said = command(
        "train", tmp_path / "sim.zarr", "--from", run, "--out", tmp_path / "new", "--set", "model.width=9"
    )
    assert code == 2
    assert "model.width=9 instead of 6" in said
    code, _, said = command("train", tmp_path / "sim.zarr", "--from", "nothing", "--out", tmp_path / "new")
    assert code == 2
    assert "expected a finished run folder, or a shipped model" in said
    assert not (tmp_path / "new").exists()


def test_a_model_says_beforehand_what_it_thinks_of_a_simulation(toy, model, tmp_path, command):
    write_simulation(with_max_mfp(world(toy, 2.0, 15.0), [5.0] * 4), tmp_path / "sim.zarr")
    code, printed, _ = command("inspect", tmp_path / "sim.zarr", "--for", model, "--json")
    assert code == 0
    found = json.loads(printed)["for"]
    assert found["refused"] is None
    assert any("max_mfp" in message and "15" in message for message in found["warnings"])
    code, printed, _ = command(
        "predict", model, tmp_path / "sim.zarr", "--out", tmp_path / "xi.zarr", "--json"
    )
    assert code == 0
    assert [item["quantity"] for item in json.loads(printed)["outside_training"]] == ["max_mfp"]


def test_export_for_other_cells_by_command(run, model, tmp_path, command):
    code, _, _ = command("export", "onnx", model, "--cell-size", "1.9", "--out", tmp_path / "finer.onnx")
    assert code == 0
    assert Emulator(tmp_path / "finer.onnx").card.cell_size_mpc == pytest.approx(1.9)
    code, _, _ = command("export", "onnx", run, "--cell-size", "1.9", "--out", tmp_path / "same.onnx")
    assert code == 0
    sizes = [(tmp_path / name).stat().st_size for name in ("finer.onnx", "same.onnx")]
    assert sizes[0] == pytest.approx(sizes[1], abs=100)
    code, _, said = command(
        "export", "onnx", "rt64-history", "--cell-size", "1", "--out", tmp_path / "no.onnx"
    )
    assert code == 2
    assert "serves the cells that it was trained on" in said


def test_its_operations_are_counted_and_planned(model, command):
    """Those of the trunk: 6 channels, 4 hidden, one block; a symmetric kernel may share two of its planes."""
    card = Emulator(model).card
    cells, channels = 40, len(card.normalizer["channels"])
    window = cells + 2 * card.receptive_radius_cells
    before, after = (cells + 2) ** 3, cells**3
    others = 2 * (before * channels * 6 + after * (4 * 6 + 6 * 16 + 16 + 16 * 16 + 16))
    counted = convolution_flops(onnx.load(model), [window] * 3) - others
    plane = 2 * 9 * 6 * 4 * after
    assert 2 * plane <= counted <= 3 * plane * (cells + 2) / cells
    code, printed, _ = command("plan", model, "--cells", "24", "--rate", "1e5", "--json")
    assert code == 0
    assert json.loads(printed)["plans"][0]["flops"] > 0
