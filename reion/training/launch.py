"""Where a process stands among the workers of a training run, and how to start several on one machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass

from reion.errors import InputError

_POLL_S = 0.05
_LAUNCHER = "REION_LAUNCHER_PID"
_SLURM_PORTS = range(20000, 32000)


@dataclass(frozen=True, kw_only=True)
class Place:
    """The place of one process among the workers.

    Attributes
    ----------
    rank, count
        Its number, from 0 (the chief), and how many there are.
    local_rank
        Its number on its machine: which of the GPUs that it sees is its own.
    host, port
        Where the chief waits for the others.
    launcher_pid
        The process that started them all on this machine, if one did.
    """

    rank: int
    count: int
    local_rank: int
    host: str
    port: int
    launcher_pid: int | None = None


def place_from_environment(environment: Mapping[str, str]) -> Place | None:
    """The place a launcher has given this process: torchrun and its like, TF_CONFIG, or Slurm's srun.

    None if there is no launcher, or one process only.

    Raises
    ------
    InputError
        If what the launcher has set does not make sense.
    """
    try:
        place = _torchrun(environment) or _tf_config(environment) or _slurm(environment)
    except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise InputError(
            f"the launcher's environment does not say where this worker stands: {error!r}",
            hint="expected RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT; or TF_CONFIG; or Slurm's srun",
        ) from error
    if place is not None and not 0 <= place.rank < place.count:
        raise InputError(f"expected a worker from 0 to {place.count - 1}; received {place.rank}")
    return None if place is None or place.count == 1 else place


def _torchrun(environment: Mapping[str, str]) -> Place | None:
    if "RANK" not in environment or "WORLD_SIZE" not in environment:
        return None
    rank = int(environment["RANK"])
    launcher = environment.get(_LAUNCHER)
    # torchrun's own store listens on MASTER_PORT.
    shift = 1 if environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True" else 0
    return Place(
        rank=rank,
        count=int(environment["WORLD_SIZE"]),
        local_rank=int(environment.get("LOCAL_RANK", rank)),
        host=environment["MASTER_ADDR"],
        port=int(environment["MASTER_PORT"]) + shift,
        launcher_pid=None if launcher is None else int(launcher),
    )


def _tf_config(environment: Mapping[str, str]) -> Place | None:
    if not environment.get("TF_CONFIG"):
        return None
    config = json.loads(environment["TF_CONFIG"])
    cluster = config.get("cluster", {})
    tasks = [(kind, index) for kind in ("chief", "worker") for index in range(len(cluster.get(kind, ())))]
    if len(tasks) < 2:
        return None
    own = (config["task"]["type"], int(config["task"]["index"]))
    addresses = [cluster[kind][index] for kind, index in tasks]
    rank = tasks.index(own)
    host, _, port = addresses[0].rpartition(":")
    here = [address.rpartition(":")[0] == addresses[rank].rpartition(":")[0] for address in addresses]
    return Place(rank=rank, count=len(tasks), local_rank=sum(here[:rank]), host=host, port=int(port))


def _slurm(environment: Mapping[str, str]) -> Place | None:
    # Of a batch script without srun there is one process only, whatever SLURM_NTASKS says.
    if "SLURM_PROCID" not in environment or "SLURM_STEP_NODELIST" not in environment:
        return None
    job = int(environment["SLURM_JOB_ID"])
    return Place(
        rank=int(environment["SLURM_PROCID"]),
        count=int(environment.get("SLURM_STEP_NUM_TASKS") or environment["SLURM_NTASKS"]),
        local_rank=int(environment.get("SLURM_LOCALID", 0)),
        host=environment.get("MASTER_ADDR") or first_host(environment["SLURM_STEP_NODELIST"]),
        port=int(environment.get("MASTER_PORT") or _SLURM_PORTS[job % len(_SLURM_PORTS)]),
    )


def first_host(nodes: str) -> str:
    """The first host of a Slurm list such as ``gpu[03-05,09],login1``."""
    found = re.match(r"([^\[,]+)(?:\[([^\],-]+)[^\]]*\]([^,]*))?", nodes)
    if found is None:
        raise ValueError(f"no host in {nodes!r}")
    return "".join(part or "" for part in found.groups())


def take_own_gpu(place: Place | None, environment: MutableMapping[str, str]) -> int:
    """Show this process one GPU of those it sees, and return how many there were.

    To be called before the backend is imported: TensorFlow takes the memory of all the GPUs it sees.
    """
    gpus = visible_gpus(environment)
    if len(gpus) > 1:
        environment["CUDA_VISIBLE_DEVICES"] = gpus[(place.local_rank if place else 0) % len(gpus)]
    return len(gpus)


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES takes them."""
    listed = environment.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        names = [name.strip() for name in listed.split(",") if name.strip()]
        return names[: names.index("-1")] if "-1" in names else names
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    found = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False)
    return [str(number) for number, line in enumerate(found.stdout.splitlines()) if line.startswith("GPU")]


def run_local_workers(
    count: int, command: Sequence[str], environment: Mapping[str, str], *, grace_s: float = 30.0
) -> int:
    """Run `command` as `count` workers on this machine, one GPU each where there are GPUs, and wait for them.

    If one fails, the others stop by themselves; those that have not after `grace_s` are killed. Only the
    chief's stdout is shown.

    Returns
    -------
    int
        The exit code: 0 if all have succeeded.

    Raises
    ------
    InputError
        If there are GPUs, but fewer than workers.
    """
    gpus = visible_gpus(environment)
    if 0 < len(gpus) < count:
        raise InputError(
            f"expected a GPU for each of {count} workers; received {len(gpus)}",
            hint=f"--workers {len(gpus)} uses them all; CUDA_VISIBLE_DEVICES=-1 trains on the processor",
        )
    cores = os.cpu_count() or 1
    threads = str(max(1, cores // count))
    shared = {
        **environment,
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        _LAUNCHER: str(os.getpid()),
    }
    shared.pop("TORCHELASTIC_USE_AGENT_STORE", None)
    for name in ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        shared.setdefault(name, threads)
    workers: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(count):
            own = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            if gpus:
                own["CUDA_VISIBLE_DEVICES"] = gpus[rank]
            stdout = None if rank == 0 else subprocess.DEVNULL
            workers.append(subprocess.Popen(command, env=own, stdout=stdout))
        return _wait(workers, grace_s)
    except KeyboardInterrupt:
        # A terminal's Ctrl-C has reached them too; a signal to this process alone has not.
        for worker in workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGINT)
        _wait_or_kill(workers, grace_s)
        raise
    finally:
        _wait_or_kill(workers, 0.0)


def _wait(workers: Sequence[subprocess.Popen[bytes]], grace_s: float) -> int:
    while any(worker.poll() is None for worker in workers):
        failed = [worker for worker in workers if worker.poll()]
        if failed:
            _wait_or_kill(workers, grace_s)
            break
        time.sleep(_POLL_S)
    for rank, worker in enumerate(workers):
        if worker.returncode < 0:
            name = signal.Signals(-worker.returncode).name
            sys.stderr.write(f"worker {rank} of {len(workers)} was ended by {name}\n")
    codes = [code if code >= 0 else 128 - code for code in (worker.returncode for worker in workers)]
    return next((code for code in codes if code), 0)


def _wait_or_kill(workers: Sequence[subprocess.Popen[bytes]], grace_s: float) -> None:
    deadline = time.monotonic() + grace_s
    for worker in workers:
        try:
            worker.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
