"""The trunk of reion's symmetric residual networks in one kernel, from channels to ionised fraction.

`reion.models.trunks` describes the network. If every operator passes over the whole box, memory limits a
narrow network. Here a tile goes through all operators plane by plane, and intermediate results stay in the
cache. A 3x3x3 convolution with one weight for each kind of neighbour (the cell itself, and the cells that
share a face, an edge or a corner with it) takes four products with sums of cells instead of 27 with cells.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import boolean, float32, types
from numpy.typing import NDArray

from reion_kernels._jit import INT, kernel, source, target
from reion_kernels._threads import run, thread_count
from reion_kernels._vector_products import OUTPUTS, mix, mix_onto, neighbour_sums
from reion_kernels._vectors import LANES, copy_rows, logistic, silu
from reion_kernels.box_means import BOX, copy_line

KINDS = 4
"""Kinds of neighbours of a cell, including the cell itself."""

CHANNELS_AT_ONCE = 8
"""Channels whose sums of neighbours are held at a time, so that they stay in the first-level cache."""

_TILE_CELLS = (64, 32, 64)
"""Most cells of a tile along x, y, z. This width along z, the axis of the vectors, wastes least for both
shipped trunks, whose halos are two and four cells wide."""

_WRAPPED_CELLS = 128
"""Most cells along z of a periodic box whose tiles are as long as the box, and need no halo along z."""

_THINNEST_CELLS = 16
"""Fewest cells of a tile along x, the axis along which tiles are cut to give every thread enough of them.
Each tile begins with extra planes for its halo."""

_TASKS_A_THREAD = 2
"""Wanted number of tiles for each thread, so that a delayed thread does not delay the others for long."""


class TrunkWeights(NamedTuple):
    """The weights of a trunk; all float32 and contiguous.

    SiLU follows the mix, every block and the head; the logistic function follows xi and its error bar.

    Attributes
    ----------
    mix, added
        (channel, width): first 1x1x1 convolution. (1 + blocks, width): numbers added after it and after every
        block.
    spread, spread_added
        Symmetric convolution of every block: (blocks, 4 width, hidden), for each channel of the input the
        weights of a cell itself and of those that share a face, an edge and a corner; biases (blocks,
        hidden).
    back
        (blocks, hidden, width): 1x1x1 convolution at the end of every block.
    head, head_added
        (width, features), (features,): 1x1x1 convolution after the blocks.
    xi, xi_added
        (features, 1), (1,): 1x1x1 convolution to xi.
    error, error_added, error_xi, error_xi_added
        (features, hidden), (hidden,), (hidden, 1), (1,): two 1x1x1 convolutions, with SiLU between, from the
        features to the error bar. Features and hidden channels are 0 for a network without error bars.
    error_range
        (2,): the smallest error bar, and the difference of the largest and the smallest.
    """

    mix: NDArray[np.float32]
    added: NDArray[np.float32]
    spread: NDArray[np.float32]
    spread_added: NDArray[np.float32]
    back: NDArray[np.float32]
    head: NDArray[np.float32]
    head_added: NDArray[np.float32]
    xi: NDArray[np.float32]
    xi_added: NDArray[np.float32]
    error: NDArray[np.float32]
    error_added: NDArray[np.float32]
    error_xi: NDArray[np.float32]
    error_xi_added: NDArray[np.float32]
    error_range: NDArray[np.float32]

    @property
    def radius_cells(self) -> int:
        """Cells of halo that the channels need on every side: one for each block."""
        return len(self.back)


def _shapes(weights: TrunkWeights) -> tuple[tuple[int, ...], ...]:
    """The shapes that the weights must have, in the order of the fields, from the sizes of some of them."""
    channels, width = weights.mix.shape
    blocks, hidden, _ = weights.back.shape
    features, errors = len(weights.head_added), len(weights.error_added)
    of_error, one = (features, 1) if errors else (0, 0)
    mix = (channels, width), (1 + blocks, width)
    convolutions = (blocks, KINDS * width, hidden), (blocks, hidden), (blocks, hidden, width)
    answer = (width, features), (features,), (features, 1), (1,)
    return (*mix, *convolutions, *answer, (of_error, errors), (errors,), (errors, one), (one,), (2,))


def check_shapes(weights: TrunkWeights) -> None:
    """Raise `ValueError` if one of the weights has another shape than the others ask for."""
    for name, array, shape in zip(weights._fields, weights, _shapes(weights), strict=True):
        if array.shape != shape:
            message = f"{name}: expected {shape} of the other weights. Received: {array.shape}"
            raise ValueError(message)


def residual_trunk(
    channels: NDArray[np.float32],
    weights: TrunkWeights,
    answers: NDArray[np.float32],
    *,
    periodic: Sequence[int] = (0, 0, 0),
    threads: int | None = None,
) -> None:
    """Write xi and, if `answers` has a place for it, the error bar of xi into `answers`.

    Parameters
    ----------
    channels
        (x + 2 r, channel, y + 2 r, z + 2 r) float32, contiguous; r is `weights.radius_cells`. There is no
        halo along periodic axes.
    weights
        See `TrunkWeights`.
    answers
        (1 or 2, x, y, z) float32: xi, and its error bar; the first axis may have any stride.
    periodic
        For each axis, 1 if the box is periodic along it, else 0.
    threads
        Number of threads; None for every core this process may use. It does not change the result.

    Raises
    ------
    ValueError
        If the shape of an array does not fit the others; if it is not float32 or not contiguous; if `answers`
        has a place for an error bar that the network does not have.
    """
    check_shapes(weights)
    halo = 2 * weights.radius_cells
    _check(channels, "channels")
    _check(answers, "answers")
    if len(answers) not in ((1, 2) if weights.error.size else (1,)):
        message = f"answers: expected 1, or 2 of a network with a spread. Received: {len(answers)}"
        raise ValueError(message)
    _, *sides = answers.shape
    x, y, z = (n + (0 if wraps else halo) for n, wraps in zip(sides, periodic, strict=True))
    if channels.shape != (x, len(weights.mix), y, z):
        message = f"channels: expected {(x, len(weights.mix), y, z)}. Received: {channels.shape}"
        raise ValueError(message)
    if not answers.size:
        return
    view = np.ascontiguousarray(channels).view()
    view.flags.writeable = False
    xi, error = answers if len(answers) > 1 else (answers[0], np.empty((0, 0, 0), dtype=np.float32))
    is_wrapped = bool(periodic[2]) and z <= _WRAPPED_CELLS
    b_x, b_y, b_z = (-weights.radius_cells if wraps else 0 for wraps in periodic)
    begin = (b_x, b_y, 0 if is_wrapped else b_z)
    padded = TrunkWeights(*map(pad_channels, weights))
    count = thread_count(threads, answers[0].size)

    def task(low: tuple[int, ...], high: tuple[int, ...]) -> None:
        scratch = _scratch(padded, [b - a for a, b in zip(low, high, strict=True)])
        run_tile(view, padded, begin, is_wrapped, low, high, *scratch, xi, error)

    run(task, tiles(sides, count, is_wrapped), count)
    if len(answers) > 1:
        least, more = weights.error_range
        answers[1] *= more
        answers[1] += least


def trunk_scratch_bytes(weights: TrunkWeights) -> int:
    """Working memory of one thread for a tile, in bytes."""
    return sum(array.nbytes for array in _scratch(weights, (*_TILE_CELLS[:2], _WRAPPED_CELLS)))


def tiles(
    shape: Sequence[int], threads: int, is_wrapped: bool
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """First cells and ends of tiles of nearly equal size that fill a box.

    With `is_wrapped` they are as long as the box along z.
    """
    counts = [math.ceil(n / side) for n, side in zip(shape, _TILE_CELLS, strict=True)]
    if is_wrapped:
        counts[2] = 1
    wanted = math.ceil(_TASKS_A_THREAD * threads / math.prod(counts[1:]))
    if threads > 1:
        counts[0] = max(counts[0], min(wanted, shape[0] // _THINNEST_CELLS))
    edges = [[n * i // count for i in range(count + 1)] for n, count in zip(shape, counts, strict=True)]
    parts = itertools.product(*(itertools.pairwise(axis) for axis in edges))
    return [(tuple(low for low, _ in part), tuple(high for _, high in part)) for part in parts]


def _check(array: NDArray[np.float32], name: str) -> None:
    is_array = isinstance(array, np.ndarray) and array.ndim == 4
    if not is_array or array.dtype != np.float32 or not all(part.flags.c_contiguous for part in array[:1]):
        received = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        message = f"{name}: expected a contiguous array of float32 with four axes. Received: {received}"
        raise ValueError(message)


def pad_channels(array: NDArray[np.float32], axes: int = 1) -> NDArray[np.float32]:
    """The array with zeros appended up to multiples of `OUTPUTS` along the last `axes` axes."""
    kept = array.ndim - axes
    more = [(0, 0 if axis < kept else -size % OUTPUTS) for axis, size in enumerate(array.shape)]
    return np.ascontiguousarray(np.pad(array, more), dtype=np.float32)


def _scratch(weights: TrunkWeights, cells: Sequence[int]) -> tuple[NDArray[np.float32], ...]:
    """Working arrays of `run_tile`."""
    stages, width = weights.added.shape
    halo = 2 * (stages - 1)
    room = -(-(cells[2] + halo) // LANES) * LANES + 2 * LANES
    hidden = max(weights.spread_added.shape[1], len(weights.head_added), OUTPUTS)
    rows = max(len(weights.mix), KINDS * CHANNELS_AT_ONCE, len(weights.error_added))
    planes = np.zeros((stages, 3, cells[1] + halo, width, room), dtype=np.float32)
    return (
        planes,
        np.zeros((rows, room), np.float32),
        np.zeros((hidden, room), np.float32),
        np.zeros(hidden, np.float32),
    )


DIMS = (2, 2, 3, 2, 3, 2, 1, 2, 1, 2, 1, 2, 1, 1)
WEIGHTS = types.NamedTuple([target(float32, ndim) for ndim in DIMS], TrunkWeights)
_CELL = types.UniTuple(INT, 3)
_PLANES, _ROWS, _LINE = (target(float32, ndim) for ndim in (5, 2, 1))


@kernel((source(float32, 4), WEIGHTS, _CELL, boolean, _CELL, _CELL, _PLANES, _ROWS, _ROWS, _LINE, BOX, BOX))
def run_tile(  # type: ignore[no-untyped-def]
    channels, weights, begin, is_wrapped, low, high, planes, rows, hidden, nothing, xi, error
):
    """Write xi and, if `error` is not empty, its error bar for the cells from `low` to `high`.

    `begin` is the cell of the channels at which the halo of the first answer begins; in a periodic box it may
    lie beyond the edge. The tile is computed plane by plane along x. The last three planes of every stage of
    the network are kept, because a plane of the next stage needs them.

    With `is_wrapped` the tile is as long as the periodic box along z. Rows then have no halo along z: they
    begin with a copy of the last cell, and a copy of the first cell follows the last.
    """
    halo, start = (0, 1) if is_wrapped else (1, 0)
    blocks, width = len(weights.back), weights.mix.shape[1]
    nx, ny = channels.shape[0], channels.shape[2]
    x_cells, y_cells, z_cells = high[0] - low[0], high[1] - low[1], high[2] - low[2]
    for step in range(x_cells + 2 * blocks):
        needed = z_cells + 2 * blocks * halo
        cells = whole_vectors(needed)
        for y in range(y_cells + 2 * blocks):
            i, j = (begin[0] + low[0] + step) % nx, (begin[1] + low[1] + y) % ny
            _copy_around(channels[i, :, j], begin[2] + low[2], rows, needed)
            row = planes[0, step % 3, y]
            into = row[:, start:]
            mix(weights.mix, rows, weights.added[0], into, cells)
            silu(into, width, cells)
            if is_wrapped:
                _wrap(row, z_cells)
        for block in range(min(blocks, step // 2)):
            # A plane of the next stage from the last three of this one; it replaces the oldest plane of the
            # next stage.
            at = step - 2 * block
            order = ((at - 2) % 3, (at - 1) % 3, at % 3)
            further = 2 * (blocks - block - 1)
            cells = whole_vectors(z_cells + further * halo)
            for y in range(y_cells + further):
                spread, added = weights.spread[block], weights.spread_added[block]
                mix_neighbours(planes[block], order, y, spread, added, rows, nothing, hidden, cells)
                silu(hidden, len(added), cells)
                row = planes[block + 1, order[0], y]
                into = row[:, start:]
                before = planes[block, order[1], y + 1, :, 1:]
                mix_onto(weights.back[block], hidden, weights.added[block + 1], before, into, cells)
                silu(into, width, cells)
                if is_wrapped:
                    _wrap(row, z_cells)
        x = step - 2 * blocks
        if x < 0:
            continue
        cells = whole_vectors(z_cells)
        for y in range(y_cells):
            mix(weights.head, planes[blocks, x % 3, y, :, start:], weights.head_added, hidden, cells)
            silu(hidden, len(weights.head_added), cells)
            mix(weights.xi, hidden, weights.xi_added, rows, cells)
            logistic(rows, 1, cells)
            copy_line(rows[0], xi[low[0] + x, low[1] + y, low[2] :], z_cells)
            if len(error):
                mix(weights.error, hidden, weights.error_added, rows, cells)
                silu(rows, len(weights.error_added), cells)
                mix(weights.error_xi, rows, weights.error_xi_added, hidden, cells)
                logistic(hidden, 1, cells)
                copy_line(hidden[0], error[low[0] + x, low[1] + y, low[2] :], z_cells)


@kernel()
def mix_neighbours(planes, order, y, weights, added, sums, nothing, into, cells):  # type: ignore[no-untyped-def]
    """Write a row of a symmetric convolution, `into` (output, z), from three planes (3, y, channel, z).

    `weights` are (4 channels, output) as in `TrunkWeights`. The sums of neighbours of some channels at a time
    go to `sums`; `nothing` are zeros, as many as outputs.
    """
    channels = len(weights) // KINDS
    for channel in range(0, channels, CHANNELS_AT_ONCE):
        some = min(CHANNELS_AT_ONCE, channels - channel)
        neighbour_sums(planes[:, :, channel:], order, (y, 0), some, sums, cells)
        weight = weights[KINDS * channel : KINDS * (channel + some)]
        if channel == 0:
            mix(weight, sums, added, into, cells)
        else:
            mix_onto(weight, sums, nothing, into, into, cells)


@kernel()
def whole_vectors(cells):  # type: ignore[no-untyped-def]
    """Round a number of cells up to a multiple of `LANES`."""
    return (cells + LANES - 1) // LANES * LANES


@kernel()
def _copy_around(lines, first, into, cells):  # type: ignore[no-untyped-def]
    """Copy cells from `first` on, which may lie beyond the ends of the lines; the lines are periodic."""
    n = lines.shape[1]
    at, done = first % n, 0
    while done < cells:
        some = min(cells - done, n - at)
        copy_rows(lines[:, at : at + some], into[:, done:])
        at, done = 0, done + some


@kernel()
def _wrap(row, cells):  # type: ignore[no-untyped-def]
    """Copy the last cell before the first and the first after the last."""
    for channel in range(len(row)):
        row[channel, 0] = row[channel, cells]
        row[channel, cells + 1] = row[channel, 1]
