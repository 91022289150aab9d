"""Several processes train the network that one would have trained, and none waits for a lost one."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("keras")
pytest.importorskip("tensorflow")
pytest.importorskip("mpi4py")

from reion.config import load_config
from reion.errors import InputError
from reion.models.build import build_model
from reion.readers import open_simulation
from reion.storage.store import write_simulation
from reion.training.checkpoints import load_newest
from reion.training.loop import compile_trunk
from reion.training.processes import (
    Place,
    Processes,
    ProcessLostError,
    launched,
    run_locally,
    take_own_gpu,
    visible_gpus,
)
from reion.training.run import train
from reion.training.run_folder import load_run
from tests.tiny import TINY_NETWORK

MPIEXEC = shutil.which("mpiexec", path=Path(sys.executable).parent) or shutil.which("mpiexec")
if MPIEXEC is None:
    pytest.skip("there is no mpiexec", allow_module_level=True)

ENVIRONMENT = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
JOINED = """
    import os, sys, time
    import numpy as np
    from reion.errors import InputError
    from reion.training import processes
    processes._LEAVING_S = 1.0
    with processes.Processes.join(processes.launched(os.environ)) as all:
"""


def python(code):
    """A command that joins the processes and then runs `code`, which knows them as `all`."""
    return [sys.executable, "-c", textwrap.dedent(JOINED) + textwrap.indent(textwrap.dedent(code), "    ")]


PATIENCE_S = 600
"""What a slow and busy machine may take for what takes seconds on a good one."""


def wait_until(condition, process):
    """Wait for what a running process does."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert process.poll() is None, "the process has ended too early"
        assert time.monotonic() < deadline, "the process does nothing"
        time.sleep(0.02)


def under_mpiexec(count, command, **options):
    return subprocess.run(
        [MPIEXEC, "-n", str(count), *command],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
        **options,
    )


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({"PMI_RANK": "3", "PMI_SIZE": "4"}, Place(3, 4, "PMI_SIZE")),
        (
            {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"},
            Place(0, 2, "OMPI_COMM_WORLD_SIZE"),
        ),
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "8"}, Place(1, 8, "SLURM_STEP_NUM_TASKS")),
        # mpiexec inside a Slurm step of one task, and on each of two nodes.
        (
            {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "PMI_RANK": "1", "PMI_SIZE": "2"},
            Place(1, 2, "PMI_SIZE"),
        ),
        (
            {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2", "PMI_RANK": "3", "PMI_SIZE": "4"},
            Place(3, 4, "PMI_SIZE"),
        ),
        ({}, None),
        ({"PMI_RANK": "0", "PMI_SIZE": "1"}, None),
        # A batch script of Slurm without srun.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, None),
        # What torchrun and TensorFlow's launchers leave behind is none of ours.
        (
            {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "node1", "MASTER_PORT": "1", "TF_CONFIG": "{"},
            None,
        ),
    ],
)
def test_what_launchers_say(environment, place):
    assert launched(environment) == place


@pytest.mark.parametrize("rank", ["4", "-1", "one", ""])
def test_what_makes_no_sense_is_refused(rank):
    with pytest.raises(InputError, match="expected PMI_RANK to be a number from 0 to below PMI_SIZE"):
        launched({"PMI_RANK": rank, "PMI_SIZE": "4"})


def test_every_process_of_a_machine_takes_its_own_gpu():
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "2,5"}) == ["2", "5"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "-1"}) == []
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == []
    environment = {"CUDA_VISIBLE_DEVICES": "2,5"}
    assert take_own_gpu(1, environment) == 2
    assert environment["CUDA_VISIBLE_DEVICES"] == "5"
    # Slurm may show each task its own GPU only.
    environment = {"CUDA_VISIBLE_DEVICES": "3"}
    take_own_gpu(1, environment)
    assert environment["CUDA_VISIBLE_DEVICES"] == "3"


def test_a_gpu_for_each_or_an_error():
    with pytest.raises(InputError, match="a GPU for each of 3 workers; received 2"):
        run_locally(3, python("pass"), {"CUDA_VISIBLE_DEVICES": "0,1"})


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_shares_are_disjoint_and_make_the_whole_batch(count):
    processes = Processes()
    rows = []
    for processes.rank in range(count):
        processes.count = count
        rows.append(list(range(8))[processes.rows(8)])
    assert sorted(row for share in rows for row in share) == list(range(8))
    assert max(map(len, rows)) - min(map(len, rows)) <= 1


