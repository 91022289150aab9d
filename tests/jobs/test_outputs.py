"""One output, one writer: a second command is refused while the first is alive, and only then."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from reion.errors import InputError
from reion.jobs.outputs import alone_at
from reion.prediction.predict import predict
from reion.storage.conversion import convert
from reion.storage.store import write_simulation
from tests.tiny import TINY_NETWORK

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="nothing is held there")

TRAINING = (*TINY_NETWORK, "training.batch_size=2", "training.steps=4", "training.round_steps=2")


def files_below(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("verb", ["convert", "predict", "train"])
def test_two_commands_do_not_write_one_output(verb, command, toy, toy_model, tmp_path):
    if verb == "train":
        pytest.importorskip("tensorflow")
    sim = write_simulation(toy(shape=(12, 12, 12)), tmp_path / "sim.zarr")
    out = tmp_path / "out.zarr"
    settings = [word for setting in TRAINING for word in ("--set", setting)]
    second = {
        "convert": ["convert", sim],
        "predict": ["predict", toy_model, sim],
        "train": ["train", sim, *settings],
    }[verb]
    refused = []

    def meanwhile(done, total, *_):
        if done >= total or refused:
            return
        for option in ("--force", "--resume"):
            before = files_below(tmp_path)
            refused.append(command(*second, "--out", out, option))
            assert files_below(tmp_path) == before

    if verb == "convert":
        convert(sim, out, progress=meanwhile)
    elif verb == "predict":
        predict(toy_model, sim, out, device="cpu", progress=meanwhile)
    else:
        from reion.config import load_config
        from reion.readers import open_simulation
        from reion.training.run import train

        train([open_simulation(sim)], out, load_config(settings=TRAINING), progress=meanwhile)
    assert len(refused) == 2
    for code, printed, said in refused:
        assert code == 2
        assert not printed
        assert f"another command is writing this output: process {os.getpid()} on " in said
        assert str(out) in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.zarr", "sim.zarr"]


HOLD = """
import sys
from pathlib import Path
from reion.jobs.outputs import alone_at
with alone_at(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_command_leaves_is_in_nobodys_way(toy, command, tmp_path):
    sim = write_simulation(toy(shape=(12, 12, 12)), tmp_path / "sim.zarr")
    out = tmp_path / "out.zarr"

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(sim, out, progress=interrupt)
    pipe = subprocess.PIPE
    holder = subprocess.Popen([sys.executable, "-c", HOLD, out], stdin=pipe, stdout=pipe, text=True)
    with holder:
        assert holder.stdout.readline() == "held\n"
        code, _, said = command("convert", sim, "--out", out, "--resume")
        assert code == 2
        assert f"process {holder.pid} on" in said
        holder.send_signal(signal.SIGKILL)
    assert (tmp_path / ".out.zarr.lock").exists()
    code, _, said = command("convert", sim, "--out", out, "--resume")
    assert code == 0, said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.zarr", "sim.zarr"]


def test_a_file_that_its_holder_removes_while_it_is_taken_is_not_the_lock(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    lock, flock = tmp_path / ".out.lock", fcntl.flock
    taken = []

    def late(file, how):
        flock(file, how)
        taken.append(how)
        if len(taken) == 1:
            lock.unlink()

    monkeypatch.setattr(fcntl, "flock", late)
    with alone_at(tmp_path / "out"):
        assert len(taken) == 2
        assert lock.exists()
        with pytest.raises(InputError, match="another command"), alone_at(tmp_path / "out"):
            pass
    assert not list(tmp_path.iterdir())


def test_where_nothing_can_be_written_it_says_so(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"), alone_at(tmp_path / "file" / "out"):
        pass
