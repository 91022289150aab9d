"""A survey: the statistics of ionised fractions without a truth, for each snapshot."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr

from reion.errors import InputError
from reion.evaluation.field_statistics import Bins, FieldStatistics, Gas, Spectrum
from reion.evaluation.result import line_styles
from reion.evaluation.scores import FEATURELESS_STD, as_json
from reion.evaluation.shared_snapshots import shared_snapshots
from reion.jobs.workers import Job, Workers, in_order
from reion.metrics.fields import Curve
from reion.metrics.history import optical_depth
from reion.metrics.spectra import Modes
from reion.simulation.contract import (
    PHOTON_RATE_UNITS,
    PHOTON_UNITS,
    box_size_mpc,
    check_simulation,
    check_values,
    cosmology,
    hydrogen_density,
    shape_of,
)
from reion.simulation.photons import EmittedPhotons

PLANCK_OPTICAL_DEPTH = (0.0544, 0.0073)
"""Value and error of Planck 2018: TT,TE,EE + lowE + lensing (results VI, A&A 641, A6, table 2)."""


@dataclass(frozen=True, kw_only=True)
class SurveySnapshot:
    """One xi in one snapshot.

    Parameters
    ----------
    pred
        Statistics of the field.
    true
        Always None: there is no truth.
    featureless
        Whether the standard deviation of xi is below `reion.evaluation.scores.FEATURELESS_STD`. There is then
        no spectrum but that of the 21-cm signal, and none at all where all gas is ionised or its density is
        not known.
    """

    redshift: float
    bins: Bins
    pred: FieldStatistics
    featureless: bool
    true: None = None

    def to_json(self, suffix: str = "") -> dict[str, Any]:
        """JSON-ready values: an entry of `redshifts` in the JSON of a survey.

        `suffix` is appended to the names of the statistics of xi.
        """
        field, sizes, spectrum = self.pred, self.pred.bubble_sizes, self.pred.spectrum
        curves: dict[str, Any] | None = None
        if spectrum is not None:
            curves = {
                "k": as_json(self.bins.k),
                "modes": as_json(self.bins.modes),
                f"power{suffix}": as_json(spectrum.power),
                f"density_correlation{suffix}": as_json(spectrum.density_correlation),
                f"brightness_power{suffix}": as_json(spectrum.brightness_power),
            }
        return {
            "redshift": self.redshift,
            f"mean_xi{suffix}": field.mean_xi,
            f"mass_weighted_xi{suffix}": field.mass_weighted_xi,
            f"bubble_size_mpc{suffix}": field.bubble_size_mpc,
            f"largest_cluster{suffix}": field.largest_cluster,
            f"euler_characteristic{suffix}": field.euler_characteristic,
            f"betti{suffix}": list(field.betti),
            "bubble_sizes": {
                "radius_mpc": as_json(self.bins.bubble_radius_mpc),
                f"probability{suffix}": sizes and as_json(sizes.probability),
                f"unbounded{suffix}": sizes and sizes.unbounded,
            },
            "granulometry": {
                "radius_mpc": as_json(self.bins.ball_radius_mpc),
                f"fraction{suffix}": as_json(field.ball_fraction),
            },
            "spectrum": curves,
        }


@dataclass(frozen=True)
class SurveyScores:
    """One xi in every snapshot, in order of time.

    Parameters
    ----------
    optical_depth
        Optical depth of the gas below the redshift of each snapshot, shape (snapshots,); the first value is
        that of the whole history.
    """

    snapshots: tuple[SurveySnapshot, ...]
    optical_depth: Curve

    def to_json(self, suffix: str = "") -> dict[str, Any]:
        """JSON-ready values: `redshifts`, and the optical depth of the whole history."""
        rows = [
            {**snapshot.to_json(suffix), "optical_depth_below": float(depth)}
            for snapshot, depth in zip(self.snapshots, self.optical_depth, strict=True)
        ]
        return {"optical_depth": float(self.optical_depth[0]), "redshifts": rows}


@dataclass(frozen=True)
class SurveyMethod:
    """One xi in tables, charts and files: its name and the number of its line style."""

    label: str
    line_style: int
    scores: SurveyScores


@dataclass(frozen=True)
class Survey:
    """Statistics of one or several ionised fractions on the same snapshots of one simulation.

    Parameters
    ----------
    fields
        The statistics of each xi, by name; the report is about the first.
    photons_per_atom
        Ionising photons emitted so far for each hydrogen atom of the box, one number per snapshot; None if
        the simulation does not give them.
    left_out
        Redshifts of the simulation that some xi lacks.
    """

    fields: Mapping[str, SurveyScores]
    photons_per_atom: Curve | None
    left_out: tuple[float, ...]

    @property
    def name(self) -> str:
        """Name of the first xi."""
        return next(iter(self.fields))

    @property
    def snapshots(self) -> tuple[SurveySnapshot, ...]:
        """The first xi in each snapshot, in order of time."""
        return self.fields[self.name].snapshots

    @property
    def methods(self) -> tuple[SurveyMethod, ...]:
        """Every xi, in the order of all tables, charts and files."""
        return tuple(
            SurveyMethod(name, style, scores)
            for (name, scores), style in zip(self.fields.items(), line_styles(len(self.fields)), strict=True)
        )

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values, as `reion report --json` prints them."""
        photons = self.photons_per_atom
        return {
            "name": self.name,
            "fields": {name: scores.to_json() for name, scores in self.fields.items()},
            "photons_per_atom": None if photons is None else as_json(photons),
            "left_out": list(self.left_out),
        }


