"""Takes arrays as they come, and what they say of themselves: their unit, their axes and their coordinates.

NumPy drops a unit and the names of axes silently, so both are looked at before an array becomes numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from reion.errors import InputError

_AXES = ("x", "y", "z")
_SPACING_TOLERANCE = 1e-3
"""Largest relative difference between the spacing of cell centres and the side of a cell."""


def plain_values(
    name: str, values: Any, units: str, *, dims: Sequence[str] | None = None, hint: str | None = None
) -> Any:
    """The numbers of an array in `units`. An array that is in `units`, or says no unit, is returned as it is.

    Parameters
    ----------
    values
        An array. Its unit is that of an astropy Quantity, of an array of pint or unyt, or the attribute
        `units` of an xarray.DataArray, an HDF5 dataset or a Zarr array. An array in another unit is read and
        converted.
    dims
        The names that the axes of an xarray.DataArray must have, in this order. If it is None, only axes
        named x, y and z are looked at: they must be the last three, in this order, as those of any other
        array are taken to be.
    hint
        What to do where the unit cannot be converted, if it is not to convert the numbers.

    Raises
    ------
    InputError
        If the unit is unknown or cannot be converted, or the axes have other names or another order.
    """
    _check_dims(name, values, dims)
    unit = _unit_of(values)
    if unit is None or str(unit) == units:
        return values if unit is None or isinstance(unit, str) else _numbers_of(values)
    return _converted(name, values, unit, units, hint)


def native_floats(values: Any) -> Any:
    """Floating-point numbers as float32 or float64 in the byte order of the machine; others as they are.

    Float16 becomes float32; numbers of more than 64 bits become float64. Masked cells become NaN.
    """
    is_array = isinstance(getattr(values, "dtype", None), np.dtype)
    values = _unmasked(values if is_array else np.asarray(values))
    dtype = values.dtype
    if dtype.kind != "f":
        return values
    wanted = np.dtype(np.float32 if dtype.itemsize <= np.dtype(np.float32).itemsize else np.float64)
    if dtype == wanted:
        return values
    with np.errstate(over="ignore"):  # what becomes infinite is refused with the other values
        if isinstance(values, xr.DataArray | xr.Variable) or hasattr(values, "__array_function__"):
            return values.astype(wanted)
        return np.asarray(values, dtype=wanted)


def require_floats(name: str, dtype: np.dtype[Any], *, file: str | None = None) -> None:
    """Raise `InputError` unless numbers are float32 or float64 in the byte order of the machine."""
    if dtype not in (np.float32, np.float64):
        raise InputError(
            f"{name}: expected float32 or float64; received {dtype}",
            file=file,
            hint=f"if these are the numbers that are meant, give {name}.astype('float32'), which has the "
            "byte order of this machine as well",
        )


def check_coordinates(
    name: str, values: Any, *, redshift: np.ndarray, tolerance: float, sides_mpc: Sequence[float]
) -> None:
    """Compare the coordinates of an xarray.DataArray, where it has them, with the redshifts and the box size.

    Parameters
    ----------
    redshift
        The redshift of each snapshot, which may differ from the coordinate by `tolerance`.
    sides_mpc
        Comoving sides of the box in Mpc. They are compared with coordinates that say that they are in Mpc.

    Raises
    ------
    InputError
        If a redshift differs, cell centres do not ascend, or their spacing does not fit the box size.
    """
    if not isinstance(values, xr.DataArray):
        return
    if "redshift" in values.coords:
        said = np.atleast_1d(np.asarray(values["redshift"].values, dtype=np.float64))
        if said.shape != redshift.shape or not np.all(np.abs(said - redshift) <= tolerance):
            raise InputError(
                f"{name}: expected the redshifts that are given, {_listed(redshift)}; received an array "
                f"whose coordinate says {_listed(said)}",
                hint=f"give the redshifts of its snapshots, in their order: redshift={name}.redshift",
            )
    for axis, length in zip(_AXES, sides_mpc, strict=True):
        if axis not in values.coords or values[axis].ndim != 1 or values[axis].dtype.kind not in "fiu":
            continue
        steps = np.diff(np.asarray(values[axis].values, dtype=np.float64))
        if np.any(steps <= 0):
            raise InputError(
                f"{name}: expected cell centres that ascend along {axis}; received {_listed(values[axis])}",
                hint=f"give {name}.sortby({axis!r})",
            )
        side = length / values.sizes[axis]
        if values[axis].attrs.get("units") == "Mpc" and np.any(
            np.abs(steps - side) > _SPACING_TOLERANCE * side
        ):
            raise InputError(
                f"{name}: expected cell centres {side:g} Mpc apart along {axis}, as the box size says; "
                f"received {steps.min():g} to {steps.max():g} Mpc",
                hint="give the whole box, and its size in comoving Mpc as box_size",
            )


def _check_dims(name: str, values: Any, dims: Sequence[str] | None) -> None:
    if not isinstance(values, xr.DataArray | xr.Variable):
        return
    received = ", ".join(map(str, values.dims))
    if dims is None:
        if set(_AXES) <= set(values.dims) and values.dims[-len(_AXES) :] != _AXES:
            raise InputError(
                f"{name}: expected the last axes x, y, z; received {received}",
                hint=f"give {name}.transpose(..., 'x', 'y', 'z')",
            )
    elif values.dims != tuple(dims):
        in_order = ", ".join(map(repr, dims))
        raise InputError(
            f"{name}: expected the axes {', '.join(dims)}; received {received}",
            hint=f"give {name}.transpose({in_order})"
            if set(values.dims) == set(dims)
            else f"name them with {name}.rename(...), or give {name}.values, which has no names",
        )


def _unit_of(values: Any) -> Any | None:
    """The unit that an array says, as an object or a text; None if it says none."""
    said = [getattr(values, "unit", None), getattr(values, "units", None)]
    if isinstance(values, xr.DataArray | xr.Variable):
        held = _held(values)
        said = [getattr(held, "unit", None), getattr(held, "units", None)]
    attrs = getattr(values, "attrs", None)
    said.append(None if attrs is None else attrs.get("units"))
    for unit in said:
        text = unit.decode("utf-8", "replace") if isinstance(unit, bytes) else unit
        # An empty text says no unit; the unit of a pure number of astropy is written as an empty text too.
        if text is not None and not (isinstance(text, str) and not text.strip()):
            return text.strip() if isinstance(text, str) else text
    return None


def _converted(name: str, values: Any, unit: Any, units: str, hint: str | None) -> np.ndarray:
    """The numbers of an array in `unit`, in `units`; float32 if the array is and they fit, else float64."""
    from astropy.units import Unit, UnitConversionError

    try:
        text = str(unit)
        stated = unit if hasattr(unit, "physical_type") else Unit("" if text == "dimensionless" else text)
        numbers = _numbers_of(values)
        if stated == Unit(units):
            return numbers
        exact = stated.to(Unit(units), np.asarray(numbers, dtype=np.float64))
    except (UnitConversionError, ValueError, TypeError) as error:
        raise InputError(
            f"{name}: expected {units}; received numbers in {unit}",
            hint=hint or f"convert the numbers to {units}, or correct the unit that the array says",
        ) from error
    if numbers.dtype.kind != "f" or numbers.dtype.itemsize > np.dtype(np.float32).itemsize:
        return np.asarray(exact)
    with np.errstate(over="ignore", under="ignore"):
        short: np.ndarray = np.asarray(exact, dtype=np.float32)
    lost = np.any(np.isinf(short) & np.isfinite(exact)) or np.any((short == 0) & (exact != 0))
    return np.asarray(exact) if lost else short


def _numbers_of(values: Any) -> np.ndarray:
    """The numbers of an array without its unit; masked cells become NaN."""
    if isinstance(values, xr.DataArray | xr.Variable):
        values = _held(values)
    for key in ("magnitude", "value"):
        if hasattr(values, key):
            values = getattr(values, key)
            break
    return np.asarray(_unmasked(values))


def _held(values: xr.DataArray | xr.Variable) -> Any:
    """The array in an array of xarray, such as one of pint, without reading it."""
    return getattr(getattr(values, "variable", values), "_data", None)


def _unmasked(values: Any) -> Any:
    """Masked arrays of NumPy and of astropy as plain arrays, with NaN in masked cells; others as they are."""
    mask = getattr(values, "mask", None)
    if not isinstance(values, np.ndarray) or mask is None:
        return values
    plain = np.array(getattr(values, "unmasked", np.ma.getdata(values)))
    if not np.any(mask):
        return plain
    return np.where(mask, plain.dtype.type(np.nan) if plain.dtype.kind == "f" else np.nan, plain)


def _listed(numbers: Any) -> str:
    values = np.asarray(numbers, dtype=np.float64).reshape(-1)
    return ", ".join(f"{value:g}" for value in values[:6]) + (", ..." if values.size > 6 else "")
