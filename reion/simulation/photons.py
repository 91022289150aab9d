"""Sums up n_ion, the photons that the sources of all earlier snapshots have emitted, from n_src."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import xarray as xr

from reion.simulation.arguments import require_dataset
from reion.simulation.contract import DIMS, FIELDS, n_ion_units, require_fields
from reion.simulation.cosmic_time import cosmic_age_s

N_ION_TIME_S = 1e18
"""n_ion is in the unit of n_src times this time."""

FIRST_LIGHT_REDSHIFT = 11.0
"""A series that starts below this redshift with sources lacks the photons emitted before."""


def photon_weights(sim: xr.Dataset) -> np.ndarray:
    """The factor from n_src of each snapshot to its part of n_ion of all later ones: (redshift,), float64.

    The sources of a snapshot shine until the next one, so the factor is the time between the two in units of
    `N_ION_TIME_S`; zero for the last.
    """
    weights: np.ndarray = np.append(np.diff(cosmic_age_s(sim)), 0.0) / N_ION_TIME_S
    return weights


class PhotonSum:
    """Sums up n_ion snapshot after snapshot, for a box or a part of it.

    Attributes
    ----------
    n_ion
        n_ion of snapshot `index`, float64, of the shape that was given.
    index
        Number of the snapshot whose n_src is to be added next.
    """

    def __init__(self, sim: xr.Dataset, shape: Sequence[int]) -> None:
        self._weights = photon_weights(sim)
        self.n_ion = np.zeros(shape)
        self.index = 0

    def add(self, n_src: np.ndarray) -> None:
        """Add the photons of snapshot `index`, and go on to the next."""
        weight = self._weights[self.index]
        # Plane by plane: the product of the whole box in float64 would take as much memory as n_ion.
        for total, rate in zip(self.n_ion, n_src, strict=True):
            total += rate * weight
        self.index += 1


class EmittedPhotons:
    """n_ion of any snapshot, summed up from n_src. In the order of time, each snapshot is read once."""

    def __init__(self, sim: xr.Dataset) -> None:
        require_fields(sim, ["n_src"], purpose="the history of photons (n_ion)")
        self._sim = sim
        self._sum: PhotonSum | None = None

    def at(self, index: int) -> np.ndarray:
        """n_ion of snapshot `index`, float64 (x, y, z): the photons of all snapshots before it."""
        n_src = self._sim["n_src"]
        if self._sum is None or index < self._sum.index:
            self._sum = PhotonSum(self._sim, n_src.shape[1:])
        while self._sum.index < index:
            self._sum.add(n_src[self._sum.index].values)
        return self._sum.n_ion.copy()


def with_n_ion(sim: xr.Dataset) -> xr.Dataset:
    """Return the simulation with `n_ion`, summed up from `n_src` if it is missing.

    n_ion at snapshot j is the sum over i < j of n_src(z_i) (t_{i+1} - t_i): the sources listed at z_i
    shine from z_i to z_{i+1}. The sum is in memory, as float32. Warns if the series starts late (below z = 11
    with sources already shining), because the photons emitted before are then missing.

    Raises
    ------
    InputError
        If there is neither n_ion nor n_src.
    """
    require_dataset(sim)
    if "n_ion" in sim.data_vars:
        return sim
    emitted = EmittedPhotons(sim)
    warn_if_late(sim)
    n_ion = np.empty(sim["n_src"].shape, dtype=np.float32)
    for index in range(n_ion.shape[0]):
        n_ion[index] = emitted.at(index)
    return sim.assign(n_ion=(DIMS, n_ion, n_ion_attrs(sim)))


def n_ion_attrs(sim: xr.Dataset) -> dict[str, str]:
    """Attributes of n_ion: those that the simulation has, or those that follow from its n_src."""
    if "n_ion" in sim.data_vars:
        return dict(sim["n_ion"].attrs)
    return {
        "units": n_ion_units(sim["n_src"].attrs["units"]),
        "long_name": FIELDS["n_ion"].long_name,
    }


@contextlib.contextmanager
def late_start_is_known() -> Iterator[None]:
    """Within the block, `warn_if_late` says nothing, because it has warned of this simulation before."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the series starts at z = ", category=UserWarning)
        yield


def warn_if_late(sim: xr.Dataset, *, shining: bool | None = None) -> None:
    """Warn that photons are missing if the series starts late with sources already shining.

    Parameters
    ----------
    shining
        Whether the first snapshot has sources; looked up if None.

    Warns
    -----
    UserWarning
        If the first snapshot is below `FIRST_LIGHT_REDSHIFT` and has sources.
    """
    redshift = float(sim["redshift"][0])
    if redshift >= FIRST_LIGHT_REDSHIFT:
        return
    if bool(sim["n_src"][0].any()) if shining is None else shining:
        warnings.warn(
            f"the series starts at z = {redshift:g}, with sources already shining: n_ion, and what follows "
            "from it, lacks the photons emitted before",
            stacklevel=3,
        )