@pytest.mark.parametrize("count", [2, 5])
def test_all_get_the_same_sum_and_hear_the_chief(count, tmp_path):
    code = f"""
        values = np.random.default_rng(all.rank).normal(size=(7, 3))
        number = all.sum(np.array(1.5))
        assert number.shape == () and number == 1.5 * all.count
        said = all.broadcast(b"from " + bytes([48 + all.rank]) * (all.rank + 1))
        assert said == b"from 0" and all.local_rank == all.rank
        all.require_same(b"x" * 32)
        np.savez(r"{tmp_path}/" + str(all.rank), values=values, sum64=all.sum(values),
                 sum32=all.sum(values.astype(np.float32)))
    """
    done = under_mpiexec(count, python(code))
    assert done.returncode == 0, done.stderr
    parts = [dict(np.load(tmp_path / f"{rank}.npz")) for rank in range(count)]
    expected = sum(part["values"] for part in parts)
    for part in parts:
        assert (part["sum32"].dtype, part["sum64"].dtype) == (np.float32, np.float64)
        np.testing.assert_allclose(part["sum64"], expected, rtol=1e-13, atol=1e-13)
        np.testing.assert_allclose(part["sum32"], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(part["sum32"], parts[0]["sum32"])


def test_processes_of_another_run_are_refused():
    done = under_mpiexec(3, python("all.require_same(bytes([all.rank % 2]) * 32)"))
    assert done.returncode != 0
    assert done.stderr.count("number 1 was started with another configuration") >= 3


@pytest.mark.parametrize("leaver", [0, 1])
def test_one_that_fails_says_why_and_ends_the_others(leaver):
    code = f"""
        all.sum(np.ones(3))
        if all.rank == {leaver}:
            raise InputError("the disk is full")
        while True:
            all.sum(np.ones(3))
    """
    started = time.monotonic()
    done = under_mpiexec(3, python(code))
    assert done.returncode == 2
    assert "InputError: the disk is full" in done.stderr
    assert time.monotonic() - started < 30


def test_where_all_fail_the_chief_has_time_to_write_down_why(tmp_path):
    code = f"""
        loss = all.sum(np.array(np.nan))
        if all.is_chief:
            time.sleep(0.5)
            open(r"{tmp_path}/diverged", "w").close()
        raise InputError(f"the loss is {{loss}}")
    """
    done = under_mpiexec(2, python(code))
    assert done.returncode == 1
    assert done.stderr.count("InputError: the loss is nan") == 2
    assert "MPI_Abort" not in done.stderr
    assert (tmp_path / "diverged").exists()


def test_one_that_hangs_is_given_up():
    code = """
        all._patience_s = 0.5
        if all.rank == 1:
            time.sleep(60)
        all.sum(np.ones(3))
    """
    started = time.monotonic()
    done = under_mpiexec(2, python(code))
    assert done.returncode == 2
    assert "ProcessLostError: process 0 of 2 has waited" in done.stderr
    assert "--resume" in done.stderr
    assert time.monotonic() - started < 30


def test_one_that_is_killed_is_an_error_with_the_way_on(capsys):
    code = "all.rank == 1 and os.kill(os.getpid(), 9)\nall.sum(np.ones(3))"
    with pytest.raises(ProcessLostError, match=r"one of 2 workers was lost(.|\n)*--resume"):
        run_locally(2, python(code), ENVIRONMENT)
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_several_workers_print_one_error(tmp_path):
    done = run([*command(tmp_path / "nowhere.zarr", tmp_path / "run"), "--workers", "2"])
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["file"].endswith("nowhere.zarr")
    assert not (tmp_path / "run").exists()


def test_no_process_is_without_a_crop():
    processes = Processes()
    processes.count = 2
    model = build_model(config("training.batch_size=1"))
    with pytest.raises(InputError, match="expected a crop for each of 2 processes"):
        compile_trunk(model, None, processes)


def test_ctrl_c_reaches_every_process(tmp_path):
    # Where this test runs in the background of a plain shell, all that it starts would ignore SIGINT.
    code = f"""
        import signal
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            open(r"{tmp_path}/up" + str(all.rank), "w").close()
            time.sleep(600)
        except KeyboardInterrupt:
            open(r"{tmp_path}/down" + str(all.rank), "w").close()
            sys.exit(130)
    """
    launcher = f"""
        import os, signal, sys
        from reion.training.processes import run_locally
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.exit(run_locally(2, {python(code)!r}, os.environ))
    """
    line = [sys.executable, "-c", textwrap.dedent(launcher)]
    process = subprocess.Popen(line, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: len(list(tmp_path.glob("up*"))) == 2, process)
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_S) == 130
    assert len(list(tmp_path.glob("down*"))) == 2


