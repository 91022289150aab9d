"""The kernels compared with the bandwidth of memory and with plain NumPy."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from reion.bench.harness import Comparison, Ratio, Result, fastest, interleaved
from reion.jobs.resources import cores
from reion_kernels import N_ROTATIONS, affine, crop_batch, moments, permutation_and_flips, rotate

Field = NDArray[np.float32]

CELLS = 300
CONSTANTS: dict[str, Any] = {"scale": 2.93799895e30, "mean": 1.15, "std": 0.62}
"""Constants of a realistic normalisation: g cm-3 to 1e25 g pc-3, and mean and σ of a density in that unit."""


def measure(say: Callable[[str], None]) -> Iterator[Result]:
    """Measure every kernel; `say` is called with a line before each.

    Arrays are too large for the caches. Each side runs on one thread or on all, whichever is faster.
    """
    say("kernels: compiling all of them in a fresh process, up to 15 s")
    yield from _first_calls()
    rng = np.random.default_rng(0)
    density = (3.9e-31 * rng.lognormal(-0.1, 0.5, (CELLS,) * 3)).astype(np.float32)
    say(f"kernels: unit conversion and normalisation of {CELLS}^3 cells")
    yield from _affine(density)
    say(f"kernels: moments of {CELLS}^3 cells")
    yield from _moments(density)
    del density
    say("kernels: the 24 rotations of 32 x 2 cubes of 64^3 cells")
    yield from _rotations(rng.random((32, 2, 64, 64, 64), dtype=np.float32))
    say("kernels: the sampler's path, windows of 32^3 cells and three fields")
    yield from _sampler(rng)


def _copy(out: Field, x: Field) -> Callable[[], object]:
    """A function that copies an array on one thread or on all, whichever is faster."""
    count = len(cores())
    pieces = list(zip(np.array_split(out, count), np.array_split(x, count), strict=True))

    def on_all() -> None:
        with ThreadPoolExecutor(len(pieces)) as pool:
            list(pool.map(lambda piece: np.copyto(*piece), pieces))

    return fastest(lambda: np.copyto(out, x), on_all)


def _read(x: Field) -> Callable[[], object]:
    """A function that reads every value on one thread or on all, whichever is faster."""
    line = x.reshape(-1)
    pieces = np.array_split(line, len(cores()))

    def on_all() -> None:
        with ThreadPoolExecutor(len(pieces)) as pool:
            list(pool.map(_sum, pieces))

    return fastest(lambda: _sum(line), on_all)


@njit(nogil=True, fastmath=True)
def _sum(line):  # type: ignore[no-untyped-def]
    total = np.float32(0.0)
    for i in range(len(line)):
        total += line[i]
    return total


def _affine(x: Field) -> Iterator[Result]:
    out = np.zeros_like(x)
    copy = _copy(out, x)

    def convert(x: Field, out: Field) -> Callable[[], object]:
        return fastest(
            lambda: affine(x, **CONSTANTS, out=out, threads=1), lambda: affine(x, **CONSTANTS, out=out)
        )

    by_order = {
        "C": interleaved(convert(x, out), copy, rounds=25),
        "Fortran": interleaved(convert(x.T, out.T), copy, rounds=25),
    }
    worse = min(by_order.values(), key=lambda comparison: comparison.ratio.value)
    yield Result(
        name="affine_vs_copy",
        ratio=worse.ratio,
        against="numpy.copyto of the same array; the worse of C and Fortran order",
        target=0.85,
        extra={f"{order} order": comparison.ratio.value for order, comparison in by_order.items()}
        | {"GB per second": 2 * x.nbytes / worse.seconds / 1e9},
    )

    scale, mean, std = (np.float32(CONSTANTS[name]) for name in ("scale", "mean", "std"))
    numpy = interleaved(convert(x, out), lambda: (x * scale - mean) / std)
    yield Result(
        name="affine_vs_numpy",
        ratio=numpy.ratio,
        against="numpy: (x * scale - mean) / std in float32",
        target=1.5,
    )


def _moments(x: Field) -> Iterator[Result]:
    ours = fastest(lambda: moments(x, threads=1), lambda: moments(x))
    read = interleaved(ours, _read(x), rounds=25)
    yield Result(
        name="moments_vs_read",
        ratio=read.ratio,
        against="a sum of the same array",
        target=0.6,
        extra={"GB per second": x.nbytes / read.seconds / 1e9},
    )
    numpy = interleaved(ours, lambda: (np.mean(x, dtype=np.float64), np.std(x, dtype=np.float64)), rounds=7)
    yield Result(
        name="moments_vs_numpy",
        ratio=numpy.ratio,
        against="numpy.mean and numpy.std in float64, without skewness and range",
        target=10.0,
    )


def _rotations(batch: Field) -> Iterator[Result]:
    out = np.zeros_like(batch)

    def with_numpy(index: int) -> Field:
        permutation, flips = permutation_and_flips(index)
        turned = batch.transpose(0, 1, *(2 + axis for axis in permutation))
        return np.flip(turned, tuple(2 + axis for axis in range(3) if flips[axis])).copy(order="C")

    copy = _copy(out, batch)
    copies, numpys = [], []
    for index in range(N_ROTATIONS):
        turn = fastest(
            lambda index=index: rotate(batch, index, out=out, threads=1),  # type: ignore[misc]
            lambda index=index: rotate(batch, index, out=out),  # type: ignore[misc]
            rounds=5,
        )
        copies.append(interleaved(turn, copy))
        numpys.append(interleaved(turn, lambda index=index: with_numpy(index), rounds=3))  # type: ignore[misc]
    for name, against, target, group in (
        ("rotations_vs_copy", "numpy.copyto of the same array; the mean over the group", 0.5, copies),
        ("rotations_vs_numpy", "numpy transpose, flip and contiguous copy; the mean", 1.5, numpys),
    ):
        ratios = [comparison.ratio.value for comparison in group]
        yield Result(
            name=name,
            ratio=Ratio(statistics.mean(ratios), min(ratios), max(ratios)),
            against=against,
            target=target,
            extra={"worst rotation": min(ratios)},
        )


def _sampler(rng: np.random.Generator) -> Iterator[Result]:
    scale, mean, std = [2.0, 3.0, 4.0], [0.9, 1.4, 2.1], [0.6, 0.9, 1.2]
    constants: dict[str, Any] = {"scale": scale, "mean": mean, "std": std}
    indices = rng.integers(0, N_ROTATIONS, 32)
    batch = np.zeros((len(indices), 32, 32, 32, 3), dtype=np.float32)

    def with_numpy(fields: Field, origins: NDArray[np.int64]) -> Field:
        windows = []
        for origin, index in zip(origins, indices, strict=True):
            channels = []
            for field, a, b, c in zip(fields, scale, mean, std, strict=True):
                for axis in range(3):
                    field = np.take(field, np.arange(origin[axis], origin[axis] + 32), axis=axis, mode="wrap")
                field = (field * np.float32(a) - np.float32(b)) / np.float32(c)
                field = np.rot90(field, index % 4, axes=((0, 1), (0, 2), (1, 2))[index % 3])
                channels.append(field)
            windows.append(np.stack(channels, axis=-1))
        return np.stack(windows)

    def fill(fields: Field, origins: NDArray[np.int64], part: slice = slice(None), times: int = 1) -> None:
        for _ in range(times):
            crop_batch(fields, origins[part], out=batch[part], indices=indices[part], threads=1, **constants)

    def fill_with_two(fields: Field, origins: NDArray[np.int64], times: int) -> None:
        half = len(batch) // 2
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda part: fill(fields, origins, part, times), (slice(half), slice(half, None))))

    by_box = {}
    for cells in (64, CELLS):
        fields = rng.random((3, cells, cells, cells), dtype=np.float32)
        origins = rng.integers(0, cells, (len(indices), 3))
        by_box[cells] = interleaved(
            partial(fill, fields, origins),
            partial(with_numpy, fields, origins),
            rounds=9 if cells == 64 else 5,
        )
    # Each thread reads several batches: threads that live only milliseconds often share one core.
    two = interleaved(partial(fill_with_two, fields, origins, 8), partial(fill, fields, origins, times=8))
    yield Result(
        name="sampler_vs_numpy",
        ratio=by_box[64].ratio,
        against="numpy.take(mode=wrap), normalise, rot90, stack; a box of 64^3, one thread",
        target=5.0,
        extra={
            "patches per second": len(batch) / by_box[64].seconds,
            f"ratio in a box of {CELLS}^3": by_box[CELLS].ratio.value,
            f"patches per second in a box of {CELLS}^3": len(batch) / by_box[CELLS].seconds,
            "two threads to one": two.ratio.value,
            "two threads to one, arithmetic alone": _free_cores().ratio.value,
        },
    )


@njit(nogil=True)
def _spin(n):  # type: ignore[no-untyped-def]
    value = 1.0
    for _ in range(n):
        value = value * 0.999999 + 1e-9
    return value


def _free_cores() -> Comparison:
    """How much of a second core is free now: arithmetic without memory on one thread and on two."""

    def on_two() -> None:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(_spin, [5_000_000, 5_000_000]))

    return interleaved(on_two, lambda: (_spin(5_000_000), _spin(5_000_000)))


_FIRST_CALLS = """
import sys, time
import numpy as np
import reion_kernels as rk
x = np.ones((8, 8, 8), np.float32)
start = time.perf_counter()
if sys.argv[1] == "all":
    rk.compile_kernels()
