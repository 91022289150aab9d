"""A run is never lost: killed at random instants again and again, it ends where an unbroken one would."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("keras")
pytest.importorskip("tensorflow")

from reion.config import load_config
from reion.errors import InputError
from reion.storage.store import write_simulation
from reion.training import loop, run_folder
from reion.training.checkpoints import load_newest
from reion.training.run import train
from reion.training.run_folder import load_run
from tests.tiny import TINY_NETWORK

KILLS = int(os.environ.get("REION_KILLS", "3"))
SETTINGS = [
    *TINY_NETWORK,
    "training.batch_size=2",
    f"training.steps={20 * KILLS}",
    # A checkpoint every other step: much of the time goes into writing them.
    "training.round_steps=2",
]


def curve(folder):
    with (folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k not in ("seconds", "waiting_share")} for row in rows]


def checkpoints(folder):
    return {path.name for path in (folder / "checkpoints").glob("*step-*")}


@pytest.mark.slow
def test_kills_at_random_instants_change_nothing(toy, tmp_path):
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["reion.training.run"])  # imported once; every run forks from there
    config = load_config(settings=SETTINGS)
    run, unbroken = tmp_path / "run", tmp_path / "unbroken"
    chance = random.Random(0)

    def start(out):
        resume = (out / "config.toml").exists()
        process = processes.Process(target=train, args=([toy()], out, config), kwargs={"resume": resume})
        process.start()
        return process

    whole = start(unbroken)
    whole.join()
    assert whole.exitcode == 0

    inside_a_write = 0
    for kill in range(KILLS):
        before = checkpoints(run)
        started = time.monotonic()
        process = start(run)
        if kill % 4 == 0:
            # Any instant of the start, too: the first runs may not even have a folder.
            time.sleep(chance.uniform(0.0, 4.0))
        elif kill % 4 == 1:
            # In the middle of writing a checkpoint, whose folder has a name of its own until it is whole.
            while not any(name.startswith(".") for name in checkpoints(run) - before) and process.is_alive():
                pass
        else:
            while checkpoints(run) == before and process.is_alive() and time.monotonic() < started + 60:
                time.sleep(0.001)
            time.sleep(chance.uniform(0.0, 0.1))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "the run was over before it could be killed"
        inside_a_write += any(name.startswith(".") for name in checkpoints(run))
    assert inside_a_write > 0

    last = start(run)
    last.join()
    assert last.exitcode == 0
    assert curve(run) == curve(unbroken)
    for ours, theirs in zip(*(load_run(f).network.get_weights() for f in (run, unbroken)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not [name for name in checkpoints(run) if name.startswith(".")]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def short(*settings):
    return load_config(settings=[*SETTINGS, "training.steps=12", "training.round_steps=4", *settings])


@pytest.fixture(scope="module")
def finished(tmp_path_factory, toy):
    """A run of twelve steps; a test that changes it takes a copy."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    train([toy()], folder, short())
    return folder


@pytest.mark.slow
def test_a_kill_before_the_run_folder_is_whole_leaves_none(toy, tmp_path, monkeypatch):
    def stop(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_folder, "write_json", stop)
    with pytest.raises(KeyboardInterrupt):
        train([toy()], tmp_path / "run", short())
    assert not (tmp_path / "run").exists()
    monkeypatch.undo()
    assert train([toy()], tmp_path / "run", short()).steps == 12
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_killed_processes_left_in_any_folder_of_a_run_is_cleared(tmp_path):
    host = re.sub(r"[^\w-]", "-", socket.gethostname())
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left = [
        tmp_path / folder / f".partial.{gone.pid}-0123ab@{host}.file"
        for folder in ("", "checkpoints", "logs")
    ]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_text("half")
    run_folder.RunFolder(tmp_path).clear_stale()
    assert not any(path.exists() for path in left)


@pytest.mark.slow
def test_replacing_a_run_keeps_the_old_one_until_the_new_one_is_there(toy, tmp_path, monkeypatch, finished):
    shutil.copytree(finished, tmp_path / "run")

    def stop(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_folder, "write_json", stop)
    with pytest.raises(KeyboardInterrupt):
        train([toy()], tmp_path / "run", short("seed=1"), force=True)
    assert load_run(tmp_path / "run").config.seed == 0
    monkeypatch.undo()
    train([toy()], tmp_path / "run", short("seed=1"), force=True)
    assert load_run(tmp_path / "run").config.seed == 1


@pytest.mark.slow
def test_a_history_that_was_lost_between_two_writes_comes_back(toy, tmp_path, finished):
    shutil.copytree(finished, tmp_path / "run")
    rows = curve(tmp_path / "run")
    # As if killed after the last checkpoint and before the rest.
    for name in ("history.csv", "model.keras", "metrics.json"):
        (tmp_path / "run" / name).unlink()
    train([toy()], tmp_path / "run", short(), resume=True)
    assert curve(tmp_path / "run") == rows


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(toy, tmp_path, command, monkeypatch, request):
    write_simulation(toy(), tmp_path / "sim.zarr")
    take_step = loop.Loop._take_step
    # Ignored where the tests run in the background of a plain shell.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))

    def interrupt(self, batch):
        if self.state.step == 6:
            signal.raise_signal(signal.SIGINT)
        return take_step(self, batch)

    monkeypatch.setattr(loop.Loop, "_take_step", interrupt)
    settings = [word for setting in [*SETTINGS[:-2], "training.steps=12", "training.round_steps=4"]
                for word in ("--set", setting)]  # fmt: skip
    line = ["train", tmp_path / "sim.zarr", "--out", tmp_path / "run", *settings]
    code, _, said = command(*line)
    assert code == 130
    assert f"what is done for {tmp_path / 'run'} is kept" in said
    assert "--resume goes on" in said
    assert "Traceback" not in said
    assert load_newest(tmp_path / "run" / "checkpoints").step == 4
    monkeypatch.undo()
    code, out, _ = command(*line, "--resume", "--json")
    assert (code, json.loads(out)["steps"]) == (0, 12)


def test_a_loss_that_is_no_number_is_one_clear_message(toy, tmp_path, command, monkeypatch):
    write_simulation(toy(), tmp_path / "sim.zarr")
    monkeypatch.setattr(loop.Loop, "_take_step", lambda *_: float("nan"))
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    code, out, said = command("train", tmp_path / "sim.zarr", "--out", tmp_path / "run", "--json", *settings)
    assert code == 2
    assert "the loss is nan at step 1" in json.loads(out)["error"]["message"]
    assert "Traceback" not in said


def test_half_precision_without_a_gpu_is_refused(toy, tmp_path):
    with pytest.raises(InputError, match="mixed_float16 needs a GPU"):
        train([toy()], tmp_path / "run", short("training.precision=mixed_float16"))
    assert not (tmp_path / "run").exists()
