"""Independent pieces of work, done in this process or by the workers of a Dask cluster.

A command is a list of pieces and a `Job`, which does one piece wherever it runs. A job holds the paths of the
files that it reads and writes, so that no field passes through the scheduler.
"""

from __future__ import annotations

import contextlib
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from reion.errors import InputError
from reion.jobs.resources import cores, limited_threads

if TYPE_CHECKING:
    from distributed import Client

Piece = TypeVar("Piece")
Result = TypeVar("Result")

Cores = tuple[str, frozenset[int]]
"""Some cores of a machine: its name, and their numbers."""

Progress = Callable[[int, int], None]
"""Called while work goes on with the numbers of pieces done and of all pieces (cells where pieces differ)."""

_LOOPBACK = "127.0.0.1"
_CONNECT_S = 15
"""Seconds that a scheduler may take to answer before it counts as lost."""

_FIRST_WORKER_S = 120
"""Seconds to wait for the first worker, which a queue may start later than the scheduler."""

_NO_WORKER_S = 300
"""Seconds without a single worker after which pieces that wait for one count as lost."""

_STOP_S = 60
"""Seconds that workers may take to finish the pieces they have begun when all others are cancelled."""

_JOB_BYTES = 32 << 20
"""Largest pickled job. A larger one carries fields that are not in files."""

_IN_FLIGHT = 4096
"""Largest number of pieces that the scheduler is given at a time."""


class ClusterError(InputError):
    """The scheduler was lost, or several workers were lost over one piece."""


class Portable:
    """An object that can be pickled for another process.

    The pickle leaves out cached properties (a session, an open store, a snapshot); each process that needs
    them computes them again.
    """

    def __getstate__(self) -> dict[str, Any]:
        kind = type(self)
        return {
            name: value
            for name, value in vars(self).items()
            if not isinstance(getattr(kind, name, None), cached_property)
        }


class Job(Portable, ABC, Generic[Piece, Result]):
    """Does any piece of a command. Each worker gets it once."""

    @abstractmethod
    def __call__(self, piece: Piece) -> Result:
        """Do one piece. Repeating it must change nothing, because a piece of a lost worker is done again."""


class Workers(Protocol):
    """Does the pieces of a command: this process, or the workers of a cluster."""

    def map(self, job: Job[Piece, Result], pieces: Sequence[Piece]) -> Iterator[tuple[int, Result]]:
        """Do every piece; yield the number and the result of each as soon as it is done."""


class ThisProcess:
    """Does the pieces in this process one after another; each takes as many threads as it can use."""

    def map(self, job: Job[Piece, Result], pieces: Sequence[Piece]) -> Iterator[tuple[int, Result]]:
        """See `Workers`."""
        for number, piece in enumerate(pieces):
            yield number, job(piece)


def in_order(
    workers: Workers | None,
    job: Job[Piece, Result],
    pieces: Sequence[Piece],
    progress: Progress | None = None,
) -> list[Result]:
    """The results of all pieces in the order of the pieces, not in the order in which they are done.

    A sum over the results therefore rounds the same way with any number of workers.

    Parameters
    ----------
    workers
        Who does the pieces; this process if None.
    progress
        Called after every piece with the numbers of pieces done and of all pieces.
    """
    found: dict[int, Result] = {}
    for number, result in (workers or ThisProcess()).map(job, pieces):
        found[number] = result
        if progress is not None:
            progress(len(found), len(pieces))
    return [found[number] for number in range(len(pieces))]


