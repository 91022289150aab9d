"""The trunk of reion's symmetric residual networks in training: its answers for crops, and its gradients.

`reion_kernels.residual_trunk` computes the same answers for boxes and keeps nothing. Gradients need the values
of every stage and the slopes of its SiLUs, so these are kept here. Gradients follow the chain rule. The gradient
by the input of a symmetric convolution is a symmetric convolution with transposed weights: it too takes four
products with sums of neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numba import float32, types
from numpy.typing import NDArray

from reion_kernels._jit import kernel, target
from reion_kernels._threads import run, thread_count
from reion_kernels._vectors import (
    LANES,
    OUTPUTS,
    add_products,
    logistic,
    mix,
    mix_more,
    neighbour_sums,
    silu_and_slope,
)
from reion_kernels.box_means import ZERO, copy_line
from reion_kernels.residual_trunk import WEIGHTS, TrunkWeights, check_shapes

_KINDS = 4
"""Of cells around one, itself included."""

_CHANNELS_AT_ONCE = 8
"""The sums of neighbours of so many channels are held at a time."""

_PADDED_AXES = (2, 1, 2, 1, 2, 2, 1, 2, 1, 2, 1, 2, 1, 0)
"""How many of the last axes of each of the weights are channels."""

ONE = np.float32(1)


class _Kept(NamedTuple):
    """What a pass forwards keeps of a window for the way back; (..., channel, y, z) with room beyond z.

    Attributes
    ----------
    stages, stage_slopes
        (1 + blocks, x, channel, y, z): after the mix and after every block.
    hidden, hidden_slopes
        (blocks, x, channel, y, z): between the two layers of every block.
    last, last_slopes
        (2, x, channel, y, z): the features of the head, and the hidden ones of the spread.
    """

    stages: NDArray[np.float32]
    stage_slopes: NDArray[np.float32]
    hidden: NDArray[np.float32]
    hidden_slopes: NDArray[np.float32]
    last: NDArray[np.float32]
    last_slopes: NDArray[np.float32]


class _Work(NamedTuple):
    """What both ways work in.

    Attributes
    ----------
    rows, sums
        (channel, y, z): the channels of a plane; the sums of neighbours of some channels of a plane.
    answers, features
        (2, `OUTPUTS`, y, z), (2, feature, y, z): of a plane, of xi and of the spread.
    ones
        (`OUTPUTS`, y, z): ones in the first row, zeros in the others.
    nothing
        (channel,): zeros.
    outer, inner
        (x, channel, y, z): gradients by the values of a stage and of the one before.
    framed
        (x, channel, y, z): gradients by the hidden values of a block within two cells of zeros on every side.
    """

    rows: NDArray[np.float32]
    sums: NDArray[np.float32]
    answers: NDArray[np.float32]
    features: NDArray[np.float32]
    ones: NDArray[np.float32]
    nothing: NDArray[np.float32]
    outer: NDArray[np.float32]
    inner: NDArray[np.float32]
    framed: NDArray[np.float32]


class _Transposed(NamedTuple):
    """The weights as the way back takes them: outputs in, inputs out."""

    spread: NDArray[np.float32]
    back: NDArray[np.float32]
    head: NDArray[np.float32]
    xi: NDArray[np.float32]
    error_xi: NDArray[np.float32]


class _Totals(NamedTuple):
    """Gradients by the weights, in `LANES` parts along the last axis.

    Those by what is added have `OUTPUTS` rows before it, of which the first holds the gradient.
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


