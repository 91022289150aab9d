"""What a command will cost, known before it starts: cells, tiles, bytes, memory, arithmetic and time.

Sizes follow from the shape of the data and the card of the model. The speed is given, or is measured by doing
some pieces of the work for a few seconds. The `cost` modules of the packages plan each command.
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
"""Seconds that a measurement takes, not counting the opening of files and models."""

_MIN_PIECES = 5
"""Pieces to measure at least, even if they take longer, because compression differs between snapshots."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The result of doing a sample of the work.

    Parameters
    ----------
    cells
        Number of cells that were computed or read.
    seconds
        The time that they took.
    """

    cells: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast the work of a command goes.

    Parameters
    ----------
    rate
        Cells per second of one machine like this one; None if it was neither measured nor given.
    rate_from
        Where the rate comes from: given, measured here, or not measured.
    machines
        Number of machines that share the work.
    bandwidth
        Bytes per second that all machines together read and write on the disk; None if not given.
    """

    rate: float | None = None
    rate_from: str = "not measured"
    machines: int = 1
    bandwidth: float | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a command will cost.

    Parameters
    ----------
    command
        Name of the command.
    cells
        Cells to compute or read, in all snapshots, and in all fields where the command reads each field.
    pieces
        Number of independent pieces of work. More workers than pieces are of no use.
    tile_cells
        Cells of a tile along x, y and z, where there are tiles.
    bytes_read, bytes_written
        Bytes read from the disk and written to it.
    compression
        Bytes on disk divided by bytes of the written values; 1 where there are no values to compress.
    peak_memory_bytes
        Largest memory of one process.
    flops
        Floating-point operations of the convolutions; None where `onnx` is not installed to count them.
    speed
        How fast the work goes.
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
    speed: Speed

    @property
    def seconds(self) -> float | None:
        """The longer of the times to compute and to move bytes; None if neither speed is known."""
        times = []
        if self.speed.rate:
            times.append(self.cells / self.speed.rate / min(self.speed.machines, self.pieces))
        if self.speed.bandwidth:
            times.append((self.bytes_read + self.bytes_written) / self.speed.bandwidth)
        return max(times, default=None)

    def to_json(self) -> dict[str, Any]:
        """The plan for JSON: its fields, the fields of its speed beside them, and `seconds`."""
        values = dataclasses.asdict(self)
        speed = values.pop("speed")
        return {**values, **speed, "seconds": self.seconds}


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a plan assumes about the machines.

    Parameters
    ----------
    rate
        Cells per second of one machine; measured if None.
    bandwidth
        Bytes per second from and to the disk, of all machines together.
    machines
        Number of machines like this one that share the work.
    measure
        Whether to measure a rate that is not given.
    """

    rate: float | None = None
    bandwidth: float | None = None
    machines: int = 1
    measure: bool = True

    def speed(self, measure: Callable[[], Measurement]) -> Speed:
        """The speed under these terms. `measure` does a sample of the work; it is called only if needed."""
        rate, rate_from = self.rate, "given"
        if rate is None and self.measure:
            measured = measure()
            rate = measured.cells / measured.seconds
            rate_from = f"measured here, {measured.seconds:.1f} s, {measured.cells} cells"
        elif rate is None:
            rate_from = "not measured"
        return Speed(rate=rate, rate_from=rate_from, machines=self.machines, bandwidth=self.bandwidth)


TERMS = Terms()
"""The rate is measured here, and this machine works alone."""


def time_is_up(begin: float) -> bool:
    """Whether measuring has taken long enough since `begin` (of `time.perf_counter`)."""
    return time.perf_counter() - begin > MEASURE_S


def time_pieces(
    job: Job[Any, Any], pieces: Sequence[Any], *, at_least: int = _MIN_PIECES
) -> tuple[int, float]:
    """Do pieces until the time is up; return the number of pieces done and the seconds they took.

    The first piece is done once before the clock starts, because it opens files and models. Where one piece
    is enough and this first time was already long, it counts.
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


def spread_evenly(pieces: Sequence[Any]) -> list[Any]:
    """The pieces in an order in which the first few, however many, are spread over all of them."""
    count = len(pieces)
    step = next(n for n in range(max(1, round(count * 0.618)), count + 1) if math.gcd(n, count) == 1)
    return [pieces[number * step % count] for number in range(count)]


def bytes_below(paths: Iterable[Path]) -> int:
    """Total size of files in bytes; a folder counts with all files below it."""
    files = [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path])]
    return sum(file.stat().st_size for file in files if file.is_file())


def render(plan: Plan) -> Table:
    """A plan as a table for the terminal."""
    from rich.table import Table

    speed = plan.speed
    table = Table(title=f"reion {plan.command}", title_justify="left", show_header=False)
    rows = {
        "cells": f"{plan.cells:.4g}",
        "pieces of work": f"{plan.pieces}"
        + (f", tiles of {' x '.join(map(str, plan.tile_cells))} cells" if plan.tile_cells else ""),
        "read": _in_bytes(plan.bytes_read),
        "written": f"{_in_bytes(plan.bytes_written)} ({plan.compression:.2f} of the values' size)",
        "memory of a process": _in_bytes(plan.peak_memory_bytes),
        "operations": "install reion[train] to count them" if plan.flops is None else f"{plan.flops:.3g}",
        "rate": speed.rate_from
        if speed.rate is None
        else f"{speed.rate:.4g} cells a second ({speed.rate_from})",
        "machines": str(speed.machines),
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


def few_of(count: int) -> list[int]:
    """Numbers of the first, the middle and the last of `count` snapshots."""
    return sorted({0, count // 2, count - 1})
