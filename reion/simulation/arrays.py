"""Arrays that say more than their numbers: what NumPy would drop without a word is kept or refused."""

from __future__ import annotations

from typing import Any

from reion.errors import InputError

_AXES = ("x", "y", "z")


def plain_values(name: str, values: Any, units: str) -> Any:
    """The numbers of an array in these units, its axes in the order x, y, z; any array without both as it is.

    Parameters
    ----------
    values
        An astropy Quantity is converted. An xarray.DataArray must name its axes in this order, as `values` of
        NumPy are taken to be.

    Raises
    ------
    InputError
        If a Quantity cannot be converted or the axes stand in another order.
    """
    dims = [dim for dim in getattr(values, "dims", ()) if dim in _AXES]
    if len(dims) == len(_AXES) and tuple(dims) != _AXES:
        raise InputError(
            f"{name}: expected the axes x, y, z; received {', '.join(map(str, values.dims))}",
            hint=f"give {name}.transpose(..., 'x', 'y', 'z')",
        )
    if not hasattr(values, "to_value"):
        return values
    from astropy.units import Unit, UnitConversionError

    try:
        return values.to_value(Unit(units))
    except UnitConversionError as error:
        raise InputError(f"{name}: expected {units}; received numbers in {values.unit}") from error
