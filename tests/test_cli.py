"""The command line: exit codes, one clear message, nothing written when something is wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr

import reion
from reion.cli.output import resumable
from reion.jobs.growing import GrowingStore
from reion.storage.store import STORE, write_simulation


def npz(path, **changes):
    rng = np.random.default_rng(0)
    values = {
        "n_igm": np.full((6, 6, 6), 4.2e-31, np.float32),
        "n_src": rng.random((6, 6, 6)).astype(np.float32),
        "xi": rng.random((6, 6, 6)).astype(np.float32),
        "redshift": 12.0,
        "box_size": 12.0,
    }
    values.update(changes)
    np.savez(path, **{key: value for key, value in values.items() if value is not None})
    return path


def with_value(value, name, base=0.5):
    field = np.full((6, 6, 6), base, np.float32)
    field[1, 2, 3] = value
    return {name: field}


BAD = {
    "a NaN in a field": (with_value(np.nan, "n_igm", 4e-31), "(1, 2, 3)"),
    "xi above one": (with_value(1.5, "xi"), "(1, 2, 3)"),
    "negative sources": (with_value(-1.0, "n_src"), "(1, 2, 3)"),
    "fields of different shape": ({"xi": np.zeros((6, 6, 5), np.float32)}, "(6, 6, 5)"),
    "no box size": ({"box_size": None}, "box_size"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_fields_are_one_message_and_nothing_is_written(command, tmp_path, case):
    changes, expected = BAD[case]
    source = npz(tmp_path / "box_z12.000.npz", **changes)
    code, printed, said = command("convert", source, "--out", tmp_path / "sim.zarr")
    assert (code, printed) == (2, "")
    assert expected in said
    assert "Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["box_z12.000.npz"]


@pytest.mark.parametrize("verb", ["convert", "inspect", "train"])
@pytest.mark.parametrize("kind", ["empty folder", "text", "nothing"])
def test_what_is_no_simulation_is_refused(command, tmp_path, verb, kind):
    source = tmp_path / "source"
    if kind == "empty folder":
        source.mkdir()
    elif kind == "text":
        source = tmp_path / "source.npz"
        source.write_text("not a simulation")
    out = [] if verb == "inspect" else ["--out", tmp_path / "out"]
    code, printed, said = command(verb, source, *out, "--json")
    assert code == 2
    error = json.loads(printed)["error"]
    assert set(error) == {"message", "file", "hint"}
    assert "source" in error["file"]
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_boxes_of_different_shape_are_refused(command, tmp_path):
    npz(tmp_path / "box_z12.000.npz")
    other = {name: np.ones((5, 5, 5), np.float32) * 1e-31 for name in ("n_igm", "n_src", "xi")}
    npz(tmp_path / "box_z07.000.npz", redshift=7.0, **other)
    code, _, said = command("convert", tmp_path, "--out", tmp_path / "sim.zarr")
    assert code == 2
    assert "5" in said
    assert not (tmp_path / "sim.zarr").exists()


def test_convert_inspect_and_back(command, tmp_path):
    source = npz(tmp_path / "box_z12.000.npz")
    code, printed, _ = command("convert", source, "--out", tmp_path / "sim.zarr", "--json")
    assert code == 0
    assert json.loads(printed)["stores"][0]["redshifts"] == [12.0]
    code, printed, _ = command("inspect", tmp_path / "sim.zarr", "--json")
    assert code == 0
    assert json.loads(printed)["fields"]["n_igm"]["snapshots"][0]["mean"] == pytest.approx(4.2e-31, rel=1e-6)
    code, printed, _ = command("inspect", tmp_path / "sim.zarr")
    assert code == 0
    assert "n_igm" in printed
    code, _, said = command("convert", source, "--out", tmp_path / "sim.zarr")
    assert code == 2
    assert "--force" in said


@pytest.mark.slow
def test_predict_and_evaluate_with_a_file(command, tmp_path, toy, toy_model, no_figures):
    write_simulation(toy(), tmp_path / "sim.zarr")
    code, printed, _ = command(
        "predict",
        toy_model,
        tmp_path / "sim.zarr",
        "--out",
        tmp_path / "xi.zarr",
        "--device",
        "cpu",
        "--json",
    )
    assert code == 0
    result = json.loads(printed)
    assert result["cells"] == 4 * 12 * 10 * 8
    assert {"output", "seconds", "cells_per_second", "provider", "peak_memory_bytes"} <= set(result)
    code, printed, _ = command(
        "evaluate", toy_model, tmp_path / "sim.zarr", "--against", tmp_path / "xi.zarr", "--json"
    )
    assert code == 0
    evaluation = json.loads(printed)
    assert {"pooled", "redshifts", "baselines"} <= set(evaluation)
    assert evaluation["against"]["xi"]["pooled"]["mse"] == pytest.approx(
        evaluation["pooled"]["mse"], rel=1e-5
    )
    code, printed, _ = command("evaluate", toy_model, tmp_path / "sim.zarr", "--report", tmp_path / "report")
    assert code == 0
    assert "excursion set" in printed
    assert (tmp_path / "report" / "report.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["predict", "no-such-model", "SIM", "--out", "OUT"], "no-such-model"),
        (["predict", "MODEL", "SIM", "--out", "OUT", "--memory", "lots"], "--memory"),
        (["evaluate", "MODEL", "SIM", "--against", "nowhere"], "nowhere"),
        (["train", "SIM", "--out", "OUT", "--set", "training.stepz=1"], "stepz"),
        (["train", "SIM", "--out", "OUT", "--config", "nowhere.toml"], "nowhere.toml"),
        (["train", "SIM", "--out", "OUT", "--resume"], "without --resume"),
        (["export", "onnx", "nowhere", "--out", "OUT"], "run folder"),
        (["bench", "nothing"], "nothing"),
        (["inspect", "SIM", "--set", "box_size"], "key=value"),
        (["frobnicate"], "frobnicate"),
        (["predict"], "MODEL"),
    ],
)
def test_bad_usage_is_code_2_and_names_what_is_wrong(command, tmp_path, toy, toy_model, arguments, expected):
    write_simulation(toy(), tmp_path / "sim.zarr")
    places = {"MODEL": toy_model, "SIM": tmp_path / "sim.zarr", "OUT": tmp_path / "out"}
    code, printed, said = command(*(places.get(argument, argument) for argument in arguments))
    assert code == 2
    assert expected in said
    assert "Traceback" not in said
    assert printed == ""
    assert not (tmp_path / "out").exists()


def test_an_error_of_ours_is_code_1(command, tmp_path, monkeypatch):
    def fail(*_args, **_options):
        raise RuntimeError("a bug")

    monkeypatch.setattr("reion.readers.open_simulation", fail)
    code, printed, said = command("inspect", tmp_path, "--json")
    assert code == 1
    assert "a bug" in json.loads(printed)["error"]["message"]
    assert "please report" in said


def test_interrupted_is_code_130(command, tmp_path, monkeypatch):
    def interrupt(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("reion.readers.open_simulation", interrupt)
    monkeypatch.setattr("reion.prediction.emulator.Emulator", interrupt)
    out = ["--out", tmp_path / "out.zarr"]
    for line in (
        ["inspect", tmp_path],
        ["history", tmp_path, *out],
        ["lightcone", tmp_path, tmp_path, *out, "--redshift", "8", "9"],
        ["export", "onnx", "rt-worlds", "--cell-size", "2", "--out", tmp_path / "out.onnx"],
    ):
        code, printed, said = command(*line)
        assert (code, printed) == (130, "")
        assert said.endswith("interrupted: no output is half written\n")
        assert "Traceback" not in said


@pytest.mark.parametrize(
    ("where", "arguments"),
    [
        ("reion.storage.conversion.convert", ("convert", "box")),
        ("reion.prediction.predict.predict", ("predict", "rt64-history", "box")),
    ],
)
def test_interrupted_work_says_how_it_goes_on(where, arguments, command, tmp_path, monkeypatch):
    def interrupt(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(where, interrupt)
    code, _, said = command(*arguments, "--out", tmp_path / "out.zarr")
    assert code == 130
    assert f"interrupted before anything was done for {tmp_path / 'out.zarr'}" in said
    assert "--resume" not in said
    growing = GrowingStore(tmp_path / "out.zarr", STORE, "growing")
    growing.begin({"model": "one"}, lambda store: store.mkdir())
    code, _, said = command(*arguments, "--out", tmp_path / "out.zarr")
    assert code == 130
    assert f"interrupted: what is done for {tmp_path / 'out.zarr'} is kept" in said
    assert "--resume" in said


def test_version_and_short_help(command):
    assert command("--version") == (0, f"reion {reion.__version__}\n", "")
    assert command("-h") == command("--help")
    assert command("convert", "-h") == command("convert", "--help")


def test_the_home_folder_is_meant_by_a_tilde_in_every_word(command, toy, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_simulation(toy(shape=(4, 4, 4)), tmp_path / "sim.zarr")
    for out in ("--out=~/one.zarr", "--out ~/two.zarr"):
        code, _, said = command("convert", "~/sim.zarr", *out.split())
        assert code == 0, said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.zarr", "sim.zarr", "two.zarr"]


def snapshots_without_box_size(folder, sim):
    """A file for each redshift, that does not say the size of the box."""
    for index, redshift in enumerate(sim["redshift"].values):
        fields = {name: sim[name][index].values for name in ("n_igm", "n_src", "xi")}
        np.savez(folder / f"box_z{redshift:06.3f}.npz", **fields, redshift=redshift)
    return sorted(folder.glob("box_z*.npz"))


def test_facts_and_several_files_are_taken_wherever_a_simulation_is_read(
    command, tmp_path, toy, toy_model, monkeypatch
):
    def stop(*_, **__):
        raise SystemExit(0)

    monkeypatch.setattr("reion.training.cost.plan_train", stop)  # which times a training step
    files = snapshots_without_box_size(tmp_path, toy())
    write_simulation(toy(), tmp_path / "sim.zarr")
    facts = ["--set", "box_size=24,20,16", "--format", "npz", "--json"]
    facts += ["--set", "H0=67.66", "--set", "Om0=0.30964", "--set", "Ob0=0.04897"]
    code, _, said = command("predict", toy_model, *files, "--out", tmp_path / "facts.zarr", *facts)
    assert code == 0, said
    assert command("predict", toy_model, tmp_path / "sim.zarr", "--out", tmp_path / "xi.zarr")[0] == 0
    stored = [xr.open_zarr(tmp_path / name)["xi"].values for name in ("facts.zarr", "xi.zarr")]
    np.testing.assert_array_equal(*stored)
    (tmp_path / "run.toml").write_text("[training]\nsteps = 1\n")
    for line in (
        ["evaluate", toy_model, *files],
        ["plan", toy_model, *files],
        ["plan", tmp_path / "run.toml", *files],
        ["train", *files, "--out", tmp_path / "run", "--dry-run", "--set", "training.steps=2"],
    ):
        code, printed, said = command(*line, *facts)
        assert code == 0, (line, said, printed)
        code, printed, _ = command(*line, "--json")
        assert code == 2
        assert "box_size" in json.dumps(json.loads(printed))


def test_files_of_another_method_have_facts_of_their_own(command, tmp_path, toy, toy_model):
    sim = toy()
    write_simulation(sim, tmp_path / "sim.zarr")
    (tmp_path / "other").mkdir()
    for index, redshift in enumerate(sim["redshift"].values):
        neutral = 1 - sim["xi"][index].values
        np.savez(tmp_path / "other" / f"b_z{redshift:06.3f}.npz", xi=neutral, redshift=redshift)
    code, printed, said = command(
        *("evaluate", toy_model, tmp_path / "sim.zarr", "--against", tmp_path / "other", "--json"),
        *("--against-set", "box_size=24,20,16", "--against-set", "xi_unit=neutral fraction"),
    )
    assert code == 0, said
    assert json.loads(printed)["against"]["other"]["pooled"]["r2"] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("key", ["stepz", "trainings.steps"])
def test_a_key_that_nobody_knows_is_named(command, tmp_path, toy, key):
    write_simulation(toy(), tmp_path / "sim.zarr")
    code, printed, _ = command(
        "train", tmp_path / "sim.zarr", "--out", tmp_path / "run", "--set", f"{key}=1", "--json"
    )
    assert code == 2
    assert key in json.loads(printed)["error"]["message"]
    assert not (tmp_path / "run").exists()


def test_an_interruption_after_the_last_rename_does_not_deny_the_output(tmp_path):
    out = tmp_path / "xi.zarr"

    def finish_and_interrupt():
        with resumable(out):
            write_simulation(reion.load_sample().held_out.isel(redshift=[0]), out)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"but .*xi\.zarr was in its place already, whole"):
        finish_and_interrupt()
