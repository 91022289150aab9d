"""Judge predicted ionised fractions against the true ones, beside what a user would run instead."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from reion.errors import InputError
from reion.evaluation.scores import POOLED_MEAN_XI, POOLED_REDSHIFT, Scores, SnapshotScores, Truth
from reion.jobs.workers import Job, ThisProcess, Workers
from reion.metrics.spectra import Modes
from reion.physics import excursion_set
from reion.simulation.contract import (
    DIMS,
    PHOTON_RATE_UNITS,
    box_size_mpc,
    check_simulation,
    check_values,
    cosmology,
    hydrogen_density,
    n_ion_units,
    require_fields,
    shape_of,
)

if TYPE_CHECKING:
    from rich.table import Table

_MEAN_FIELD, _EXCURSION_SET = "/mean field", "/excursion set"
"""Not the name of any prediction, none of which has a stroke in it."""

REDSHIFT_TOLERANCE = 1e-3
"""How far two redshifts may differ and still be the same snapshot."""


def evaluate(
    predictions: Mapping[str, xr.DataArray] | xr.DataArray,
    true: xr.Dataset,
    *,
    excursion_threshold: float | None = 1.0,
    excursion_inputs: excursion_set.Inputs = "history",
    workers: Workers | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Compare predicted with true ionised fractions, snapshot by snapshot and pooled.

    Parameters
    ----------
    predictions
        xi with dimensions (redshift, x, y, z), or several by name: the first is the one that is judged, the
        others are its rivals. Redshifts that not all of them have are left out, and listed.
    true
        A Simulation with xi; with n_igm and sources (n_ion or n_src) the excursion set is a baseline too.
    excursion_threshold
        Photons per hydrogen atom at which the excursion set ionises; None: 1.
    excursion_inputs
        `history` (n_ion) or `instant` (n_src times the cosmic age).
    workers
        Who judges the snapshots; this process where it is None.
    progress
        Called after each snapshot with how many are done and how many there are.

    Returns
    -------
    dict
        As JSON: `pooled` and `redshifts` of the first prediction, the same of the `baselines`
        (`excursion_set`; `mean_field`: the true mean of each snapshot in every cell) and of the rivals
        (`against`). What is not defined is None.

    Raises
    ------
    InputError
        If the true simulation has no xi, the meshes differ, no redshift is common, or a value is not finite
        or not between 0 and 1.
    """
    require_fields(check_simulation(true, values=False), ["xi"], purpose="evaluation")
    by_name = predictions if isinstance(predictions, Mapping) else {"prediction": predictions}
    if not by_name:
        raise InputError("expected at least one prediction; received none")
    indices = {name: matching_snapshots(name, pred, true) for name, pred in by_name.items()}
    redshift = true["redshift"].values
    common = [i for i in range(redshift.size) if all(i in index for index in indices.values())]
    if not common:
        raise InputError(
            f"expected a redshift that the truth ({_listed(redshift)}) and every prediction share; received "
            + "; ".join(f"{name}: {_listed(pred['redshift'].values)}" for name, pred in by_name.items())
        )
    threshold = 1.0 if excursion_threshold is None else float(excursion_threshold)
    missing = _excursion_set_lacks(true, excursion_inputs)
    judging = Judge(
        by_name, true, indices, None if missing else excursion_set.Photons(true, excursion_inputs), threshold
    )
    found: list[dict[str, SnapshotScores]] = [{} for _ in common]
    judged = (workers or ThisProcess()).map(judging, common)
    for done, (number, snapshot) in enumerate(judged, start=1):
        found[number] = snapshot
        if progress is not None:
            progress(done, len(common))
    model = cosmology(true)
    scores = {name: Scores(model) for name in by_name}
    mean_field, excursion = Scores(model), Scores(model)
    # In order of time, whoever judged them: sums round the same way whatever the number of workers.
    for snapshot in found:
        for method, of_method in {**scores, _MEAN_FIELD: mean_field, _EXCURSION_SET: excursion}.items():
            if method in snapshot:
                of_method.add(snapshot[method])
    name, *rivals = by_name
    return {
        "name": name,
        **scores[name].result(),
        "baselines": {
            "excursion_set": {"missing": missing, "pooled": None, "redshifts": []}
            if missing
            else {"threshold": threshold, "inputs": excursion_inputs, **excursion.result()},
            "mean_field": mean_field.result(),
        },
        "against": {rival: scores[rival].result() for rival in rivals},
        "left_out": [float(z) for i, z in enumerate(redshift) if i not in common],
    }


