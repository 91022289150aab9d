"""The trunk of reion's symmetric residual networks, fused: channels in, ionised fraction out.

What the network is stands in `reion.models.trunks`. A narrow network is bound by memory where every operator
passes over the box; here a tile goes through all of them plane by plane, and what lies between two of them
stays in the cache. A 3x3x3 convolution with one weight for each kind of neighbour (the cell itself, and those
that share a face, an edge or a corner with it) takes four products with sums of cells instead of 27 with
cells.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import float32, types
from numpy.typing import NDArray

from reion_kernels._jit import INT, kernel, source, target
from reion_kernels._threads import run, thread_count
from reion_kernels._vectors import LANES, OUTPUTS, logistic, mix, mix_more, neighbour_sums, silu
from reion_kernels.box_means import BOX, copy_line

_KINDS = 4
"""Of cells around one, itself included."""

_CHANNELS_AT_ONCE = 8
"""The sums of neighbours of so many channels are held at a time: they stay in the first cache."""

_TILE_CELLS = (64, 32, 64)
"""Cells of a tile along x, y, z, at most. Its width along z, where vectors lie, wastes least for both shipped
trunks, whose halos are two and four cells wide."""

_THINNEST_CELLS = 16
"""Tiles are cut along x, where each one begins with planes for its halo, down to so many cells."""

_TASKS_A_THREAD = 4
"""How many tiles there should be for each thread, so that one that is held up holds up no other."""


class TrunkWeights(NamedTuple):
    """What a trunk has learnt; all float32 and contiguous.

    SiLU follows after the mix, every block and the head; the logistic function after xi and the spread.

    Attributes
    ----------
    mix, added
        (channel, width), and (1 + blocks, width): what is added after the mix and after every block.
    spread, spread_added
        Of every block's symmetric convolution: (blocks, 4 width, hidden), for each channel of the input the
        weights of a cell itself and of those that share a face, an edge and a corner; (blocks, hidden).
    back
        (blocks, hidden, width).
    head, head_added
        (width, features), (features,).
    xi, xi_added
        (features, 1), (1,).
    error, error_added, error_xi, error_xi_added
        (features, hidden), (hidden,), (hidden, 1), (1,): the spread of the error from the same features, with
        SiLU between. No features and no hidden ones where there is none.
    error_range
        (2,): the least spread, and how much more the largest is.
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
        """Cells of halo that the channels carry on every side: one for each block."""
        return len(self.back)


def _shapes(weights: TrunkWeights) -> tuple[tuple[int, ...], ...]:
    """The shapes that the weights must have, in their order, by the sizes that some of them have."""
    channels, width = weights.mix.shape
    blocks, hidden, _ = weights.back.shape
    features, errors = len(weights.head_added), len(weights.error_added)
    of_error, one = (features, 1) if errors else (0, 0)
    mix = (channels, width), (1 + blocks, width)
    convolutions = (blocks, _KINDS * width, hidden), (blocks, hidden), (blocks, hidden, width)
    answer = (width, features), (features,), (features, 1), (1,)
    return (*mix, *convolutions, *answer, (of_error, errors), (errors,), (errors, one), (one,), (2,))


def residual_trunk(
    channels: NDArray[np.float32],
    weights: TrunkWeights,
    answers: NDArray[np.float32],
    *,
    periodic: Sequence[int] = (0, 0, 0),
    threads: int | None = None,
) -> None:
    """Write xi, and the spread of its error if there is a place for it, into `answers`.

    Parameters
    ----------
    channels
        (x + 2 r, channel, y + 2 r, z + 2 r) float32, contiguous; r is `weights.radius_cells`. Along periodic
        axes they have no halo.
    weights
        See `TrunkWeights`.
    answers
        (1 or 2, x, y, z) float32; the first axis may have any stride.
    periodic
        For each axis, 1 where the box goes round.
    threads
        Number of threads; None for every core this process may use. It does not change the result.

    Raises
    ------
    ValueError
        If an array has another shape than the others ask for, is not float32 or not contiguous; if a spread
        is asked for that the network does not have.
    """
    expected = _shapes(weights)
    for name, array, shape in zip(weights._fields, weights, expected, strict=True):
        if array.shape != shape:
            message = f"{name}: expected {shape} of the other weights. Received: {array.shape}"
            raise ValueError(message)
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
    b_x, b_y, b_z = (-weights.radius_cells if wraps else 0 for wraps in periodic)
    begin = (b_x, b_y, b_z)
    padded = TrunkWeights(*map(_padded, weights))
    count = thread_count(threads, answers[0].size)

    def task(low: tuple[int, ...], high: tuple[int, ...]) -> None:
        scratch = _scratch(padded, [b - a for a, b in zip(low, high, strict=True)])
        run_tile(view, padded, begin, low, high, *scratch, xi, error)

    run(task, tiles(sides, count), count)
    if len(answers) > 1:
        least, more = weights.error_range
        answers[1] *= more
        answers[1] += least


def trunk_scratch_bytes(weights: TrunkWeights) -> int:
    """Memory that one thread takes for a tile."""
    return sum(array.nbytes for array in _scratch(weights, _TILE_CELLS))


