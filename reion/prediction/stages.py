"""A model in two stages on a CPU: its first stage by our own kernels, its trunk by onnxruntime.

The first stage learns nothing and is the larger part of the file's graph. Our kernels compute it several
times faster and for cells of any size, and take less memory; the trunk then goes through what they made in
blocks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from reion.errors import InputError
from reion.jobs.resources import threads_to_use
from reion.models.photon_plan import photon_plan, photon_settings
from reion.models.transport import cell_size_condition
from reion.networks import PhotonSettings
from reion.prediction.model_file import UNCHANGED
from reion.prediction.sessions import open_session, refuse
from reion.simulation.contract import Shape
from reion_exports.card import ModelCard
from reion_exports.convert import CELL_SIZE
from reion_exports.trunk import NoTrunkError, Trunk, cut_trunk

if TYPE_CHECKING:
    import onnxruntime

    from reion_kernels.photon_channels import PhotonPlan

BLOCK_CELLS = 1 << 19
"""The trunk computes so many cells at once, at most: more are hardly faster and take more memory."""

_THINNEST_CELLS = 16
"""Blocks are cut along x, where that needs no copy, down to about twice so many cells."""


class Stages:
    """A model whose first stage is one of those that compare photons with atoms.

    Attributes
    ----------
    channels
        How many the trunk takes.
    radius_cells, trunk_radius_cells
        Of the model, and of its trunk alone.
    """

    def __init__(
        self,
        content: bytes,
        card: ModelCard,
        settings: PhotonSettings,
        *,
        threads: int | None,
        file: str | None,
    ) -> None:
        self._content, self._threads, self._file = content, threads, file
        self._settings, self._fields = settings, tuple(card.inputs)
        self._photons = next(name for name in card.inputs if name != "n_igm")
        self._cell_size_mpc = card.cell_size_mpc
        self._trunks: dict[int, Trunk] = {}
        self._sessions: dict[int, onnxruntime.InferenceSession] = {}
        trunk, plan = self._trunk(1), self._plan(None)
        if trunk.channels != plan.channels or "n_igm" not in card.inputs or len(card.inputs) != 2:
            raise NoTrunkError(f"expected {plan.channels} channels; the file has {trunk.channels}")
        self.channels = trunk.channels
        self.radius_cells = card.receptive_radius_cells
        self.trunk_radius_cells = card.receptive_radius_cells - plan.radius_cells
        if self.trunk_radius_cells < 0 or card.stride_cells != 1:
            raise NoTrunkError("expected a receptive radius that covers the first stage, and no stride")

    def at_cell_size(self, cell_size_mpc: float) -> Stages:
        """The model for cells of another comoving side; the trunk is opened once for all."""
        other = object.__new__(Stages)
        vars(other).update(vars(self))
        vars(other).pop("has_spread", None)
        other._cell_size_mpc = cell_size_mpc
        other.radius_cells = self.trunk_radius_cells + other._plan(None).radius_cells
        return other

    @cached_property
    def has_spread(self) -> bool:
        """Whether the model says how far its xi is off."""
        return len(self._trunk(2).outputs) == 2

    def open(self) -> None:
        """Open the trunk, which the first prediction does otherwise."""
        self._session(1)

    def run(
        self,
        numbers: Mapping[str, np.ndarray],
        fields: Mapping[str, np.ndarray],
        periodic: Sequence[int],
        answers: np.ndarray,
    ) -> None:
        """Write xi, and xi_std if there is a place for it, into `answers`.

        Parameters
        ----------
        numbers
            redshift and conditions, each (batch,) float32.
        fields
            (batch, X, Y, Z) float32 each, with a halo of `radius_cells` along axes that are not periodic.
        answers
            (1 or 2, batch, x, y, z) float32.
        """
        from reion_kernels.photon_channels import photon_channels

        count = len(answers)
        trunk = self._trunk(count)
        for number in range(answers.shape[1]):
            told = {name: values[number : number + 1] for name, values in numbers.items()}
            reach = float(told["max_mfp"][0]) if "max_mfp" in told else None
            channels = photon_channels(
                fields["n_igm"][number],
                fields[self._photons][number],
                self._plan(reach),
                scale=trunk.scale,
                shift=trunk.shift,
                periodic=periodic,
                margin=self.trunk_radius_cells,
                threads=self._threads or threads_to_use(),
            )
            self.run_trunk(channels, told, answers[:, number])

    def run_trunk(self, channels: np.ndarray, told: Mapping[str, np.ndarray], answers: np.ndarray) -> None:
        """Write the answers (output, x, y, z) for channels (x + 2 r, channel, y + 2 r, z + 2 r).

        `told` are redshift and conditions, each (1,) float32; r is `trunk_radius_cells`.
        """
        trunk, session = self._trunk(len(answers)), self._session(len(answers))
        inputs = {name: told[name] for name in trunk.numbers if name != CELL_SIZE}
        if CELL_SIZE in trunk.numbers:
            inputs[CELL_SIZE] = np.array(cell_size_condition(self._cell_size_mpc), dtype=np.float32)
        halo = 2 * self.trunk_radius_cells
        for x, y, z in blocks(_shape(answers.shape[1:])):
            wide = [slice(part.start, part.stop + halo) for part in (x, y, z)]
            inputs[trunk.input] = np.ascontiguousarray(channels[wide[0], :, wide[1], wide[2]])[None]
            try:
                results = session.run(list(trunk.outputs), inputs)
            except Exception as error:  # noqa: BLE001 (onnxruntime's exceptions have no common base of their own)
                refuse(error, answers.shape[1:], self._file)
            for answer, result in zip(answers, results, strict=True):
                if result[0].shape != answer[x, y, z].shape:
                    raise InputError(
                        f"expected xi of {answer[x, y, z].shape} cells; the model returned {result[0].shape}",
                        file=self._file,
                        hint=UNCHANGED,
                    )
                answer[x, y, z] = result[0]

    def _plan(self, max_mfp: float | None) -> PhotonPlan:
        return photon_plan(self._settings, self._photons, cell_size_mpc=self._cell_size_mpc, max_mfp=max_mfp)

    def _trunk(self, outputs: int) -> Trunk:
        if outputs not in self._trunks:
            self._trunks[outputs] = cut_trunk(self._content, self._fields, outputs=outputs)
        return self._trunks[outputs]

    def _session(self, outputs: int) -> onnxruntime.InferenceSession:
        if outputs not in self._sessions:
            content = self._trunk(outputs).content
            self._sessions[outputs] = open_session(content, "cpu", self._threads, self._file)
        return self._sessions[outputs]


def stages_of(content: bytes, card: ModelCard, *, threads: int | None, file: str | None) -> Stages | None:
    """A model in two stages; None where its file does not have two that we know."""
    try:
        settings = photon_settings(card.provenance["config"]["model"])
        if settings is None:
            return None
        return Stages(content, card, settings, threads=threads, file=file)
    except (KeyError, TypeError, StopIteration, ValidationError, NoTrunkError):
        return None


def stage_bytes(stages: Stages, window: Shape, tile: Shape, trunk_bytes_per_cell: float) -> float:
    """Memory that a prediction takes beside its fields and its answers.

    Parameters
    ----------
    window, tile
        Cells of the fields, halo included where there is one, and of the answer.
    trunk_bytes_per_cell
        What onnxruntime holds for a cell of a block.
    """
    halo = 2 * stages.trunk_radius_cells
    channels = 4 * stages.channels * math.prod(side + halo for side in tile)
    block = max(math.prod(part.stop - part.start for part in parts) for parts in blocks(tile))
    first_stage = 16 * math.prod(window) + 8 * math.prod(tile)
    trunk: float = (trunk_bytes_per_cell + 8 * stages.channels) * block
    return channels + max(float(first_stage), trunk)


def blocks(shape: Shape, cells: int = BLOCK_CELLS) -> Iterator[tuple[slice, slice, slice]]:
    """Cut a box into blocks of about so many cells at most."""
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
