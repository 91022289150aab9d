"""Joins an ionised fraction and the gas that it belongs to into one Simulation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from reion.errors import InputError
from reion.simulation.arguments import described
from reion.simulation.contract import AXES, DIMS, REDSHIFT_TOLERANCE, box_size_mpc, require_fields

BOX_SIZE_TOLERANCE = 1e-3
"""Largest relative difference between the sides of two boxes that count as the same box."""


def matching_snapshots(name: str, pred: xr.DataArray, true: xr.Dataset) -> dict[int, int]:
    """The index of the snapshot of `pred` at the same redshift, by the index of the snapshot of `true`.

    Snapshots of `true` without such a snapshot are left out.

    Parameters
    ----------
    name
        The name of the ionised fraction in errors.
    pred
        xi with dimensions (redshift, x, y, z).
    true
        The Simulation that `pred` belongs to, with or without its own xi.

    Raises
    ------
    InputError
        If `pred` is no DataArray, or has other dimensions, another mesh or no redshifts, or if its
        coordinates are cell centres in Mpc of another box.
    """
    if not isinstance(pred, xr.DataArray):
        raise InputError(
            f"expected an xarray.DataArray with dimensions {DIMS}; received {described(pred)}",
            file=name,
            hint='make one: xarray.DataArray(values, dims=("redshift", "x", "y", "z"), '
            'coords={"redshift": redshifts})',
        )
    if pred.dims != DIMS:
        raise InputError(f"expected dimensions {DIMS}; received {pred.dims}", file=name)
    mesh = tuple(true.sizes[dim] for dim in DIMS[1:])
    if pred.shape[1:] != mesh:
        raise InputError(
            f"expected the simulation's mesh {mesh}; received {pred.shape[1:]}",
            file=name,
            hint="predict on the same mesh, or regrid one of the two with `reion convert --cell-size MPC`",
        )
    _require_sides(box_size_mpc(true), [_side_mpc(pred, axis) for axis in AXES], name)
    if "redshift" not in pred.coords:
        raise InputError("expected a coordinate 'redshift'; received none", file=name)
    distance = np.abs(true["redshift"].values[:, None] - pred["redshift"].values)
    nearest = distance.argmin(axis=1)
    return {i: int(j) for i, j in enumerate(nearest) if distance[i, j] <= REDSHIFT_TOLERANCE}


def require_same_box(sim: xr.Dataset, other: xr.Dataset, *, file: str | None = None) -> None:
    """Raise `InputError` if the box of `other`, read from `file`, has another size than that of `sim`."""
    _require_sides(box_size_mpc(sim), box_size_mpc(other), file)


def _require_sides(ours: Sequence[float], theirs: Sequence[float | None], file: str | None) -> None:
    """Compare the sides of two boxes in Mpc; a side of the second that is None is not known."""
    known = [our if their is None else their for our, their in zip(ours, theirs, strict=True)]
    if np.any(np.abs(np.array(known) - ours) > BOX_SIZE_TOLERANCE * np.array(ours)):
        raise InputError(
            f"expected the simulation's box of {_by(ours)} Mpc; received one of {_by(known)} Mpc",
            file=file,
            hint="is this the xi of another box?",
        )


def _side_mpc(field: xr.DataArray, axis: str) -> float | None:
    """The side of a box along an axis by the spacing of its cell centres; None if they are not in Mpc."""
    centres = field.coords.get(axis)
    if centres is None or centres.attrs.get("units") != "Mpc" or centres.dims != (axis,) or centres.size < 2:
        return None
    spacing = float(np.diff(centres.values.astype(np.float64)).mean())
    return spacing * int(centres.size)


def _by(sides: Sequence[float]) -> str:
    return " x ".join(f"{side:g}" for side in sides)


def with_xi(sim: xr.Dataset, other: xr.Dataset, *, file: str | None = None) -> xr.Dataset:
    """Return a simulation with the xi of another, at the redshifts that both have.

    No values are read. If `sim` has its own xi, this is replaced.

    Parameters
    ----------
    sim
        A Simulation.
    other
        A Simulation with xi, such as one that `reion predict` wrote.
    file
        The file of `other`, for errors.

    Raises
    ------
    InputError
        If `other` has no xi, or the two differ in mesh or box size, or share no redshift.
    """
    require_fields(other, ["xi"], purpose="joining a simulation with its ionised fraction", file=file)
    matches = matching_snapshots(file or "xi", other["xi"], sim)
    require_same_box(sim, other, file=file)
    if not matches:
        listed = [", ".join(f"{z:g}" for z in data["redshift"].values) for data in (sim, other)]
        raise InputError(
            f"expected a redshift that the simulation ({listed[0]}) and xi share; received {listed[1]}",
            file=file,
        )
    xi = other["xi"].isel(redshift=list(matches.values()))
    return sim.isel(redshift=list(matches)).assign(xi=xi.variable)


def named_apart(places: Sequence[Path]) -> list[str]:
    """Names for ionised fractions: the name of each file or folder without its ending.

    Raises
    ------
    InputError
        If two have the same name.
    """
    names = [place.stem for place in places]
    if len(set(names)) < len(names):
        raise InputError(f"expected different names; received {', '.join(names)}")
    return names
