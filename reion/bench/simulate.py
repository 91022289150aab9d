"""Ray tracing: nanoseconds per source and cell, the limits of memory and arithmetic, and two threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from reion.bench.harness import Ratio, Result, interleaved
from reion_kernels import Rays, black_body_table, ionise, trace_rays

CELLS = 64
RADIUS_CELLS = 15.0
SOURCES = 512
"""Number of sources, a multiple of the 16 that are traced together."""
ROUNDS = 9
TARGET_NS = 40.0

CELL_CM = 2.0 * 3.0857e24 / 9.0
"""Proper side in cm of a cell of two comoving Mpc at z = 8."""
NEUTRAL = 600.0
"""Optical depth of a neutral cell of that size at mean density."""

BYTES = 31.0
"""Bytes that are moved from memory or the last cache for each source and cell: 4 of optical depth, 8 of the
source's rate, written and read, 16 of the rate of the mesh, read and written, and a sixteenth of the 53 of
the geometry, which sixteen sources share. Another 70 bytes, columns and indices, stay in the first caches."""
OPERATIONS = 66.0
"""Arithmetic operations for each source and cell: 19 to interpolate, 7 to pass on the column, 33 to read the
table twice and subtract, and 7 to add up; the first three include one division each."""


def measure(say: Callable[[str], None]) -> Iterator[Result]:
    """Measure in half-ionised gas; `say` gets a line before each step."""
    table = black_body_table()
    say(f"simulate: rays of {SOURCES} sources to {RADIUS_CELLS:g} cells in {CELLS}^3 half-ionised cells")
    gas, sources = half_ionised(CELLS, SOURCES)
    trace = partial(trace_rays, cell_cm=CELL_CM, table=table, rates=np.full(SOURCES, 1e53))
    yield _rays(partial(trace, gas, sources))
    say("simulate: the same on two threads")
    yield _threads(partial(trace, gas, sources, max_mfp_cells=RADIUS_CELLS))
    say(f"simulate: the same in a box of {2 * CELLS}^3 cells")
    yield _box(partial(trace, max_mfp_cells=RADIUS_CELLS, threads=1), gas, sources)
    say("simulate: chemistry")
    yield _chemistry(gas)


def half_ionised(cells: int, sources: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Neutral hydrogen, in cm-3, of a box that is half filled with bubbles, and sources in the bubbles."""
    rng = np.random.default_rng(0)
    density = rng.lognormal(-0.1, 0.5, (cells,) * 3)
    ionised = np.zeros((cells,) * 3, dtype=bool)
    axis = np.arange(cells)
    while ionised.mean() < 0.5:
        radius = rng.uniform(0.04, 0.15) * cells
        x, y, z = (np.abs((axis - c + cells // 2) % cells - cells // 2) for c in rng.integers(0, cells, 3))
        ionised |= x[:, None, None] ** 2 + y[:, None] ** 2 + z**2 <= radius**2
    tau = density * np.where(ionised, 1e-4, 1.0) * NEUTRAL
    inside = np.argwhere(ionised)
    gas = tau / (black_body_table().cross_section_cm2 * CELL_CM)
    return gas.astype(np.float32), inside[rng.choice(len(inside), sources)]


def _cells(radius: float) -> int:
    axis = np.arange(-int(radius), int(radius) + 1)
    return int((axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2 <= radius**2).sum())


def _nanoseconds(trace: Callable[[], object], work: int) -> list[float]:
    """Processor time in ns per source and cell, for each call; wall time would count others' work too."""
    trace()
    times = []
    for _ in range(ROUNDS):
        start = time.process_time()
        trace()
        times.append((time.process_time() - start) / work * 1e9)
    return times


def _rays(trace: Callable[..., Rays]) -> Result:
    by_radius = {
        radius: _nanoseconds(partial(trace, max_mfp_cells=radius, threads=1), SOURCES * _cells(radius))
        for radius in (RADIUS_CELLS / 2, RADIUS_CELLS)
    }
    times = by_radius[RADIUS_CELLS]
    bandwidth, arithmetic = _copied_bytes_a_second(), _operations_a_second()
    return Result(
        name="rays",
        ratio=Ratio.of(TARGET_NS / t for t in times),
        against=f"{TARGET_NS:g} ns of one core for a source and a cell of its sphere",
        target=1.0,
        extra={
            "ns a source and cell": float(np.median(times)),
            "at half the radius": float(np.median(by_radius[RADIUS_CELLS / 2])),
            "bytes a source and cell": BYTES,
            "operations a source and cell": OPERATIONS,
            "ns these bytes take to copy": BYTES / bandwidth * 1e9,
            "ns these operations take": OPERATIONS / arithmetic * 1e9,
        },
    )


def _copied_bytes_a_second() -> float:
    """Bytes per second that a copy of a large array reads and writes."""
    x = np.ones(1 << 24, dtype=np.float32)
    y = np.zeros_like(x)
    return 2 * x.nbytes / (1e-9 * min(_nanoseconds(lambda: np.copyto(y, x), 1)))


@njit(nogil=True, fastmath=True)
def _multiply_and_add(x, rounds):  # type: ignore[no-untyped-def]
    for _ in range(rounds):
        for i in range(len(x)):
            x[i] = x[i] * np.float32(0.999) + np.float32(1e-3)


def _operations_a_second() -> float:
    """Multiplications and additions of float32 per second, compiled, on data in the first cache."""
    x = np.ones(2048, dtype=np.float32)
    rounds = 2000
    return 2 * rounds * len(x) / (1e-9 * min(_nanoseconds(lambda: _multiply_and_add(x, rounds), 1)))


def _threads(trace: Callable[..., Rays]) -> Result:
    two = interleaved(partial(trace, threads=2), partial(trace, threads=1), rounds=ROUNDS)
    x = [np.ones(2048, dtype=np.float32) for _ in range(2)]

    def free() -> None:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda line: _multiply_and_add(line, 20_000), x))

    alone = interleaved(free, lambda: [_multiply_and_add(line, 20_000) for line in x], rounds=ROUNDS)
    return Result(
        name="rays_two_threads",
        ratio=two.ratio,
        against="one thread",
        target=1.7,
        extra={"arithmetic alone, two threads to one": alone.ratio.value},
    )


def _box(trace: Callable[..., Rays], gas: NDArray[np.float32], sources: NDArray[np.int64]) -> Result:
    # The box is repeated twice along each axis with the same sources: the rays stay the same.
    large: Any = np.tile(gas, (2, 2, 2))
    rates, few = np.full(SOURCES, 1e53), np.where(np.arange(SOURCES) < 16, 1e53, 0.0)
    work = (SOURCES - 16) * _cells(RADIUS_CELLS)
    small, large_all, small_few, large_few = (
        np.array(_nanoseconds(partial(trace, box, sources, rates=shining), work))
        for shining in (rates, few)
        for box in (gas, large)
    )
    return Result(
        name="rays_large_box",
        # Only the cost of the sources is compared: passes over all cells do not depend on their number.
        ratio=Ratio.of((small - np.median(small_few)) / (large_all - np.median(large_few))),
        against="the same sources in an eighth of the box",
        target=0.9,
        extra={"ns a cell of the box, without sources": float(np.median(large_few)) * work / large.size},
    )


def _chemistry(gas: NDArray[np.float32]) -> Result:
    n_h, xi = np.maximum(gas, 1e-6), np.full(gas.shape, 0.5)
    gamma = np.where(gas > np.median(gas), 1e-18, 1e-13)
    times = _nanoseconds(lambda: ionise(n_h, xi, gamma, 1e15, threads=1), gas.size)
    return Result(
        name="chemistry",
        ratio=Ratio.of(TARGET_NS * 10 / t for t in times),
        against=f"{TARGET_NS * 10:g} ns of one core for a cell, which ten sources take",
        target=1.0,
        extra={"ns a cell": float(np.median(times))},
    )
