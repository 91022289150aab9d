"""A store grows beside its place: killed at any step it goes on, and nothing that is done is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from reion.errors import InputError
from reion.prediction import predict as prediction
from reion.prediction.predict import predict
from reion.prediction.tiles import Tiling
from reion.simulation.photons import with_n_ion
from reion.storage.conversion import convert
from reion.storage.store import write_simulation

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
@pytest.mark.slow
@pytest.mark.parametrize("name", ["write", "convert", "predict"])
def test_killed_before_any_rename_or_removal_the_same_command_goes_on(name, toy, toy_model, tmp_path):
    # With n_ion in place of n_src, which would need the kernels in every child.
    fields = with_n_ion(toy(shape=(8, 8, 8), redshift=(12.0, 7.0)))
    needed = ["n_igm", "n_ion", "xi"] if name == "predict" else ["xi"]
    sim = write_simulation(fields[needed], tmp_path / "sim.zarr")
    arguments = [sys.executable, "-m", "tests.jobs.kills", name, sim, tmp_path / "kills", toy_model]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = done.stdout.splitlines()
    assert sum(step.startswith("rename") for step in steps) >= 2, (
        "both renames: of the old and of the new one"
    )
    assert any(step.startswith("half removal") for step in steps)


@pytest.fixture
def sim_path(simulation, tmp_path):
    return write_simulation(simulation, tmp_path / "sim.zarr")


@pytest.fixture
def interrupted(sim_path, toy_model, tmp_path, monkeypatch):
    """The place of a prediction that was interrupted after some of its tiles."""
    radius = prediction.Emulator(toy_model, device="cpu").card.receptive_radius_cells
    tiling = Tiling(mesh=(12, 10, 8), tile=(5, 10, 8), halo_cells=radius)
    monkeypatch.setattr(prediction, "fit_tiles", lambda *_: prediction.FittedTiles(tiling, keep_fields=False))

    def interrupt(done, total):
        if done > total / 2:
            raise KeyboardInterrupt

    out = tmp_path / "xi.zarr"
    with pytest.raises(KeyboardInterrupt):
        predict(toy_model, sim_path, out, device="cpu", progress=interrupt)
    return out


def test_half_a_chunk_of_a_killed_process_is_no_part_of_the_store(toy_model, sim_path, tmp_path):
    out = tmp_path / "xi.zarr"
    left = []

    def leave(done, total):
        if not left:
            (store,) = tmp_path.glob(f".{out.name}.*/store.zarr")
            left.append(store / "xi" / "c" / f"0.{'a' * 32}.partial")
            left[0].parent.mkdir(exist_ok=True)
            left[0].touch()

    predict(toy_model, sim_path, out, device="cpu", progress=leave)
    assert left
    assert not list(out.rglob("*.partial"))


def notes(out):
    return sorted(out.parent.glob(f".{out.name}.*/done/*/*"))


def test_what_resume_refuses_stays_and_goes_on(interrupted, sim_path, toy_model, simulation, tmp_path):
    before = notes(interrupted)
    assert before
    less = prediction.default_memory_bytes() // 2
    with pytest.raises(InputError, match="begun with other memory"):
        predict(toy_model, sim_path, interrupted, device="cpu", memory_bytes=less, resume=True)
    other = prediction.Emulator(toy_model, device="cpu")
    other.sha256 = "another"
    with pytest.raises(InputError, match="begun with other model"):
        predict(other, sim_path, interrupted, resume=True)
    another = write_simulation(simulation.isel(redshift=[0, 1]), tmp_path / "another.zarr")
    with pytest.raises(InputError, match="begun with other files or sources, redshifts"):
        predict(toy_model, another, interrupted, device="cpu", resume=True)
    assert notes(interrupted) == before
    result = predict(toy_model, sim_path, interrupted, device="cpu", resume=True)
    assert result.tiles_computed == 3 * simulation.sizes["redshift"] - len(before)


@pytest.mark.parametrize(
    "error", [InputError("no memory for a tile"), MemoryError(), OSError(28, "disk full")]
)
def test_an_error_in_a_tile_keeps_the_tiles_before(error, sim_path, toy_model, tmp_path, monkeypatch):
    out = tmp_path / "xi.zarr"
    call = prediction.PredictTiles.__call__

    def fail(job, piece):
        if piece[0] == 2:
            raise error
        return call(job, piece)

    monkeypatch.setattr(prediction.PredictTiles, "__call__", fail)
    with pytest.raises((InputError, MemoryError)) as caught:
        predict(toy_model, sim_path, out, device="cpu")
    if isinstance(error, OSError):
        assert "--resume goes on" in caught.value.hint
    monkeypatch.undo()
    assert len(notes(out)) == 2
    assert predict(toy_model, sim_path, out, device="cpu", resume=True).tiles_computed == 2


def test_resume_is_not_promised_where_nothing_is_done(sim_path, toy_model, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prediction.PredictTiles, "__call__", full)
    with pytest.raises(InputError, match="No space left") as caught:
        predict(toy_model, sim_path, tmp_path / "xi.zarr", device="cpu")
    assert caught.value.hint is None
    assert [path.name for path in tmp_path.iterdir()] == ["sim.zarr"]


def rewrite(simulation, path):
    """Replace a store by one of other values, as `convert --force` does."""
    other = simulation.copy(deep=True)
    other["n_igm"] = simulation["n_igm"] * 2
    write_simulation(other, path, force=True)


def change_a_chunk(path):
    chunk = path / "n_igm" / "c" / "3" / "0" / "0" / "0"
    content = chunk.read_bytes()
    chunk.write_bytes(
        content
    )  # the same bytes at a later time: whether they differ, only reading them would say


@pytest.mark.slow
@pytest.mark.parametrize("change", ["the store is replaced", "a chunk is written", "a file appears"])
@pytest.mark.parametrize("verb", ["convert", "predict"])
def test_old_and_new_never_mix(verb, change, simulation, sim_path, toy_model, tmp_path):
    out = tmp_path / "out.zarr"

    def run(**options):
        if verb == "convert":
            return convert(sim_path, out, **options)
        return predict(toy_model, sim_path, out, device="cpu", **options)

    def meanwhile(done, total):
        if done == total:
            return
        if change == "the store is replaced":
            rewrite(simulation, sim_path)
        elif change == "a chunk is written":
            change_a_chunk(sim_path)
        else:
            (sim_path / "n_igm" / "another").touch()

    with pytest.raises(InputError, match="changed while it was read"):
        run(progress=meanwhile)
    assert not out.exists()
    with pytest.raises(InputError, match="begun with other files or sources"):
        run(resume=True)
    run()
    with xr.open_zarr(sim_path) as sim, xr.open_zarr(out) as result:
        if verb == "convert":
            np.testing.assert_array_equal(result["n_igm"].values, sim["n_igm"].values)
        assert np.isfinite(result["xi"].values).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.zarr", "sim.zarr"]


def test_a_source_file_rewritten_between_two_commands_is_seen(simulation, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()

    def write(factor):
        for index, redshift in enumerate(simulation["redshift"].values):
            fields = {
                name: simulation[name].values[index] * np.float32(factor) for name in ("n_igm", "n_src")
            }
            path = folder / f"box_z{redshift:06.3f}.npz"
            with path.open(
                "r+b" if path.exists() else "wb"
            ) as file:  # in its place: the folder does not change
                np.savez(file, **fields, redshift=redshift, box_size=simulation.attrs["box_size"])

    def interrupt(done, total):
        if done == 3:
            raise KeyboardInterrupt

    write(1)
    with pytest.raises(KeyboardInterrupt):
        convert(folder, tmp_path / "sim.zarr", progress=interrupt)
    write(2)
    with pytest.raises(InputError, match="begun with other files or sources"):
        convert(folder, tmp_path / "sim.zarr", resume=True)
    convert(folder, tmp_path / "sim.zarr")
    with xr.open_zarr(tmp_path / "sim.zarr") as result:
        np.testing.assert_array_equal(result["n_igm"].values, simulation["n_igm"].values * np.float32(2))


def test_another_command_does_not_take_a_finished_one_for_its_own(
    sim_path, toy_model, simulation, tmp_path, monkeypatch
):
    """Killed when the store had been moved in, `out` is whole: the result of the same command only."""
    out = tmp_path / "xi.zarr"
    moved_in = prediction.GrowingStore.move_in

    def killed(growing, *arguments):
        monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)
        moved_in(growing, *arguments)
        monkeypatch.undo()

    monkeypatch.setattr(prediction.GrowingStore, "move_in", killed)
    predict(toy_model, sim_path, out, device="cpu")
    assert (tmp_path / ".xi.zarr.predicting").exists()
    other = write_simulation(simulation.isel(redshift=[0]), tmp_path / "other.zarr")
    with pytest.raises(InputError, match="exists already"):
        predict(toy_model, other, out, device="cpu")
    assert predict(toy_model, sim_path, out, device="cpu").tiles_computed == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.zarr", "sim.zarr", "xi.zarr"]


@pytest.mark.parametrize("force", [False, True])
def test_what_a_command_left_that_was_killed_as_it_cleared_up_is_cleared(force, simulation, tmp_path):
    sim, out = write_simulation(simulation, tmp_path / "sim.zarr"), tmp_path / "place" / "out.zarr"
    convert(sim, out)
    (tmp_path / "place" / ".out.zarr.converting" / "done").mkdir(parents=True)
    (tmp_path / "place" / ".scratch.1-abcdef@elsewhere.out.zarr").mkdir()
    (tmp_path / "place" / ".out.zarr.lock").touch()
    if force:
        convert(sim, out, force=True)
    else:
        with pytest.raises(InputError, match="exists already"):
            convert(sim, out)
    assert list(out.parent.iterdir()) == [out]
    (tmp_path / "place" / ".scratch.1-abcdef@elsewhere.out.zarr").mkdir()
    (tmp_path / "place" / ".out.zarr.lock").touch()
    with pytest.raises(InputError, match="exists already"):
        write_simulation(simulation, out)
    assert list(out.parent.iterdir()) == [out]
