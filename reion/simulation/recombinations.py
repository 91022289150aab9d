"""Photons that recombinations take from gas with a clumping factor above 1.

A clumping factor C multiplies the recombinations of a cell: it stands for dense gas that is smaller than a
cell. The networks have learnt from boxes with C = 1. They serve boxes with other C as well if the photons
that the further recombinations take are subtracted from those that the sources have emitted, which
`less_recombinations` does.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from reion.errors import InputError
from reion.simulation.contract import DIMS, hydrogen_per_gram, mean_baryon_density
from reion.simulation.cosmic_time import cosmic_age_s
from reion.simulation.lazy import CellKey, LazyField
from reion.simulation.photons import FIRST_LIGHT_REDSHIFT, n_ion_attrs, photon_weights, with_n_ion

CLUMPING = "clumping"
"""Attribute of a Simulation: its clumping factor as JSON, one number or pairs of redshift and number."""

_SUBTRACTED = "recombinations_subtracted"
"""Attribute of a Simulation whose n_ion is less the photons that clumping takes."""

_STEPS = 64
"""Steps in which the photons are followed from one snapshot to the next."""


def with_clumping(sim: xr.Dataset, clumping: float | Sequence[Sequence[float]] | str) -> xr.Dataset:
    """Return the simulation with its clumping factor: a number, or pairs of redshift and number; or as JSON.

    Raises
    ------
    InputError
        If a factor is below 1 or not finite.
    """
    text = clumping if isinstance(clumping, str) else json.dumps(clumping)
    _table(text)
    return sim.assign_attrs({CLUMPING: text})


def clumping_of(attrs: Mapping[str, Any], redshift: float) -> float | None:
    """The clumping factor of a Simulation at a redshift; None if it says none.

    Parameters
    ----------
    attrs
        Attributes of the Simulation.
    redshift
        The redshift at which a factor that is given for several redshifts is interpolated.

    Raises
    ------
    InputError
        If the attribute `clumping` is not a clumping factor.
    """
    table = clumping_table(attrs)
    return clumping_between(table, redshift) if table else None


def clumping_table(attrs: Mapping[str, Any]) -> list[tuple[float, float]]:
    """The clumping factors of a Simulation with their redshifts, one alone at 0; empty if it says none.

    They are the attribute `clumping`, or those with which `reion simulate` has traced its rays; and 1 where
    `less_recombinations` has allowed for them.

    Raises
    ------
    InputError
        If the attribute `clumping` is not a clumping factor.
    """
    if _SUBTRACTED in attrs:
        return [(0.0, 1.0)]
    if CLUMPING in attrs:
        return _table(attrs[CLUMPING])
    if "ray_tracing" in attrs:
        return _table(json.loads(attrs["ray_tracing"])["clumping"])
    return []


def clumping_between(table: Sequence[tuple[float, float]], redshift: float) -> float:
    """The factor at a redshift, on straight lines between the pairs of a table."""
    redshifts, factors = zip(*table, strict=True)
    return float(np.interp(redshift, redshifts, factors))


def _table(given: Any) -> list[tuple[float, float]]:
    """Pairs of redshift and clumping factor, in the order of redshift, from a value or its JSON."""
    try:
        values = json.loads(given) if isinstance(given, str) else given
        rows = values if isinstance(values, Sequence) else [(0.0, values)]
        table = sorted((float(redshift), float(factor)) for redshift, factor in rows)
    except (TypeError, ValueError):
        table = []
    if not table or not all(math.isfinite(z) and math.isfinite(c) and c >= 1 for z, c in table):
        raise InputError(
            "clumping: expected a number of 1 or more, or pairs of redshift and such a number; received "
            f"{given}",
            hint="for example 2.5, or [[12, 1.0], [6, 3.0]]",
        )
    return table


def less_recombinations(sim: xr.Dataset) -> xr.Dataset:
    """The simulation as networks take it: n_ion is less the photons that clumping above 1 takes.

    Of the photons that keep gas ionised, N, recombinations take dN/dt = -C α_B n_H N, with the case-B
    coefficient α_B at 1e4 K and the cosmic mean n_H of the hydrogen density, as in the equation of the mean
    ionised fraction of Madau, Haardt & Rees 1999, ApJ 514, 648. The networks have learnt what C = 1 takes;
    the part of C - 1 is subtracted here, in every cell by the time since its photons were emitted.

    Parameters
    ----------
    sim
        A Simulation with n_ion or n_src.

    Returns
    -------
    xarray.Dataset
        The simulation itself if it says no clumping factor above 1, has no photons, or starts below z = 11,
        so that it is not known when its photons were emitted. Otherwise one with another `n_ion`, lazily
        computed.
    """
    redshift = sim["redshift"].values.astype(np.float64)
    clumping = clumping_table(sim.attrs)
    name = next((name for name in ("n_ion", "n_src") if name in sim.data_vars), None)
    clumpy = clumping and max(clumping_between(clumping, z) for z in redshift.tolist()) > 1
    if not clumpy or name is None or redshift[0] < FIRST_LIGHT_REDSHIFT:
        return sim
    before, shares = _shares_left(sim, clumping)
    if name == "n_src":
        weights = shares * photon_weights(sim)
    else:
        # The photons of an interval are the difference of n_ion at its ends.
        weights = np.hstack([before[:, None], shares[:, :-1]]) - shares
    left = _PhotonsLeft(sim[name], weights)
    variable = xr.Variable(DIMS, left.as_variable_data(), n_ion_attrs(sim))
    return sim.assign(n_ion=variable).assign_attrs({_SUBTRACTED: "yes"})


def with_photons_left(sim: xr.Dataset) -> xr.Dataset:
    """`less_recombinations`, with n_ion summed up from n_src where it is not there (see `with_n_ion`)."""
    return with_n_ion(less_recombinations(sim))


def _shares_left(sim: xr.Dataset, clumping: Sequence[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Of the photons emitted before the first snapshot, and after each, the share left at every snapshot.

    `clumping` is the table of the clumping factor.

    Returns
    -------
    (redshift,) and (redshift, redshift), float64. In the second, row j is for the time of snapshot j, and
    column i for the photons emitted from snapshot i to the next; it is 0 for those that are still to come.
    """
    from reion_kernels.chemistry import RECOMBINATION_CM3_S  # imports Numba, which few predictions need here

    redshift, age_s = sim["redshift"].values.astype(np.float64), cosmic_age_s(sim)
    count = redshift.size
    # For each photon that is emitted in an interval, and last for those before the first: `ionising` photons
    # keep gas ionised with the clumping factor, and `left` photons would do the same without it.
    ionising = np.zeros(count + 1)
    left = np.zeros(count + 1)
    ionising[-1] = left[-1] = 1.0
    rows = [left.copy()]
    today = RECOMBINATION_CM3_S * mean_baryon_density(sim) * hydrogen_per_gram()
    for index in range(count - 1):
        seconds = (age_s[index + 1] - age_s[index]) / _STEPS
        for step in range(_STEPS):
            # While matter dominates, 1 + z goes with age^(-2/3).
            age = age_s[index] + (step + 0.5) * seconds
            z = (1 + redshift[index]) * (age / age_s[index]) ** (-2 / 3) - 1
            factor = clumping_between(clumping, z)
            rate = factor * today * (1 + z) ** 3
            emitted = np.zeros(count + 1)
            emitted[index] = 1 / _STEPS
            kept = math.exp(-rate * seconds)
            after = ionising * kept + emitted * (1 - kept) / (rate * seconds)
            taken = emitted + ionising - after
            left += emitted - taken * (factor - 1) / factor
            ionising = after
        rows.append(left.copy())
    table = np.array(rows)
    return table[:, -1], table[:, :-1]


class _PhotonsLeft(LazyField):
    """A sum over snapshots of a field, with other weights for every snapshot of the result."""

    def __init__(self, field: xr.DataArray, weights: np.ndarray) -> None:
        super().__init__(tuple(field.sizes[dim] for dim in DIMS))
        self._field, self._weights = field, weights

    def snapshot(self, index: int, key: CellKey) -> np.ndarray:
        """The cells `key` of snapshot `index`; the snapshots before it are read too."""
        total = np.zeros(self._field[(index, *key)].shape)
        for earlier, weight in enumerate(self._weights[index].tolist()):
            if weight:
                total += weight * self._field[(earlier, *key)].values.astype(np.float64)
        # n_ion is rounded to float32, so that a difference of two may lie a little below 0.
        return np.maximum(total, 0.0).astype(np.float32)
