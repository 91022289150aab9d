"""Judge predicted ionised fractions against the true ones, beside what a user would run instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from reion import excursion_set
from reion.errors import InputError
from reion.metrics.pointwise import ErrorSums
from reion.metrics.spectra import BANDS, BandSums, Modes, coefficient, dimensionless_factor
from reion.simulation import (
    DIMS,
    PHOTON_RATE_UNITS,
    box_size_mpc,
    check_simulation,
    check_values,
    hydrogen_density,
    n_ion_units,
    require_fields,
)

if TYPE_CHECKING:
    from rich.table import Table

POOLED_REDSHIFT = 11.5
POOLED_MEAN_XI = (1e-3, 1 - 1e-3)
"""Pooled are the snapshots at or below this redshift whose true mean xi lies within these bounds."""

FEATURELESS_STD = 1e-3
"""A snapshot whose true xi scatters less than this has no structure to compare: R2 and spectra are null."""

REDSHIFT_TOLERANCE = 1e-3
"""How far two redshifts may differ and still be the same snapshot."""


@dataclass
class _Scores:
    """One method's statistics: a row a snapshot, and the sums that pooling needs."""

    redshifts: list[dict[str, Any]] = field(default_factory=list)
    errors: ErrorSums = field(default_factory=ErrorSums)
    bands: dict[str, BandSums] = field(default_factory=lambda: {name: BandSums() for name in BANDS})

    def add(self, pred: np.ndarray, truth: _Truth) -> None:
        errors = ErrorSums.of(pred, truth.xi)
        transform = truth.modes.transform(pred)
        bands = truth.modes.band_sums(transform, truth.transform)
        featureless = (errors.std_true or 0.0) < FEATURELESS_STD
        self.redshifts.append(
            {
                "redshift": truth.redshift,
                **_errors(errors, defined=not featureless),
                **_bands(bands, defined=not featureless),
                "spectrum": None if featureless else _spectrum(transform, truth),
            }
        )
        if truth.pooled:
            self.errors += errors
            self.bands = {name: self.bands[name] + bands[name] for name in BANDS}

    def result(self) -> dict[str, Any]:
        return {"pooled": {**_errors(self.errors), **_bands(self.bands)}, "redshifts": self.redshifts}


def _errors(sums: ErrorSums, *, defined: bool = True) -> dict[str, float | None]:
    return {
        "r2": sums.r2 if defined else None,
        "mse": sums.mse,
        "mae": sums.mae,
        "mean_xi_true": sums.mean_true,
        "mean_xi_pred": sums.mean_pred,
    }


def _bands(sums: Mapping[str, BandSums], *, defined: bool = True) -> dict[str, dict[str, float | None]]:
    return {
        "power_ratio": {name: band.power_ratio if defined else None for name, band in sums.items()},
        "cross_correlation": {
            name: band.cross_correlation if defined else None for name, band in sums.items()
        },
    }


def _spectrum(transform: np.ndarray, truth: _Truth) -> dict[str, list[float | None]]:
    """Dimensionless power of both, and their cross-correlation coefficient, in shells of k."""
    modes = truth.modes
    power_true, power_pred = modes.power(truth.transform), modes.power(transform)
    factor = dimensionless_factor(modes.shell_k)
    return {
        "k": _listed_numbers(modes.shell_k),
        "modes": _listed_numbers(modes.shell_modes),
        "power_true": _listed_numbers(factor * power_true),
        "power_pred": _listed_numbers(factor * power_pred),
        "cross_correlation": _listed_numbers(
            coefficient(modes.power(transform, truth.transform), power_true, power_pred)
        ),
    }


def _listed_numbers(values: np.ndarray) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]


@dataclass(frozen=True)
class _Truth:
    """One true snapshot and what every method is compared with."""

    redshift: float
    xi: np.ndarray
    modes: Modes
    transform: np.ndarray
    pooled: bool


