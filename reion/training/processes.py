"""Training over several processes, which MPI connects.

Every process holds the whole network and computes the gradients of its rows of every batch. MPI sums them, so
that all processes take the same step. mpi4py is imported only after a launcher has started several processes.
"""

from __future__ import annotations

import atexit
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from reion.errors import InputError

PATIENCE_S = 300.0
"""Seconds that a process waits for the others in one exchange before it fails."""

_LEAVING_S = 10.0
"""Seconds that a failed process waits for the others to fail too, before it ends them."""

_LONGEST_PAUSE_S = 1e-3

_LAUNCHER_VARIABLES = (
    ("PMI_RANK", "PMI_SIZE"),  # MPICH, Intel MPI, Cray MPICH, srun --mpi=pmi2
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),  # Open MPI
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),  # MVAPICH
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),  # srun; a batch script without srun has no such step
)
"""The variables in which each launcher gives the number of a process and the number of all processes."""

_ONE_MACHINE = {
    # Hydra (MPICH): only this machine, even inside a Slurm job of several machines.
    "HYDRA_LAUNCHER": "fork",
    "HYDRA_RMK": "user",
    # Open MPI 4 and 5: allow more processes than cores, each on any core, and root in a container.
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_hwloc_base_binding_policy": "none",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
}
_RESUME = (
    "the run is whole up to its last checkpoint: start it again with --resume, with any number of workers"
)
_KNOWN_CODES = (0, 1, 2, 130)
"""Exit codes of reion itself: a process that ends with one of them has printed why."""


class ProcessLostError(InputError):
    """Another process of the run was killed or does not answer; the run folder keeps its last checkpoint."""


@dataclass(frozen=True)
class Place:
    """The place of a process, as its launcher gives it.

    `rank` is its number, from 0; `count` the number of all processes; `variable` the environment variable
    that holds the count.
    """

    rank: int
    count: int
    variable: str


_FORWARDING_S = 0.5
"""Seconds for the launcher to read the output of a process from its pipe; an abort loses what is unread."""


