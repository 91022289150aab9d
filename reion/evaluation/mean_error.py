"""The error bar of mean xi, measured on simulations that a model has not learnt from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from reion.errors import InputError
from reion.jobs.outputs import sha256_of, write_whole
from reion.jobs.places import MODEL_FILE, claimed
from reion.jobs.workers import Progress
from reion.metrics.calibration import one_standard_deviation
from reion.metrics.pooling import is_partly_ionised
from reion.models.training_boxes import boxes_in, is_training_box
from reion.prediction.emulator import Emulator
from reion.prediction.predicted_field import PredictedField
from reion.simulation.contract import check_simulation
from reion_exports.card import ModelCard
from reion_exports.data_sheet import restamp

FEWEST_SNAPSHOTS = 5
"""From fewer partly ionised snapshots, the error of mean xi is not measured."""

MEASURED = "mean_error"
"""Entry of the provenance of a model file that says on what the error of mean xi was measured."""


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """A model file with a measured error bar of mean xi.

    Attributes
    ----------
    output, sha256
        The file that was written, and its checksum.
    mean_error_share, before
        Error of mean xi, one standard deviation, for each unit of mean `xi_std`: measured, and in the file
        that was read (None if it had none).
    snapshots
        Number of partly ionised snapshots on which it was measured.
    """

    output: Path
    sha256: str
    mean_error_share: float
    before: float | None
    snapshots: int

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {**asdict(self), "output": str(self.output)}


def calibrate(
    model: str | Path,
    simulations: Sequence[xr.Dataset],
    out: str | Path,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> Calibrated:
    """Measure the error of mean xi on simulations with a true xi, and write a model file that carries it.

    Errors of neighbouring cells are correlated, so the error of mean xi does not follow from `xi_std`. It
    is measured: the ratio of the error of mean xi to mean `xi_std` that 68.3 % of the partly ionised
    snapshots stay below. Nothing else in the file changes.

    Parameters
    ----------
    model
        See `reion.prediction.emulator.Emulator`.
    simulations
        Simulations with a true `xi` that the model has not learnt from, like those it will be used for.
    out
        The model file to write.
    force
        Replace a model file of reion at `out`.
    progress
        Called with the number of snapshots done and of all snapshots.

    Raises
    ------
    InputError
        If the model has no `xi_std`, does not fit a simulation or has learnt from it; if a simulation has no
        `xi`; if fewer than `FEWEST_SNAPSHOTS` snapshots are partly ionised; or if `out` cannot be written.
    """
    emulator = Emulator(model)
    emulator.require_spread()
    for sim in simulations:
        _require_unseen(sim, emulator.card)
    with claimed(out, MODEL_FILE, force=force, sources=[model]) as place:
        ratios = _ratios(emulator, simulations, progress)
        if len(ratios) < FEWEST_SNAPSHOTS:
            raise InputError(
                f"expected at least {FEWEST_SNAPSHOTS} snapshots that are neither neutral nor ionised as a "
                f"whole; received {len(ratios)}",
                hint="name more simulations",
            )
        share = one_standard_deviation(ratios)
        if not share > 0:
            raise InputError("mean xi has no error in the simulations, so it has no error bar")
        measured = {"snapshots": len(ratios), "simulations": [_name(sim) for sim in simulations]}
        provenance = {**emulator.card.provenance, MEASURED: measured}
        write_whole(place, restamp(emulator.file_content, mean_error_share=share, provenance=provenance))
    return Calibrated(
        output=place,
        sha256=sha256_of(place),
        mean_error_share=share,
        before=emulator.card.mean_error_share,
        snapshots=len(ratios),
    )


def _require_unseen(sim: xr.Dataset, card: ModelCard) -> None:
    if "xi" not in check_simulation(sim, values=False).data_vars:
        raise InputError(
            f"expected a simulation with the true ionised fraction xi; {_name(sim)} has none",
            hint="`reion simulate` computes it by ray tracing",
        )
    training: Mapping[str, Any] | None = card.provenance.get("training")
    if is_training_box(sim, card.training_data, boxes_in(training)[1]):
        raise InputError(
            f"the model {card.name} has learnt from {_name(sim)}: its error there is smaller than elsewhere",
            hint="name simulations that it has not learnt from",
        )


def _ratios(emulator: Emulator, simulations: Sequence[xr.Dataset], progress: Progress | None) -> list[float]:
    """The error of mean xi over mean xi_std, of each partly ionised snapshot."""
    ratios = []
    done, snapshots = 0, sum(sim.sizes["redshift"] for sim in simulations)
    for sim in simulations:
        emulator.check(sim)
        predicted = PredictedField(emulator.for_cells_of(sim), sim)
        for index in range(sim.sizes["redshift"]):
            true = float(sim["xi"][index].values.mean(dtype=np.float64))
            if is_partly_ionised(true):
                xi, spread = predicted.with_spread(index).mean(axis=(1, 2, 3), dtype=np.float64).tolist()
                ratios.append((xi - true) / spread)
            done += 1
            if progress is not None:
                progress(done, snapshots)
    return ratios


def _name(sim: xr.Dataset) -> str:
    return str(sim.attrs["source_code"])
