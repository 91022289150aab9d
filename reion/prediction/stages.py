"""A model on a CPU in two stages: its stem by `reion_kernels`, its trunk by `reion.prediction.trunks`.

The stem learns nothing and is the larger part of the graph in the file. The kernels compute it several times
faster, for cells of any size, and in less memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from pydantic import ValidationError

from reion.jobs.resources import threads_to_use
from reion.models.photon_plan import photon_plan, photon_settings
from reion.models.transport import cell_size_condition
from reion.networks import PhotonSettings
from reion.prediction.trunks import TrunkRunner, trunk_runner
from reion.simulation.contract import Shape
from reion_exports.card import ModelCard
from reion_exports.convert import CELL_SIZE
from reion_exports.trunk import NoTrunkError, cut_trunk

if TYPE_CHECKING:
    from reion_kernels.photon_channels import PhotonPlan


class Stages:
    """A model whose stem compares photons with atoms, and can be computed by the kernels.

    Attributes
    ----------
    trunk
        The part of the graph after the stem.
    channels
        Number of channels that the trunk takes.
    has_spread
        Whether the model predicts `xi_std`.
    radius_cells, trunk_radius_cells
        Receptive radius of the model, and of its trunk alone.
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
        self._threads = threads
        self._settings = settings
        self._photons = next(name for name in card.inputs if name != "n_igm")
        self._cell_size_mpc = card.cell_size_mpc
        self.trunk = cut_trunk(content, card.inputs)
        self.channels = self.trunk.channels
        self.has_spread = len(self.trunk.outputs) == 2
        plan = self.plan(None)
        if self.channels != plan.channels or "n_igm" not in card.inputs or len(card.inputs) != 2:
            raise NoTrunkError(f"expected {plan.channels} channels; the file has {self.channels}")
        self.radius_cells = card.receptive_radius_cells
        self.trunk_radius_cells = card.receptive_radius_cells - plan.radius_cells
        if self.trunk_radius_cells < 0 or card.stride_cells != 1:
            raise NoTrunkError("expected a receptive radius that covers the first stage, and no stride")
        self._memory: list[np.ndarray] = []
        """At most one piece of memory for channels, which the next snapshot takes over."""
        self.runner: TrunkRunner = trunk_runner(
            self.trunk, self.trunk_radius_cells, threads=threads, file=file
        )

    def at_cell_size(self, cell_size_mpc: float) -> Stages:
        """The model for cells of another comoving side; it shares the opened trunk."""
        other = object.__new__(Stages)
        vars(other).update(vars(self))
        other._cell_size_mpc = cell_size_mpc
        other.radius_cells = self.trunk_radius_cells + other.plan(None).radius_cells
        return other

    def open(self) -> None:
        """Open the trunk now, and not with the first prediction."""
        self.runner.open()

    def run(
        self,
        numbers: Mapping[str, np.ndarray],
        fields: Mapping[str, np.ndarray],
        periodic: Sequence[int],
        answers: np.ndarray,
    ) -> None:
        """Write xi, and xi_std if `answers` has room for it, into `answers`.

        Parameters
        ----------
        numbers
            redshift and conditions, each (batch,) float32.
        fields
            (batch, X, Y, Z) float32 each, with a halo of `radius_cells` along axes that are not periodic.
        periodic
            For each axis, 1 if the fields are the whole periodic box, otherwise 0.
        answers
            (1 or 2, batch, x, y, z) float32.
        """
        for number in range(answers.shape[1]):
            told = {name: values[number : number + 1] for name, values in numbers.items()}
            reach = float(told["max_mfp"][0]) if "max_mfp" in told else None
            snapshot = {name: values[number] for name, values in fields.items()}
            try:
                memory = self._memory.pop()
            except IndexError:  # this is the first call, or another thread is in one
                memory = None
            channels = self.first_stage(snapshot, reach, periodic, memory)
            self.run_trunk(channels, told, answers[:, number], periodic)
            if channels.base is not None and all(periodic):  # between tiles, memory is needed for reading
                self._memory[:] = [channels.base]

    def first_stage(
        self,
        fields: Mapping[str, np.ndarray],
        max_mfp: float | None,
        periodic: Sequence[int] = (1, 1, 1),
        memory: np.ndarray | None = None,
    ) -> np.ndarray:
        """The channels of the stem, as the trunk takes them: (x + 2 r, channel, y + 2 r, z + 2 r).

        r is the radius of the trunk; along periodic axes there is no halo. The channels are written into
        `memory` (n,) if it is large enough.
        """
        from reion_kernels.photon_channels import photon_channels

        return photon_channels(
            fields["n_igm"],
            fields[self._photons],
            self.plan(max_mfp),
            scale=self.trunk.scale,
            shift=self.trunk.shift,
            periodic=periodic,
            threads=self._threads or threads_to_use(),
            memory=memory,
        )

    def run_trunk(
        self,
        channels: np.ndarray,
        told: Mapping[str, np.ndarray],
        answers: np.ndarray,
        periodic: Sequence[int] = (1, 1, 1),
    ) -> None:
        """Write the answers (output, x, y, z) for the channels that `first_stage` returns.

        `told` are redshift and conditions, each (1,) float32.
        """
        self.runner.run(channels, self.trunk_numbers(told), answers, periodic)

    def trunk_numbers(self, told: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The inputs of the trunk besides channels, from redshift and conditions, each (1,) float32."""
        numbers = {name: told[name] for name in self.trunk.numbers if name != CELL_SIZE}
        if CELL_SIZE in self.trunk.numbers:
            numbers[CELL_SIZE] = np.array(cell_size_condition(self._cell_size_mpc), dtype=np.float32)
        return numbers

    def plan(self, max_mfp: float | None) -> PhotonPlan:
        """The plan of the stem for photons with the reach `max_mfp`, Mpc."""
        return photon_plan(self._settings, self._photons, cell_size_mpc=self._cell_size_mpc, max_mfp=max_mfp)


def stages_of(content: bytes, card: ModelCard, *, threads: int | None, file: str | None) -> Stages | None:
    """The model in two stages; None if its file has no stem that the kernels know."""
    try:
        settings = photon_settings(card.provenance["config"]["model"])
        if settings is None:
            return None
        return Stages(content, card, settings, threads=threads, file=file)
    except (KeyError, TypeError, StopIteration, ValidationError, NoTrunkError):
        return None


def stage_bytes(stages: Stages, window: Shape, tile: Shape, trunk_bytes_per_cell: float) -> float:
    """Memory that a prediction takes besides its fields and its answers.

    Parameters
    ----------
    window, tile
        Cells of the fields, with their halo if they have one, and cells of the answer.
    trunk_bytes_per_cell
        Memory that onnxruntime takes for each cell of a block.
    """
    halo = 2 * stages.trunk_radius_cells
    sides = (side + (halo if wide > side else 0) for side, wide in zip(tile, window, strict=True))
    channels = 4 * stages.channels * math.prod(sides)
    # Of a whole box, two halves of the first stage are computed at once.
    fields = 6 if tuple(window) == tuple(tile) else 4
    first_stage = 4 * fields * math.prod(window) + 8 * math.prod(tile)
    return channels + max(float(first_stage), stages.runner.working_bytes(tile, trunk_bytes_per_cell))
