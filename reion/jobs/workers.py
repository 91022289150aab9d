"""Independent pieces of work, done in this process or by the workers of a Dask cluster.

A command is a list of pieces and a `Job` that does one of them; it is the same list and the same job wherever
it runs. A job names what it reads and writes by path: no field ever passes through the scheduler.
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

Progress = Callable[[int, int], None]
"""Called as work goes on, with how much is done and how much there is: pieces, or cells where they differ."""

_LOOPBACK = "127.0.0.1"
_CONNECT_S = 15
"""How long a scheduler may be away before it counts as lost."""

_FIRST_WORKER_S = 120
"""How long to wait for the first worker, which a queue may start later than the scheduler."""

_STOP_S = 60
"""How long workers may take to come to the end of what they are doing once the rest is called off."""

_JOB_BYTES = 32 << 20
"""A job is larger than this only if it carries fields that no file holds."""

_IN_FLIGHT = 4096
"""Pieces that are handed to the scheduler at a time."""


class ClusterError(InputError):
    """The cluster was lost, or has given up on a piece. What is done is kept."""


class Portable:
    """What can travel to another process.

    What its cached properties hold (a session, an open store, a snapshot) stays behind, and is opened again
    in each process that needs it.
    """

    def __getstate__(self) -> dict[str, Any]:
        kind = type(self)
        return {
            name: value
            for name, value in vars(self).items()
            if not isinstance(getattr(kind, name, None), cached_property)
        }


class Job(Portable, ABC, Generic[Piece, Result]):
    """What is done to every piece. It travels to a worker once."""

    @abstractmethod
    def __call__(self, piece: Piece) -> Result:
        """Do one piece. Done twice, it must leave what it leaves when done once."""


class Workers(Protocol):
    """Who does the pieces."""

    def map(self, job: Job[Piece, Result], pieces: Sequence[Piece]) -> Iterator[tuple[int, Result]]:
        """Do every piece; yield its number and what came of it, in the order in which they are done."""


class ThisProcess:
    """Piece after piece, here; each takes as many threads as it can use."""

    def map(self, job: Job[Piece, Result], pieces: Sequence[Piece]) -> Iterator[tuple[int, Result]]:
        """See `Workers`."""
        for number, piece in enumerate(pieces):
            yield number, job(piece)


class Cluster:
    """The workers of a Dask scheduler.

    Whatever was on a worker that is lost, another one does again. Workers of one machine that may use the
    same cores share them.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    def map(self, job: Job[Piece, Result], pieces: Sequence[Piece]) -> Iterator[tuple[int, Result]]:
        """See `Workers`.

        Raises
        ------
        ClusterError
            If the scheduler is lost, or one piece has cost several workers their life.
        InputError
            If the job carries fields that are in memory, not in files; or as the job does.
        """
        from distributed import as_completed

        if not pieces:
            return
        payload = _packed(job)
        with self._watched():
            shares = self._shares()
            # A task, not scattered data: where the worker that holds it is lost, it is simply made again.
            there = self._client.submit(_unpacked, payload, pure=False)
            if len(pieces) > 1:
                self._carry(there)
            waiting = as_completed()
            numbers: dict[str, int] = {}
            rest = iter(enumerate(pieces))
            try:
                while True:
                    while len(numbers) < _IN_FLIGHT and (following := next(rest, None)) is not None:
                        number, piece = following
                        future = self._client.submit(_do, there, piece, shares, pure=False)
                        numbers[future.key] = number
                        waiting.add(future)
                    if not numbers:
                        return
                    future = next(waiting)
                    yield numbers.pop(future.key), future.result()
                    del future
            finally:
                self._call_off(waiting)

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """Say clearly what became of the cluster."""
        from concurrent.futures import CancelledError as FutureCancelled

        from distributed import CancelledError, KilledWorker
        from distributed.comm import CommClosedError

        try:
            yield
        except KilledWorker as error:
            raise ClusterError(
                f"workers were lost {error.allowed_failures + 1} times over the same piece of work",
                hint="too little memory is the usual cause: fewer workers a machine, or less --memory; "
                "--resume keeps what is done",
            ) from error
        except (CancelledError, FutureCancelled, CommClosedError, OSError, TimeoutError) as error:
            if isinstance(error, OSError) and self._client.status == "running":
                raise
            raise ClusterError(
                f"the scheduler at {self._client.scheduler.address} is gone",
                hint="start one again and give the same command with --resume: what is done is kept",
            ) from error

    def _shares(self) -> dict[tuple[str, frozenset[int]], int]:
        """Threads of all workers that may use the same cores of the same machine."""
        shares: dict[tuple[str, frozenset[int]], int] = {}
        for host, allowed, threads in self._client.run(_place).values():
            shares[host, allowed] = shares.get((host, allowed), 0) + threads
        return shares

    def _carry(self, there: Any) -> None:
        """Bring a job to every worker there is: Dask gives its pieces first to those who have it."""
        from distributed import wait

        workers = self._client.run(_nothing)
        wait(
            [
                self._client.submit(_nothing, there, workers=[worker], allow_other_workers=True, pure=False)
                for worker in workers
            ]
        )

    def _call_off(self, waiting: Any) -> None:
        """Cancel what is not done, and wait for what is being done, which may still write."""
        left = list(waiting.futures)
        waiting.clear()
        if not left or self._client.status != "running":
            return
        self._client.cancel(left)
        deadline = time.monotonic() + _STOP_S
        while time.monotonic() < deadline and any(self._client.run(_busy).values()):
            time.sleep(0.05)


