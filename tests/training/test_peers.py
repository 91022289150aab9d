"""Several workers train the network that one would have trained, and none waits for a lost one."""

from __future__ import annotations

import csv
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("keras")
pytest.importorskip("tensorflow")

from reion.config import load_config
from reion.errors import InputError
from reion.readers import open_simulation
from reion.storage.store import write_simulation
from reion.training.launch import Place
from reion.training.peers import WorkerLostError, Workers
from reion.training.run import train
from reion.training.run_folder import load_run
from tests.tiny import TINY_NETWORK

RUN = bytes(32)


def places(count):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return [
        Place(rank=rank, count=count, local_rank=rank, host="127.0.0.1", port=port) for rank in range(count)
    ]


def together(count, work, *, runs=None, patience_s=20.0):
    """Let `count` workers, each in its thread, do `work(workers)`; return results or exceptions."""

    def one(place):
        try:
            with Workers.join(place, (runs or [RUN] * count)[place.rank], patience_s=patience_s) as workers:
                return work(workers)
        except (InputError, KeyboardInterrupt) as error:
            return error

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(one, places(count)))


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_all_get_the_same_sum(count, dtype):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(count, 7, 3)).astype(dtype)
    results = together(count, lambda workers: [workers.sum(values[workers.rank]) for _ in range(3)])
    for result in results:
        for total in result:
            assert total.dtype == dtype
            np.testing.assert_allclose(total, values.sum(axis=0, dtype=np.float64), rtol=1e-6, atol=1e-6)
            np.testing.assert_array_equal(total, results[0][0])


def test_a_number_stays_a_number():
    assert [float(total) for total in together(2, lambda workers: workers.sum(np.array(1.5)))] == [3.0, 3.0]


def test_all_hear_the_chief():
    heard = together(3, lambda workers: workers.broadcast(f"from {workers.rank}".encode()))
    assert heard == [b"from 0"] * 3


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_shares_are_disjoint_and_make_the_whole_batch(count):
    rows = [list(range(8))[Workers(rank, count).rows(8)] for rank in range(count)]
    assert sorted(row for share in rows for row in share) == list(range(8))
    assert max(map(len, rows)) - min(map(len, rows)) <= 1


@pytest.mark.parametrize("leaver", [0, 1, 2])
def test_all_learn_why_one_has_left(leaver):
    def work(workers):
        workers.sum(np.ones(3))
        if workers.rank == leaver:
            raise InputError("the disk is full")
        while True:
            workers.sum(np.ones(3))

    results = together(3, work)
    for rank, error in enumerate(results):
        if rank != leaver:
            assert isinstance(error, WorkerLostError)
            assert f"worker {leaver} of 3 has stopped: the disk is full" in str(error)
            assert "--resume" in str(error)


def test_one_that_vanishes_is_missed_at_once():
    def work(workers):
        if workers.rank == 1:
            for peer in workers._peers:
                peer.connection.close()
            return
        workers.sum(np.ones(3))
        return

    started = time.monotonic()
    chief, _ = together(2, work)
    assert "worker 1 of 2 is gone" in str(chief)
    assert time.monotonic() - started < 10


def test_one_that_hangs_is_given_up():
    release = threading.Event()

    def work(workers):
        if workers.rank == 1:
            release.wait(30)
            return
        try:
            workers.sum(np.ones(3))
        finally:
            release.set()

    chief, _ = together(2, work, patience_s=0.5)
    assert isinstance(chief, WorkerLostError)
    assert "worker 1 of 2 has not answered for 0 s" in str(chief)


def test_one_that_is_out_of_step_is_found_out():
    chief, _ = together(2, lambda workers: workers.sum(np.ones(3 + workers.rank)))
    assert "out of step" in str(chief)


def test_workers_of_another_run_are_refused():
    for error in together(2, lambda workers: None, runs=[RUN, b"x" * 32]):
        assert isinstance(error, InputError)
        assert "another configuration" in str(error)


def test_a_worker_that_never_comes_is_named():
    chief, *_ = places(3)
    with pytest.raises(InputError, match=r"expected 3 workers at 127.*no worker 1, 2"):
        Workers.join(chief, RUN, patience_s=0.3)


def test_a_chief_that_never_comes_is_named():
    with pytest.raises(InputError, match="worker 1 of 2 has not found the chief"):
        Workers.join(places(2)[1], RUN, patience_s=0.3)


def test_strangers_at_the_door_are_ignored():
    chief, worker = places(2)

    def intrude():
        for greeting in (b"", b"GET / HTTP/1.1\r\n\r\n" + bytes(99), b"reion-1\n" + b"\xff" * 36):
            while True:
                try:
                    with socket.create_connection((chief.host, chief.port), timeout=5) as connection:
                        connection.sendall(greeting)
                    break
                except ConnectionRefusedError:
                    time.sleep(0.01)
        with Workers.join(worker, RUN, patience_s=20) as workers:
            workers.sum(np.ones(1))

    thread = threading.Thread(target=intrude)
    thread.start()
    with Workers.join(chief, RUN, patience_s=20) as workers:
        assert workers.sum(np.ones(1)) == 2
    thread.join()


TINY = [
    *TINY_NETWORK,
    "training.batch_size=5",
    # Gradients are longer than this, so that clipping matters.
    "training.clip_norm=0.05",
]


def config(*settings):
    return load_config(settings=[*TINY, *settings])


def command(sim, out, *settings):
    line = [sys.executable, "-m", "reion", "train", str(sim), "--out", str(out)]
    for setting in (*TINY, *settings):
        line += ["--set", setting]
    return line


def history(folder):
    with (folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    return np.array([[float(row[name]) for name in ("step", "loss", "validation_r2")] for row in rows])


ENVIRONMENT = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}


@pytest.fixture(scope="module")
def store(tmp_path_factory, toy):
    path = tmp_path_factory.mktemp("data") / "sim.zarr"
    write_simulation(toy(), path)
    return path


@pytest.mark.slow
def test_two_workers_train_what_one_does_and_one_goes_on_where_two_stopped(store, tmp_path):
    steps = ("training.steps=12", "training.round_steps=4")
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    sim = open_simulation(store)
    train([sim], alone, config(*steps))
    line = [*command(store, shared, *steps), "--workers", "2"]
    done = subprocess.run(line, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
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
@pytest.mark.parametrize("lost", [0, 1])
def test_when_a_worker_is_killed_the_other_stops_and_says_so(store, tmp_path, lost):
    steps = ("training.steps=2000", "training.round_steps=5")
    run = tmp_path / "run"
    workers = []
    for place in places(2):
        environment = {
            **ENVIRONMENT,
            "RANK": str(place.rank),
            "WORLD_SIZE": "2",
            "MASTER_ADDR": place.host,
            "MASTER_PORT": str(place.port),
        }
        workers.append(
            subprocess.Popen(command(store, run, *steps), env=environment, stderr=subprocess.PIPE, text=True)
        )
    deadline = time.monotonic() + 120
    while not list((run / "checkpoints").glob("step-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    workers[lost].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    _, said = workers[1 - lost].communicate(timeout=60)
    assert workers[1 - lost].returncode == 2
    assert time.monotonic() - killed < 30
    workers[lost].communicate()
    assert f"worker {lost} of 2 is gone" in said
    assert "--resume" in said
    assert "Traceback" not in said
    assert history(run)[-1, 0] >= 5
