"""The trunk of reion's symmetric residual networks in training: its answers for crops, and its gradients.

`reion_kernels.residual_trunk` computes the same answers for boxes and keeps nothing. Gradients need the
values of every stage and the slopes of its SiLUs, so these are kept here. Gradients follow the chain rule.
The gradient by the input of a symmetric convolution is such a convolution too, with transposed weights: it
takes four products with sums of neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reion_kernels._threads import run, thread_count
from reion_kernels._vector_products import OUTPUTS
from reion_kernels._vectors import LANES
from reion_kernels.residual_trunk import (
    CHANNELS_AT_ONCE,
    KINDS,
    TrunkWeights,
    check_shapes,
    pad_channels,
)
from reion_kernels.trunk_passes import TOTAL_AXES, Kept, Transposed, Work, backwards, forwards

_PADDED_AXES = (2, 1, 2, 1, 2, 2, 1, 2, 1, 2, 1, 2, 1, 0)
"""How many of the last axes of each of the weights are channels."""


class _Pass(NamedTuple):
    """What a pass forwards was given, and what it answered."""

    channels: NDArray[np.float32]
    weights: TrunkWeights
    padded: TrunkWeights
    answers: NDArray[np.float32]


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
        self._memory: dict[int, tuple[tuple[int, ...], Kept, Work]] = {}
        self._pass: _Pass | None = None

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
        told = pad_channels(added)
        values = np.ascontiguousarray(channels, dtype=np.float32)
        outputs = 2 if weights.error.size else 1
        answers = np.empty((crops, *(side - halo for side in sides), outputs), dtype=np.float32)

        def task(crop: int) -> None:
            forwards(values[crop], padded, told[crop], *self._memory_of(crop, padded, sides), answers[crop])

        self._run(task, values)
        self._pass = _Pass(values, weights, padded, answers)
        return answers

    def gradients(self, upstream: NDArray[np.float32]) -> tuple[TrunkWeights, NDArray[np.float32]]:
        """Compute the gradients of a loss by the weights that `answers` was given last.

        Parameters
        ----------
        upstream
            (crop, x, y, z, 1 or 2) float32: the gradient of the loss by the answers.

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
        if self._pass is None or self._pass.answers.shape != upstream.shape:
            message = f"upstream: expected the shape of the last answers. Received: {upstream.shape}"
            raise ValueError(message)
        values, weights, padded, answers = self._pass
        transposed = _transposed(padded)
        given = np.ascontiguousarray(upstream, dtype=np.float32)
        totals = [_totals(padded) for _ in given]

        def task(crop: int) -> None:
            memory = self._memory_of(crop, padded, values.shape[1:4])
            backwards(values[crop], padded, transposed, *memory, answers[crop], given[crop], totals[crop])

        self._run(task, values)
        parts = [_summed(total) for total in totals]
        summed = TrunkWeights(*(np.sum(arrays, axis=0) for arrays in zip(*parts, strict=True)))
        by_weights = [
            total[tuple(slice(size) for size in array.shape)].astype(np.float32)
            for total, array in zip(summed, weights, strict=True)
        ]
        added = np.stack([part.added for part in parts])[..., : weights.added.shape[1]]
        return TrunkWeights(*by_weights), added.astype(np.float32)

    def _run(self, task: Callable[[int], None], values: NDArray[np.float32]) -> None:
        crops = len(values)
        run(task, ((crop,) for crop in range(crops)), min(crops, thread_count(self._threads, values.size)))

    def _memory_of(self, crop: int, padded: TrunkWeights, sides: Sequence[int]) -> tuple[Kept, Work]:
        shape = (*sides, *(size for array in padded for size in array.shape))
        if crop not in self._memory or self._memory[crop][0] != shape:
            self._memory[crop] = shape, *_memory(padded, sides)
        return self._memory[crop][1:]


def _of_whole_vectors(weights: TrunkWeights) -> TrunkWeights:
    """The weights with channels of zeros up to multiples of `OUTPUTS`, which answer zero."""
    padded = TrunkWeights(*map(pad_channels, weights, _PADDED_AXES))
    blocks, hidden, width = padded.back.shape
    spread = np.zeros((blocks, KINDS * width, hidden), dtype=np.float32)
    spread[:, : weights.spread.shape[1], : weights.spread.shape[2]] = weights.spread
    return padded._replace(spread=spread)


def _transposed(weights: TrunkWeights) -> Transposed:
    blocks, rows, hidden = weights.spread.shape
    by_kind = weights.spread.reshape(blocks, rows // KINDS, KINDS, hidden)
    spread = by_kind.transpose(0, 3, 2, 1).reshape(blocks, KINDS * hidden, rows // KINDS)
    others = (weights.back.transpose(0, 2, 1), weights.head.T, weights.xi.T, weights.error_xi.T)
    return Transposed(*(np.ascontiguousarray(array) for array in (spread, *others)))


def _totals(weights: TrunkWeights) -> TrunkWeights:
    """Zeros, to which gradients are added; see `TOTAL_AXES`."""

    def zeros(array: NDArray[np.float32], axes: int) -> NDArray[np.float32]:
        *first, size = array.shape
        return np.zeros((*first, *(OUTPUTS,) * (axes - 1), size, LANES), dtype=np.float32)

    return TrunkWeights(*map(zeros, weights, TOTAL_AXES))


def _summed(totals: TrunkWeights) -> TrunkWeights:
    def summed(total: NDArray[np.float32], axes: int) -> NDArray[np.float64]:
        found = total.sum(axis=-1, dtype=np.float64)
        return found.sum(axis=-2) if axes > 1 else found  # type: ignore[no-any-return]

    # In float64 until all crops are added.
    return TrunkWeights(*map(summed, totals, TOTAL_AXES))  # type: ignore[arg-type]


def _memory(weights: TrunkWeights, sides: Sequence[int]) -> tuple[Kept, Work]:
    """For one crop: what is kept of it, and what both ways work in."""
    x, y, z = sides
    blocks, width, hidden = len(weights.back), weights.mix.shape[1], weights.spread_added.shape[1]
    features = max(weights.head_added.size, weights.error_added.size)
    room = -(-z // LANES) * LANES + LANES

    def zeros(*shape: int) -> NDArray[np.float32]:
        return np.zeros((*shape, room), dtype=np.float32)

    kept = Kept(
        zeros(1 + blocks, x, y, width),
        zeros(1 + blocks, x, y, width),
        zeros(blocks, x, y, hidden),
        zeros(blocks, x, y, hidden),
        zeros(2, x, y, features),
        zeros(2, x, y, features),
    )
    ones = zeros(y, OUTPUTS)
    ones[:, 0] = 1
    work = Work(
        zeros(y, len(weights.mix)),
        zeros(y, KINDS * CHANNELS_AT_ONCE),
        zeros(2, y, OUTPUTS),
        zeros(2, y, features),
        ones,
        np.zeros(max(width, hidden, features, OUTPUTS), dtype=np.float32),
        zeros(x, y, width),
        zeros(x, y, width),
        zeros(x + 2, y + 2, hidden),
    )
    return kept, work
