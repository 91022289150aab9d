"""`reion history`: when each cell of a box is ionised, and the history of the whole box."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from reion.jobs.outputs import whole_folder
from reion.jobs.places import claimed
from reion.jobs.workers import Progress
from reion.metrics.crossings import ATTRS, Crossings, Oddities
from reion.metrics.fields import Curve
from reion.metrics.history import optical_depth
from reion.metrics.spectra import PowerSpectrum, power_spectrum
from reion.simulation.contract import (
    AXES,
    box_size_mpc,
    check_simulation,
    check_values,
    cosmology,
    require_fields,
    shape_of,
)
from reion.storage.store import STORE, blocks_of, chunk_shape, consolidate, create_group, plain

_ATTRS = {
    "z_reion": ATTRS,
    "mean_xi": {"units": "1", "long_name": "mean ionised fraction of the volume"},
    "mass_weighted_xi": {"units": "1", "long_name": "mean ionised fraction of the mass"},
    "k": {"units": "Mpc-1", "long_name": "wavenumber"},
    "z_reion_power": {
        "units": "1",
        "long_name": "k^3 P / 2 pi^2 of (1 + z_reion) / mean(1 + z_reion) - 1; cells that never reach 0.5 "
        "count with the last redshift",
    },
}


@dataclass(frozen=True, kw_only=True)
class History:
    """When the cells of a box are ionised.

    Parameters
    ----------
    output
        Path of the store that holds z_reion.
    redshift, mean_xi, mass_weighted_xi
        One number for each snapshot; `mass_weighted_xi` is None if there is no density.
    optical_depth
        Thomson optical depth of the history (see `reion.metrics.history.optical_depth`).
    oddities
        Numbers of cells with an unusual history.
    mean_z_reion
        Mean over the cells whose xi reaches one half; None if there are none.
    spectrum
        Power spectrum of (1 + z_reion) / mean(1 + z_reion) - 1 (Battaglia et al. 2013, ApJ 776, 81, equation
        2), in which cells that never reach one half have the last redshift; None if z_reion is uniform.
    """

    output: Path
    redshift: Curve
    mean_xi: Curve
    mass_weighted_xi: Curve | None
    optical_depth: float
    oddities: Oddities
    mean_z_reion: float | None
    spectrum: PowerSpectrum | None

    def to_json(self) -> dict[str, Any]:
        """The history as `reion history --json` prints it."""
        mass = self.mass_weighted_xi
        return {
            "output": str(self.output),
            "redshifts": self.redshift.tolist(),
            "mean_xi": self.mean_xi.tolist(),
            "mass_weighted_xi": None if mass is None else mass.tolist(),
            "optical_depth": self.optical_depth,
            "mean_z_reion": self.mean_z_reion,
            "cells": vars(self.oddities),
            "spectrum": None
            if self.spectrum is None
            else {"k": self.spectrum.k.tolist(), "power": self.spectrum.dimensionless.tolist()},
        }


def history(
    sim: xr.Dataset,
    out: str | Path,
    *,
    attrs: Mapping[str, Any] | None = None,
    sources: Sequence[str | Path] = (),
    force: bool = False,
    progress: Progress | None = None,
) -> History:
    """Find when each cell is ionised, and write it as a Zarr store that `xarray.open_zarr` opens.

    The store holds `z_reion` (x, y, z), `mean_xi` and, where the simulation has n_igm, `mass_weighted_xi`
    (redshift), and `z_reion_power` (k). Fields are read block by block; the spectrum takes some 30 bytes of
    memory a cell.

    Parameters
    ----------
    sim
        A Simulation with xi (see `reion.simulation.joining.with_xi` if the gas is in another store).
    attrs
        Further attributes of the store.
    sources
        Paths from which the simulation is read: `out` may not be, contain or lie in one of them.
    force
        Replace a store at `out`.

    Raises
    ------
    InputError
        If there is no xi, a value is out of range, or something is at `out` already.

    Warns
    -----
    UserWarning
        If more than one in a hundred cells fall below one half again, or some are ionised before the first
        snapshot.
    """
    require_fields(check_simulation(sim, values=False), ["xi"], purpose="the history of its cells")
    with claimed(out, STORE, force=force, sources=sources) as place, whole_folder(place) as folder:
        group = create_group(sim, folder, attrs or {})
        array = group.create_array(
            "z_reion",
            shape=shape_of(sim),
            dtype=np.float32,
            chunks=chunk_shape(shape_of(sim)),
            fill_value=np.nan,
            dimension_names=AXES,
        )
        redshift = sim["redshift"].values
        sums, oddities = _fill(array, sim, progress)
        volume, mass, mass_xi = sums
        curves: dict[str, tuple[str, Curve]] = {"mean_xi": ("redshift", volume / oddities.cells)}
        if "n_igm" in sim.data_vars:
            curves["mass_weighted_xi"] = ("redshift", mass_xi / np.where(mass > 0, mass, np.nan))
        values = array[...]
        mean, spectrum = _statistics(values, float(redshift[-1]), sim)
        if spectrum is not None:
            curves["k"] = ("k", spectrum.k)
            curves["z_reion_power"] = ("k", spectrum.dimensionless)
        _write_curves(group, curves)
        mean_xi = curves["mean_xi"][1]
        mass_weighted = curves["mass_weighted_xi"][1] if "mass_weighted_xi" in curves else None
        found = History(
            output=place,
            redshift=redshift,
            mean_xi=mean_xi,
            mass_weighted_xi=mass_weighted,
            optical_depth=optical_depth(
                redshift, np.clip(mean_xi if mass_weighted is None else mass_weighted, 0, 1), cosmology(sim)
            ),
            oddities=oddities,
            mean_z_reion=mean,
            spectrum=spectrum,
        )
        group.attrs.update(plain({**vars(oddities), "optical_depth": found.optical_depth}))
        consolidate(group)
    oddities.warn(float(redshift[0]))
    return found


def _write_curves(group: Any, curves: Mapping[str, tuple[str, Curve]]) -> None:
    """Write curves beside z_reion, each with its dimension, and attributes that describe all variables."""
    for name, (dim, curve) in curves.items():
        group.create_array(name, data=curve, dimension_names=(dim,))
    for name in ("z_reion", *curves):
        group[name].attrs.update(plain(_ATTRS[name]))


def _fill(array: Any, sim: xr.Dataset, progress: Progress | None) -> tuple[np.ndarray, Oddities]:
    """Write z_reion block by block.

    Returns
    -------
    tuple of numpy.ndarray and Oddities
        Sums over all cells of each snapshot, shape (3, redshift): xi, density, density times xi; and the
        counts of unusual cells.
    """
    redshift = sim["redshift"].values
    blocks = blocks_of(shape_of(sim))
    sums = np.zeros((3, redshift.size))
    oddities = Oddities()
    for number, block in enumerate(blocks):
        crossings = Crossings(redshift, cosmology(sim))
        origin = [cells.start for cells in block]
        for index, z in enumerate(redshift):
            xi = sim["xi"][(index, *block)].values
            check_values("xi", xi, redshift=z, origin=origin, whole=False)
            xi = np.clip(xi, 0, 1)
            crossings.add(xi)
            sums[0, index] += xi.sum(dtype=np.float64)
            if "n_igm" in sim.data_vars:
                density = sim["n_igm"][(index, *block)].values
                check_values("n_igm", density, redshift=z, origin=origin, whole=False)
                sums[1, index] += density.sum(dtype=np.float64)
                sums[2, index] += np.einsum("xyz,xyz->", xi, density, dtype=np.float64)
            if progress is not None:
                progress(number * redshift.size + index + 1, len(blocks) * redshift.size)
        array[block] = crossings.z_reion
        oddities += crossings.oddities
    return sums, oddities


def _statistics(
    z_reion: np.ndarray, last_redshift: float, sim: xr.Dataset
) -> tuple[float | None, PowerSpectrum | None]:
    never = np.isnan(z_reion)
    if never.all():
        return None, None
    mean = float(np.mean(z_reion, where=~never, dtype=np.float64))
    z_reion[never] = last_redshift
    contrast = (1 + z_reion) / (1 + z_reion.mean(dtype=np.float64)) - 1
    if np.ptp(z_reion) == 0:
        return mean, None
    return mean, power_spectrum(contrast, box_size_mpc(sim))
