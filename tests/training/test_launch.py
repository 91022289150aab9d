"""Where a worker stands, by what launchers set; several workers on one machine."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from reion.errors import InputError
from reion.training.launch import (
    Place,
    first_host,
    place_from_environment,
    run_local_workers,
    take_own_gpu,
    visible_gpus,
)

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
SLURM = {
    "SLURM_JOB_ID": "12345",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_NTASKS": "8",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "gpu[03-05,09],login1",
}
CLUSTER = {"worker": ["node1:1234", "node1:1235", "node2:1234"]}


def tf_config(kind, index, cluster=CLUSTER):
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})}


def test_torchrun_and_its_like():
    expected = Place(rank=3, count=4, local_rank=1, host="node1", port=29500)
    assert place_from_environment(TORCHRUN) == expected
    # torchrun itself listens on MASTER_PORT.
    own_store = {**TORCHRUN, "TORCHELASTIC_USE_AGENT_STORE": "True"}
    assert place_from_environment(own_store).port == 29501


def test_tf_config():
    assert place_from_environment(tf_config("worker", 2)) == Place(
        rank=2, count=3, local_rank=0, host="node1", port=1234
    )
    assert place_from_environment(tf_config("worker", 1)).local_rank == 1
    with_chief = {"chief": ["node0:99"], **CLUSTER}
    assert place_from_environment(tf_config("chief", 0, with_chief)).rank == 0
    second = place_from_environment(tf_config("worker", 0, with_chief))
    assert (second.rank, second.count, second.host, second.port) == (1, 4, "node0", 99)


def test_slurm():
    place = place_from_environment(SLURM)
    assert (place.rank, place.count, place.local_rank, place.host) == (2, 4, 0, "gpu03")
    assert 1024 < place.port < 32768
    assert place_from_environment({**SLURM, "SLURM_JOB_ID": "12346"}).port != place.port
    elsewhere = place_from_environment({**SLURM, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "4000"})
    assert (elsewhere.host, elsewhere.port) == ("10.0.0.1", 4000)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {**TORCHRUN, "RANK": "0", "WORLD_SIZE": "1"},
        {**SLURM, "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"},
        {name: value for name, value in SLURM.items() if "STEP" not in name},  # a batch script without srun
        tf_config("worker", 0, {"worker": ["node1:1234"]}),
        {"TF_CONFIG": ""},
    ],
)
def test_one_process_has_no_place(environment):
    assert place_from_environment(environment) is None


@pytest.mark.parametrize(
    "environment",
    [
        {**TORCHRUN, "RANK": "4"},
        {**TORCHRUN, "RANK": "one"},
        {"RANK": "0", "WORLD_SIZE": "2"},
        {**SLURM, "SLURM_JOB_ID": ""},
        {"TF_CONFIG": "{"},
        {"TF_CONFIG": "[]"},
        tf_config("worker", 7),
        tf_config("evaluator", 0),
    ],
)
def test_what_makes_no_sense_is_refused(environment):
    with pytest.raises(InputError, match="worker"):
        place_from_environment(environment)


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("node1", "node1"),
        ("node1,node2", "node1"),
        ("gpu[03-05,09]", "gpu03"),
        ("gpu[7,9],x", "gpu7"),
        ("rack1-n[001-100]-ib", "rack1-n001-ib"),
    ],
)
def test_first_host_of_a_slurm_list(nodes, host):
    assert first_host(nodes) == host


def test_every_worker_of_a_machine_takes_its_own_gpu():
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "2,5"}) == ["2", "5"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "-1"}) == []
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == []
    environment = {"CUDA_VISIBLE_DEVICES": "2,5"}
    take_own_gpu(place_from_environment(TORCHRUN), environment)
    assert environment["CUDA_VISIBLE_DEVICES"] == "5"
    # Slurm may show each task its own GPU only.
    environment = {"CUDA_VISIBLE_DEVICES": "3"}
    take_own_gpu(place_from_environment(TORCHRUN), environment)
    assert environment["CUDA_VISIBLE_DEVICES"] == "3"
    # Without a launcher one is enough, and the others stay free.
    environment = {"CUDA_VISIBLE_DEVICES": "2,5"}
    assert take_own_gpu(None, environment) == 2
    assert environment["CUDA_VISIBLE_DEVICES"] == "2"


def script(code):
    return [sys.executable, "-c", "import os, sys, time\nrank = int(os.environ['RANK'])\n" + code]


CPU = {"CUDA_VISIBLE_DEVICES": "-1"}


def test_local_workers_know_their_places(tmp_path):
    code = f"open(r'{tmp_path}/' + str(rank), 'w').write(' '.join([os.environ['WORLD_SIZE'], "
    code += "os.environ['MASTER_ADDR'], os.environ['MASTER_PORT'], os.environ['REION_LAUNCHER_PID']]))"
    assert run_local_workers(3, script(code), CPU) == 0
    texts = [path.read_text() for path in sorted(tmp_path.iterdir())]
    assert len(texts) == 3
    assert len(set(texts)) == 1
    assert texts[0].startswith("3 127.0.0.1 ")


def test_a_gpu_for_each_or_an_error():
    with pytest.raises(InputError, match="a GPU for each of 3 workers; received 2"):
        run_local_workers(3, script("pass"), {"CUDA_VISIBLE_DEVICES": "0,1"})


@pytest.mark.parametrize(
    ("code", "expected"),
    [("sys.exit(2 if rank == 1 else 0)", 2), ("rank == 1 and os.kill(os.getpid(), 9)", 137)],
)
def test_a_failed_local_worker_is_the_exit_code(code, expected, capfd):
    assert run_local_workers(2, script(code), CPU) == expected
    assert ("worker 1 of 2 was ended by SIGKILL" in capfd.readouterr().err) == (expected == 137)


def test_local_workers_that_hang_do_not_outlive_a_failed_one():
    started = time.monotonic()
    assert run_local_workers(2, script("time.sleep(60) if rank else sys.exit(2)"), CPU, grace_s=0.2) == 2
    assert time.monotonic() - started < 30


def test_ctrl_c_reaches_the_workers(tmp_path):
    launcher = f"""
        import sys
        from reion.training.launch import run_local_workers
        code = '''
        import os, time
        try:
            open(r"{tmp_path}/up" + os.environ["RANK"], "w").close()
            time.sleep(60)
        except KeyboardInterrupt:
            open(r"{tmp_path}/down" + os.environ["RANK"], "w").close()
        '''
        import textwrap
        run_local_workers(2, [sys.executable, "-c", textwrap.dedent(code)], {CPU})
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(launcher)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("up*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    process.wait(60)
    assert process.returncode != 0
    assert len(list(tmp_path.glob("down*"))) == 2
