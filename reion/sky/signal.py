"""The 21-cm signal of a snapshot as a field, in real space or in redshift space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import xarray as xr

from reion.errors import InputError
from reion.jobs.resources import thread_limit
from reion.metrics.fields import Curve, Field
from reion.metrics.twenty_one_cm import brightness_temperature
from reion.simulation.contract import AXES, cell_size_mpc, check_values, cosmology, require_fields

if TYPE_CHECKING:
    from astropy.cosmology import FlatLambdaCDM

Axis = Literal["x", "y", "z"]


def displacement_mpc(velocity_km_s: Field, redshift: float | Curve, cosmology: FlatLambdaCDM) -> Field:
    """Displacement of gas in redshift space along the line of sight, in comoving Mpc away from the observer.

    s - r = v (1 + z) / H(z), with v the proper velocity away from the observer (Kaiser 1987, MNRAS 227, 1;
    Mao et al. 2012, MNRAS 422, 926).

    Parameters
    ----------
    velocity_km_s
        Proper velocity along the line of sight in km/s, away from the observer, shape (x, y, z).
    redshift
        One for all cells, or one for each plane across the last axis.

    Returns
    -------
    numpy.ndarray
        Shape and dtype of the velocity.
    """
    above = 1 + np.asarray(redshift, dtype=np.float64)
    mpc_per_km_s = above / cosmology.H(above - 1).to_value("km s-1 Mpc-1")
    moved: Field = velocity_km_s * mpc_per_km_s.astype(velocity_km_s.dtype)
    return moved


def distorted(
    signal_mk: Field,
    velocity_km_s: Field,
    redshift: float | Curve,
    cosmology: FlatLambdaCDM,
    cell_mpc: float,
    *,
    periodic: bool = True,
) -> Field:
    """Move the 21-cm signal to redshift space: every cell moves along the last axis with its whole signal.

    The optical depth of a cell is proportional to its number of atoms over its length in redshift space.
    While it is small, the signal is proportional to it, at any spin temperature. So moving cells with their
    signal gives the term 1 / |1 + dv/dr (1 + z) / H| of the brightness temperature, by the mesh-to-mesh
    scheme of Mao et al. 2012 (MNRAS 422, 926; see `reion_kernels.move_cells`). The mean signal is conserved.

    Parameters
    ----------
    signal_mk, velocity_km_s
        The signal in real space in mK, and the proper velocity away from the observer in km/s; shape (x, y,
        z).
    redshift
        One for all cells, or one for each plane across the last axis.
    cell_mpc
        Side of a cell along the last axis, comoving.
    periodic
        See `reion_kernels.move_cells`.

    Returns
    -------
    numpy.ndarray
        Shape and dtype of the signal.
    """
    from reion_kernels import move_cells

    moved_cells = displacement_mpc(velocity_km_s, redshift, cosmology) / cell_mpc
    return move_cells(
        signal_mk,
        moved_cells.astype(signal_mk.dtype, copy=False),
        periodic=periodic,
        threads=thread_limit(),
    )


def _require_snapshot(sim: xr.Dataset, index: object) -> None:
    count = sim.sizes["redshift"]
    if not isinstance(index, int | np.integer) or not -count <= index < count:
        redshifts = ", ".join(f"{i}: z = {z:g}" for i, z in enumerate(sim["redshift"].values))
        raise InputError(
            f"expected the number of a snapshot, 0 to {count - 1}; received {index!r}",
            hint=f"the snapshots are {redshifts}",
        )


def signal(
    sim: xr.Dataset,
    index: int,
    *,
    line_of_sight: Axis = "z",
    distortions: bool | None = None,
    spin_temperature_k: Field | None = None,
) -> Field:
    """21-cm brightness temperature of one snapshot in mK.

    Parameters
    ----------
    sim
        A Simulation with xi and n_igm; the overdensity is n_igm over its mean in the snapshot, less one.
        If it has `t_spin`, this is the spin temperature; `sim.drop_vars("t_spin")` leaves it out.
    index
        Index of the snapshot, from 0.
    line_of_sight
        The axis along which the box is seen; the observer is before its first cell.
    distortions
        Whether the signal is in redshift space, by the velocity along the line of sight. None: if the
        simulation has this velocity.
    spin_temperature_k
        Another spin temperature than that of the simulation, in K, shape (x, y, z). Without any, the signal
        is that of a spin temperature far above the CMB's (see
        `reion.metrics.twenty_one_cm.brightness_temperature`).

    Returns
    -------
    numpy.ndarray
        float32, shape (x, y, z).

    Raises
    ------
    InputError
        If a field is missing or has a value out of range, or there is no such snapshot or axis.
    """
    if line_of_sight not in AXES:
        raise InputError(f"expected line_of_sight to be one of {', '.join(AXES)}; received {line_of_sight!r}")
    velocity = f"velocity_{line_of_sight}"
    wanted = ["xi", "n_igm", *([velocity] if distortions else [])]
    require_fields(sim, wanted, purpose="the 21-cm signal")
    _require_snapshot(sim, index)
    redshift = float(sim["redshift"][index])
    fields = {name: sim[name][index].values for name in ("xi", "n_igm")}
    for name, values in fields.items():
        check_values(name, values, redshift=redshift)
    model = cosmology(sim)
    if spin_temperature_k is None and "t_spin" in sim.data_vars:
        spin_temperature_k = sim["t_spin"][index].values
    found = brightness_temperature(
        np.clip(fields["xi"], 0, 1),
        overdensity(fields["n_igm"]),
        redshift,
        model,
        spin_temperature_k=spin_temperature_k,
    ).astype(np.float32)
    if distortions is False or velocity not in sim.data_vars:
        return found
    axis = AXES.index(line_of_sight)
    moved = np.moveaxis(sim[velocity][index].values, axis, 2)
    in_redshift_space = distorted(
        np.moveaxis(found, axis, 2), moved, redshift, model, cell_size_mpc(sim)[axis]
    )
    return np.ascontiguousarray(np.moveaxis(in_redshift_space, 2, axis))


def overdensity(n_igm: Field) -> Field:
    """Density over its mean less one, in the dtype of the density.

    Raises
    ------
    InputError
        If the density is zero everywhere.
    """
    mean = float(n_igm.mean(dtype=np.float64))
    if mean <= 0:
        raise InputError("n_igm: expected gas; received a density of zero everywhere")
    found: Field = n_igm / n_igm.dtype.type(mean) - 1
    return found
