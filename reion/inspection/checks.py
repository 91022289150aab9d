"""Checks whether a simulation is plausible, by the measurements of `reion inspect`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from reion.inspection.result import Check, FieldInspection, FieldSnapshot, HistoryPoint
from reion.inspection.sources import DensityAtSources, dense_sources, spread_sources
from reion.simulation.contract import AXES, DEFAULT_COSMOLOGY, mean_baryon_density
from reion.simulation.plausible_density import falling_structure_doubt, mean_density_doubt

_XI_GAIN = 0.1
"""Smallest gain of xi at the sources, with the axes in another order, that is reported."""


def plausibility(
    sim: xr.Dataset,
    fields: Mapping[str, FieldInspection],
    history: Sequence[HistoryPoint],
    *,
    boundary_ratios: Sequence[float],
    xi_by_axis_order: Mapping[str, float],
    density_at_sources: Sequence[DensityAtSources] = (),
    occupied: Sequence[Mapping[str, np.ndarray]] = (),
    cells: int,
) -> list[Check]:
    """Check the measurements of `reion.inspection.look.inspect`.

    Parameters
    ----------
    sim
        The simulation.
    fields, history
        The measurements.
    boundary_ratios
        The result of `boundary_ratio` for each snapshot; may be empty.
    xi_by_axis_order
        The result of `reion.inspection.sources.mean_at_sources` for xi of one snapshot; may be empty.
    density_at_sources
        The result of `reion.inspection.sources.density_at_sources` for each snapshot; may be empty.
    occupied
        For each snapshot, `reion.inspection.sources.occupied_planes`; empty without n_src.
    cells
        Number of cells of the box.

    Returns
    -------
    list of Check
        First the checks of the density, then those of sources, xi, photons and cosmology.
    """
    checks: list[Check] = []
    if "n_igm" in fields:
        means = np.array([snapshot.statistics.mean for snapshot in fields["n_igm"].snapshots])
        checks += [_mean_density(sim, means), _mass(sim, means)]
        checks += _structure(fields["n_igm"].snapshots)
        if boundary_ratios:
            checks.append(_periodic(max(boundary_ratios)))
    if "n_src" in fields:
        checks.append(_sources(fields["n_src"].snapshots))
        if occupied:
            checks += _known(spread_sources(occupied, _cells_with_sources(fields["n_src"], cells)))
    if density_at_sources:
        checks += _known(dense_sources(min(density_at_sources, key=lambda found: found.scatter)))
    if "xi" in fields:
        growth = _growth(history)
        checks.append(growth)
        if growth.ok:  # neutral fractions are low at sources in the right order, and higher in any other
            checks += _swapped_axes(xi_by_axis_order) or _ionised_sources(history)
        checks += _photon_budget(history)
    if sim.attrs.get("cosmology_assumed", True):
        values = ", ".join(f"{key} = {value:g}" for key, value in DEFAULT_COSMOLOGY.items())
        checks.append(_suspect("cosmology", f"none in the files: flat LCDM with {values} is assumed"))
    return checks


def boundary_ratio(n_igm: np.ndarray) -> float:
    """Rms step of the density across the periodic boundary, divided by the rms step between the next cells.

    `n_igm` has shape (x, y, z). The largest ratio of the three axes is returned: about 1 for a periodic box,
    larger for a piece of a box.
    """
    ratios = []
    for number in range(len(AXES)):
        planes = np.moveaxis(n_igm, number, 0)
        inside = np.sqrt(np.mean(np.square(planes[1 % len(planes)] - planes[0], dtype=np.float64)))
        across = np.sqrt(np.mean(np.square(planes[0] - planes[-1], dtype=np.float64)))
        ratios.append(float(across / inside) if inside > 0 else 1.0)
    return max(ratios)


def _known(check: Check | None) -> list[Check]:
    return [] if check is None else [check]


def _cells_with_sources(n_src: FieldInspection, cells: int) -> list[int]:
    """Number of cells with sources of each snapshot."""
    shares = [1 - snapshot.statistics.empty_fraction for snapshot in n_src.snapshots]
    return [round(share * cells) for share in shares]


def _plausible(name: str, message: str) -> Check:
    return Check(name, ok=True, message=message)


def _suspect(name: str, message: str) -> Check:
    return Check(name, ok=False, message=message)


def _mean_density(sim: xr.Dataset, means: np.ndarray) -> Check:
    """Compare the mean n_igm of each snapshot, (redshift,), with the cosmic mean."""
    doubt = mean_density_doubt(sim, means)
    if doubt is not None:
        return _suspect("mean density", doubt)
    ratio = float(np.median(means)) / mean_baryon_density(sim)
    return _plausible("mean density", f"n_igm is comoving and has the cosmic mean (ratio {ratio:.3f})")


def _mass(sim: xr.Dataset, means: np.ndarray) -> Check:
    """Compare the mean n_igm of the snapshots, (redshift,), with each other."""
    spread = float(means.max() / means.min() - 1) if means.min() > 0 else np.inf
    if spread < 0.02:
        return _plausible("mass", "the mean density stays the same: mass is conserved")
    if means.min() <= 0:
        return _suspect("mass", "the density is zero everywhere: is its unit right?")
    first, last = sim["redshift"].values[[0, -1]]
    return _suspect(
        "mass",
        f"the mean density changes by {spread:.1%} from z = {first:g} to {last:g}: the comoving density of a "
        "periodic box stays the same",
    )


def _structure(snapshots: Sequence[FieldSnapshot]) -> list[Check]:
    """Compare the spread of n_igm of the snapshots with each other."""
    if len(snapshots) < 2 or any(snapshot.statistics.mean <= 0 for snapshot in snapshots):
        return []
    spreads = [snapshot.statistics.std / snapshot.statistics.mean for snapshot in snapshots]
    doubt = falling_structure_doubt([snapshot.redshift for snapshot in snapshots], spreads)
    if doubt is not None:
        return [_suspect("structure", doubt)]
    goes = "grows" if spreads[-1] > spreads[0] else "hardly changes"
    return [
        _plausible(
            "structure",
            f"the spread of n_igm over its mean {goes}, from {spreads[0]:.3g} to {spreads[-1]:.3g}",
        )
    ]


def _periodic(largest_ratio: float) -> Check:
    if largest_ratio < 1.5:
        return _plausible("periodic", "density is as smooth across the boundaries as beside them")
    return _suspect(
        "periodic",
        f"density jumps across a boundary ({largest_ratio:.1f} times the step beside it): is this a piece of "
        "a box? Predictions wrap around",
    )


def _sources(snapshots: Sequence[FieldSnapshot]) -> Check:
    dark = [f"{snapshot.redshift:g}" for snapshot in snapshots if snapshot.statistics.maximum == 0]
    if not dark:
        return _plausible("sources", "there are sources at every redshift")
    return _suspect("sources", f"no sources at z = {', '.join(dark)}")


def _growth(history: Sequence[HistoryPoint]) -> Check:
    means = np.array([point.mean_xi for point in history], dtype=np.float64)
    if means.size == 1:
        return _plausible("growth", f"mean xi is {means[0]:.3g}; one redshift does not show growth")
    drops = np.flatnonzero(np.diff(means) < -1e-3)
    if drops.size == 0:
        goes = "grows" if means[-1] > means[0] else "hardly changes"
        return _plausible("growth", f"mean xi {goes}, from {means[0]:.3g} to {means[-1]:.3g}")
    if drops.size == means.size - 1:
        return _suspect(
            "growth",
            "mean xi falls with time: are these neutral fractions (--set xi_unit='neutral fraction')?",
        )
    where = ", ".join(f"{history[index + 1].redshift:g}" for index in drops.tolist())
    return _suspect("growth", f"mean xi falls towards z = {where}: are redshifts mixed up?")


def _swapped_axes(xi_by_axis_order: Mapping[str, float]) -> list[Check]:
    as_given = xi_by_axis_order.get("xyz", 1.0)
    best = max(xi_by_axis_order, key=lambda order: xi_by_axis_order[order], default="xyz")
    if xi_by_axis_order.get(best, 0.0) < as_given + _XI_GAIN:
        return []
    return [
        _suspect(
            "ionised sources",
            f"xi is {as_given:.2f} at the sources, but {xi_by_axis_order[best]:.2f} with its axes as {best}: "
            "are axes swapped between files?",
        )
    ]


def _ionised_sources(history: Sequence[HistoryPoint]) -> list[Check]:
    partly = [
        (point.redshift, point.mean_xi_at_sources > point.mean_xi)
        for point in history
        if point.mean_xi_at_sources is not None and point.mean_xi is not None and 0.01 < point.mean_xi < 0.99
    ]
    if not partly:
        return []
    wrong = [f"{redshift:g}" for redshift, higher in partly if not higher]
    if not wrong:
        return [_plausible("ionised sources", "xi is higher where photons are emitted")]
    return [
        _suspect(
            "ionised sources",
            f"xi is not higher where photons are emitted, at z = {', '.join(wrong)}: are axes swapped "
            "between files?",
        )
    ]


def _photon_budget(history: Sequence[HistoryPoint]) -> list[Check]:
    budget = [
        (point.redshift, point.photons_per_hydrogen, point.mean_xi_mass)
        for point in history[1:]
        if point.photons_per_hydrogen is not None and point.mean_xi_mass is not None
    ]
    if not budget:
        return []
    short = [f"{redshift:g}" for redshift, photons, ionised in budget if photons < 0.9 * ionised]
    _, photons, ionised = budget[-1]
    numbers = f"{photons:.3g} photons per hydrogen atom and {ionised:.3g} of the atoms ionised"
    if short:
        return [
            _suspect(
                "photon budget",
                f"fewer photons than ionised atoms at z = {', '.join(short)} ({numbers} at the end): is the "
                "unit of n_src right, does the series start late?",
            )
        ]
    if photons > 100 * max(ionised, 0.01):
        return [_suspect("photon budget", f"{numbers}: is the unit of n_src right?")]
    return [_plausible("photon budget", numbers)]
