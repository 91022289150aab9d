"""Means under box filters along each axis of a box or of a window of one, in place, for kernels.

A filter of half-width h is the mean over the cells from -h to h along an axis, of which the two outermost
have the weight `end`. The cells are added one by one, in float32 and in the same order everywhere: they are
not negative, so that no digits are lost, and a sum of some tens of vectors in registers takes less time than
a running sum.

A table for each axis gives the cells to read: entry i of n + 2 h is the cell that lies i - h cells from the
first cell of the result. In a periodic box the entries wrap; in a window they begin at its edge.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numba import boolean, float32, int64, types
from numba.core import cgutils
from numpy.typing import NDArray

from reion_kernels._jit import FLOAT, INT, kernel
from reion_kernels._vectors import LANES, Code, Rows, vectorised

ZERO = np.float32(0)
_BLOCK = 128
"""Cells of z that the filter along x takes at once, so that their rows stay in the cache."""

_LINES = 8
"""Lines of z that the filter along z takes at once."""

_ACROSS = 8
"""Vectors of cells whose sums are held in registers."""


class Reach(NamedTuple):
    """The cells along one axis from which a result is made.

    Attributes
    ----------
    table
        (n + 2 h,) int64: see the module.
    first
        The first cell of the result.
    periodic
        Whether the box wraps along the axis; the first and last h entries then repeat others.
    """

    table: NDArray[np.int64]
    first: int
    periodic: bool


REACH = types.NamedTuple((types.Array(int64, 1, "C"), INT, boolean), Reach)
BOX = types.Array(float32, 3, "C")


def _means(code: Code, source: Rows, half: Any, weights: Rows, out: Rows, *, along: int) -> None:
    b = code.builder
    rows, cells = out.shape
    step = source.strides[0] if along == 0 else code.number(4)
    last = b.mul(half, code.number(2))
    end, inverse = code.spread(weights.at()), code.spread(weights.at(), 1)

    def columns(start: Any, across: int) -> None:
        """The results in some columns of all rows."""
        with code.each(rows) as row:
            first = code.bytes(source.at(row), start)

            def vectors(number: Any) -> list[Any]:
                address = b.add(first, b.mul(number, step))
                return [code.load(address, LANES * i) for i in range(across)]

            sums = [cgutils.alloca_once_value(b, vector) for vector in vectors(code.number(1))]
            with code.each(b.sub(last, code.number(2))) as further:
                for place, vector in zip(sums, vectors(b.add(further, code.number(2))), strict=True):
                    b.store(b.fadd(b.load(place), vector), place)
            into = code.bytes(out.at(row), start)
            ends = zip(vectors(code.number(0)), vectors(last), strict=True)
            for i, (place, (low, high)) in enumerate(zip(sums, ends, strict=True)):
                total = b.fadd(b.load(place), b.fmul(end, b.fadd(low, high)))
                code.store(b.fmul(total, inverse), into, LANES * i)

    # The last columns overlap those before, so that each vector is whole.
    is_wide = b.icmp_signed(">=", cells, code.number(_ACROSS * LANES))
    with b.if_else(is_wide) as (wide, narrow):
        for branch, across in ((wide, _ACROSS), (narrow, 1)):
            with branch:
                width = code.number(across * LANES)
                with code.each(cells, across * LANES) as start:
                    latest = b.sub(cells, width)
                    columns(b.select(b.icmp_signed("<", start, latest), start, latest), across)


@vectorised(partial(_means, along=0))
def _means_over_rows(source: Any, half: int, weights: Any, out: Any) -> None:
    """Write the means of rows i to i + 2 `half` of `source` to row i of `out`, of at least `LANES` cells.

    `weights` are that of the outermost rows, and 1 over the sum of the weights, float32.
    """
    for row in range(len(out)):
        total = source[row + 1].copy()
        for further in range(2, 2 * half):
            total += source[row + further]
        out[row] = (total + weights[0] * (source[row] + source[row + 2 * half])) * weights[1]


@vectorised(partial(_means, along=1))
def _means_over_cells(source: Any, half: int, weights: Any, out: Any) -> None:
    """The same with the cells of each row of `source`, which is longer than `out` by 2 `half`."""
    _means_over_rows(source.T, half, weights, out.T)


@kernel((BOX, BOX, boolean, REACH, INT, INT, INT, INT, INT, FLOAT))
def mean_along_x(values, sinks, sinking, reach, y_low, y_high, z_low, z_high, half, end):  # type: ignore[no-untyped-def]
    """Filter rows y of a box along x, in place.

    With `sinking`, the values are first reduced by the sinks, and the sinks by the values: the filter
    averages the remaining values, and `sinks` holds the remaining sinks.
    """
    table, first, periodic = reach
    cells = len(table) - 2 * half
    weights = _weights(half, end)
    rows = np.empty((len(table), _BLOCK), dtype=np.float32)
    for y in range(y_low, y_high):
        for z in range(z_low, z_high, _BLOCK):
            width = min(_BLOCK, z_high - z)
            margin = half if periodic else 0
            for i in range(margin, len(table) - margin):
                row = rows[i, :width]
                value = values[table[i], y, z : z + width]
                if sinking:
                    sink = sinks[table[i], y, z : z + width]
                    for k in range(width):
                        v, s = value[k], sink[k]
                        row[k] = v - s if v > s else ZERO
                        sink[k] = s - v if s > v else ZERO
                else:
                    for k in range(width):
                        row[k] = value[k]
            _wrap(rows, table, margin, width)
            _mean_of_rows(rows[:, :width], half, weights, values[first : first + cells, y, z : z + width])


@kernel()
def copy_line(source, into, cells):  # type: ignore[no-untyped-def]
    """Copy the first `cells` of a line.

    It is a loop, because an assignment of arrays takes four seconds to compile, for the error about shapes.
    """
    for k in range(cells):
        into[k] = source[k]


@kernel()
def _weights(half, end):  # type: ignore[no-untyped-def]
    weights = np.empty(2, dtype=np.float32)
    weights[0] = end
    weights[1] = 1.0 / (2 * half - 1 + 2 * end) if half else 1.0
    return weights


@kernel()
def _wrap(rows, table, margin, width):  # type: ignore[no-untyped-def]
    for i in range(margin):
        last = len(table) - 1 - i
        copy_line(rows[margin + table[i]], rows[i], width)
        copy_line(rows[margin + table[last]], rows[last], width)


@kernel()
def _mean_of_rows(rows, half, weights, out):  # type: ignore[no-untyped-def]
    if half == 0:
        for i in range(len(out)):
            copy_line(rows[i], out[i], out.shape[1])
    elif out.shape[1] >= LANES:
        _means_over_rows(rows, half, weights, out)
    else:
        _mean_of_few(rows, half, weights, out)


@kernel()
def _mean_of_few(rows, half, weights, out):  # type: ignore[no-untyped-def]
    for i in range(out.shape[0]):
        for k in range(out.shape[1]):
            total = rows[i + 1, k]
            for further in range(2, 2 * half):
                total += rows[i + further, k]
            out[i, k] = (total + weights[0] * (rows[i, k] + rows[i + 2 * half, k])) * weights[1]


@kernel()
def mean_of_plane(plane, y_reach, z_reach, half, end, rows, lines):  # type: ignore[no-untyped-def]
    """Filter a plane (y, z) along z and y, in place; `plane_buffers` makes `rows` and `lines`."""
    if half == 0:
        return
    table, first, periodic = y_reach
    z_table, z_first, _ = z_reach
    width = len(z_table) - 2 * half
    cells = len(table) - 2 * half
    weights = _weights(half, end)
    margin = half if periodic else 0
    for start in range(margin, len(table) - margin, _LINES):
        count = min(_LINES, len(table) - margin - start)
        for i in range(count):
            source, line = plane[table[start + i]], lines[i]
            copy_line(source[z_first:], line[half:], width)
            for k in range(half):
                line[k] = source[z_table[k]]
                line[half + width + k] = source[z_table[half + width + k]]
        _mean_of_lines(lines[:count], half, weights, rows[start : start + count])
    _wrap(rows, table, margin, width)
    _mean_of_rows(rows, half, weights, plane[first : first + cells, z_first : z_first + width])


@kernel()
def plane_buffers(y_reach, z_reach, half):  # type: ignore[no-untyped-def]
    """Room for `mean_of_plane`: the plane filtered along z, and some of its lines."""
    cells = len(z_reach.table)
    return (
        np.empty((len(y_reach.table), cells - 2 * half), dtype=np.float32),
        np.empty((_LINES, cells), dtype=np.float32),
    )


@kernel()
def _mean_of_lines(lines, half, weights, out):  # type: ignore[no-untyped-def]
    if out.shape[1] >= LANES:
        _means_over_cells(lines, half, weights, out)
    else:
        _mean_of_few(lines.T, half, weights, out.T)