def tiles(shape: Sequence[int], threads: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """First cells and ends of tiles of nearly one size that fill a box."""
    counts = [math.ceil(n / side) for n, side in zip(shape, _TILE_CELLS, strict=True)]
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


def _padded(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same with outputs of zero up to a multiple of `OUTPUTS`."""
    more = [(0, 0)] * (weights.ndim - 1) + [(0, -weights.shape[-1] % OUTPUTS)]
    return np.ascontiguousarray(np.pad(weights, more), dtype=np.float32)


def _scratch(weights: TrunkWeights, cells: Sequence[int]) -> tuple[NDArray[np.float32], ...]:
    """What `run_tile` works in."""
    stages, width = weights.added.shape
    halo = 2 * (stages - 1)
    room = -(-(cells[2] + halo) // LANES) * LANES + 2 * LANES
    hidden = max(weights.spread_added.shape[1], len(weights.head_added), OUTPUTS)
    rows = max(len(weights.mix), _KINDS * _CHANNELS_AT_ONCE, len(weights.error_added))
    planes = np.zeros((stages, 3, width, cells[1] + halo, room), dtype=np.float32)
    return (
        planes,
        np.zeros((rows, room), np.float32),
        np.zeros((hidden, room), np.float32),
        np.zeros(hidden, np.float32),
    )


_DIMS = (2, 2, 3, 2, 3, 2, 1, 2, 1, 2, 1, 2, 1, 1)
_WEIGHTS = types.NamedTuple([target(float32, ndim) for ndim in _DIMS], TrunkWeights)
_CELL = types.UniTuple(INT, 3)
_PLANES, _ROWS, _LINE = (target(float32, ndim) for ndim in (5, 2, 1))


@kernel((source(float32, 4), _WEIGHTS, _CELL, _CELL, _CELL, _PLANES, _ROWS, _ROWS, _LINE, BOX, BOX))
def run_tile(channels, weights, begin, low, high, planes, rows, hidden, nothing, xi, error):  # type: ignore[no-untyped-def]
    """Write xi and, where there is a place for it, its error for the cells from `low` to `high`.

    `begin` is the cell of the channels, perhaps beyond the edge of a periodic box, where the halo of the
    first answer begins. The tile is computed plane by plane along x. Of every stage of the network the last
    three planes are held, from which a plane of the next one is made.
    """
    blocks, width = len(weights.back), weights.mix.shape[1]
    nx, ny = channels.shape[0], channels.shape[2]
    x_cells, y_cells, z_cells = high[0] - low[0], high[1] - low[1], high[2] - low[2]
    for step in range(x_cells + 2 * blocks):
        cells = _whole_vectors(z_cells + 2 * blocks)
        for y in range(y_cells + 2 * blocks):
            i, j = (begin[0] + low[0] + step) % nx, (begin[1] + low[1] + y) % ny
            _copy_around(channels[i, :, j], begin[2] + low[2], rows, z_cells + 2 * blocks)
            into = planes[0, step % 3, :, y]
            mix(weights.mix, rows, weights.added[0], into, cells)
            silu(into, width, cells)
        for block in range(min(blocks, step // 2)):
            # The plane in the middle of the last three of this stage; it takes the place of the first.
            at = step - 2 * block
            order = ((at - 2) % 3, (at - 1) % 3, at % 3)
            further = 2 * (blocks - block - 1)
            cells = _whole_vectors(z_cells + further)
            for y in range(y_cells + further):
                added = weights.spread_added[block]
                for channel in range(0, width, _CHANNELS_AT_ONCE):
                    some = min(_CHANNELS_AT_ONCE, width - channel)
                    neighbour_sums(planes[block, :, channel:], order, (y, 0), some, rows, cells)
                    weight = weights.spread[block, _KINDS * channel : _KINDS * (channel + some)]
                    if channel == 0:
                        mix(weight, rows, added, hidden, cells)
                    else:
                        mix_more(weight, rows, nothing, hidden, cells)
                silu(hidden, len(added), cells)
                into = planes[block + 1, order[0], :, y]
                _copy(planes[block, order[1], :, y + 1, 1:], into, cells)
                mix_more(weights.back[block], hidden, weights.added[block + 1], into, cells)
                silu(into, width, cells)
        x = step - 2 * blocks
        if x < 0:
            continue
        cells = _whole_vectors(z_cells)
        for y in range(y_cells):
            mix(weights.head, planes[blocks, x % 3, :, y], weights.head_added, hidden, cells)
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
def _whole_vectors(cells):  # type: ignore[no-untyped-def]
    return (cells + LANES - 1) // LANES * LANES


@kernel()
def _copy_around(lines, first, into, cells):  # type: ignore[no-untyped-def]
    """Copy cells from the first one on, which may lie beyond the lines: they go round."""
    n = lines.shape[1]
    for i in range(len(lines)):
        at, done = first % n, 0
        while done < cells:
            some = min(cells - done, n - at)
            copy_line(lines[i, at:], into[i, done:], some)
            at, done = 0, done + some


@kernel()
def _copy(rows, into, cells):  # type: ignore[no-untyped-def]
    for i in range(len(rows)):
        copy_line(rows[i], into[i], cells)