def survey(
    fields: Mapping[str, xr.DataArray],
    sim: xr.Dataset,
    *,
    workers: Workers | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Survey:
    """Measure ionised fractions, snapshot by snapshot, without a truth.

    Parameters
    ----------
    fields
        Ionised fractions by name, with dimensions (redshift, x, y, z). Redshifts that some of them lack are
        left out.
    sim
        The Simulation that they belong to; its density and sources are used if it has them.
    workers
        The processes that measure the snapshots; by default this process alone.
    progress
        Called after each snapshot with the number of snapshots done and of all snapshots.

    Raises
    ------
    InputError
        If the meshes or the boxes differ, no redshift is common, or a value is not finite or not
        between 0 and 1.
    """
    check_simulation(sim, values=False)
    if not fields:
        raise InputError("expected at least one ionised fraction; received none")
    indices, common = shared_snapshots(fields, sim)
    redshift = sim["redshift"].values
    if not common:
        raise InputError("expected a redshift that the simulation and every xi share; received none")
    ordered = in_order(workers, MeasuringJob(fields, sim, indices), common, progress)
    return Survey(
        fields={name: _scores([snapshot[name] for snapshot in ordered], sim) for name in fields},
        photons_per_atom=_photons_per_atom(sim, common),
        left_out=tuple(float(z) for i, z in enumerate(redshift) if i not in common),
    )


class MeasuringJob(Job[int, Mapping[str, SurveySnapshot]]):
    """Measures every xi in one snapshot.

    `indices` holds, by name, the result of `reion.simulation.joining.matching_snapshots`.
    """

    def __init__(
        self,
        fields: Mapping[str, xr.DataArray],
        sim: xr.Dataset,
        indices: Mapping[str, Mapping[int, int]],
    ) -> None:
        self._fields, self._sim, self._indices = fields, sim, indices

    @cached_property
    def _modes(self) -> Modes:
        return Modes(shape_of(self._sim), box_size_mpc(self._sim))

    def __call__(self, index: int) -> Mapping[str, SurveySnapshot]:
        """Measure the snapshot at `index` of the simulation."""
        gas = Gas.read(self._sim, index, self._modes)
        bins = Bins.of(self._modes)
        measured = {}
        for name, field in self._fields.items():
            xi = field[self._indices[name][index]].values
            check_values("xi", xi, redshift=gas.redshift, file=name)
            xi = np.clip(xi, 0, 1)
            featureless = float(xi.std(dtype=np.float64)) < FEATURELESS_STD
            statistics = FieldStatistics.of(xi, self._modes.transform(xi), gas, spectrum=not featureless)
            if featureless and gas.density is not None and statistics.mean_xi < 1 - FEATURELESS_STD:
                statistics = replace(statistics, spectrum=Spectrum.of_featureless(xi, gas))
            measured[name] = SurveySnapshot(
                redshift=gas.redshift, bins=bins, pred=statistics, featureless=featureless
            )
        return measured


def _scores(snapshots: Sequence[SurveySnapshot], sim: xr.Dataset) -> SurveyScores:
    redshift = np.array([snapshot.redshift for snapshot in snapshots])
    xi = np.clip([snapshot.pred.history_xi for snapshot in snapshots], 0, 1)
    # `optical_depth` takes the gas above the first snapshot as neutral, so dropping snapshots leaves the part
    # below the redshift of the first that remains.
    below = [optical_depth(redshift[i:], xi[i:], cosmology(sim)) for i in range(redshift.size)]
    return SurveyScores(tuple(snapshots), np.array(below))


def _photons_per_atom(sim: xr.Dataset, indices: Sequence[int]) -> Curve | None:
    """Photons emitted so far for each atom in the snapshots `indices`; None if they are not known."""
    units = sim["n_ion"].attrs["units"] if "n_ion" in sim.data_vars else None
    rates = "n_src" in sim.data_vars and sim["n_src"].attrs["units"] == PHOTON_RATE_UNITS
    if "n_igm" not in sim.data_vars or not (units == PHOTON_UNITS or (units is None and rates)):
        return None
    emitted = EmittedPhotons(sim) if units is None else None
    ratio = []
    for index in indices:
        photons = sim["n_ion"][index].values if emitted is None else emitted.at(index)
        atoms = hydrogen_density(sim["n_igm"][index].values)
        ratio.append(photons.mean(dtype=np.float64) / atoms.mean(dtype=np.float64))
    return np.array(ratio)