def evaluate(
    predictions: Mapping[str, xr.DataArray] | xr.DataArray,
    true: xr.Dataset,
    *,
    excursion_threshold: float | None = 1.0,
    excursion_inputs: excursion_set.Inputs = "history",
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

    Returns
    -------
    As JSON: `pooled` and `redshifts` of the first prediction, the same of the `baselines` (`excursion_set`,
    `mean_field`: the true mean of each snapshot in every cell) and of the rivals (`against`). What is not
    defined is None.

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
    scores = {name: _Scores() for name in by_name}
    mean_field, excursion = _Scores(), _Scores()
    modes = Modes(tuple(true.sizes[axis] for axis in DIMS[1:]), box_size_mpc(true))  # type: ignore[arg-type]
    photons = None if missing else excursion_set.photons(true, excursion_inputs)
    for index, z in enumerate(redshift.tolist()):
        n_photons = None if photons is None else next(photons)
        if index not in common:
            continue
        truth = _read_truth(true, index, modes)
        for name, pred in by_name.items():
            values = pred[indices[name][index]].values
            check_values("xi", values, redshift=z, file=name)
            scores[name].add(np.clip(values, 0, 1), truth)
        mean_field.add(np.full(truth.xi.shape, truth.xi.mean(dtype=np.float64)), truth)
        if n_photons is not None:
            atoms = hydrogen_density(true["n_igm"][index].values)
            ionised = excursion_set.ionised(n_photons, atoms, threshold=threshold)
            excursion.add(ionised.astype(np.float32), truth)
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


def _read_truth(true: xr.Dataset, index: int, modes: Modes) -> _Truth:
    redshift = float(true["redshift"][index])
    xi = true["xi"][index].values
    check_values("xi", xi, redshift=redshift, file="truth")
    mean = float(xi.mean(dtype=np.float64))
    low, high = POOLED_MEAN_XI
    return _Truth(
        redshift=redshift,
        xi=xi,
        modes=modes,
        transform=modes.transform(xi),
        pooled=redshift <= POOLED_REDSHIFT and low <= mean <= high,
    )


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
    from rich.table import Table

    table = Table(
        title="Ionised fraction against the true one",
        caption=f"P, r: power over true power and cross-correlation at k = {band} Mpc-1. "
        f"Pooled: all cells at z <= {POOLED_REDSHIFT:g} with mean xi between {POOLED_MEAN_XI[0]:g} and "
        f"{POOLED_MEAN_XI[1]:g}. A dash: not defined.",
    )
    methods = {
        str(evaluation["name"]): evaluation,
        **evaluation["against"],
        "excursion set": evaluation["baselines"]["excursion_set"],
        "mean field": evaluation["baselines"]["mean_field"],
    }
    table.add_column("z", justify="right")
    table.add_column("true xi", justify="right")
    for name in methods:
        table.add_column(f"{name}\nxi", justify="right")
        for heading in ("R2", "P", "r"):
            table.add_column(f"\n{heading}", justify="right")
    rows: list[tuple[str, Mapping[str, Any], list[Mapping[str, Any] | None]]] = []
    for index, row in enumerate(evaluation["redshifts"]):
        of_methods = [m["redshifts"][index] if m["redshifts"] else None for m in methods.values()]
        rows.append((f"{row['redshift']:g}", row, of_methods))
    rows.append(("pooled", evaluation["pooled"], [m["pooled"] for m in methods.values()]))
    for number, (label, row, scores) in enumerate(rows):
        cells = [label, _figure(row["mean_xi_true"])]
        for score in scores:
            if score is None:
                cells += ["-"] * 4
            else:
                cells += [
                    _figure(score["mean_xi_pred"]),
                    _figure(score["r2"]),
                    _figure(score["power_ratio"][band]),
                    _figure(score["cross_correlation"][band]),
                ]
        table.add_row(*cells, end_section=number == len(rows) - 2)
    return table


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{round(value, 3) + 0.0:.3f}"  # + 0.0: no minus before a zero
