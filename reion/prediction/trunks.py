"""Run the trunk of a model on a CPU: by a kernel of reion if it knows the trunk, else by onnxruntime."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from reion.errors import InputError
from reion.jobs.resources import threads_to_use
from reion.prediction.model_file import UNCHANGED
from reion.prediction.sessions import open_session, running
from reion.prediction.tiles import segments
from reion.simulation.contract import Shape
from reion_exports.residual_trunk import Pointwise, ResidualTrunk, read_residual_trunk
from reion_exports.trunk import NoTrunkError, Trunk

if TYPE_CHECKING:
    import onnxruntime

    from reion_kernels.residual_trunk import TrunkWeights

BLOCK_CELLS = 1 << 19
"""Most cells that onnxruntime computes at once: larger blocks are hardly faster and take more memory."""

_THINNEST_CELLS = 16
"""Blocks are cut along x, which needs no copy, until they are thinner than about twice this."""


class TrunkRunner(Protocol):
    """Computes the answers (xi, and xi_std if the model predicts it) from channels."""

    def open(self) -> None:
        """Open the sessions now, and not with the first run."""
        ...

    def run(
        self,
        channels: np.ndarray,
        numbers: Mapping[str, np.ndarray],
        answers: np.ndarray,
        periodic: Sequence[int] = (0, 0, 0),
    ) -> None:
        """Write the answers (output, x, y, z) for channels (x + 2 r, channel, y + 2 r, z + 2 r).

        r is the radius of the trunk. Along axes where `periodic` is 1 the channels are the whole periodic
        box, without a halo. `numbers` are the other inputs of the trunk, one number each.
        """
        ...

    def working_bytes(self, tile: Shape, trunk_bytes_per_cell: float) -> float:
        """Memory that a run takes for a tile; `trunk_bytes_per_cell` is that of onnxruntime for each cell."""
        ...


def trunk_runner(trunk: Trunk, radius_cells: int, *, threads: int | None, file: str | None) -> TrunkRunner:
    """The kernel of reion for a trunk of symmetric residual blocks, onnxruntime for any other trunk.

    On processors with AVX2 the kernel takes a third of onnxruntime's processor time, for both widths that are
    shipped.
    """
    try:
        residual = read_residual_trunk(trunk)
    except NoTrunkError:
        return SessionTrunk(trunk, radius_cells, threads, file)
    if len(residual.blocks) != radius_cells:
        raise NoTrunkError(f"expected a trunk that looks {len(residual.blocks)} cells far")
    return KernelTrunk(residual, threads, file)


class KernelTrunk:
    """Runs a trunk of symmetric residual blocks with `reion_kernels.residual_trunk`.

    Only the condition vectors, one number per channel, come from onnxruntime.
    """

    def __init__(self, trunk: ResidualTrunk, threads: int | None, file: str | None) -> None:
        self._trunk, self._threads, self._file = trunk, threads, file

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        return open_session(self._trunk.conditions, "cpu", 1, self._file)

    def open(self) -> None:
        """Open the session that computes the condition vectors."""
        if self._trunk.condition_names:
            self._session.get_inputs()

    def run(
        self,
        channels: np.ndarray,
        numbers: Mapping[str, np.ndarray],
        answers: np.ndarray,
        periodic: Sequence[int] = (0, 0, 0),
    ) -> None:
        """See `TrunkRunner`."""
        from reion_kernels.residual_trunk import residual_trunk

        threads = self._threads or threads_to_use()
        residual_trunk(channels, self._weights(numbers), answers, periodic=periodic, threads=threads)

    def working_bytes(self, tile: Shape, trunk_bytes_per_cell: float) -> float:  # noqa: ARG002 (others need them)
        """See `TrunkRunner`."""
        from reion_kernels.residual_trunk import trunk_scratch_bytes

        scratch: int = trunk_scratch_bytes(self._unconditioned)
        return (self._threads or threads_to_use()) * scratch

    def _weights(self, numbers: Mapping[str, np.ndarray]) -> TrunkWeights:
        if not self._trunk.condition_names:
            return self._unconditioned
        with running((), self._file):
            found = self._session.run(list(self._trunk.condition_names), dict(numbers))
        added = self._unconditioned.added.copy()
        for stage, values in zip(self._trunk.condition_stages, found, strict=True):
            if values.size != added.shape[1]:
                raise InputError(
                    f"expected {added.shape[1]} numbers of a condition; the model has {values.size}",
                    file=self._file,
                    hint=UNCHANGED,
                )
            added[stage] += values.reshape(-1)
        return self._unconditioned._replace(added=added)

    @cached_property
    def _unconditioned(self) -> TrunkWeights:
        from reion_kernels.residual_trunk import TrunkWeights

        trunk = self._trunk
        blocks, spread = trunk.blocks, trunk.spread
        nothing = Pointwise(np.zeros((0, 0), np.float32), np.zeros(0, np.float32))
        error, output = (spread.hidden, spread.output) if spread else (nothing, nothing)
        arrays: tuple[Any, ...] = (
            trunk.mix.weights,
            np.stack([trunk.mix.added, *(block.back.added for block in blocks)]),
            np.stack([block.spread.reshape(-1, block.spread.shape[2]) for block in blocks]),
            np.stack([block.spread_added for block in blocks]),
            np.stack([block.back.weights for block in blocks]),
            trunk.head.weights,
            trunk.head.added,
            trunk.output.weights,
            trunk.output.added,
            error.weights,
            error.added,
            output.weights,
            output.added,
            np.array([spread.least, spread.range] if spread else [0, 1], dtype=np.float32),
        )
        return TrunkWeights(*arrays)


class SessionTrunk:
    """Runs a trunk with onnxruntime, block by block."""

    def __init__(self, trunk: Trunk, radius_cells: int, threads: int | None, file: str | None) -> None:
        self._trunk, self._radius_cells, self._threads, self._file = trunk, radius_cells, threads, file

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        return open_session(self._trunk.content, "cpu", self._threads, self._file)

    def open(self) -> None:
        """Open the session."""
        self._session.get_inputs()

    def run(
        self,
        channels: np.ndarray,
        numbers: Mapping[str, np.ndarray],
        answers: np.ndarray,
        periodic: Sequence[int] = (0, 0, 0),
    ) -> None:
        """See `TrunkRunner`."""
        names = list(self._trunk.outputs[: len(answers)])
        for x, y, z in blocks(_shape(answers.shape[1:])):
            planes = self._window(channels, (x, y, z), periodic)[None]
            with running(answers.shape[1:], self._file):
                results = self._session.run(names, {**numbers, self._trunk.input: planes})
            for answer, result in zip(answers, results, strict=True):
                if result[0].shape != answer[x, y, z].shape:
                    raise InputError(
                        f"expected xi of {answer[x, y, z].shape} cells; the model returned {result[0].shape}",
                        file=self._file,
                        hint=UNCHANGED,
                    )
                answer[x, y, z] = result[0]

    def _window(self, channels: np.ndarray, block: Sequence[slice], periodic: Sequence[int]) -> np.ndarray:
        """The channels of a block with their halo."""
        halo, count = self._radius_cells, channels.shape[1]
        sides = (channels.shape[0], *channels.shape[2:])
        x, y, z = (part.stop - part.start + 2 * halo for part in block)
        window = np.empty((x, count, y, z), dtype=np.float32)
        along = [
            segments(part.start - (halo if wraps else 0), cells, n)
            for part, wraps, cells, n in zip(block, periodic, (x, y, z), sides, strict=True)
        ]
        for parts in itertools.product(*along):
            (x_from, y_from, z_from), (x_to, y_to, z_to) = zip(*parts, strict=True)
            window[x_to, :, y_to, z_to] = channels[x_from, :, y_from, z_from]
        return window

    def working_bytes(self, tile: Shape, trunk_bytes_per_cell: float) -> float:
        """See `TrunkRunner`."""
        block = max(math.prod(part.stop - part.start for part in parts) for parts in blocks(tile))
        held: float = (trunk_bytes_per_cell + 8 * self._trunk.channels) * block
        return held


def blocks(shape: Shape, cells: int = BLOCK_CELLS) -> Iterator[tuple[slice, slice, slice]]:
    """Cut a box into blocks of about `cells` cells at most."""
    counts = [1, 1, 1]

    def sides() -> list[int]:
        return [-(-n // count) for n, count in zip(shape, counts, strict=True)]

    while math.prod(sides()) > cells and max(sides()) > 1:
        x, y, z = sides()
        thick = x > 2 * _THINNEST_CELLS
        counts[0 if thick else 1 + (z > y) if max(y, z) > _THINNEST_CELLS else int(np.argmax((x, y, z)))] *= 2
    steps = sides()
    for starts in itertools.product(*(range(0, n, step) for n, step in zip(shape, steps, strict=True))):
        parts = [slice(low, min(low + step, n)) for low, step, n in zip(starts, steps, shape, strict=True)]
        yield parts[0], parts[1], parts[2]


def _shape(sides: Sequence[Any]) -> Shape:
    x, y, z = sides
    return (x, y, z)