class TrunkGradients:
    """The answers of a trunk for a batch of crops, and the gradients of a loss of these answers.

    It keeps its memory from one batch to the next, so one object belongs to one training.

    Parameters
    ----------
    threads
        Number of threads; None for every core this process may use. Crops are shared out among them, so more
        than there are crops in a batch do not help. The number does not change the result.
    """

    def __init__(self, *, threads: int | None = None) -> None:
        self._threads = threads
        self._memory: dict[int, tuple[tuple[int, ...], _Kept, _Work]] = {}
        self._pass: tuple[NDArray[np.float32], TrunkWeights, NDArray[np.float32]] | None = None

    def answers(
        self, channels: NDArray[np.float32], weights: TrunkWeights, added: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Compute xi, and the spread of its error where the network has one.

        Parameters
        ----------
        channels
            (crop, x + 2 r, y + 2 r, z + 2 r, channel) float32; r is `weights.radius_cells`.
        weights
            See `TrunkWeights`. What is added after the mix and after the blocks is not taken from here.
        added
            (crop, 1 + blocks, width) float32: what is added in a crop after the mix and after every block.

        Returns
        -------
        ndarray
            (crop, x, y, z, 1 or 2) float32.

        Raises
        ------
        ValueError
            If an array has another shape than the others ask for.
        """
        check_shapes(weights)
        crops, *sides, count = channels.shape
        halo = 2 * weights.radius_cells
        if count != len(weights.mix) or min(sides) <= halo or added.shape != (crops, *weights.added.shape):
            message = (
                f"channels, added: expected (crop, x, y, z, {len(weights.mix)}) with more than {halo} cells "
                f"along each axis, and (crop, *{weights.added.shape}). Received: {channels.shape}, "
                f"{added.shape}"
            )
            raise ValueError(message)
        padded = _of_whole_vectors(weights)
        told = _padded(added, 1)
        values = np.ascontiguousarray(channels, dtype=np.float32)
        outputs = 2 if weights.error.size else 1
        answers = np.empty((crops, *(side - halo for side in sides), outputs), dtype=np.float32)

        def task(crop: int) -> None:
            forwards(values[crop], padded, told[crop], *self._memory_of(crop, padded, sides), answers[crop])

        self._run(task, values)
        self._pass = values, padded, answers
        return answers

    def gradients(
        self, upstream: NDArray[np.float32], weights: TrunkWeights
    ) -> tuple[TrunkWeights, NDArray[np.float32]]:
        """Compute the gradients of a loss by the weights, after `answers`.

        Parameters
        ----------
        upstream
            (crop, x, y, z, 1 or 2) float32: the gradient of the loss by the answers.
        weights
            Those that `answers` was given, for their shapes.

        Returns
        -------
        weights
            The gradient by each of the weights, float32; those by `added` are summed over the crops, and
            `error_range` has zeros. What the weights of the spread learn does not go on to the features.
        added
            (crop, 1 + blocks, width) float32: the gradient by what was added for each crop.

        Raises
        ------
        ValueError
            If there was no pass forwards, or its answers had another shape.
        """
        if self._pass is None or self._pass[2].shape != upstream.shape:
            message = f"upstream: expected the shape of the last answers. Received: {upstream.shape}"
            raise ValueError(message)
        values, padded, answers = self._pass
        transposed = _transposed(padded)
        given = np.ascontiguousarray(upstream, dtype=np.float32)
        totals = [_totals(padded) for _ in given]

        def task(crop: int) -> None:
            memory = self._memory_of(crop, padded, values.shape[1:4])
            backwards(values[crop], padded, transposed, *memory, answers[crop], given[crop], totals[crop])

        self._run(task, values)
        parts = [_summed(total) for total in totals]
        found = {name: np.sum([part[name] for part in parts], axis=0) for name in parts[0]}
        found["error_range"] = np.zeros(2)
        by_weights = [
            found[name][tuple(slice(size) for size in array.shape)].astype(np.float32)
            for name, array in zip(weights._fields, weights, strict=True)
        ]
        added = np.stack([part["added"] for part in parts])[..., : weights.added.shape[1]]
        return TrunkWeights(*by_weights), added.astype(np.float32)

    def _run(self, task: Callable[[int], None], values: NDArray[np.float32]) -> None:
        crops = len(values)
        run(task, ((crop,) for crop in range(crops)), min(crops, thread_count(self._threads, values.size)))

    def _memory_of(self, crop: int, padded: TrunkWeights, sides: Sequence[int]) -> tuple[_Kept, _Work]:
        shape = (*sides, *(size for array in padded for size in array.shape))
        if crop not in self._memory or self._memory[crop][0] != shape:
            self._memory[crop] = shape, *_memory(padded, sides)
        return self._memory[crop][1:]


def _padded(array: NDArray[np.float32], axes: int) -> NDArray[np.float32]:
    """The same with zeros up to multiples of `OUTPUTS` along so many of the last axes."""
    kept = array.ndim - axes
    more = [(0, 0 if axis < kept else -size % OUTPUTS) for axis, size in enumerate(array.shape)]
    return np.ascontiguousarray(np.pad(array, more), dtype=np.float32)


def _of_whole_vectors(weights: TrunkWeights) -> TrunkWeights:
    """The weights with channels of zeros up to multiples of `OUTPUTS`, which answer zero."""
    padded = TrunkWeights(*map(_padded, weights, _PADDED_AXES))
    blocks, hidden, width = padded.back.shape
    spread = np.zeros((blocks, _KINDS * width, hidden), dtype=np.float32)
    spread[:, : weights.spread.shape[1], : weights.spread.shape[2]] = weights.spread
    return padded._replace(spread=spread)


def _transposed(weights: TrunkWeights) -> _Transposed:
    blocks, rows, hidden = weights.spread.shape
    by_kind = weights.spread.reshape(blocks, rows // _KINDS, _KINDS, hidden)
    spread = by_kind.transpose(0, 3, 2, 1).reshape(blocks, _KINDS * hidden, rows // _KINDS)
    others = (weights.back.transpose(0, 2, 1), weights.head.T, weights.xi.T, weights.error_xi.T)
    return _Transposed(*(np.ascontiguousarray(array) for array in (spread, *others)))


def _totals(weights: TrunkWeights) -> _Totals:
    """Zeros, to which gradients are added."""

    def zeros(name: str) -> NDArray[np.float32]:
        *first, size = getattr(weights, name).shape
        shape = (*first, OUTPUTS, size) if name.endswith("added") else (*first, size)
        return np.zeros((*shape, LANES), dtype=np.float32)

    return _Totals(*map(zeros, _Totals._fields))


def _summed(totals: _Totals) -> dict[str, NDArray[np.float64]]:
    def summed(name: str) -> NDArray[np.float64]:
        total = getattr(totals, name).sum(axis=-1, dtype=np.float64)
        return total.sum(axis=-2) if name.endswith("added") else total  # type: ignore[no-any-return]

    return {name: summed(name) for name in _Totals._fields}


def _memory(weights: TrunkWeights, sides: Sequence[int]) -> tuple[_Kept, _Work]:
    """For one crop: what is kept of it, and what both ways work in."""
    x, y, z = sides
    blocks, width, hidden = len(weights.back), weights.mix.shape[1], weights.spread_added.shape[1]
    features = max(weights.head_added.size, weights.error_added.size)
    room = -(-z // LANES) * LANES + LANES

    def zeros(*shape: int) -> NDArray[np.float32]:
        return np.zeros((*shape, room), dtype=np.float32)

    kept = _Kept(
        zeros(1 + blocks, x, width, y),
        zeros(1 + blocks, x, width, y),
        zeros(blocks, x, hidden, y),
        zeros(blocks, x, hidden, y),
        zeros(2, x, features, y),
        zeros(2, x, features, y),
    )
    ones = zeros(OUTPUTS, y)
    ones[0] = 1
    work = _Work(
        zeros(len(weights.mix), y),
        zeros(_KINDS * _CHANNELS_AT_ONCE, y),
        zeros(2, OUTPUTS, y),
        zeros(2, features, y),
        ones,
        np.zeros(max(width, hidden, features, OUTPUTS), dtype=np.float32),
        zeros(x, width, y),
        zeros(x, width, y),
        zeros(x + 2, hidden, y + 2),
    )
    return kept, work


def _arrays(kind: type[NamedTuple], *ndims: int) -> Any:
    return types.NamedTuple([target(float32, ndim) for ndim in ndims], kind)


_KEPT = _arrays(_Kept, 5, 5, 5, 5, 5, 5)
_WORK = _arrays(_Work, 3, 3, 4, 4, 3, 1, 4, 4, 4)
_TRANSPOSED = _arrays(_Transposed, 3, 3, 2, 2, 2)
_TOTALS = _arrays(_Totals, 3, 4, 4, 4, 4, 3, 3, 3, 3, 3, 3, 3, 3)
_CROP, _LINES = target(float32, 4), target(float32, 2)


@kernel((_CROP, WEIGHTS, _LINES, _KEPT, _WORK, _CROP))
def forwards(channels, weights, added, kept, work, answers):  # type: ignore[no-untyped-def]
    """Write the answers (x, y, z, 1 or 2) for the channels (x + 2 r, y + 2 r, z + 2 r, channel) of a crop."""
    blocks, width, hidden = len(weights.back), weights.mix.shape[1], weights.spread_added.shape[1]
    x_cells, y_cells, z_cells = channels.shape[:3]
    cells = _whole_vectors(z_cells)
    for x in range(x_cells):
        _lines_of(channels[x], work.rows)
        for y in range(y_cells):
            into = kept.stages[0, x, :, y]
            mix(weights.mix, work.rows[:, y], added[0], into, cells)
            silu_and_slope(into, kept.stage_slopes[0, x, :, y], width, cells)
    for block in range(blocks):
        x_cells, y_cells, z_cells = x_cells - 2, y_cells - 2, z_cells - 2
        cells = _whole_vectors(z_cells)
        before = kept.stages[block]
        for x in range(x_cells):
            for y in range(y_cells):
                inner = kept.hidden[block, x, :, y]
                _mix_neighbours(
                    before[x : x + 3],
                    y,
                    weights.spread[block],
                    weights.spread_added[block],
                    work,
                    inner,
                    cells,
                )
                silu_and_slope(inner, kept.hidden_slopes[block, x, :, y], hidden, cells)
                into = kept.stages[block + 1, x, :, y]
                for channel in range(width):
                    copy_line(before[x + 1, channel, y + 1, 1:], into[channel], cells)
                mix_more(weights.back[block], inner, added[block + 1], into, cells)
                silu_and_slope(into, kept.stage_slopes[block + 1, x, :, y], width, cells)
    features, errors = len(weights.head_added), len(weights.error_added)
    for x in range(x_cells):
        for y in range(y_cells):
            last = kept.last[0, x, :, y]
            mix(weights.head, kept.stages[blocks, x, :, y], weights.head_added, last, cells)
            silu_and_slope(last, kept.last_slopes[0, x, :, y], features, cells)
            found = work.answers[0, :, y]
            mix(weights.xi, last[:features], weights.xi_added, found, cells)
            logistic(found, 1, cells)
            for k in range(z_cells):
                answers[x, y, k, 0] = found[0, k]
            if errors:
                inner = kept.last[1, x, :, y]
                mix(weights.error, last[:features], weights.error_added, inner, cells)
                silu_and_slope(inner, kept.last_slopes[1, x, :, y], errors, cells)
                mix(weights.error_xi, inner[:errors], weights.error_xi_added, found, cells)
                logistic(found, 1, cells)
                least, more = weights.error_range
                for k in range(z_cells):
                    answers[x, y, k, 1] = least + more * found[0, k]


@kernel((_CROP, WEIGHTS, _TRANSPOSED, _KEPT, _WORK, _CROP, _CROP, _TOTALS))
def backwards(channels, weights, transposed, kept, work, answers, upstream, totals):  # type: ignore[no-untyped-def]
    """Add the gradients by the weights, of a loss whose gradient by the answers is `upstream`, to totals."""
    blocks, width = len(weights.back), weights.mix.shape[1]
    _head_backwards(weights, transposed, kept, work, answers, upstream, totals)
    outer, inner = work.outer, work.inner
    x_cells, y_cells, z_cells = channels.shape[:3]
    for step in range(blocks):
        block = blocks - 1 - step
        further = 2 * (block + 1)
        sides = (x_cells - further, y_cells - further, z_cells - further)
        _block_backwards(weights, transposed, kept, work, outer, inner, totals, block, sides)
        outer, inner = inner, outer
    cells = _whole_vectors(z_cells)
    for x in range(x_cells):
        _multiply(outer[x], kept.stage_slopes[0, x], width, y_cells, cells)
        _lines_of(channels[x], work.rows)
        add_products(work.ones[:, :y_cells], outer[x], totals.added[0], cells)
        add_products(work.rows[:, :y_cells], outer[x], totals.mix, cells)


@kernel()
def _head_backwards(weights, transposed, kept, work, answers, upstream, totals):  # type: ignore[no-untyped-def]
    # Leaves the gradients by the values of the last stage in work.outer, with zeros beyond z.
    x_cells, y_cells, z_cells = answers.shape[:3]
    blocks, cells = len(weights.back), _whole_vectors(z_cells)
    features, errors = len(weights.head_added), len(weights.error_added)
    ones = work.ones[:, :y_cells]
    by_xi, by_error = work.answers[0], work.answers[1]
    by_features, by_hidden = work.features[0], work.features[1]
    work.answers[:] = ZERO
    least, more = weights.error_range
    for x in range(x_cells):
        for y in range(y_cells):
            for k in range(z_cells):
                xi = answers[x, y, k, 0]
                by_xi[0, y, k] = upstream[x, y, k, 0] * xi * (ONE - xi)
            mix(transposed.xi, by_xi[:, y], work.nothing, by_features[:features, y], cells)
        last = kept.last[0, x, :features, :y_cells]
        add_products(ones, by_xi, totals.xi_added, cells)
        add_products(last, by_xi, totals.xi, cells)
        _multiply(by_features, kept.last_slopes[0, x], features, y_cells, cells)
        add_products(ones, by_features[:features], totals.head_added, cells)
        add_products(kept.stages[blocks, x][:, :y_cells], by_features[:features], totals.head, cells)
        for y in range(y_cells):
            mix(transposed.head, by_features[:features, y], work.nothing, work.outer[x, :, y], cells)
        if errors == 0:
            continue
        for y in range(y_cells):
            for k in range(z_cells):
                part = (answers[x, y, k, 1] - least) / more
                by_error[0, y, k] = upstream[x, y, k, 1] * more * part * (ONE - part)
            mix(transposed.error_xi, by_error[:, y], work.nothing, by_hidden[:errors, y], cells)
        add_products(ones, by_error, totals.error_xi_added, cells)
        add_products(kept.last[1, x, :errors, :y_cells], by_error, totals.error_xi, cells)
        _multiply(by_hidden, kept.last_slopes[1, x], errors, y_cells, cells)
        add_products(ones, by_hidden[:errors], totals.error_added, cells)
        add_products(last, by_hidden[:errors], totals.error, cells)


@kernel()
def _block_backwards(weights, transposed, kept, work, outer, inner, totals, block, sides):  # type: ignore[no-untyped-def]
    # From the gradients by the values after a block, `outer`, to those by the values before it, `inner`.
    x_cells, y_cells, z_cells = sides
    width, hidden = weights.mix.shape[1], weights.spread_added.shape[1]
    cells = _whole_vectors(z_cells)
    ones, framed = work.ones[:, :y_cells], work.framed
    framed[:] = ZERO
    for x in range(x_cells):
        _multiply(outer[x], kept.stage_slopes[block + 1, x], width, y_cells, cells)
        add_products(ones, outer[x], totals.added[block + 1], cells)
        add_products(kept.hidden[block, x][:, :y_cells], outer[x], totals.back[block], cells)
        by_hidden = framed[x + 2, :, 2:, 2:]
        for y in range(y_cells):
            mix(transposed.back[block], outer[x, :, y], work.nothing, by_hidden[:, y], cells)
        _multiply(by_hidden, kept.hidden_slopes[block, x], hidden, y_cells, cells)
        add_products(ones, by_hidden, totals.spread_added[block], cells)
        for channel in range(0, width, _CHANNELS_AT_ONCE):
            some = min(_CHANNELS_AT_ONCE, width - channel)
            planes = kept.stages[block, x : x + 3, channel:]
            for y in range(y_cells):
                neighbour_sums(planes, (0, 1, 2), (y, 0), some, work.sums[:, y], cells)
            total = totals.spread[block, _KINDS * channel :]
            add_products(work.sums[: _KINDS * some, :y_cells], by_hidden, total, cells)
    cells = _whole_vectors(z_cells + 2)
    for x in range(x_cells + 2):
        for y in range(y_cells + 2):
            planes = framed[x : x + 3]
            _mix_neighbours(planes, y, transposed.spread[block], work.nothing, work, inner[x, :, y], cells)
            if not (0 < x <= x_cells and 0 < y <= y_cells):
                continue
            for channel in range(width):
                source, into = outer[x - 1, channel, y - 1], inner[x, channel, y, 1:]
                for k in range(z_cells):
                    into[k] += source[k]


@kernel()
def _mix_neighbours(planes, y, weights, added, work, into, cells):  # type: ignore[no-untyped-def]
    # A row of a symmetric convolution of three planes (3, channel, y, z).
    channels, sums = len(weights) // _KINDS, work.sums[:, 0]
    for channel in range(0, channels, _CHANNELS_AT_ONCE):
        some = min(_CHANNELS_AT_ONCE, channels - channel)
        neighbour_sums(planes[:, channel:], (0, 1, 2), (y, 0), some, sums, cells)
        weight = weights[_KINDS * channel : _KINDS * (channel + some)]
        if channel == 0:
            mix(weight, sums, added, into, cells)
        else:
            mix_more(weight, sums, work.nothing, into, cells)


@kernel()
def _multiply(values, slopes, rows, y_cells, cells):  # type: ignore[no-untyped-def]
    for row in range(rows):
        for y in range(y_cells):
            some, slope = values[row, y], slopes[row, y]
            for k in range(cells):
                some[k] *= slope[k]


@kernel()
def _lines_of(plane, rows):  # type: ignore[no-untyped-def]
    # (y, z, channel) to (channel, y, z).
    for y in range(plane.shape[0]):
        for k in range(plane.shape[1]):
            for channel in range(plane.shape[2]):
                rows[channel, y, k] = plane[y, k, channel]


@kernel()
def _whole_vectors(cells):  # type: ignore[no-untyped-def]
    return (cells + LANES - 1) // LANES * LANES
