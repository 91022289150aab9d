"""Arrays with units or named axes, which NumPy would drop silently: units are converted, axes checked."""

from __future__ import annotations

from typing import Any

from reion.errors import InputError

_AXES = ("x", "y", "z")


def plain_values(name: str, values: Any, units: str) -> Any:
    """The numbers of an array in `units`. An array without units is returned as it is.

    Parameters
    ----------
    values
        An array. An astropy Quantity is converted. The axes of an xarray.DataArray must have the order
        x, y, z, which any other array is taken to have.

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
