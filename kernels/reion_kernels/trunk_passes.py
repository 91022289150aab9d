"""The compiled passes of `reion_kernels.trunk_gradients` through a crop: forwards to the answers, and back.

Arrays of gradients are named `by_...`, or `outer` and `inner`: by the values after and before a block.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import float32, types
from numpy.typing import NDArray

from reion_kernels._jit import kernel, target
from reion_kernels._vector_products import add_products, mix, mix_onto, neighbour_sums
from reion_kernels._vectors import logistic, silu_and_slope
from reion_kernels.box_means import ZERO
from reion_kernels.residual_trunk import (
    CHANNELS_AT_ONCE,
    DIMS,
    KINDS,
    WEIGHTS,
    TrunkWeights,
    mix_neighbours,
    whole_vectors,
)

ONE = np.float32(1)


class Kept(NamedTuple):
    """What a pass forwards keeps of a window for the way back; (..., y, channel, z) with room beyond z.

    Attributes
    ----------
    stages, stage_slopes
        (1 + blocks, x, y, channel, z): after the mix and after every block.
    hidden, hidden_slopes
        (blocks, x, y, channel, z): between the two layers of every block.
    last, last_slopes
        (2, x, y, channel, z): the features of the head, and the hidden ones of the spread.
    """

    stages: NDArray[np.float32]
    stage_slopes: NDArray[np.float32]
    hidden: NDArray[np.float32]
    hidden_slopes: NDArray[np.float32]
    last: NDArray[np.float32]
    last_slopes: NDArray[np.float32]


class Work(NamedTuple):
    """What both ways work in.

    Attributes
    ----------
    rows, sums
        (y, channel, z): the channels of a plane; the sums of neighbours of some channels of a plane.
    answers, features
        (2, y, `OUTPUTS`, z), (2, y, feature, z): of a plane, of xi and of the spread.
    ones
        (y, `OUTPUTS`, z): ones in the first row, zeros in the others.
    nothing
        (channel,): zeros.
    outer, inner
        (x, y, channel, z): gradients by the values of a stage and of the one before.
    framed
        (x, y, channel, z): gradients by the hidden values of a block within two cells of zeros on every side.
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


TOTAL_AXES = tuple(2 if name.endswith("added") else 1 for name in TrunkWeights._fields)
"""How many axes the total of a gradient has beyond those of its weights.

The last axis has `LANES` parts of one sum. Totals by what is added have `OUTPUTS` rows before the channels;
the first row holds the gradient.
"""


class Transposed(NamedTuple):
    """The weights as the way back takes them: outputs in, inputs out."""

    spread: NDArray[np.float32]
    back: NDArray[np.float32]
    head: NDArray[np.float32]
    xi: NDArray[np.float32]
    error_xi: NDArray[np.float32]


def _arrays(kind: type[NamedTuple], *ndims: int) -> Any:
    arrays = [target(float32, ndim) for ndim in ndims]
    if len(set(ndims)) == 1:  # for which Numba has another type
        return types.NamedUniTuple(arrays[0], len(arrays), kind)
    return types.NamedTuple(arrays, kind)


_KEPT = _arrays(Kept, 5, 5, 5, 5, 5, 5)
_WORK = _arrays(Work, 3, 3, 4, 4, 3, 1, 4, 4, 4)
_TRANSPOSED = _arrays(Transposed, 3, 3, 2, 2, 2)
_TOTALS = _arrays(TrunkWeights, *(ndim + more for ndim, more in zip(DIMS, TOTAL_AXES, strict=True)))
_CROP, _LINES = target(float32, 4), target(float32, 2)


