"""Means under box filters along each axis of a box or of a window of one, in place, for kernels.

A filter of half-width h is the mean over the cells from -h to h along an axis, of which the two outermost
have the weight `end`. Along x and y a running sum in float64 slides over whole rows of z, so that the cost
does not depend on h. Along z, where cells are contiguous, sums of 1, 2, 4, ... cells are added to each other,
and the cost grows with the logarithm of h. Float64 adds float32 numbers without loss unless they span more
than nine orders of magnitude.

A table for each axis gives the cells to read: entry i of n + 2 h is the cell that lies i - h cells from the
first cell of the result. In a periodic box the entries wrap; in a window they begin at its edge.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import boolean, float32, int64, types
from numpy.typing import NDArray

from reion_kernels._jit import FLOAT, INT, kernel

ZERO = np.float32(0)
_BLOCK = 128
"""Cells of z that a running sum along x takes at once, so that the rows it slides over stay in the cache."""


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
LINE = types.Array(float32, 1, "C")


@kernel((BOX, BOX, boolean, REACH, INT, INT, INT, INT, INT, FLOAT))
def mean_along_x(values, sinks, sinking, reach, y_low, y_high, z_low, z_high, half, end):  # type: ignore[no-untyped-def]
    """Filter rows y of a box along x, in place.

    With `sinking`, the values are first reduced by the sinks, and the sinks by the values: the filter
    averages the remaining values, and `sinks` holds the remaining sinks.
    """
    table, first, periodic = reach
    cells = len(table) - 2 * half
    inverse = 1.0 / (2 * half - 1 + 2 * end) if half else 1.0
    rows = np.empty((len(table), _BLOCK), dtype=np.float32)
    total = np.empty(_BLOCK, dtype=np.float64)
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
            for i in range(margin):
                last = len(table) - 1 - i
                copy_line(rows[half + table[i]], rows[i], width)
                copy_line(rows[half + table[last]], rows[last], width)
            _begin(rows, half, total, width)
            for i in range(cells):
                _mean_of_row(rows, i, half, end, inverse, total, values[first + i, y, z : z + width])


@kernel()
def copy_line(source, into, cells):  # type: ignore[no-untyped-def]
    """Copy the first `cells` of a line.

    It is a loop, because an assignment of arrays takes four seconds to compile, for the error about shapes.
    """
    for k in range(cells):
        into[k] = source[k]


@kernel()
def _begin(rows, half, total, width):  # type: ignore[no-untyped-def]
    for k in range(width):
        total[k] = 0.0
    for i in range(1, 2 * half):
        row = rows[i]
        for k in range(width):
            total[k] += row[k]


@kernel()
def _mean_of_row(rows, i, half, end, inverse, total, out):  # type: ignore[no-untyped-def]
    # `total` is the sum of rows i + 1 to i + 2 h - 1, and becomes that of the next row.
    low = rows[i]
    if half == 0:
        for k in range(len(out)):
            out[k] = low[k]
        return
    high, dropped = rows[i + 2 * half], rows[i + 1]
    for k in range(len(out)):
        mean = (total[k] + end * (np.float64(low[k]) + np.float64(high[k]))) * inverse
        out[k] = mean if mean > 0.0 else 0.0
        total[k] += np.float64(high[k]) - np.float64(dropped[k])


@kernel()
def mean_of_plane(plane, y_reach, z_reach, half, end, rows, total, line, sums, more):  # type: ignore[no-untyped-def]
    """Filter a plane (y, z) along z and y, in place.

    `rows` has len(y table) rows of the result's cells of z and `total`, float64, one; `line`, `sums`, `more`
    have len(z table) cells.
    """
    if half == 0:
        return
    table, first, periodic = y_reach
    z_table, z_first, _ = z_reach
    width = len(z_table) - 2 * half
    cells = len(table) - 2 * half
    inverse = 1.0 / (2 * half - 1 + 2 * end)
    margin = half if periodic else 0
    for i in range(margin, len(table) - margin):
        source = plane[table[i]]
        inner = source[z_first : z_first + width]
        middle = line[half : half + width]
        for k in range(width):
            middle[k] = inner[k]
        for k in range(half):
            line[k] = source[z_table[k]]
            line[half + width + k] = source[z_table[half + width + k]]
        _mean_of_line(line, half, end, inverse, sums, more, rows[i])
    for i in range(margin):
        last = len(table) - 1 - i
        copy_line(rows[half + table[i]], rows[i], width)
        copy_line(rows[half + table[last]], rows[last], width)
    _begin(rows, half, total, width)
    for i in range(cells):
        _mean_of_row(rows, i, half, end, inverse, total, plane[first + i, z_first : z_first + width])


@kernel()
def _mean_of_line(line, half, end, inverse, sums, more, out):  # type: ignore[no-untyped-def]
    # The sum of the 2 h - 1 inner cells from sums of 1, 2, 4, ... of them.
    inner = 2 * half - 1
    size = len(line)
    for k in range(size):
        sums[k] = line[k]
    for k in range(len(out)):
        out[k] = ZERO
    length, covered = 1, 1
    while True:
        if inner & length:
            part = sums[covered : covered + len(out)]
            for k in range(len(out)):
                out[k] += part[k]
            covered += length
        if 2 * length > inner:
            break
        shifted = sums[length:size]
        for k in range(size - length):
            more[k] = sums[k] + shifted[k]
        sums, more = more, sums
        size -= length
        length *= 2
    weight, scale = np.float32(end), np.float32(inverse)
    high = line[2 * half :]
    for k in range(len(out)):
        out[k] = (out[k] + weight * (line[k] + high[k])) * scale
