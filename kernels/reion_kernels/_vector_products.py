"""Products with weights, and sums over neighbours, of rows in vectors of eight cells; see `_vectors`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba.core import cgutils

from reion_kernels._vectors import LANES, Code, Rows, vectorised

OUTPUTS = 4
"""The number of outputs of `mix` is a multiple of this."""

_PAIR = 2
"""Rows of the second factor that `add_products` holds in registers beside `OUTPUTS` of the first."""

_ACROSS = 3
"""Vectors of cells that `mix` holds in registers for each of `OUTPUTS`: twelve independent sums keep two
units with a latency of four to six cycles busy."""


def _mix(code: Code, weights: Rows, rows: Rows, added: Rows, out: Rows, cells: Any) -> None:
    _mix_onto(code, weights, rows, added, None, out, cells)


def _mix_onto(
    code: Code, weights: Rows, rows: Rows, added: Rows, start: Rows | None, out: Rows, cells: Any
) -> None:
    b = code.builder
    inputs, outputs = weights.shape

    def tile(output: Any, cell: Any, across: int) -> None:
        """Compute `OUTPUTS` rows and `across` vectors of cells, whose sums stay in registers."""
        places = [(i, j) for i in range(OUTPUTS) for j in range(across)]
        numbers = [b.add(output, code.number(i)) for i in range(OUTPUTS)]
        targets = [code.bytes(out.at(number), cell) for number in numbers]
        first = [code.spread(added.at(number)) for number in numbers]
        starts = [first[i] for i, _ in places]
        if start is not None:
            before = [code.bytes(start.at(number), cell) for number in numbers]
            starts = [b.fadd(first[i], code.load(before[i], LANES * j)) for i, j in places]
        sums = [cgutils.alloca_once_value(b, start) for start in starts]
        with code.each(inputs) as k:
            row = code.bytes(rows.at(k), cell)
            vectors = [code.load(row, LANES * j) for j in range(across)]
            factors = code.bytes(weights.at(k), output)
            weight = [code.spread(factors, i) for i in range(OUTPUTS)]
            for place, (i, j) in zip(sums, places, strict=True):
                b.store(code.multiply_add(vectors[j], weight[i], b.load(place)), place)
        for place, (i, j) in zip(sums, places, strict=True):
            code.store(b.load(place), targets[i], LANES * j)

    vectors = b.udiv(cells, code.number(LANES))
    rest = b.urem(vectors, code.number(_ACROSS))
    whole = b.mul(b.sub(vectors, rest), code.number(LANES))
    with code.each(outputs, OUTPUTS) as output:
        with code.each(whole, _ACROSS * LANES) as cell:
            tile(output, cell, _ACROSS)
        for left in range(1, _ACROSS):
            with b.if_then(b.icmp_unsigned("==", rest, code.number(left))):
                tile(output, whole, left)


@vectorised(_mix)
def mix(weights: Any, rows: Any, added: Any, out: Any, cells: int) -> None:
    """Write `added` (output,) and the sums of `rows` (input, z) times `weights` (input, output) to `out`."""
    inputs, outputs = weights.shape
    out[:outputs, :cells] = added[:outputs, None] + weights.T @ rows[:inputs, :cells]


@vectorised(_mix_onto)
def mix_onto(weights: Any, rows: Any, added: Any, start: Any, out: Any, cells: int) -> None:
    """Write the same numbers plus `start` (output, z), which may be `out`; `added` may be longer."""
    inputs, outputs = weights.shape
    out[:outputs, :cells] = start[:outputs, :cells] + (
        added[:outputs, None] + weights.T @ rows[:inputs, :cells]
    )


def _add_products(code: Code, a: Rows, b_rows: Rows, total: Rows, cells: Any) -> None:
    b = code.builder
    with code.each(a.shape[1], OUTPUTS) as i, code.each(b_rows.shape[1], _PAIR) as j:
        ones = [b.add(i, code.number(p)) for p in range(OUTPUTS)]
        others = [b.add(j, code.number(q)) for q in range(_PAIR)]
        places = [(p, q) for p in range(OUTPUTS) for q in range(_PAIR)]
        targets = [total.at(ones[p], others[q]) for p, q in places]
        sums = [cgutils.alloca_once_value(b, code.load(target)) for target in targets]
        with code.each(a.shape[0]) as y:
            rows, columns = [a.at(y, one) for one in ones], [b_rows.at(y, other) for other in others]
            with code.each(cells, LANES) as cell:
                left = [code.load(code.bytes(row, cell)) for row in rows]
                right = [code.load(code.bytes(column, cell)) for column in columns]
                for place, (p, q) in zip(sums, places, strict=True):
                    b.store(code.multiply_add(left[p], right[q], b.load(place)), place)
        for place, target in zip(sums, targets, strict=True):
            code.store(b.load(place), target)


@vectorised(_add_products)
def add_products(a: Any, b: Any, total: Any, cells: int) -> None:
    """Add to `total` (i, j, `LANES`) the products of a (y, i, z) and b (y, j, z), summed over y and z.

    The lanes of `total` are parts of one sum. There are multiples of `OUTPUTS` of rows i and j; `total` may
    have more rows, and b more y.
    """
    products = np.einsum("yiz,yjz->ij", a[..., :cells], b[: len(a), :, :cells])
    total[: a.shape[1], : b.shape[1], 0] += products


def _neighbour_sums(
    code: Code,
    planes: Rows,
    order: Sequence[Any],
    at: Sequence[Any],
    channels: Any,
    sums: Rows,
    cells: Any,
) -> None:
    b = code.builder
    y, z = at

    def sum_of(rows: list[Any], cell: Any) -> Any:
        some, *others = (code.load(code.bytes(row, cell)) for row in rows)
        for other in others:
            some = b.fadd(some, other)
        return some

    with code.each(channels) as channel:
        rows = [
            [code.bytes(planes.at(plane, b.add(y, code.number(further)), channel), z) for further in range(3)]
            for plane in order
        ]
        faces = [rows[0][1], rows[1][0], rows[1][2], rows[2][1]]
        corners = [rows[0][0], rows[0][2], rows[2][0], rows[2][2]]
        results = [sums.at(b.add(b.mul(channel, code.number(4)), code.number(i))) for i in range(4)]
        # Sums of neighbouring cells are held here, because reading them from memory just after writing would
        # stall.
        held = [cgutils.alloca_once_value(b, sum_of(some, code.number(0))) for some in (faces, corners)]
        with code.each(cells, LANES) as cell:
            further = b.add(cell, code.number(LANES))
            own = [code.load(code.bytes(rows[1][1], cell), i) for i in range(3)]
            face, corner = (
                code.shifted(place, sum_of(some, further))
                for place, some in zip(held, (faces, corners), strict=True)
            )
            found = (
                own[1],
                b.fadd(face[1], b.fadd(own[0], own[2])),
                b.fadd(corner[1], b.fadd(face[0], face[2])),
                b.fadd(corner[0], corner[2]),
            )
            for vector, result in zip(found, results, strict=True):
                code.store(vector, code.bytes(result, cell))


@vectorised(_neighbour_sums)
def neighbour_sums(planes: Any, order: Any, at: Any, channels: int, sums: Any, cells: int) -> None:
    """Sum the neighbours of each cell of a row by their kind: those that share a face, an edge or a corner.

    Parameters
    ----------
    planes
        (3, y, channel, z), with room for `LANES` more cells than are read.
    order
        Indices of the plane before the row, of its own plane, and of the plane after.
    at
        y and z of the cell diagonally before the first one, which is (y + 1, z + 1).
    sums
        (4 channels, cells), written: for each channel the cell itself, and the sums of its 6, 12 and 8
        neighbours that share a face, an edge and a corner with it.
    """
    y, z = at
    around = planes[np.array(order), y : y + 3, :channels, z : z + cells + 2]
    for number in range(4):
        total = np.zeros((channels, cells), dtype=np.float32)
        for i, j, k in np.ndindex(3, 3, 3):
            if abs(i - 1) + abs(j - 1) + abs(k - 1) == number:
                total += around[i, j, :, k : k + cells]
        sums[number : 4 * channels : 4, :cells] = total