class Cluster:
    """Does pieces on the workers of a Dask scheduler.

    Another worker does the pieces of a lost one again. Workers that may use the same cores of a machine share
    these cores.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    def map(self, job: Job[Piece, Result], pieces: Sequence[Piece]) -> Iterator[tuple[int, Result]]:
        """See `Workers`.

        Raises
        ------
        ClusterError
            If the scheduler is lost, several workers are lost over one piece, or all workers are lost and
            none comes back.
        InputError
            If the job carries fields in memory instead of in files; or as the job does.
        """
        from distributed import as_completed

        if not pieces:
            return
        payload = _pickled(job)
        with self._cluster_errors():
            threads_by_cores = self._threads_by_cores()
            # A task, not scattered data: if the worker that holds the job is lost, Dask makes it again.
            job_on_worker = self._client.submit(_unpickled, payload, pure=False)
            if len(pieces) > 1:
                self._send_to_every_worker(job_on_worker)
            submitted = as_completed()
            number_of: dict[str, int] = {}
            remaining = iter(enumerate(pieces))
            try:
                while True:
                    while len(number_of) < _IN_FLIGHT and (item := next(remaining, None)) is not None:
                        number, piece = item
                        future = self._client.submit(_do, job_on_worker, piece, threads_by_cores, pure=False)
                        number_of[future.key] = number
                        submitted.add(future)
                    if not number_of:
                        return
                    future = self._next(submitted)
                    yield number_of.pop(future.key), future.result()
                    del future
            finally:
                self._call_off(submitted)

    def _next(self, submitted: Any) -> Any:
        """Wait for the next piece that is done, as long as there are workers or may come again."""
        last_seen = time.monotonic()
        while not submitted.has_ready():
            with submitted.thread_condition:
                submitted.thread_condition.wait(timeout=1)
            now = time.monotonic()
            if self._client.status != "running" or self._client.scheduler_info()["workers"]:
                last_seen = now
            elif now - last_seen > _NO_WORKER_S:
                address = self._client.scheduler.address
                raise ClusterError(
                    f"the scheduler at {address} has had no worker for {_NO_WORKER_S} s",
                    hint="start workers again and give the same command",
                )
        return next(submitted)

    @contextlib.contextmanager
    def _cluster_errors(self) -> Iterator[None]:
        """Raise a `ClusterError` in place of what Dask raises when the scheduler or workers are lost."""
        from concurrent.futures import CancelledError as FutureCancelled

        from distributed import CancelledError, KilledWorker
        from distributed.comm import CommClosedError

        try:
            yield
        except KilledWorker as error:
            raise ClusterError(
                f"workers were lost {error.allowed_failures + 1} times over the same piece of work",
                hint="too little memory is the usual cause: fewer workers a machine, or less --memory",
            ) from error
        except (CancelledError, FutureCancelled, CommClosedError, OSError, TimeoutError) as error:
            if isinstance(error, OSError) and self._client.status == "running":
                raise
            raise ClusterError(
                f"the scheduler at {self._client.scheduler.address} is gone",
                hint="start one again and give the same command",
            ) from error

    def _threads_by_cores(self) -> dict[Cores, int]:
        """Number of threads of the workers that share cores, for each set of cores of a machine."""
        threads_by_cores: dict[Cores, int] = {}
        for allowed, threads in self._client.run(_cores_and_threads).values():
            threads_by_cores[allowed] = threads_by_cores.get(allowed, 0) + threads
        return threads_by_cores

    def _send_to_every_worker(self, job_on_worker: Any) -> None:
        """Send a job to all workers, because Dask gives the pieces first to workers that have the job."""
        from distributed import wait

        workers = self._client.run(_nothing)
        wait(
            [
                self._client.submit(
                    _nothing, job_on_worker, workers=[worker], allow_other_workers=True, pure=False
                )
                for worker in workers
            ]
        )

    def _call_off(self, submitted: Any) -> None:
        """Cancel the pieces that are not begun, and wait for the others, which may still write."""
        futures = list(submitted.futures)
        submitted.clear()
        if not futures or self._client.status != "running":
            return
        self._client.cancel(futures)
        deadline = time.monotonic() + _STOP_S
        while time.monotonic() < deadline and any(self._client.run(_busy).values()):
            time.sleep(0.05)


@contextlib.contextmanager
def started(scheduler: str | None, count: int | None) -> Iterator[Workers]:
    """Yield the workers of a command: those of a scheduler, new ones on this machine, or this process.

    Parameters
    ----------
    scheduler
        Address of a Dask scheduler, such as `tcp://10.0.0.5:8786`, or the path of its file.
    count
        Number of worker processes to start on this machine, with their own scheduler on the loopback address.

    Raises
    ------
    InputError
        If both are given, Dask is not installed, or no scheduler answers.
    """
    if scheduler is None and count is None:
        yield ThisProcess()
        return
    if scheduler is not None and count is not None:
        raise InputError(
            "expected --scheduler or --workers; received both",
            hint="a scheduler has the workers that were started for it",
        )
    if find_spec("distributed") is None:
        raise InputError("work on several processes needs Dask", hint="pip install 'reion[cluster]'")
    import distributed  # noqa: F401 (sets the levels that are set below)

    # Dask logs workers that come and go, which no user can change; real failures are raised.
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with _local_scheduler(count) if scheduler is None else _connection(scheduler) as client:
        if find_spec("bokeh") is not None and client.dashboard_link:
            from reion.terminal import say

            say(f"dashboard {client.dashboard_link}")
        yield Cluster(client)


@contextlib.contextmanager
def _local_scheduler(count: int | None) -> Iterator[Client]:
    from distributed import Client, LocalCluster

    if not count or count < 1:
        raise InputError(f"expected at least one worker; received {count}")
    with (
        LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            host=_LOOPBACK,
            dashboard_address=f"{_LOOPBACK}:0",
            memory_limit=None,  # the plan bounds memory; Dask would pause and kill by its own measure
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster, timeout=_CONNECT_S) as client,
    ):
        yield client


@contextlib.contextmanager
def _connection(scheduler: str) -> Iterator[Client]:
    from distributed import Client

    address = {"scheduler_file" if Path(scheduler).is_file() else "address": scheduler}
    try:
        client = Client(**address, timeout=_CONNECT_S)
    except (OSError, ValueError, TimeoutError) as error:
        raise InputError(
            f"expected a Dask scheduler at {scheduler}; none answered: {error}",
            hint="`dask scheduler` starts one and prints its address",
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=_FIRST_WORKER_S)
        except TimeoutError as error:
            raise InputError(
                f"the scheduler at {scheduler} has had no worker for {_FIRST_WORKER_S} s",
                hint=f"`dask worker {scheduler} --nthreads 1` starts one",
            ) from error
        yield client


def reachable(paths: Sequence[Path], scheduler: str | None) -> list[Path]:
    """The paths and patterns, made absolute if the workers of a scheduler, in other folders, read them."""
    return [path if scheduler is None else path.expanduser().absolute() for path in paths]


def _pickled(job: Job[Any, Any]) -> bytes:
    import cloudpickle

    payload: bytes = cloudpickle.dumps(job)
    if len(payload) > _JOB_BYTES:
        raise InputError(
            f"workers open fields by their path; these, {len(payload) >> 20} MiB, are in no file",
            hint="write them with reion.storage.store.write_simulation and open the simulation from there",
        )
    return payload


def _unpickled(payload: bytes) -> Job[Any, Any]:
    import pickle

    job: Job[Any, Any] = pickle.loads(payload)
    return job


def _nothing(_: Any = None) -> None:
    pass


def _do(job: Job[Piece, Result], piece: Piece, threads_by_cores: Mapping[Cores, int]) -> Result:
    """Do a piece on a worker with its share of the cores that it may use together with other workers."""
    from distributed import get_worker

    allowed, threads = _cores_and_threads(get_worker())
    with limited_threads(max(1, len(allowed[1]) // threads_by_cores.get(allowed, threads))):
        return job(piece)


def _cores_and_threads(dask_worker: Any) -> tuple[Cores, int]:
    """The cores that a worker may use, and the number of its threads."""
    from socket import gethostname

    return (gethostname(), cores()), dask_worker.state.nthreads


def _busy(dask_worker: Any) -> int:
    """Number of pieces that a worker is doing."""
    executing: int = dask_worker.state.executing_count
    return executing
