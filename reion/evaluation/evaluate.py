"""Compare predicted ionised fractions with the true ones, and with two simple baselines."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from reion.config import InputSet
from reion.errors import InputError
from reion.evaluation.result import Evaluation
from reion.evaluation.scores import Agreement, MethodScores, SnapshotScores, Truth
from reion.evaluation.shared_snapshots import shared_snapshots
from reion.jobs.workers import Job, Workers, in_order
from reion.metrics.pooling import POOLED_MEAN_XI, POOLED_REDSHIFT
from reion.metrics.spectra import Modes
from reion.physics import excursion_set
from reion.simulation.contract import (
    PHOTON_RATE_UNITS,
    box_size_mpc,
    check_simulation,
    check_values,
    cosmology,
    cubic_cell_size_mpc,
    hydrogen_density,
    n_ion_units,
    require_fields,
    shape_of,
)
from reion.simulation.joining import matching_snapshots

if TYPE_CHECKING:
    from rich.table import Table


def evaluate(
    predictions: Mapping[str, xr.DataArray] | xr.DataArray,
    true: xr.Dataset,
    *,
    excursion_threshold: float | None = 1.0,
    excursion_inputs: InputSet = "history",
    spreads: Mapping[str, xr.DataArray] | None = None,
    workers: Workers | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Compare predicted with true ionised fractions, snapshot by snapshot and pooled.

    Parameters
    ----------
    predictions
        xi with dimensions (redshift, x, y, z), or several by name: the evaluation is about the first, the
        others are its rivals. Redshifts that some of them lack are left out, and listed.
    true
        A Simulation with xi; if it has n_igm and sources (n_ion or n_src), the excursion set is a baseline.
    excursion_threshold
        Photons per hydrogen atom at which the excursion set ionises; None means 1.
    excursion_inputs
        `history` (n_ion) or `instant` (n_src times the cosmic age).
    spreads
        xi_std of the predictions that have it, by name, with the dimensions of the predictions.
    workers
        The processes that compare the snapshots; by default this process alone.
    progress
        Called after each snapshot with the number of snapshots done and of all snapshots.

    Returns
    -------
    Evaluation
        The scores of every prediction and of the baselines, the excursion set and the mean field.

    Raises
    ------
    InputError
        If the true simulation has no xi, the meshes or the boxes differ, no redshift is common, or a value is
        not finite or not between 0 and 1.
    """
    require_fields(check_simulation(true, values=False), ["xi"], purpose="evaluation")
    by_name = predictions if isinstance(predictions, Mapping) else {"prediction": predictions}
    if not by_name:
        raise InputError("expected at least one prediction; received none")
    indices, common = shared_snapshots(by_name, true)
    for name, spread in (spreads or {}).items():
        matching_snapshots(f"the error bar of {name}", spread, true)
    redshift = true["redshift"].values
    if not common:
        raise InputError(
            f"expected a redshift that the truth ({_listed(redshift)}) and every prediction share; received "
            + "; ".join(f"{name}: {_listed(pred['redshift'].values)}" for name, pred in by_name.items())
        )
    threshold = 1.0 if excursion_threshold is None else float(excursion_threshold)
    missing = _excursion_set_lacks(true, excursion_inputs)
    photons = None if missing else excursion_set.Photons(true, excursion_inputs)
    job = ScoringJob(by_name, true, indices, photons, threshold, spreads)
    ordered = in_order(workers, job, common, progress)
    model = cosmology(true)
    excursion = [scores.excursion_set for scores in ordered if scores.excursion_set is not None]
    return Evaluation(
        predictions={
            name: MethodScores.of([scores.predictions[name] for scores in ordered], model) for name in by_name
        },
        mean_field=MethodScores.of([scores.mean_field for scores in ordered], model),
        excursion_set=MethodScores.of(excursion, model) if excursion else None,
        excursion_set_missing=missing,
        excursion_threshold=threshold,
        excursion_inputs=excursion_inputs,
        left_out=tuple(float(z) for i, z in enumerate(redshift) if i not in common),
    )


@dataclass(frozen=True)
class AllScores:
    """The scores of all methods in one snapshot: the predictions by name, and the baselines."""

    predictions: Mapping[str, SnapshotScores]
    mean_field: SnapshotScores
    excursion_set: SnapshotScores | None


