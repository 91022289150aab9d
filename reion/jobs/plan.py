"""What a command will cost, known before it starts: cells, tiles, bytes, memory, arithmetic and time.

Sizes follow from the shape of the data and the model's card. Speed does not: it is measured by doing some of
the very pieces for a few seconds, or it is given. What each command costs stands in the `cost` module of its
wing.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reion.jobs.workers import Job

if TYPE_CHECKING:
    from rich.table import Table

MEASURE_S = 10.0
"""How long to measure, once what has to be opened is open."""

_AT_LEAST = 5
"""Pieces to measure however long they take: how well they compress depends on the snapshot."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a command will cost.

    Parameters
    ----------
    command
        Its name.
    cells
        To be computed, or looked at: of all snapshots, and of all fields where it is about fields.
    pieces
        Independent pieces of work; no more workers than these are of use.
    tile_cells
        Cells of a tile, where there are tiles.
    bytes_read, bytes_written
        To and from the disk.
    compression
        Bytes on disk over bytes of the values, of what is written; 1 where there are no values to try.
    peak_memory_bytes
        Of one process.
    flops
        Floating-point operations of the convolutions; None where `onnx` is not there to count them.
    rate
        Cells a second of one machine like this one; None if it was neither measured nor given.
    rate_from
        Where the rate is from.
    machines
        How many work.
    bandwidth
        Bytes a second that all machines together get from the disk, if given.
    """

    command: str
    cells: int
    pieces: int
    tile_cells: Sequence[int] | None = None
    bytes_read: int
    bytes_written: int
    compression: float = 1.0
    peak_memory_bytes: int
    flops: int | None = None
    rate: float | None = None
    rate_from: str = "not measured"
    machines: int = 1
    bandwidth: float | None = None

    @property
    def seconds(self) -> float | None:
        """How long it takes: the longer of computing and of moving bytes."""
        times = []
        if self.rate:
            times.append(self.cells / self.rate / min(self.machines, self.pieces))
        if self.bandwidth:
            times.append((self.bytes_read + self.bytes_written) / self.bandwidth)
        return max(times, default=None)

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {**dataclasses.asdict(self), "seconds": self.seconds}


@dataclass(frozen=True, kw_only=True)
class Terms:
    """On what terms a plan is made.

    Parameters
    ----------
    rate
        Cells a second of one machine; measured if it is not given.
    bandwidth
        Bytes a second from and to the disk.
    machines
        How many machines like this one work.
    measure
        Whether to measure a rate that is not given.
    """

    rate: float | None = None
    bandwidth: float | None = None
    machines: int = 1
    measure: bool = True

    def known(self, sample: Callable[[], Sample]) -> dict[str, Any]:
        """The fields of a plan that these terms decide; `sample` measures."""
        known: dict[str, Any] = {"machines": self.machines, "bandwidth": self.bandwidth}
        if self.rate is not None:
            return {**known, "rate": self.rate, "rate_from": "given"}
        if not self.measure:
            return known
        measured = sample()
        words = f"measured here, {measured.seconds:.1f} s, {measured.cells} cells"
        return {**known, "rate": measured.cells / measured.seconds, "rate_from": words}


TERMS = Terms()
"""Measured here, for this machine alone."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Some of the work, done and measured."""

    cells: int
    seconds: float


def time_is_up(begin: float) -> bool:
    """Whether measuring has taken long enough since `begin` (of `time.perf_counter`)."""
    return time.perf_counter() - begin > MEASURE_S


def for_a_while(job: Job[Any, Any], pieces: Sequence[Any], *, at_least: int = _AT_LEAST) -> tuple[int, float]:
    """Do pieces for some seconds: how many, how long.

    The first one, which opens things, is done twice, unless one is enough and it takes long already.
    """
    begin = time.perf_counter()
    job(pieces[0])
    if at_least == 1 and time_is_up(begin):
        return 1, time.perf_counter() - begin
    begin, done = time.perf_counter(), 0
    for piece in pieces:
        job(piece)
        done += 1
        if done >= at_least and time_is_up(begin):
            break
    return done, time.perf_counter() - begin


def spread(pieces: Sequence[Any]) -> list[Any]:
    """The pieces in an order in which any first few are spread over all of them."""
    count = len(pieces)
    step = next(n for n in range(max(1, round(count * 0.618)), count + 1) if math.gcd(n, count) == 1)
    return [pieces[number * step % count] for number in range(count)]


def bytes_below(paths: Iterable[Path]) -> int:
    """Bytes of files, and of all files in folders."""
    files = [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path])]
    return sum(file.stat().st_size for file in files if file.is_file())


def render(plan: Plan) -> Table:
    """A plan as a table for the terminal."""
    from rich.table import Table

    table = Table(title=f"reion {plan.command}", title_justify="left", show_header=False)
    rows = {
        "cells": f"{plan.cells:.4g}",
        "pieces of work": f"{plan.pieces}"
        + (f", tiles of {' x '.join(map(str, plan.tile_cells))} cells" if plan.tile_cells else ""),
        "read": _in_bytes(plan.bytes_read),
        "written": f"{_in_bytes(plan.bytes_written)} ({plan.compression:.2f} of the values' size)",
        "memory of a process": _in_bytes(plan.peak_memory_bytes),
        "operations": "install reion[train] to count them" if plan.flops is None else f"{plan.flops:.3g}",
        "rate": "not measured" if plan.rate is None else f"{plan.rate:.4g} cells a second ({plan.rate_from})",
        "machines": str(plan.machines),
        "time": "unknown" if plan.seconds is None else _in_time(plan.seconds),
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _in_bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} PB"


def _in_time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