@kernel((_CROP, WEIGHTS, _LINES, _KEPT, _WORK, _CROP))
def forwards(channels, weights, added, kept, work, answers):  # type: ignore[no-untyped-def]
    """Write the answers (x, y, z, 1 or 2) for the channels (x + 2 r, y + 2 r, z + 2 r, channel) of a crop."""
    blocks, width, hidden = len(weights.back), weights.mix.shape[1], weights.spread_added.shape[1]
    x_cells, y_cells, z_cells = channels.shape[:3]
    cells = whole_vectors(z_cells)
    for x in range(x_cells):
        _lines_of(channels[x], work.rows)
        for y in range(y_cells):
            into = kept.stages[0, x, y]
            mix(weights.mix, work.rows[y], added[0], into, cells)
            silu_and_slope(into, kept.stage_slopes[0, x, y], width, cells)
    for block in range(blocks):
        x_cells, y_cells, z_cells = x_cells - 2, y_cells - 2, z_cells - 2
        cells = whole_vectors(z_cells)
        before = kept.stages[block]
        for x in range(x_cells):
            for y in range(y_cells):
                inner = kept.hidden[block, x, y]
                mix_neighbours(
                    before[x : x + 3],
                    (0, 1, 2),
                    y,
                    weights.spread[block],
                    weights.spread_added[block],
                    work.sums[0],
                    work.nothing,
                    inner,
                    cells,
                )
                silu_and_slope(inner, kept.hidden_slopes[block, x, y], hidden, cells)
                into = kept.stages[block + 1, x, y]
                start = before[x + 1, y + 1, :, 1:]
                mix_onto(weights.back[block], inner, added[block + 1], start, into, cells)
                silu_and_slope(into, kept.stage_slopes[block + 1, x, y], width, cells)
    features, errors = len(weights.head_added), len(weights.error_added)
    for x in range(x_cells):
        for y in range(y_cells):
            last = kept.last[0, x, y]
            mix(weights.head, kept.stages[blocks, x, y], weights.head_added, last, cells)
            silu_and_slope(last, kept.last_slopes[0, x, y], features, cells)
            found = work.answers[0, y]
            mix(weights.xi, last[:features], weights.xi_added, found, cells)
            logistic(found, 1, cells)
            for k in range(z_cells):
                answers[x, y, k, 0] = found[0, k]
            if errors:
                inner = kept.last[1, x, y]
                mix(weights.error, last[:features], weights.error_added, inner, cells)
                silu_and_slope(inner, kept.last_slopes[1, x, y], errors, cells)
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
    cells = whole_vectors(z_cells)
    for x in range(x_cells):
        _multiply(outer[x], kept.stage_slopes[0, x], width, y_cells, cells)
        _lines_of(channels[x], work.rows)
        add_products(work.ones[:y_cells], outer[x], totals.added[0], cells)
        add_products(work.rows[:y_cells], outer[x], totals.mix, cells)


@kernel()
def _head_backwards(weights, transposed, kept, work, answers, upstream, totals):  # type: ignore[no-untyped-def]
    # Leaves the gradients by the values of the last stage in work.outer, with zeros beyond z.
    x_cells, y_cells, z_cells = answers.shape[:3]
    blocks, cells = len(weights.back), whole_vectors(z_cells)
    features, errors = len(weights.head_added), len(weights.error_added)
    ones = work.ones[:y_cells]
    by_xi, by_error = work.answers[0], work.answers[1]
    by_features, by_hidden = work.features[0], work.features[1]
    work.answers[:] = ZERO
    least, more = weights.error_range
    for x in range(x_cells):
        for y in range(y_cells):
            for k in range(z_cells):
                xi = answers[x, y, k, 0]
                by_xi[y, 0, k] = upstream[x, y, k, 0] * xi * (ONE - xi)
            mix(transposed.xi, by_xi[y], work.nothing, by_features[y, :features], cells)
        last = kept.last[0, x, :y_cells, :features]
        add_products(ones, by_xi, totals.xi_added, cells)
        add_products(last, by_xi, totals.xi, cells)
        _multiply(by_features, kept.last_slopes[0, x], features, y_cells, cells)
        add_products(ones, by_features[:, :features], totals.head_added, cells)
        add_products(kept.stages[blocks, x][:y_cells], by_features[:, :features], totals.head, cells)
        for y in range(y_cells):
            mix(transposed.head, by_features[y, :features], work.nothing, work.outer[x, y], cells)
        if errors == 0:
            continue
        for y in range(y_cells):
            for k in range(z_cells):
                part = (answers[x, y, k, 1] - least) / more
                by_error[y, 0, k] = upstream[x, y, k, 1] * more * part * (ONE - part)
            mix(transposed.error_xi, by_error[y], work.nothing, by_hidden[y, :errors], cells)
        add_products(ones, by_error, totals.error_xi_added, cells)
        add_products(kept.last[1, x, :y_cells, :errors], by_error, totals.error_xi, cells)
        _multiply(by_hidden, kept.last_slopes[1, x], errors, y_cells, cells)
        add_products(ones, by_hidden[:, :errors], totals.error_added, cells)
        add_products(last, by_hidden[:, :errors], totals.error, cells)