class Processes:
    """The processes that train one network together, as one of them sees them.

    Use it as a context. At its end every process waits until all others are done. A process that fails alone
    ends the others (MPI_Abort) as soon as it has printed its error.

    Attributes
    ----------
    rank, count
        Number of this process, from 0, and number of all processes. Process 0 is the chief: it alone reads
        and writes the run folder.
    local_rank
        Number of this process among those on its machine; it selects the GPU of the process.
    failure
        The error that this process raised when another one was lost. It is kept here because backends wrap
        errors that are raised inside a step.
    """

    def __init__(self, communicator: Any = None, *, patience_s: float = PATIENCE_S) -> None:
        self.rank, self.count, self.local_rank = 0, 1, 0
        self.failure: ProcessLostError | None = None
        self._patience_s = patience_s
        self._data = communicator
        if communicator is not None:
            self.rank, self.count = communicator.rank, communicator.size
            shared_memory = import_module("mpi4py.MPI").COMM_TYPE_SHARED
            self.local_rank = communicator.Split_type(shared_memory).rank
            # The barrier at the end has its own communicator: another process may still wait in a sum.
            self._leaving = communicator.Dup()

    @classmethod
    def join(cls, place: Place | None) -> Processes:
        """Join the processes that a launcher has started; without `place`, this process trains alone.

        Raises
        ------
        InputError
            If mpi4py cannot be imported, or belongs to another MPI than the launcher of this process.
        """
        if place is None:
            return cls()
        # MPI waits below for all processes, forever if the variable is a leftover: say so before.
        says = f"{place.variable}={place.count}"
        sys.stderr.write(f"process {place.rank} of {place.count} joins the others over MPI ({says})\n")
        sys.stderr.flush()
        try:
            communicator = import_module("mpi4py.MPI").COMM_WORLD
        except ImportError as error:
            raise InputError(
                f"{says} says that a launcher has started {place.count} processes, and mpi4py cannot be "
                f"imported: {error}",
                hint="pip install 'reion[mpi]'; --workers 1 trains alone",
            ) from error
        if communicator.size != place.count:
            raise InputError(
                f"expected {place.count} processes, as {says} says; MPI sees {communicator.size}",
                hint="mpi4py and the launcher belong to different MPIs: take the mpiexec of mpi4py's MPI, or "
                "srun --mpi=pmix or --mpi=pmi2; --workers 1 trains alone",
            )
        return cls(communicator)

    @property
    def is_chief(self) -> bool:
        """Whether this process keeps the run folder."""
        return self.rank == 0

    def rows(self, batch_size: int) -> slice:
        """The rows of a batch that this process computes."""
        return slice(self.rank, batch_size, self.count)

    def sum(self, values: np.ndarray) -> np.ndarray:
        """The sum of an array over all processes, elementwise, with its shape and dtype.

        Raises
        ------
        ProcessLostError
            If another process does not answer.
        """
        if self.count == 1:
            return values
        values = np.asarray(values, order="C")
        total = np.empty_like(values)
        self._wait(self._data.Iallreduce(values, total), self._patience_s)
        return total

    def broadcast(self, message: bytes, *, patience_s: float | None = None) -> bytes:
        """Return the chief's `message` in every process; the messages of the others are ignored.

        Raises
        ------
        ProcessLostError
            If another process does not answer.
        """
        if self.count == 1:
            return message
        patience_s = self._patience_s if patience_s is None else patience_s
        size = np.array(len(message), dtype=np.int64)
        self._wait(self._data.Ibcast(size), patience_s)
        content = np.frombuffer(message, dtype=np.uint8) if self.is_chief else np.empty(size, dtype=np.uint8)
        self._wait(self._data.Ibcast(content), patience_s)
        return content.tobytes()

    def require_same(self, digest: bytes) -> None:
        """Require that all processes have the same digest of schema, data and version.

        Raises
        ------
        InputError
            If the digest of a process differs from the chief's; every process raises it.
        """
        if self.count == 1:
            return
        mine = np.frombuffer(digest, dtype=np.uint8)
        digests = np.empty((self.count, mine.size), dtype=np.uint8)
        self._wait(self._data.Iallgather(mine, digests), self._patience_s)
        different = [
            str(rank) for rank in range(self.count) if digests[rank].tobytes() != digests[0].tobytes()
        ]
        if different:
            raise InputError(
                f"expected {self.count} processes of one run; number {', '.join(different)} was started with "
                "another configuration, other simulations or another version than number 0",
                hint="start them all with the same command",
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.count == 1:
            return
        try:
            self._meet(math.inf if error is None else _LEAVING_S)
        except (ProcessLostError, KeyboardInterrupt) as still_waiting:
            atexit.register(self._end_all, error or still_waiting)
            if error is None:
                raise
        else:
            if error is not None:
                # A launcher ends all processes when the first one fails: wait until each has printed why.
                atexit.register(self._part)

    def _meet(self, patience_s: float) -> None:
        self._wait(self._leaving.Ibarrier(), patience_s)

    def _part(self) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        with suppress(ProcessLostError, KeyboardInterrupt):
            self._meet(_LEAVING_S)

    def _end_all(self, error: BaseException) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        code = 130 if isinstance(error, KeyboardInterrupt) else 2 if isinstance(error, InputError) else 1
        time.sleep(_FORWARDING_S)
        self._data.Abort(code)

    def _wait(self, request: Any, patience_s: float) -> None:
        """Wait for an exchange in short pauses: MPI's own wait takes a whole core and ignores Ctrl-C."""
        started = time.monotonic()
        while not request.Test():
            waited_s = time.monotonic() - started
            if waited_s > patience_s:
                self.failure = ProcessLostError(
                    f"process {self.rank} of {self.count} has waited {waited_s:.0f} s for the others",
                    hint=_RESUME,
                )
                raise self.failure
            time.sleep(min(_LONGEST_PAUSE_S, 0.05 * waited_s))


def launched(environment: Mapping[str, str]) -> Place | None:
    """The place that a launcher (mpirun, mpiexec, srun) has given this process; None if it is alone.

    Raises
    ------
    InputError
        If a variable of the launcher is not a number in range.
    """
    for rank_variable, count_variable in _LAUNCHER_VARIABLES:
        if rank_variable not in environment or count_variable not in environment:
            continue
        words = environment[rank_variable], environment[count_variable]
        try:
            rank, count = map(int, words)
        except ValueError:
            rank, count = -1, 0
        if not 0 <= rank < count:
            raise InputError(
                f"expected {rank_variable} to be a number from 0 to below {count_variable}; received "
                f"{words[0]!r} and {words[1]!r}",
                hint="unset both, or start with mpirun or srun",
            )
        if count > 1:
            return Place(rank, count, count_variable)
    return None


def take_own_gpu(local_rank: int, environment: MutableMapping[str, str]) -> int:
    """Restrict this process to one of the GPUs that it sees, and return how many it saw.

    Call it before the backend is imported: TensorFlow takes the memory of every GPU that it sees.
    """
    gpus = visible_gpus(environment)
    if len(gpus) > 1:
        environment["CUDA_VISIBLE_DEVICES"] = gpus[local_rank % len(gpus)]
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


def run_locally(count: int, command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run `command` as `count` processes on this machine under mpiexec, and return its exit code.

    The processes share the cores. Their stdout is printed when all have ended. SIGINT, SIGTERM and SIGHUP are
    passed on to mpiexec, which ends all processes.

    Raises
    ------
    InputError
        If mpi4py or mpiexec is missing, or there are GPUs but fewer than `count`.
    ProcessLostError
        If a process was killed.
    """
    gpus = visible_gpus(environment)
    if 0 < len(gpus) < count:
        raise InputError(
            f"expected a GPU for each of {count} workers; received {len(gpus)}",
            hint=f"--workers {len(gpus)} uses them all; CUDA_VISIBLE_DEVICES=-1 trains on the processor",
        )
    if find_spec("mpi4py") is None:  # importing it would start MPI in this process
        raise InputError("--workers needs mpi4py", hint="pip install 'reion[mpi]'")
    mpiexec = _mpiexec(environment)
    threads = str(max(1, (os.cpu_count() or 1) // count))
    shared = dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), threads)
    shared = {**_ONE_MACHINE, **shared, **environment}
    # A session of its own lets Ctrl-C at a terminal reach mpiexec only once, through this process.
    line = [mpiexec, "-n", str(count), *command]
    with subprocess.Popen(line, env=shared, stdout=subprocess.PIPE, start_new_session=True) as running:
        handlers = {
            number: signal.signal(number, lambda received, _: running.send_signal(received))
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        }
        try:
            said, _ = running.communicate()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    code = running.returncode
    # mpiexec reports a lost process on its stdout; ours is for results.
    (sys.stdout if code in _KNOWN_CODES else sys.stderr).write(said.decode(errors="replace"))
    if code not in _KNOWN_CODES:
        raise ProcessLostError(
            f"one of {count} workers was lost, and mpiexec has ended the others (code {code})", hint=_RESUME
        )
    return code


def _mpiexec(environment: Mapping[str, str]) -> str:
    """The mpiexec beside this Python, where wheels of MPICH and Open MPI install it, or else on PATH."""
    beside = Path(sys.executable).parent
    found = shutil.which("mpiexec", path=beside) or shutil.which("mpiexec", path=environment.get("PATH"))
    if found is None:
        raise InputError(
            "--workers needs mpiexec, the launcher of an MPI; there is none on PATH",
            hint="pip install mpich, or load the MPI of your cluster",
        )
    return found
