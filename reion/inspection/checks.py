"""Does a simulation make sense? Checks of what `reion inspect` measured, answered in words."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from reion.simulation.contract import AXES, DEFAULT_COSMOLOGY, cosmology, mean_baryon_density

_TOLERANCE = 0.05
_BRIGHTEST = 10_000
_CLEARLY = 0.1
"""How much higher xi at the sources must be with other axes before that is said."""
_History = Sequence[Mapping[str, float | None]]


def plausibility(
    sim: xr.Dataset,
    fields: Mapping[str, Any],
    history: _History,
    *,
    boundary_steps: Sequence[float],
    at_sources: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Judge the results of `reion.inspection.look.inspect`.

    Parameters
    ----------
    fields, history
        Parts of the result of `inspect`.
    boundary_steps
        For each snapshot, what `boundary_steps` gives; may be empty.
    at_sources
        What `xi_at_sources` gives for one snapshot, if there is any.

    Returns
    -------
    list of dict
        `name`, `ok` (False: look at this) and `message`, in the order of a first look.
    """
    checks: list[dict[str, Any]] = []
    if "n_igm" in fields:
        means = np.array([one["mean"] for one in fields["n_igm"]["snapshots"]])
        checks += [_mean_density(sim, means), _mass(sim, means)]
        if boundary_steps:
            checks.append(_periodic(max(boundary_steps)))
    if "n_src" in fields:
        checks.append(_sources(fields["n_src"]["snapshots"]))
    if "xi" in fields:
        checks.append(_growth(history))
        checks += _swapped_axes(at_sources or {}) or _ionised_sources(history)
        checks += _photon_budget(history)
    if sim.attrs.get("cosmology_assumed", True):
        values = ", ".join(f"{key} = {value:g}" for key, value in DEFAULT_COSMOLOGY.items())
        checks.append(_look("cosmology", f"none in the files: flat LCDM with {values} is assumed"))
    return checks


def boundary_steps(n_igm: np.ndarray) -> float:
    """Largest, over the axes, of the rms step across the periodic boundary over the rms step beside it.

    About 1 for a periodic box of shape (x, y, z), larger for a piece cut out of one.
    """
    ratios = []
    for number in range(len(AXES)):
        planes = np.moveaxis(n_igm, number, 0)
        inside = np.sqrt(np.mean(np.square(planes[1 % len(planes)] - planes[0], dtype=np.float64)))
        across = np.sqrt(np.mean(np.square(planes[0] - planes[-1], dtype=np.float64)))
        ratios.append(float(across / inside) if inside > 0 else 1.0)
    return max(ratios)


def xi_at_sources(xi: np.ndarray, n_src: np.ndarray) -> dict[str, float]:
    """Mean xi at the brightest sources, for each order in which the axes of xi could be meant.

    Parameters
    ----------
    xi, n_src
        (x, y, z), one snapshot of each.

    Returns
    -------
    dict
        Order, such as `"zyx"`, to mean (weighted by `n_src`); only orders that leave the shape as it is.
    """
    cells = np.flatnonzero(n_src)
    rates = n_src.reshape(-1)[cells]
    if cells.size > _BRIGHTEST:
        brightest = np.argpartition(rates, -_BRIGHTEST)[-_BRIGHTEST:]
        cells, rates = cells[brightest], rates[brightest]
    if cells.size == 0:
        return {}
    place = np.unravel_index(cells, n_src.shape)
    return {
        "".join(AXES[axis] for axis in order): float(
            np.average(xi.transpose(order)[place], weights=rates.astype(np.float64))
        )
        for order in itertools.permutations(range(3))
        if tuple(xi.shape[axis] for axis in order) == xi.shape
    }


def _ok(name: str, message: str) -> dict[str, Any]:
    return {"name": name, "ok": True, "message": message}


def _look(name: str, message: str) -> dict[str, Any]:
    return {"name": name, "ok": False, "message": message}


def _mean_density(sim: xr.Dataset, means: np.ndarray) -> dict[str, Any]:
    ratios = means / mean_baryon_density(sim)
    ratio = float(np.median(ratios))
    if np.all(np.abs(ratios - 1) < _TOLERANCE):
        return _ok("mean density", f"n_igm is comoving and has the cosmic mean (ratio {ratio:.3f})")
    model = cosmology(sim)
    h = float(model.H0.value) / 100
    usual_mistakes = {
        "proper instead of comoving (--set n_igm_unit='proper g cm-3')": (1 + sim["redshift"].values) ** 3,
        "all matter instead of baryons": model.Om0 / model.Ob0,
        "hydrogen only, 76 % of the mass": 0.76,
        "a unit with h taken without it (h-2)": h**-2,
        "a unit without h taken with it (h2)": h**2,
    }
    for mistake, expected in usual_mistakes.items():
        if np.all(np.abs(ratios / expected - 1) < _TOLERANCE):
            return _look("mean density", f"n_igm has {ratio:.3g} times the cosmic mean: is it {mistake}?")
    return _look(
        "mean density",
        f"n_igm has {ratio:.3g} times the cosmic mean: is its unit right, is the box a chosen region?",
    )