@contextlib.contextmanager
def started(scheduler: str | None, count: int | None) -> Iterator[Workers]:
    """Who does the work: a scheduler's workers, new local ones, or this process.

    Parameters
    ----------
    scheduler
        Address of a Dask scheduler, such as `tcp://10.0.0.5:8786`, or the path of its file.
    count
        So many worker processes on this machine, with a scheduler of their own on loopback.

    Raises
    ------
    InputError
        If both are given, Dask is not there, or no scheduler answers.
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

    # What it says about workers that come and go is nothing a user can act on; what matters is raised.
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
            memory_limit=None,  # bounded by the plan; Dask would pause and kill by a measure of its own
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster, timeout=_CONNECT_S) as client,
    ):
        yield client


@contextlib.contextmanager
def _connection(scheduler: str) -> Iterator[Client]:
    from distributed import Client

    where: dict[str, str] = {"address": scheduler}
    if Path(scheduler).is_file():
        where = {"scheduler_file": scheduler}
    try:
        client = Client(**where, timeout=_CONNECT_S)
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
    """Paths (and patterns) as workers elsewhere find them, who were started in other folders."""
    return [path if scheduler is None else path.expanduser().absolute() for path in paths]


def _packed(job: Job[Any, Any]) -> bytes:
    import cloudpickle

    payload: bytes = cloudpickle.dumps(job)
    if len(payload) > _JOB_BYTES:
        raise InputError(
            f"workers open fields by their path; here they would be sent {len(payload) >> 20} MiB of them",
            hint="write it with reion.storage.store.write_simulation and open it from there",
        )
    return payload


def _unpacked(payload: bytes) -> Job[Any, Any]:
    import pickle

    job: Job[Any, Any] = pickle.loads(payload)
    return job


def _nothing(_: Any = None) -> None:
    pass


def _do(job: Job[Piece, Result], piece: Piece, shares: Mapping[tuple[str, frozenset[int]], int]) -> Result:
    """One piece, on a worker, in as many threads as are its share of the cores."""
    from distributed import get_worker

    host, allowed, threads = _place(get_worker())
    with limited_threads(max(1, len(allowed) // shares.get((host, allowed), threads))):
        return job(piece)


def _place(dask_worker: Any) -> tuple[str, frozenset[int], int]:
    from socket import gethostname

    return gethostname(), cores(), dask_worker.state.nthreads


def _busy(dask_worker: Any) -> int:
    executing: int = dask_worker.state.executing_count
    return executing