class ScoringJob(Job[int, AllScores]):
    """Compares every method with the truth in one snapshot.

    Parameters
    ----------
    indices
        For each prediction by name, the result of `matching_snapshots`.
    photons, threshold
        Photons and threshold of the excursion set; without photons there is no excursion set.
    spreads
        See `evaluate`.
    """

    def __init__(
        self,
        predictions: Mapping[str, xr.DataArray],
        true: xr.Dataset,
        indices: Mapping[str, Mapping[int, int]],
        photons: excursion_set.Photons | None,
        threshold: float,
        spreads: Mapping[str, xr.DataArray] | None = None,
    ) -> None:
        self._spreads = spreads or {}
        self._predictions, self._true, self._indices = predictions, true, indices
        self._photons, self._threshold = photons, threshold

    @cached_property
    def _modes(self) -> Modes:
        return Modes(shape_of(self._true), box_size_mpc(self._true))

    def __call__(self, index: int) -> AllScores:
        """Compare the true snapshot at `index`."""
        truth = Truth.read(self._true, index, self._modes)
        predictions = {}
        for name, pred in self._predictions.items():
            values = pred[self._indices[name][index]].values
            check_values("xi", values, redshift=truth.gas.redshift, file=name)
            spread = None
            if name in self._spreads:
                at = matching_snapshots(name, self._spreads[name], self._true)
                spread = self._spreads[name][at[index]].values
            predictions[name] = SnapshotScores.of(np.clip(values, 0, 1), truth, spread=spread)
        mean_field = SnapshotScores.of(np.full(truth.xi.shape, truth.statistics.mean_xi), truth)
        excursion = None
        if self._photons is not None:
            atoms = hydrogen_density(self._true["n_igm"][index].values)
            ionised = excursion_set.ionised(self._photons.at(index), atoms, threshold=self._threshold)
            excursion = SnapshotScores.of(ionised.astype(np.float32), truth)
        return AllScores(predictions, mean_field, excursion)


def _excursion_set_lacks(true: xr.Dataset, inputs: InputSet) -> str | None:
    """The reason why the excursion set cannot be computed for this simulation, or None if it can."""
    sources = ["n_src"] if inputs == "instant" else ["n_ion", "n_src"]
    have = [name for name in sources if name in true.data_vars]
    if "n_igm" not in true.data_vars or not have:
        return f"needs n_igm and {' or '.join(sources)}"
    units = true[have[0]].attrs["units"]
    if units not in (PHOTON_RATE_UNITS, n_ion_units(PHOTON_RATE_UNITS)):
        return f"needs sources in photons; {have[0]} is in {units}"
    try:
        cubic_cell_size_mpc(true)
    except InputError:
        return "needs cubic cells"
    return None


def _listed(redshift: Sequence[float] | np.ndarray) -> str:
    return ", ".join(f"{z:g}" for z in redshift)


def render(evaluation: Evaluation, *, band: str = "0.5") -> Table:
    """The evaluation as a table for the terminal: every method, at each redshift and pooled.

    `band` is the band of k (Mpc-1) whose power ratio and cross-correlation are shown.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    low, high = POOLED_MEAN_XI
    missing = evaluation.excursion_set_missing
    table = Table(
        title="Ionised fraction against the true one",
        caption="xi: mean ionised fraction; exc. set: excursion set. P, r: power over true power and "
        f"cross-correlation at k = {band} Mpc-1. Pooled: all cells at z <= {POOLED_REDSHIFT:g} where mean "
        f"xi is {low:g} to {high:g}. A dash: not defined."
        + (f" No excursion set: it {missing}." if missing else ""),
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("\n\nz", justify="right", no_wrap=True)
    table.add_column("\ntrue\nxi", justify="right", no_wrap=True)
    *methods, mean_field = evaluation.methods
    for method in methods:
        # A name is split into two short lines over its first column, so that the table fits a terminal.
        first, second = (*re.split(r"(?<=[ _-])", method.short_label, maxsplit=1), "")[:2]
        table.add_column(f"{first}\n{second}\nxi", justify="right", no_wrap=True)
        for heading in ("R2", "P", "r"):
            table.add_column(f"\n\n{heading}", justify="right", no_wrap=True)
    table.add_column("mean\nfield\nR2", justify="right", no_wrap=True)
    for index, snapshot in enumerate(evaluation.snapshots):
        scores = [method.scores.snapshots[index] for method in (*methods, mean_field)]
        table.add_row(f"{snapshot.redshift:g}", *_cells(scores, band))
    pooled = [method.scores.pooled for method in (*methods, mean_field)]
    table.add_row("pooled", *_cells(pooled, band), style="bold")
    return table


def _cells(scores: Sequence[Agreement], band: str) -> Iterator[str]:
    """The cells of one row; the last of `scores` belong to the mean field."""
    *methods, mean_field = scores
    yield _figure(mean_field.mean_xi_true)
    for score in methods:
        yield _figure(score.mean_xi_pred)
        yield _figure(score.r2)
        yield _figure(score.power_ratio[band])
        yield _figure(score.cross_correlation[band])
    yield _figure(mean_field.r2)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{round(value, 3) + 0.0:.3f}"  # + 0.0: no minus before a zero