def _mass(sim: xr.Dataset, means: np.ndarray) -> dict[str, Any]:
    spread = float(means.max() / means.min() - 1) if means.min() > 0 else np.inf
    if spread < 0.02:
        return _ok("mass", "the mean density stays the same: mass is conserved")
    if means.min() <= 0:
        return _look("mass", "the density is zero everywhere: is its unit right?")
    first, last = sim["redshift"].values[[0, -1]]
    return _look(
        "mass",
        f"the mean density changes by {spread:.1%} from z = {first:g} to {last:g}: the comoving density of a "
        "periodic box stays the same",
    )


def _periodic(worst: float) -> dict[str, Any]:
    if worst < 1.5:
        return _ok("periodic", "density is as smooth across the boundaries as beside them")
    return _look(
        "periodic",
        f"density jumps across a boundary ({worst:.1f} times the step beside it): is this a piece of a box? "
        "Predictions wrap around",
    )


def _sources(snapshots: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    dark = [f"{one['redshift']:g}" for one in snapshots if one["max"] == 0]
    if not dark:
        return _ok("sources", "there are sources at every redshift")
    return _look("sources", f"no sources at z = {', '.join(dark)}")


def _growth(history: _History) -> dict[str, Any]:
    means = np.array([one["mean_xi"] for one in history], dtype=np.float64)
    if means.size == 1:
        return _ok("growth", f"mean xi is {means[0]:.3g}; one redshift does not show growth")
    drops = np.flatnonzero(np.diff(means) < -1e-3)
    if drops.size == 0:
        return _ok("growth", f"mean xi grows from {means[0]:.3g} to {means[-1]:.3g}")
    if drops.size == means.size - 1:
        return _look(
            "growth",
            "mean xi falls with time: are these neutral fractions (--set xi_unit='neutral fraction')?",
        )
    where = ", ".join(f"{history[index + 1]['redshift']:g}" for index in drops.tolist())
    return _look("growth", f"mean xi falls towards z = {where}: are redshifts mixed up?")


def _swapped_axes(at_sources: Mapping[str, float]) -> list[dict[str, Any]]:
    found = at_sources.get("xyz", 1.0)
    best = max(at_sources, key=lambda order: at_sources[order], default="xyz")
    if at_sources.get(best, 0.0) < found + _CLEARLY:
        return []
    return [
        _look(
            "ionised sources",
            f"xi is {found:.2f} at the sources, but {at_sources[best]:.2f} with its axes as {best}: are axes "
            "swapped between files?",
        )
    ]


def _ionised_sources(history: _History) -> list[dict[str, Any]]:
    partly = [
        (one["redshift"], at_sources > mean)
        for one in history
        if (at_sources := one["mean_xi_at_sources"]) is not None
        and (mean := one["mean_xi"]) is not None
        and 0.01 < mean < 0.99
    ]
    if not partly:
        return []
    wrong = [f"{redshift:g}" for redshift, higher in partly if not higher]
    if not wrong:
        return [_ok("ionised sources", "xi is higher where photons are emitted")]
    return [
        _look(
            "ionised sources",
            f"xi is not higher where photons are emitted, at z = {', '.join(wrong)}: are axes swapped "
            "between files?",
        )
    ]


def _photon_budget(history: _History) -> list[dict[str, Any]]:
    budget = [
        (one["redshift"], photons, ionised)
        for one in history[1:]
        if (photons := one["photons_per_hydrogen"]) is not None
        and (ionised := one["mean_xi_mass"]) is not None
    ]
    if not budget:
        return []
    short = [f"{redshift:g}" for redshift, photons, ionised in budget if photons < 0.9 * ionised]
    _, photons, ionised = budget[-1]
    said = f"{photons:.3g} photons per hydrogen atom for a mean xi of {ionised:.3g}"
    if short:
        return [
            _look(
                "photon budget",
                f"fewer photons than ionised atoms at z = {', '.join(short)} ({said} at the end): is the "
                "unit of n_src right, does the series start late?",
            )
        ]
    if photons > 100 * max(ionised, 0.01):
        return [_look("photon budget", f"{said}: is the unit of n_src right?")]
    return [_ok("photon budget", said)]