rk.affine(x, std=2.0)
rk.moments(x)
rk.rotate(x, 5)
rk.crop(x[None], (1, 2, 3), out=np.empty((4, 4, 4, 1), np.float32))
print(time.perf_counter() - start)
"""


_COMPILING = (
    ("first_call_cold", "some", 10.0, 1),
    ("first_call_warm", "some", 0.5, 5),
    ("compile_all", "all", 15.0, 1),
)
"""Name, which kernels are compiled, seconds that are asked for, and calls, one after the other."""


def _first_calls() -> Iterator[Result]:
    """The first calls of four functions, without and with what is kept on disk; then all other kernels."""
    with tempfile.TemporaryDirectory() as cache:
        for name, which, target_s, calls in _COMPILING:
            seconds = [
                float(
                    subprocess.run(
                        [sys.executable, "-c", _FIRST_CALLS, which],
                        env={**os.environ, "NUMBA_CACHE_DIR": cache},
                        check=True,
                        capture_output=True,
                        text=True,
                    ).stdout
                )
                for _ in range(calls)
            ]
            yield Result(
                name=name,
                ratio=Ratio.of(target_s / s for s in seconds),
                against=f"{target_s:g} s",
                target=1.0,
                extra={"seconds": statistics.median(seconds)},
            )
