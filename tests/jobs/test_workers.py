"""Many workers do what one process does: the same numbers, whatever happens to a worker or the scheduler."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import xarray as xr

from reion import terminal
from reion.errors import InputError
from reion.evaluation.evaluate import evaluate
from reion.evaluation.methods import evaluate_methods
from reion.inspection.blocks import InspectBlock
from reion.inspection.look import inspect
from reion.inspection.pictures import Pictures
from reion.jobs import workers as cluster
from reion.jobs.resources import cores, thread_limit
from reion.jobs.workers import Job, ThisProcess, started
from reion.prediction import portable_emulator
from reion.prediction.predict import predict
from reion.prediction.tiles import Tiling
from reion.readers import open_simulation
from reion.storage import store as storage
from reion.storage.conversion import convert
from reion.storage.store import write_simulation

cloudpickle = pytest.importorskip("cloudpickle")
# Workers cannot import this file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="kills processes"),
    pytest.mark.slow,
]
SIDE = 24
SNAPSHOTS = (12.0, 10.0, 8.0, 7.0)


@pytest.fixture(scope="module")
def workers():
    """Two workers; how one does is seen in `test_the_command_line_takes_workers`."""
    with started(None, 2) as team:
        yield team


@pytest.fixture(scope="module")
def box(toy, tmp_path_factory):
    """Files of a simulation without n_ion."""
    folder = tmp_path_factory.mktemp("box")
    sim = toy(shape=(SIDE, SIDE, SIDE), redshift=SNAPSHOTS)
    for index, redshift in enumerate(SNAPSHOTS):
        fields = {name: sim[name].values[index] for name in ("n_igm", "n_src", "xi")}
        np.savez(folder / f"box_z{redshift:06.3f}.npz", redshift=redshift, box_size=2.0 * SIDE, **fields)
    return folder


@pytest.fixture
def small_pieces(monkeypatch):
    """Blocks of 12 x 24 x 24 cells, tiles of 12^3: enough of them that workers take turns."""
    monkeypatch.setattr(storage, "_CHUNK_BYTES", 4 * 12**3)
    monkeypatch.setattr(storage, "_BLOCK_BYTES", 4 * 12 * 24 * 24)

    def tiles(mesh, *, halo_cells, **_):
        return Tiling(mesh=tuple(mesh), tile=(12, 12, 12), halo_cells=halo_cells)

    monkeypatch.setattr("reion.prediction.memory.cheapest_tiles", tiles)


def contents(store):
    """Every file of a store but when it was made."""
    return {
        str(path.relative_to(store)): path.read_bytes()
        for path in sorted(store.rglob("*"))
        if path.is_file() and path != store / "zarr.json"
    }


def without_memory(result):
    return {key: value for key, value in result.items() if key != "peak_memory_bytes"}


def test_conversion_is_the_same_to_the_bit(workers, box, small_pieces, tmp_path):
    convert(box, tmp_path / "here.zarr")
    convert(box, tmp_path / "there.zarr", workers=workers)
    assert contents(tmp_path / "there.zarr") == contents(tmp_path / "here.zarr")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here.zarr", "there.zarr"]


def test_moments_are_the_same_to_the_bit(workers, box, small_pieces):
    sim = open_simulation(box)
    there = inspect(sim, workers=workers).to_json()
    assert without_memory(there) == without_memory(inspect(sim).to_json())


def test_what_pictures_need_is_the_same(workers, box, small_pieces):
    sim = open_simulation(box).isel(redshift=[2])
    seen = []
    for team in (ThisProcess(), workers):
        pictures = Pictures(sim)
        for _, piece in team.map(InspectBlock(sim, pictures), [(0, 0), (0, 1)]):
            pictures.merge(piece.pictures)
        seen.append(pictures)
    here, there = seen
    for name in ("n_igm", "n_src", "xi"):
        np.testing.assert_array_equal(there.counts(name, 0), here.counts(name, 0))
        values = sim[name].values[0]
        drawn = values.max(axis=2) if name == "n_src" else values[:, :, SIDE // 2]
        np.testing.assert_array_equal(there.plane(name, 0), drawn)


def test_evaluation_is_the_same_to_the_bit(workers, box):
    sim = open_simulation(box)
    # A prediction that is wrong, and in files: the truth of the other half of the box.
    pred = sim["xi"].isel(x=slice(None, None, -1)).assign_coords(sim.coords)
    assert evaluate(pred, sim, workers=workers).to_json() == evaluate(pred, sim).to_json()


def test_a_model_is_judged_the_same(workers, box, toy_model, tmp_path, no_figures):
    sim = open_simulation(box).isel(redshift=slice(0, 2))
    here, _ = evaluate_methods([str(toy_model)], sim)
    there, page = evaluate_methods([str(toy_model)], sim, workers=workers, report=tmp_path / "report")
    assert page is not None
    assert page.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
    for name in ("r2", "mse", "mean_xi_pred"):
        assert getattr(there.pooled, name) == pytest.approx(getattr(here.pooled, name), abs=1e-6)


def test_prediction_is_the_same(workers, box, toy_model, small_pieces, tmp_path):
    here = predict(toy_model, box, tmp_path / "here.zarr", device="cpu")
    there = predict(toy_model, box, tmp_path / "there.zarr", device="cpu", workers=workers)
    assert there.tiles_computed == here.tiles_computed == len(SNAPSHOTS) * 8
    with xr.open_zarr(tmp_path / "here.zarr") as one, xr.open_zarr(tmp_path / "there.zarr") as other:
        np.testing.assert_allclose(other["xi"].values, one["xi"].values, rtol=0, atol=1e-6)
        assert other["xi"].attrs == one["xi"].attrs


class Place(Job[int, tuple[int, int | None]]):
    def __call__(self, piece):
        time.sleep(0.01)
        return os.getpid(), thread_limit()


def test_workers_share_the_cores_of_their_machine(workers):
    found = {place for _, place in workers.map(Place(), range(40))}
    assert os.getpid() not in {process for process, _ in found}
    assert sum(threads for _, threads in found) <= max(len(cores()), len(found))


def count_sessions():
    class Counted(portable_emulator.Emulator):
        opened = 0

        def __init__(self, *arguments, **options):
            Counted.opened += 1
            super().__init__(*arguments, **options)

    portable_emulator.Emulator = Counted


def sessions():
    return portable_emulator.Emulator.opened


def test_every_worker_opens_one_session(workers, box, toy_model, small_pieces, tmp_path):
    workers._client.run(count_sessions)
    predict(toy_model, box, tmp_path / "xi.zarr", device="cpu", workers=workers)
    assert set(workers._client.run(sessions).values()) == {1}


def kill_one(team, at):
    """A progress that kills a worker on its way, once."""
    killed = []

    def progress(done, total):
        if not killed and done >= at * total:
            assert done < total, "nothing was left to do"
            killed.extend(list(team._client.run(os.getpid).values())[:1])
            os.kill(killed[0], signal.SIGKILL)

    return progress, killed


def test_a_worker_killed_in_the_middle_of_a_prediction(box, toy_model, small_pieces, tmp_path, workers):
    predict(toy_model, box, tmp_path / "whole.zarr", device="cpu", workers=workers)
    progress, killed = kill_one(workers, at=0.3)
    predict(toy_model, box, tmp_path / "killed.zarr", device="cpu", workers=workers, progress=progress)
    assert killed
    assert contents(tmp_path / "killed.zarr") == contents(tmp_path / "whole.zarr")


def test_a_worker_killed_in_the_middle_of_a_conversion(box, small_pieces, tmp_path, workers):
    convert(box, tmp_path / "whole.zarr")
    progress, killed = kill_one(workers, at=0.3)
    convert(box, tmp_path / "killed.zarr", workers=workers, progress=progress)
    assert killed
    assert contents(tmp_path / "killed.zarr") == contents(tmp_path / "whole.zarr")


class Nap(Job[float, None]):
    """Sleeps for so many seconds."""

    def __call__(self, piece):
        time.sleep(piece)


def test_when_all_workers_are_gone_for_long_it_says_so(monkeypatch):
    monkeypatch.setattr(cluster, "_NO_WORKER_S", 1)
    with started(None, 1) as team:
        results = team.map(Nap(), [0.0, 60.0])
        next(results)
        team._client.cluster.scale(0)
        with pytest.raises(cluster.ClusterError, match="has had no worker for 1 s") as error:
            next(results)
    assert "give the same command" in error.value.hint


@contextlib.contextmanager
def running(*command):
    process = subprocess.Popen([sys.executable, "-m", *command], stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def remote(folder):
    """A scheduler and a worker, started on loopback as on a cluster, in another folder: file, scheduler."""
    folder.mkdir()
    file = folder / "scheduler.json"
    scheduler = "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"
    worker = "distributed.cli.dask_worker", "--host", "127.0.0.1", "--nthreads", "1", "--no-dashboard"
    with (
        running(*scheduler, "--no-dashboard", "--scheduler-file", str(file)) as process,
        running(*worker, "--scheduler-file", str(file), "--local-directory", str(folder)),
    ):
        while not file.exists():
            assert process.poll() is None
            time.sleep(0.05)
        yield file, process


@pytest.mark.parametrize("task", ["predict", "convert"])
def test_the_scheduler_lost_and_resumed(
    task, command, box, toy_model, small_pieces, tmp_path, monkeypatch, workers
):
    def run(out, *options, progress=lambda done, total: None):
        monkeypatch.setattr(terminal, "progress_bar", lambda _: contextlib.nullcontext(progress))
        what = (toy_model, box) if task == "predict" else (box,)
        return command(task, *what, "--out", tmp_path / out, *options)

    with remote(tmp_path / "first") as (file, scheduler):

        def progress(done, total):
            if done >= 0.3 * total:
                scheduler.kill()

        code, printed, said = run("out.zarr", "--scheduler", file, progress=progress)
    assert code == 2
    assert not printed
    assert f"the scheduler at {json.loads(file.read_text())['address']} is gone" in said
    assert "--resume" in said
    assert "Traceback" not in said
    assert not (tmp_path / "out.zarr").exists()
    (notes,) = tmp_path.glob(".out.zarr.*/done")
    finished = [path for path in notes.glob("*/*") if not path.name.startswith(".")]
    assert finished

    counts = []
    address = workers._client.scheduler.address
    resumed = run("out.zarr", "--scheduler", address, "--resume", progress=lambda *_: counts.append(1))
    assert resumed[0] == 0, resumed
    pieces = len(SNAPSHOTS) * 8 if task == "predict" else 2 + len(SNAPSHOTS) * 2
    assert len(counts) == pieces - len(finished), "a finished piece was done again"
    assert run("whole.zarr")[0] == 0
    with xr.open_zarr(tmp_path / "out.zarr") as one, xr.open_zarr(tmp_path / "whole.zarr") as whole:
        np.testing.assert_allclose(one["xi"].values, whole["xi"].values, rtol=0, atol=1e-6)


def test_interrupted_it_leaves_workers_idle_and_goes_on(box, toy_model, small_pieces, tmp_path, workers):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(toy_model, box, tmp_path / "xi.zarr", device="cpu", workers=workers, progress=interrupt)
    assert not any(workers._client.run(cluster._busy).values())
    result = predict(toy_model, box, tmp_path / "xi.zarr", device="cpu", workers=workers, resume=True)
    assert result.tiles_computed < len(SNAPSHOTS) * 8


def test_bad_values_are_said_as_without_workers(box, small_pieces, tmp_path, workers):
    bad = tmp_path / "bad"
    bad.mkdir()
    for path in box.iterdir():
        fields = dict(np.load(path))
        if fields["redshift"] == 8:
            fields["xi"][3, 2, 1] = np.nan
        np.savez(bad / path.name, **fields)
    with pytest.raises(InputError, match=r"xi at z = 8: .* the first at cell \(3, 2, 1\)") as caught:
        convert(bad, tmp_path / "sim.zarr", workers=workers)
    assert caught.value.file == str(bad / "box_z08.000.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


def test_fields_in_memory_are_not_sent(simulation, workers, monkeypatch):
    monkeypatch.setattr(cluster, "_JOB_BYTES", 20_000)
    with pytest.raises(InputError, match="open fields by their path"):
        inspect(simulation, workers=workers)


def test_resume_refuses_to_begin_anew(command, box, tmp_path):
    out = tmp_path / "sim.zarr"
    code, _, said = command("convert", box, "--out", out, "--resume")
    assert code == 2
    assert "nothing was begun here" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", ["convert", "inspect", "predict", "evaluate"])
def test_the_command_line_takes_workers(verb, command, box, toy_model, tmp_path, workers, monkeypatch):
    """`convert` starts a worker; the others ask for one and get those that are there."""
    asked = []

    @contextlib.contextmanager
    def those_that_are_there(scheduler, count):
        asked.append((scheduler, count))
        yield workers

    store = write_simulation(open_simulation(box).isel(redshift=slice(0, 2)), tmp_path / "sim.zarr")
    arguments = {
        "convert": [store, "--out", tmp_path / "other.zarr"],
        "inspect": [store],
        "predict": [toy_model, store, "--out", tmp_path / "xi.zarr"],
        "evaluate": [toy_model, store],
    }
    with monkeypatch.context() as patch:
        if verb != "convert":
            patch.setattr(cluster, "started", those_that_are_there)
        code, printed, said = command(verb, *arguments[verb], "--workers", 1, "--json")
    assert code == 0, said
    assert printed.startswith("{")
    assert asked == ([] if verb == "convert" else [(None, 1)])
    code, _, said = command(verb, *arguments[verb], "--workers", 1, "--scheduler", "tcp://127.0.0.1:1")
    assert code == 2
    assert "received both" in said


def test_a_scheduler_that_does_not_answer(command, box, monkeypatch):
    monkeypatch.setattr(cluster, "_CONNECT_S", 1)
    code, _, said = command("inspect", box, "--scheduler", "tcp://127.0.0.1:1")
    assert code == 2
    assert "expected a Dask scheduler at tcp://127.0.0.1:1" in said


def test_without_dask_it_says_what_to_install(command, box, monkeypatch):
    monkeypatch.setattr(cluster, "find_spec", lambda name: None)
    code, _, said = command("inspect", box, "--workers", 2)
    assert code == 2
    assert "pip install 'reion[cluster]'" in said
