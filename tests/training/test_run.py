"""Training: it learns, it repeats, and it is never lost."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("keras")
pytest.importorskip("tensorflow")

import keras

from reion.config import load_config
from reion.errors import InputError
from reion.readers import open_simulation
from reion.simulation.contract import make_simulation
from reion.storage.store import write_simulation
from reion.training import loop, run_folder
from reion.training.checkpoints import load_newest
from reion.training.export import export_run
from reion.training.run import TrainingDivergedError, train
from reion.training.run_folder import load_run
from tests.tiny import TINY_NETWORK
from tests.training.runs import assert_same_weights, copied_at, history

pytestmark = pytest.mark.slow

ON_TORCH = keras.backend.backend() == "torch"
TINY = [
    *TINY_NETWORK,
    "training.batch_size=2",
    "training.steps=12",
    "training.round_steps=4",
]


def config(*settings):
    return load_config(settings=[*TINY, *settings])


def events(folder):
    """Step and loss of every event that a TensorBoard would show."""
    import tensorflow as tf

    path = folder / "logs" / "events.out.tfevents.reion"
    return [
        (event.step, value.simple_value)
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
        if value.tag == "loss"
    ]


def assert_same_run(a, b):
    assert history(a) == history(b)
    assert events(a) == events(b)
    assert_same_weights(a, b)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, toy):
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    train([toy()], folder, config())
    return folder


def test_the_run_folder_holds_what_it_promises(unbroken):
    names = {path.name for path in unbroken.iterdir()}
    assert names == {
        "checkpoints",
        "checksums.json",
        "config.toml",
        "history.csv",
        "logs",
        "metrics.json",
        "model.keras",
        "normalizer.json",
        "provenance.json",
    }
    metrics = json.loads((unbroken / "metrics.json").read_text())
    assert metrics["steps"] == 12
    assert 0 <= metrics["waiting_share"] <= 1
    provenance = json.loads((unbroken / "provenance.json").read_text())
    assert len(provenance["data"][0]["sha256"]) == 64
    assert [row["step"] for row in history(unbroken)] == [4, 8, 12]
    assert events(unbroken) == [(row["step"], pytest.approx(row["loss"])) for row in history(unbroken)]


def test_it_learns(toy, tmp_path):
    sim = toy()
    sim["xi"].values = np.clip(sim["n_igm"].values / 8e-31, 0, 1)
    metrics = train([sim], tmp_path / "run", config("training.steps=150", "training.round_steps=50"))
    rows = history(tmp_path / "run")
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert metrics.validation_r2 > 0.5


def test_the_same_seed_gives_the_same_bits(toy, tmp_path, unbroken):
    train([toy()], tmp_path / "run", config())
    assert_same_run(tmp_path / "run", unbroken)


@pytest.mark.parametrize("when", [1, 10])
def test_interrupted_and_resumed_equals_unbroken(toy, tmp_path, unbroken, when):
    def interrupt(step, _total, _values):
        if step == when:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train([toy()], tmp_path / "run", config(), progress=interrupt)
    with pytest.raises(InputError, match="not finished"):
        load_run(tmp_path / "run")
    train([toy()], tmp_path / "run", config(), resume=True)
    assert_same_run(tmp_path / "run", unbroken)


@pytest.mark.skipif(ON_TORCH, reason="Keras draws dropout from PyTorch's own generator there")
def test_dropout_and_batch_normalisation_resume_exactly_too(toy, tmp_path):
    patch = load_config(
        settings=[
            "model.name=patch",
            "model.filters=[3,4]",
            "model.dense=[8,4]",
            "training.batch_size=8",
            "training.steps=6",
            "training.round_steps=2",
        ]
    )
    whole, run = tmp_path / "whole", tmp_path / "run"
    train([toy()], whole, patch, progress=copied_at(5, whole, run))
    train([toy()], run, patch, resume=True)
    assert_same_run(run, whole)


def test_a_run_that_was_killed_resumes_to_the_same_end(toy, tmp_path, unbroken):
    write_simulation(toy(), tmp_path / "sim.zarr")
    command = [sys.executable, "-m", "reion", "train", str(tmp_path / "sim.zarr")]
    command += ["--out", str(tmp_path / "run")]
    for setting in TINY:
        command += ["--set", setting]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    first = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "run" / "checkpoints").glob("step-*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.wait()
    checkpoint = load_newest(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None
    train([open_simulation(tmp_path / "sim.zarr")], tmp_path / "run", config(), resume=True)
    # The store holds the toy's numbers and derives n_ion beforehand: the run is the same.
    assert [row["loss"] for row in history(tmp_path / "run")] == [row["loss"] for row in history(unbroken)]


def test_a_finished_run_can_be_resumed_and_stays_as_it_is(toy, tmp_path, unbroken):
    shutil.copytree(unbroken, tmp_path / "run")
    train([toy()], tmp_path / "run", config(), resume=True)
    assert_same_run(tmp_path / "run", unbroken)


def test_patience_stops_and_keeps_the_best_weights(toy, tmp_path):
    impatient = config("training.patience_rounds=1", "training.learning_rate=3.0", "training.steps=400")
    metrics = train([toy()], tmp_path / "run", impatient)
    assert metrics.steps < 400
    best = max(row["validation_r2"] for row in history(tmp_path / "run"))
    assert metrics.validation_r2 == best


@pytest.mark.skipif(ON_TORCH, reason="PyTorch's cross-entropy raises an error of its own")
def test_a_loss_that_is_no_number_stops_with_the_batch_that_caused_it(toy, tmp_path, monkeypatch):
    original = loop.CropSequence.read

    def poisoned(self, indices):
        batches = original(self, indices)
        for index, ((values, _), _) in zip(indices, batches, strict=True):
            if self._first + index == 6:
                values[0, 0, 0, 0, 0] = np.nan
        return batches

    monkeypatch.setattr(loop.CropSequence, "read", poisoned)
    with pytest.raises(TrainingDivergedError, match="step 7"):
        train([toy()], tmp_path / "run", config())
    with np.load(tmp_path / "run" / "diverged.npz") as batch:
        assert np.isnan(batch["channels"]).sum() == 1
    assert load_newest(tmp_path / "run" / "checkpoints").step == 4


@pytest.mark.parametrize("step", [8, 12])
def test_a_step_that_breaks_the_weights_is_not_saved(toy, tmp_path, monkeypatch, step):
    original = loop.Loop._take_step

    def breaking(self, batch):
        loss = original(self, batch)
        if self.state.step + 1 == step:
            variable = self.state.trunk.trainable_variables[0]
            variable.assign(variable * np.inf)
        return loss

    monkeypatch.setattr(loop.Loop, "_take_step", breaking)
    with pytest.raises(TrainingDivergedError, match=f"not finite at step {step}; the batch is kept"):
        train([toy()], tmp_path / "run", config())
    assert load_newest(tmp_path / "run" / "checkpoints").step == step - 4
    assert not (tmp_path / "run" / "model.keras").exists()
    monkeypatch.undo()
    held = []

    def look(*_):
        held.append((tmp_path / "run" / "diverged.npz").exists())

    assert train([toy()], tmp_path / "run", config(), resume=True, progress=look).steps == 12
    assert not any(held), "if it is killed now, it was killed and has not diverged"


def test_a_run_without_a_whole_checkpoint_says_that_it_starts_again(toy, tmp_path, unbroken):
    shutil.copytree(unbroken, tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").glob("step-*/arrays.npz"):
        path.write_bytes(b"")
    with pytest.warns(UserWarning, match="starts from its first step"):
        train([toy()], tmp_path / "run", config(), resume=True)
    assert_same_run(tmp_path / "run", unbroken)


def test_a_box_without_structure_has_no_score(toy, tmp_path):
    sim = toy()
    sim["xi"] = sim["xi"] * 0 + np.float32(1e-4)
    metrics = train([sim], tmp_path / "run", config("training.patience_rounds=1"))
    assert metrics.validation_r2 is None
    assert metrics.steps == 12
    json.dumps(metrics.to_json(), allow_nan=False)
    if keras.backend.backend() == "tensorflow":
        export_run(tmp_path / "run", tmp_path / "model.onnx")


def test_a_full_disk_leaves_a_run_that_can_be_resumed(toy, tmp_path, unbroken, monkeypatch):
    original = run_folder.save_checkpoint

    def full(folder, checkpoint):
        if checkpoint.step == 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(folder, checkpoint)

    monkeypatch.setattr(run_folder, "save_checkpoint", full)
    with pytest.raises(InputError, match=r"step 8 could not be written.*No space left(.|\n)*--resume"):
        train([toy()], tmp_path / "run", config())
    monkeypatch.undo()
    train([toy()], tmp_path / "run", config(), resume=True)
    assert_same_run(tmp_path / "run", unbroken)


def test_a_box_that_does_not_fit_leaves_what_was_there(toy, tmp_path, unbroken):
    with pytest.raises(InputError, match="room for crops"):
        train([toy()], tmp_path / "new", config("training.crop_cells=12"))
    assert not (tmp_path / "new").exists()
    shutil.copytree(unbroken, tmp_path / "run")
    with pytest.raises(InputError, match="room for crops"):
        train([toy()], tmp_path / "run", config("training.crop_cells=12"), force=True)
    assert load_run(tmp_path / "run").metrics.steps == 12


def test_an_occupied_folder_is_left_alone(toy, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="exists already"):
        train([toy()], tmp_path / "run", config())
    with pytest.raises(InputError, match="not a run"):
        train([toy()], tmp_path / "run", config(), force=True)
    assert (tmp_path / "run" / "thesis.tex").read_text() == "years of work"


def test_resuming_asks_for_the_same_schema_and_data(toy, tmp_path, unbroken):
    with pytest.raises(InputError, match="expected a run folder"):
        train([toy()], tmp_path / "nowhere", config(), resume=True)
    with pytest.raises(InputError, match=r"configuration differs.*: seed=0 instead of 1"):
        train([toy()], unbroken, config("seed=1"), resume=True)
    with pytest.raises(InputError, match="other simulations"):
        train([toy(seed=5)], unbroken, config(), resume=True)
    # The photons of the history depend on the cosmic time between snapshots.
    with pytest.raises(InputError, match="other simulations: cosmology of box 1"):
        train([toy().assign_attrs(H0=70.0)], unbroken, config(), resume=True)


def test_boxes_of_different_cell_size_do_not_train_together(toy, tmp_path):
    with pytest.raises(InputError, match="one cell size"):
        train([toy(), toy(cell_mpc=2.2)], tmp_path / "run", config())
    with pytest.raises(InputError, match="at least one"):
        train([], tmp_path / "run", config())


def test_boxes_of_different_mesh_train_together(toy, tmp_path):
    metrics = train([toy(), toy(shape=(14, 9, 11), seed=2)], tmp_path / "run", config())
    assert metrics.steps == 12


@pytest.mark.parametrize("kind", ["mse", "binary_cross_entropy", "focal"])
def test_every_loss_trains(toy, tmp_path, kind):
    schema = load_config(
        settings=[
            "model.name=voxel",
            "model.hidden=[4]",
            "training.crop_cells=4",
            "training.batch_size=2",
            "training.steps=2",
            f"training.loss.kind={kind}",
            "training.loss.gradient=0.5",
        ]
    )
    assert np.isfinite(train([toy()], tmp_path / "run", schema).loss)


def test_sources_in_masses_train_with_photons_that_were_fitted(toy, tmp_path, unbroken):
    sim = toy()
    masses = make_simulation(
        {"n_igm": sim["n_igm"].values, "n_src": sim["n_src"].values / 1e-3, "xi": sim["xi"].values},
        redshift=sim["redshift"].values,
        box_size=sim.attrs["box_size"],
        n_src_units="Msun Mpc-3",
    )
    train([masses], tmp_path / "run", config())
    fitted = load_run(tmp_path / "run").config.model.photons_per_source
    assert fitted is not None
    train([masses], tmp_path / "given", config("model.photons_per_source=2.5"))
    assert load_run(tmp_path / "given").config.model.photons_per_source == 2.5
    assert load_run(unbroken).config.model.photons_per_source is None


def test_instant_inputs_and_a_normalised_target(toy, tmp_path):
    schema = load_config(
        settings=[
            "model.name=voxel",
            "model.target=normalised",
            "data.inputs=instant",
            "training.steps=8",
            "training.round_steps=4",
            "training.batch_size=64",
            "training.loss.kind=mse",
        ]
    )
    train([toy()], tmp_path / "run", schema)
    run = load_run(tmp_path / "run")
    xi = run.predict(toy())
    assert xi.dims == ("redshift", "x", "y", "z")
    assert 0 <= float(xi.min()) <= float(xi.max()) <= 1


def test_a_reloaded_run_predicts_a_store(unbroken, toy, tmp_path):
    write_simulation(toy(), tmp_path / "sim.zarr")
    from_store = load_run(unbroken).predict(open_simulation(tmp_path / "sim.zarr"))
    np.testing.assert_allclose(from_store.values, load_run(unbroken).predict(toy()).values, atol=1e-6)
