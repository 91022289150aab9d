"""Sources from a list onto the mesh, and their photon rates added up over time."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from reion_kernels._jit import FLOAT, INT, INTS, REALS, kernel, source, target
from reion_kernels._layout import Real, blocks, check_out, check_real, flat, together
from reion_kernels._threads import run, thread_count

Scheme = Literal["nearest", "cloud_in_cell"]


def deposit(
    positions: Real,
    rates: Real,
    shape: tuple[int, int, int],
    *,
    scheme: Scheme = "nearest",
    out: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Add sources to a periodic mesh.

    Parameters
    ----------
    positions
        (sources, 3), float32 or float64, in cells: cell i covers i to i + 1. Positions outside the box are
        wrapped.
    rates
        (sources,), float32 or float64: what each source adds, in any unit. NaN and infinities are added like
        any number.
    shape
        Cells along x, y, z.
    scheme
        ``"nearest"``: all of it to the cell the source is in. ``"cloud_in_cell"``: to the eight cells that a
        cube of one cell around the source overlaps, by volume (Hockney & Eastwood 1981, section 5-3).
    out
        float64 array of `shape`, any strides, that the sources are added to. A new one of zeros if not given.

    Returns
    -------
    ndarray
        float64 array of `shape`: the sum in each cell, added in the order of the list. A rate per volume is
        this divided by the volume of a cell.

    Raises
    ------
    TypeError
        If an array has another dtype.
    ValueError
        If the shapes do not fit, a position is not finite, a length is not positive, or `scheme` is unknown.
    """
    check_real(positions, "positions")
    check_real(rates, "rates")
    if scheme not in ("nearest", "cloud_in_cell"):
        message = f"scheme: expected nearest or cloud_in_cell. Received: {scheme!r}"
        raise ValueError(message)
    if rates.ndim != 1 or positions.shape != (rates.size, 3):
        message = (
            "positions, rates: expected shapes (sources, 3) and (sources,). "
            f"Received: {positions.shape} and {rates.shape}"
        )
        raise ValueError(message)
    if len(shape) != 3 or min(shape) < 1:
        message = f"shape: expected three positive numbers of cells. Received: {shape}"
        raise ValueError(message)
    wrong = np.flatnonzero(~np.isfinite(positions).all(axis=1))
    if wrong.size:
        message = f"positions: expected finite numbers. Received: {positions[wrong[0]]} for source {wrong[0]}"
        raise ValueError(message)
    if out is None:
        out = np.zeros(shape)
    check_out(out, tuple(shape), positions, rates)
    if out.dtype != np.float64:
        message = f"out: expected float64, sums of many sources are not exact in less. Received: {out.dtype}"
        raise TypeError(message)
    line, first, strides = flat(out, writeable=True)
    cells = np.array(shape, dtype=np.int64)
    half = 0.5 if scheme == "cloud_in_cell" else 0.0
    # Lists are small beside meshes: widening them costs nothing and spares three compilations.
    _scatter(
        positions.astype(np.float64, order="C"), rates.astype(np.float64), line, first, strides, cells, half
    )
    return out


def accumulate(
    total: Real, n_src: NDArray[np.floating[Any]], seconds: float, *, threads: int | None = None
) -> Real:
    """Add one snapshot's photon rates times the time they shine: ``total += n_src * seconds``, in place.

    Parameters
    ----------
    total
        Photons so far, float32 or float64, any shape and strides. In float32 every call rounds once.
    n_src
        Photon rates, of the shape of `total`, float32 or float64.
    seconds
        How long they shine, in the time unit that takes the unit of `n_src` to that of `total`: for 1e48 s-1
        Mpc-3 and 1e66 Mpc-3 that is 1e18 s.
    threads
        Number of threads; None for every core this process may use. The result does not depend on it.

    Returns
    -------
    ndarray
        `total`.

    Raises
    ------
    TypeError
        If an array is not float32 or float64.
    ValueError
        If the shapes differ, the arrays overlap, or `seconds` is not finite.
    """
    check_real(n_src, "n_src")
    check_out(total, n_src.shape, n_src)
    if not math.isfinite(seconds):
        message = f"seconds: expected a finite time. Received: {seconds}"
        raise ValueError(message)

    def task(rate: Real, sum_: Real) -> None:
        line_a, first_a, strides_a = flat(rate)
        line_b, first_b, strides_b = flat(sum_, writeable=True)
        shape = np.array(rate.shape, dtype=np.int64)
        _add_times(line_a, line_b, first_a, first_b, shape, strides_a, strides_b, float(seconds))

    threads = thread_count(threads, total.size)
    run(task, blocks(threads, *together(n_src, total)), threads)
    return total


@kernel((target(FLOAT, 2), target(FLOAT), target(FLOAT), INT, INTS, INTS, FLOAT))
def _scatter(positions, rates, y, y_first, y_strides, cells, half):  # type: ignore[no-untyped-def]
    # half is 0.5 where the source is a cube that reaches into the next cells, 0 where it is a point.
    low = np.empty(3, dtype=np.int64)
    high = np.empty(3, dtype=np.int64)
    upper = np.empty(3, dtype=np.float64)
    for s in range(len(rates)):
        for axis in range(3):
            n = cells[axis]
            place = positions[s, axis] - half
            cell = np.floor(place)
            upper[axis] = place - cell if half > 0.0 else 0.0
            # In floats: a position may be far beyond the integers.
            inside = cell % n
            low[axis] = int(inside) * y_strides[axis]
            high[axis] = (int(inside) + 1) % n * y_strides[axis]
        rate = rates[s]
        if half == 0.0:
            y[y_first + low[0] + low[1] + low[2]] += rate
        else:
            for corner in range(8):
                weight = rate
                at = y_first
                for axis in range(3):
                    if corner >> axis & 1:
                        weight *= upper[axis]
                        at += high[axis]
                    else:
                        weight *= 1.0 - upper[axis]
                        at += low[axis]
                y[at] += weight


@kernel(*[(source(a), target(b), INT, INT, INTS, INTS, INTS, FLOAT) for a in REALS for b in REALS])
def _add_times(x, y, x_first, y_first, shape, x_strides, y_strides, factor):  # type: ignore[no-untyped-def]
    for i in range(shape[0]):
        for j in range(shape[1]):
            a = x_first + i * x_strides[0] + j * x_strides[1]
            b = y_first + i * y_strides[0] + j * y_strides[1]
            if x_strides[2] == 1 and y_strides[2] == 1:
                x_row = x[a : a + shape[2]]
                y_row = y[b : b + shape[2]]
                for k in range(shape[2]):
                    y_row[k] = np.float64(y_row[k]) + np.float64(x_row[k]) * factor
            else:
                for k in range(shape[2]):
                    at = b + k * y_strides[2]
                    y[at] = np.float64(y[at]) + np.float64(x[a + k * x_strides[2]]) * factor
