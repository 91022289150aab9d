"""Workers of a Dask cluster compared with this process alone: one box, predicted from store to store."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from reion.bench.harness import Ratio, Result, interleaved
from reion.bench.predict import example_box
from reion.jobs.resources import cores
from reion.jobs.workers import Workers, started
from reion.prediction.emulator import Emulator
from reion.prediction.predict import predict
from reion.storage.store import write_simulation

MODEL = "rt64-history"
CELLS = 64
REDSHIFTS = (10.0, 9.0, 8.0, 7.0)
"""Redshifts of the snapshots, each so small that it is one tile."""

ROUNDS = 3


def measure(say: Callable[[str], None]) -> Iterator[Result]:
    """Measure prediction with a shipped model, and separately the start of the cluster."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = write_simulation(example_box(CELLS, REDSHIFTS), folder / "sim.zarr")
        numbers = itertools.count()

        def run(workers: Workers | None, threads: int | None = None) -> None:
            emulator = Emulator(MODEL, device="cpu", threads=threads)
            out = folder / f"xi{next(numbers)}.zarr"
            predict(emulator, source, out, device="cpu", workers=workers)

        for count, target in ((1, 1 / 1.15), (2, 1 / 1.1)):
            say(f"cluster: {len(REDSHIFTS)} x {CELLS}^3 cells by {count} local workers, and in this process")
            begin = time.perf_counter()
            with started(None, count) as team:
                start = time.perf_counter() - begin
                run(team)  # opens the model on every worker
                compared = interleaved(
                    lambda team=team: run(team),  # type: ignore[misc]
                    lambda: run(None, threads=len(cores())),
                    rounds=ROUNDS,
                )
            yield Result(
                name=f"cluster_{count}_workers",
                ratio=compared.ratio,
                against=f"the same in this process, with a thread on each of {len(cores())} cores",
                target=target,
                extra={"seconds": compared.seconds, "start_seconds": start},
            )
        say("cluster: pieces that do nothing")
        yield _empty_pieces()


def _empty_pieces() -> Result:
    """The time that Dask adds to a piece of work, compared with 10 ms."""
    from reion.jobs.workers import Job

    class Nothing(Job[int, None]):
        def __call__(self, piece: int) -> None:
            pass

    pieces = range(500)
    seconds = []
    with started(None, 1) as team:
        for _ in range(ROUNDS):
            begin = time.perf_counter()
            for _ in team.map(Nothing(), pieces):
                pass
            seconds.append((time.perf_counter() - begin) / len(pieces))
    return Result(
        name="cluster_empty_piece",
        ratio=Ratio.of(0.01 / second for second in seconds),
        against="10 ms a piece",
        target=1.0,
        extra={"seconds": statistics.median(seconds)},
    )