@kernel()
def _block_backwards(weights, transposed, kept, work, outer, inner, totals, block, sides):  # type: ignore[no-untyped-def]
    # From the gradients by the values after a block, `outer`, to those by the values before it, `inner`.
    x_cells, y_cells, z_cells = sides
    width, hidden = weights.mix.shape[1], weights.spread_added.shape[1]
    cells = whole_vectors(z_cells)
    ones, framed = work.ones[:y_cells], work.framed
    framed[:] = ZERO
    for x in range(x_cells):
        _multiply(outer[x], kept.stage_slopes[block + 1, x], width, y_cells, cells)
        add_products(ones, outer[x], totals.added[block + 1], cells)
        add_products(kept.hidden[block, x][:y_cells], outer[x], totals.back[block], cells)
        by_hidden = framed[x + 2, 2:, :, 2:]
        for y in range(y_cells):
            mix(transposed.back[block], outer[x, y], work.nothing, by_hidden[y], cells)
        _multiply(by_hidden, kept.hidden_slopes[block, x], hidden, y_cells, cells)
        add_products(ones, by_hidden, totals.spread_added[block], cells)
        for channel in range(0, width, CHANNELS_AT_ONCE):
            some = min(CHANNELS_AT_ONCE, width - channel)
            planes = kept.stages[block, x : x + 3, :, channel:]
            for y in range(y_cells):
                neighbour_sums(planes, (0, 1, 2), (y, 0), some, work.sums[y], cells)
            total = totals.spread[block, KINDS * channel :]
            add_products(work.sums[:y_cells, : KINDS * some], by_hidden, total, cells)
    cells = whole_vectors(z_cells + 2)
    for x in range(x_cells + 2):
        for y in range(y_cells + 2):
            mix_neighbours(
                framed[x : x + 3],
                (0, 1, 2),
                y,
                transposed.spread[block],
                work.nothing,
                work.sums[0],
                work.nothing,
                inner[x, y],
                cells,
            )
            if not (0 < x <= x_cells and 0 < y <= y_cells):
                continue
            for channel in range(width):
                source, into = outer[x - 1, y - 1, channel], inner[x, y, channel, 1:]
                for k in range(z_cells):
                    into[k] += source[k]


@kernel()
def _multiply(values, slopes, rows, y_cells, cells):  # type: ignore[no-untyped-def]
    for y in range(y_cells):
        for row in range(rows):
            some, slope = values[y, row], slopes[y, row]
            for k in range(cells):
                some[k] *= slope[k]


@kernel()
def _lines_of(plane, rows):  # type: ignore[no-untyped-def]
    # (y, z, channel) to (y, channel, z).
    for y in range(plane.shape[0]):
        for k in range(plane.shape[1]):
            for channel in range(plane.shape[2]):
                rows[y, channel, k] = plane[y, k, channel]
