"""Finds the order of an array's axes from the names of its dimensions.

The names come from `dimension_names` (Zarr 3), `_ARRAY_DIMENSIONS` (xarray in Zarr 2), HDF5 dimension scales
and labels (NetCDF 4), or attributes such as `dims` and `axes`. The axes of space are x, y, z or i, j, k,
alone or in names such as `nx`, `x_dim`, `dim_x`, `grid_xt`, or x1, x2, x3. The axis of snapshots is
`redshift`, `time`, `snapshot` or the like.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from reion.simulation.contract import AXES

_SNAPSHOTS = re.compile(
    r"(?:n_?)?(?:redshifts?|zreds?|z_?reds?|times?|t|epochs?|snap(?:shot)?s?|step|output|frame|scale_factor|a)"
    r"(?:_?(?:index|dim|axis))?"
)
_WORDS = r"(?:n|dim|dimension|axis|coord|coordinate|cells?|grid|mesh|pos|position|index|idx|num|size|len|gas)"
_SPATIAL = re.compile(
    rf"(?:{_WORDS}[_-]?)?(?P<letter>[xyzijk]|x[123])t?(?:[_-]?(?:{_WORDS}|centers?|centres?|k?mpc|c|ax))?"
)
_ATTRIBUTES = ("_array_dimensions", "dimension_names", "dimension_labels", "dimensions", "dims", "axes")
ORDERS = ["".join(order) for order in itertools.permutations(AXES)]
"""The orders that the axes of space can have."""
_FAMILIES = (("x", "y", "z"), ("i", "j", "k"), ("x1", "x2", "x3"))


def axis_order(names: Sequence[str | None]) -> str | None:
    """The order of an array's axes, such as `"rzyx"` (r: redshift), from its dimensions' names.

    None if the names do not identify all three axes of space.
    """
    letters = [_letter(name) for name in names]
    if len(set(letters)) < len(letters):
        return None
    for family in _FAMILIES:
        place = {
            letters.index(letter): axis
            for letter, axis in zip(family, AXES, strict=True)
            if letter in letters
        }
        others = [number for number in range(len(names)) if number not in place]
        unknown = [number for number in others if letters[number] != "r"]
        if len(place) == 2 and len(unknown) == 1:  # two known axes leave one for the third
            (missing,) = set(AXES) - set(place.values())
            place[unknown[0]] = missing
            others.remove(unknown[0])
        if len(place) == len(AXES) and len(others) <= 1:
            return "".join(place.get(number, "r") for number in range(len(names)))
    return None


def dimension_names_in(attributes: Mapping[str, Any], rank: int) -> list[str | None]:
    """The names of an array's `rank` dimensions from its attributes; empty if these do not give them."""
    found = {key.lower(): value for key, value in attributes.items()}
    for key in _ATTRIBUTES:
        value = found.get(key)
        if isinstance(value, str):
            parts = re.split(r"[\s,;]+", value.strip("()[] "))
            value = parts if len(parts) == rank else list(value)
        if (
            isinstance(value, list | tuple)
            and len(value) == rank
            and all(isinstance(one, str) for one in value)
        ):
            return [one.strip(" '\"") for one in value]
    return []


def _letter(name: str | None) -> str | None:
    """The axis in a dimension's name: x, y, z, i, j, k, x1, x2, x3, or r for snapshots; else the name."""
    plain = (name or "").strip().lower()
    if _SNAPSHOTS.fullmatch(plain):
        return "r"
    match = _SPATIAL.fullmatch(plain)
    return match["letter"] if match else (plain or None)