TINY = [
    *TINY_NETWORK,
    "training.batch_size=5",
    # Gradients are longer than this, so that clipping matters.
    "training.clip_norm=0.05",
]


def config(*settings):
    return load_config(settings=[*TINY, *settings])


def command(sim, out, *settings):
    line = [sys.executable, "-m", "reion", "train", str(sim), "--out", str(out), "--json"]
    for setting in (*TINY, *settings):
        line += ["--set", setting]
    return line


def history(folder):
    with (folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    return np.array([[float(row[name]) for name in ("step", "loss", "validation_r2")] for row in rows])


@pytest.fixture(scope="module")
def store(tmp_path_factory, toy):
    path = tmp_path_factory.mktemp("data") / "sim.zarr"
    write_simulation(toy(), path)
    return path


def run(line, **variables):
    environment = {**ENVIRONMENT, **variables}
    return subprocess.run(
        line, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )


def test_a_launcher_of_another_mpi_is_found_out(store, tmp_path):
    done = run(command(store, tmp_path / "run"), OMPI_COMM_WORLD_RANK="0", OMPI_COMM_WORLD_SIZE="2")
    assert done.returncode == 2
    error = json.loads(done.stdout)["error"]
    assert error["message"] == "expected 2 processes, as OMPI_COMM_WORLD_SIZE=2 says; MPI sees 1"
    assert "process 0 of 2 joins the others over MPI (OMPI_COMM_WORLD_SIZE=2)" in done.stderr


def test_a_launcher_without_mpi4py_is_an_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    monkeypatch.delitem(sys.modules, "mpi4py.MPI", raising=False)
    with pytest.raises(InputError, match=r"PMI_SIZE=2 says that a launcher(.|\n)*reion\[mpi\]"):
        Processes.join(Place(0, 2, "PMI_SIZE"))


@pytest.mark.slow
def test_one_process_needs_no_mpi_and_waits_for_nobody(store, tmp_path, monkeypatch, request):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    monkeypatch.delitem(sys.modules, "mpi4py.MPI", raising=False)
    left_behind = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in left_behind.items():
        monkeypatch.setenv(name, value)
    in_this_process = request.getfixturevalue("command")
    code, printed, said = in_this_process(*command(store, tmp_path / "run", "training.steps=2")[3:])
    assert code == 0, said
    assert json.loads(printed)["steps"] == 2


@pytest.mark.slow
def test_two_processes_train_what_one_does_and_one_goes_on_where_two_stopped(store, tmp_path):
    steps = ("training.steps=12", "training.round_steps=4")
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    sim = open_simulation(store)
    train([sim], alone, config(*steps))
    done = run([*command(store, shared, *steps), "--workers", "2"])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 12
    np.testing.assert_allclose(history(shared), history(alone), rtol=1e-5)
    networks = [load_run(folder).network.get_weights() for folder in (shared, alone)]
    for theirs, ours in zip(*networks, strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-6)

    # Back to step 8, then on with one.
    for path in (shared / "metrics.json", shared / "model.keras"):
        path.unlink()
    (shared / "checkpoints" / "step-000000012").rename(shared / "checkpoints" / "was-12")
    train([sim], shared, config(*steps), resume=True)
    np.testing.assert_allclose(history(shared), history(alone), rtol=1e-5)


@pytest.mark.slow
def test_when_the_chief_is_killed_the_other_ends(store, tmp_path):
    folder = tmp_path / "run"
    line = command(store, folder, "training.steps=3000", "training.round_steps=5")
    # Each process writes down its process id, so that it can be killed from here.
    note = f"import os\nopen(r'{tmp_path}/pid' + os.environ['PMI_RANK'], 'w').write(str(os.getpid()))\n"
    note += "import runpy\nrunpy.run_module('reion', run_name='__main__')"
    both = subprocess.Popen(
        [MPIEXEC, "-n", "2", sys.executable, "-c", note, *line[3:]],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: list((folder / "checkpoints").glob("step-*")), both)
    pids = [int((tmp_path / f"pid{rank}").read_text()) for rank in range(2)]
    os.kill(pids[0], signal.SIGKILL)
    killed = time.monotonic()
    said = "".join(both.communicate(timeout=PATIENCE_S))
    assert both.returncode != 0
    assert time.monotonic() - killed < 150  # and not the 300 s that an exchange waits
    assert str(pids[0]) in said
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert load_newest(folder / "checkpoints").step >= 5
