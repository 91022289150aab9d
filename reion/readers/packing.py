"""Unpacks numbers by the attributes of their array: CF conventions, and other usual names for the same.

CF (section 8.1, packed data): value = number x `scale_factor` + `add_offset`; a number that equals
`_FillValue` or `missing_value` is a missing value. So is, among floating-point numbers, the number with which
NetCDF fills arrays. The words `scale`, `slope`, `offset` and `intercept` may mean something else: they count
only for whole numbers, and only if they are one number. Everything is computed in float64. xarray writes a
`_FillValue` of floating-point numbers into Zarr 3 as base64 of eight little-endian bytes.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from reion.errors import InputError
from reion.simulation.units import Conversion

_SCALE = ("scale_factor", "scalefactor")
_OFFSET = ("add_offset", "addoffset")
_SCALE_OF_INTEGERS = ("scale", "slope")
_OFFSET_OF_INTEGERS = ("offset", "intercept")
_FILL = ("_fillvalue", "fillvalue", "fill_value", "missing_value", "missingvalue", "missing")
_UNITS = ("units", "unit")
_UNSIGNED = "_unsigned"
_NETCDF_FILL = 9.969209968386869e36
"""NC_FILL_FLOAT and NC_FILL_DOUBLE, 15 x 2^119, the value of what was never written into a NetCDF file."""


@dataclass(frozen=True)
class Packing:
    """The meaning of stored numbers: number x `scale` + `offset`; a number in `fills` is a missing value.

    Whole numbers have a scale and an offset of their own.
    """

    scale: float = 1.0
    offset: float = 0.0
    scale_of_integers: float = 1.0
    offset_of_integers: float = 0.0
    fills: tuple[float, ...] = ()
    unsigned: bool = False

    def converted(self, raw: np.ndarray, conversion: Conversion) -> np.ndarray:
        """Stored numbers of any shape unpacked and converted: float32, NaN for missing values."""
        raw = self._as_stored(raw)
        scale, offset = self._line(raw.dtype)
        composed = replace(
            conversion,
            scale=conversion.scale * scale,
            offset=conversion.scale * offset + conversion.offset,
        )
        values = composed(raw)
        missing = self._missing(raw)
        return values if missing is None else np.where(missing, np.float32(np.nan), values)

    def unpacked(self, raw: np.ndarray) -> np.ndarray:
        """Stored numbers of any shape unpacked: float64, NaN for missing values."""
        raw = self._as_stored(raw)
        scale, offset = self._line(raw.dtype)
        values = raw.astype(np.float64) * scale + offset
        missing = self._missing(raw)
        return values if missing is None else np.where(missing, np.nan, values)

    def _line(self, dtype: np.dtype) -> tuple[float, float]:
        """Scale and offset of numbers of this type."""
        if dtype.kind == "f":
            return self.scale, self.offset
        return self.scale_of_integers, self.offset_of_integers

    def _as_stored(self, raw: np.ndarray) -> np.ndarray:
        return raw.view(raw.dtype.str.replace("i", "u")) if self.unsigned and raw.dtype.kind == "i" else raw

    def _missing(self, raw: np.ndarray) -> np.ndarray | None:
        """Mask of the numbers that equal a fill value; None if there is no such number."""
        # NaN needs no mask: it stays NaN. A fill value is compared in the number type of the array.
        missing = None
        for fill in (*self.fills, _NETCDF_FILL) if raw.dtype.kind == "f" else self.fills:
            equal = raw == (raw.dtype.type(fill) if raw.dtype.kind == "f" else fill)
            if equal.any():
                missing = equal if missing is None else missing | equal
        return missing


def packing_of(attributes: Mapping[str, Any], name: str, file: Path) -> Packing:
    """How the numbers of the array `name` with these attributes are packed.

    Raises
    ------
    InputError
        If a scale factor or an offset by the names of CF is not one finite number.
    """
    found = {key.lower(): value for key, value in attributes.items()}
    scale, offset = (
        next((_number(found[key], key, name, file) for key in keys if key in found), default)
        for keys, default in ((_SCALE, 1.0), (_OFFSET, 0.0))
    )
    scale_of_integers, offset_of_integers = (
        usual if any(key in found for key in strict) else _only_number(found, keys, usual)
        for strict, keys, usual in (
            (_SCALE, _SCALE_OF_INTEGERS, scale),
            (_OFFSET, _OFFSET_OF_INTEGERS, offset),
        )
    )
    fills = [fill for key in _FILL if key in found for fill in _fills(found[key])]
    return Packing(
        scale,
        offset,
        scale_of_integers,
        offset_of_integers,
        fills=tuple(fill for fill in fills if not np.isnan(fill)),
        unsigned=str(found.get(_UNSIGNED, "")).lower() == "true",
    )


def units_of(attributes: Mapping[str, Any]) -> str:
    """The unit in an array's attributes (`units` or `unit`, in any case); empty if there is none."""
    found = {key.lower(): value for key, value in attributes.items()}
    return next((str(found[key]).strip() for key in _UNITS if key in found), "")


def _number(value: Any, key: str, name: str, file: Path) -> float:
    try:
        numbers = np.asarray(value, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if numbers.size != 1 or not np.isfinite(numbers[0]):
        raise InputError(f"{name}: expected one finite number as its {key}; received {value!r}", file=file)
    return float(numbers[0])


def _only_number(found: Mapping[str, Any], keys: Iterable[str], default: float) -> float:
    """The first of the attributes `keys` that is one finite number, not a text; `default` without any."""
    for key in keys:
        value = np.asarray(found.get(key))
        if value.dtype.kind in "fiu" and value.size == 1 and np.isfinite(value).all():
            return float(value.reshape(-1)[0])
    return default


def _fills(value: Any) -> Iterable[float]:
    """The fill values in an attribute: one or several numbers, a number as text, or base64 of eight bytes."""
    if isinstance(value, str):
        try:
            return [float(value)]
        except ValueError:
            try:
                decoded = base64.b64decode(value, validate=True)
            except binascii.Error:
                return []
            return np.frombuffer(decoded, "<f8").tolist() if len(decoded) == 8 else []
    try:
        return np.asarray(value, dtype=np.float64).reshape(-1).tolist()
    except (TypeError, ValueError):
        return []