class Judge(Job[int, dict[str, SnapshotScores]]):
    """Compares every method with the truth in one snapshot."""

    def __init__(
        self,
        predictions: Mapping[str, xr.DataArray],
        true: xr.Dataset,
        indices: Mapping[str, Mapping[int, int]],
        photons: excursion_set.Photons | None,
        threshold: float,
    ) -> None:
        self._predictions, self._true, self._indices = predictions, true, indices
        self._photons, self._threshold = photons, threshold

    @cached_property
    def _modes(self) -> Modes:
        return Modes(shape_of(self._true), box_size_mpc(self._true))

    def __call__(self, index: int) -> dict[str, SnapshotScores]:
        """Compare one snapshot: method to its scores."""
        true, model = self._true, cosmology(self._true)
        truth = Truth.read(true, index, self._modes)
        scores = {}
        for name, pred in self._predictions.items():
            values = pred[self._indices[name][index]].values
            check_values("xi", values, redshift=truth.redshift, file=name)
            scores[name] = SnapshotScores.of(np.clip(values, 0, 1), truth, model)
        flat = np.full(truth.xi.shape, truth.xi.mean(dtype=np.float64))
        scores[_MEAN_FIELD] = SnapshotScores.of(flat, truth, model)
        if self._photons is not None:
            atoms = hydrogen_density(true["n_igm"][index].values)
            ionised = excursion_set.ionised(self._photons.at(index), atoms, threshold=self._threshold)
            scores[_EXCURSION_SET] = SnapshotScores.of(ionised.astype(np.float32), truth, model)
        return scores


def matching_snapshots(name: str, pred: xr.DataArray, true: xr.Dataset) -> dict[int, int]:
    """Index of each true snapshot to the index of the prediction's snapshot at the same redshift."""
    if pred.dims != DIMS:
        raise InputError(f"expected dimensions {DIMS}; received {pred.dims}", file=name)
    if pred.shape[1:] != true["xi"].shape[1:]:
        raise InputError(
            f"expected the truth's mesh {true['xi'].shape[1:]}; received {pred.shape[1:]}",
            file=name,
            hint="predict on the same mesh, or regrid one of the two with `reion convert --cell-size MPC`",
        )
    if "redshift" not in pred.coords:
        raise InputError("expected a coordinate 'redshift'; received none", file=name)
    distance = np.abs(true["redshift"].values[:, None] - pred["redshift"].values)
    nearest = distance.argmin(axis=1)
    return {i: int(j) for i, j in enumerate(nearest) if distance[i, j] <= REDSHIFT_TOLERANCE}


def _excursion_set_lacks(true: xr.Dataset, inputs: excursion_set.Inputs) -> str | None:
    """Why the excursion set cannot be computed for this simulation, or None if it can."""
    sources = ["n_src"] if inputs == "instant" else ["n_ion", "n_src"]
    have = [name for name in sources if name in true.data_vars]
    if "n_igm" not in true.data_vars or not have:
        return f"needs n_igm and {' or '.join(sources)}"
    units = true[have[0]].attrs["units"]
    if units not in (PHOTON_RATE_UNITS, n_ion_units(PHOTON_RATE_UNITS)):
        return f"needs sources in photons; {have[0]} is in {units}"
    sides = [length / true.sizes[axis] for length, axis in zip(box_size_mpc(true), DIMS[1:], strict=True)]
    if max(sides) > min(sides) * 1.001:
        return "needs cubic cells"
    return None


def _listed(redshift: Sequence[float] | np.ndarray) -> str:
    return ", ".join(f"{z:g}" for z in redshift)


def render(evaluation: Mapping[str, Any], *, band: str = "0.5") -> Table:
    """The evaluation as a table for the terminal: every method, at each redshift and pooled.

    `band` is the band of k (Mpc-1) whose power ratio and cross-correlation are shown.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    methods = {
        str(evaluation["name"]): evaluation,
        **evaluation["against"],
        "exc. set": evaluation["baselines"]["excursion_set"],
    }
    low, high = POOLED_MEAN_XI
    table = Table(
        title="Ionised fraction against the true one",
        caption="xi: mean ionised fraction; exc. set: excursion set. P, r: power over true power and "
        f"cross-correlation at k = {band} Mpc-1. Pooled: all cells at z <= {POOLED_REDSHIFT:g} where mean "
        f"xi is {low:g} to {high:g}. A dash: not defined.",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("\n\nz", justify="right", no_wrap=True)
    table.add_column("\ntrue\nxi", justify="right", no_wrap=True)
    for name in methods:
        # A name takes two short lines over its first column, so that the table fits a terminal.
        first, second = (*re.split(r"(?<=[ _-])", name, maxsplit=1), "")[:2]
        table.add_column(f"{first}\n{second}\nxi", justify="right", no_wrap=True)
        for heading in ("R2", "P", "r"):
            table.add_column(f"\n\n{heading}", justify="right", no_wrap=True)
    table.add_column("mean\nfield\nR2", justify="right", no_wrap=True)
    mean_field = evaluation["baselines"]["mean_field"]
    rows = [
        (f"{row['redshift']:g}", [method["redshifts"][index : index + 1] for method in methods.values()])
        for index, row in enumerate(evaluation["redshifts"])
    ]
    rows.append(("pooled", [[method["pooled"]] if method["pooled"] else [] for method in methods.values()]))
    for (label, scores), flat in zip(rows, (*mean_field["redshifts"], mean_field["pooled"]), strict=True):
        cells = [label, _figure(flat["mean_xi_true"])]
        for found in scores:
            if not found:
                cells += ["-"] * 4
            for score in found:
                cells += [_figure(score["mean_xi_pred"]), _figure(score["r2"])]
                cells += [_figure(score[key][band]) for key in ("power_ratio", "cross_correlation")]
        cells.append(_figure(flat["r2"]))
        table.add_row(*cells, style="bold" if label == "pooled" else None)
    return table


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{round(value, 3) + 0.0:.3f}"  # + 0.0: no minus before a zero
