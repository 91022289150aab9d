"""`Tree`, one interface to files of named arrays and attributes: HDF5, Zarr, `.npz`, folders of `.npy`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from reion.errors import InputError
from reion.readers.dimensions import axis_order, dimension_names_in
from reion.readers.packing import Packing, packing_of, units_of
from reion.simulation.contract import AXES
from reion.simulation.lazy import Region
from reion.simulation.units import Conversion

SNAPSHOTS = "r"
"""The letter of the axis of snapshots in the order of an array's axes, such as `rxyz`."""

_MOST_SHOWN = 20
"""Most names that a message lists."""

ArrayKey = tuple[int | slice, ...]
"""An integer or a slice for each axis of an array, as it is stored."""


class Tree(Protocol):
    """A file of named arrays and attributes."""

    @property
    def path(self) -> Path:
        """The file or folder."""

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of the array of numbers `name`, which the file can hold; None if there is no such array."""

    def read(self, name: str, key: ArrayKey) -> np.ndarray:
        """Numbers of array `name`, as they are stored."""

    def array_attributes(self, name: str) -> Mapping[str, Any]:
        """The attributes of array `name`, with a fill value or a unit that the file stores elsewhere."""

    def dimension_names(self, name: str) -> Sequence[str | None]:
        """The name of each dimension of array `name`, or None; empty if the file has no names."""

    def unwritten(self, name: str) -> tuple[int, int]:
        """Number of chunks of array `name` that were never written, and of all."""

    def fill_value(self, name: str) -> np.ndarray:
        """The number that chunks of array `name` read as if they were never written: one, as it is stored."""

    def attribute(self, name: str) -> Any | None:
        """Value of the attribute `group/name` or `array/name` (or `name` of the whole file), or None."""

    def attributes(self) -> dict[str, Any]:
        """The attributes of the whole file."""

    def names(self) -> list[str]:
        """Names of the arrays of floating-point numbers."""


def shown(names: Sequence[str], otherwise: str = "none", *, most: int = _MOST_SHOWN) -> str:
    """The names of arrays, columns or files for a message: of many the first `most`, and how many more.

    `otherwise` stands for no names.
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or otherwise) + more


class NumbersOnly:
    """The methods of a `Tree` for files that have neither attributes nor names of dimensions."""

    def array_attributes(self, name: str) -> Mapping[str, Any]:  # noqa: ARG002 (a Tree's)
        """No array has attributes."""
        return {}

    def dimension_names(self, name: str) -> Sequence[str | None]:  # noqa: ARG002 (a Tree's)
        """No dimension has a name."""
        return []

    def unwritten(self, name: str) -> tuple[int, int]:  # noqa: ARG002 (checked with the header)
        """No chunk is missing: the array is one chunk, whose size was compared with its header."""
        return 0, 1

    def fill_value(self, name: str) -> np.ndarray:  # noqa: ARG002 (no chunk is missing)
        """Zero."""
        return np.zeros(1)

    def attribute(self, name: str) -> Any | None:  # noqa: ARG002 (a Tree's)
        """There is no attribute."""
        return None

    def attributes(self) -> dict[str, Any]:
        """There is no attribute."""
        return {}


@dataclass(frozen=True)
class StoredArray:
    """An array of a tree, read by its axes and its packing.

    `axes` is the order of the axes of space in the mapping. If it is None, the names of the dimensions give
    the order; without names it is xyz.
    """

    tree: Tree
    name: str
    axes: str | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array as it is stored."""
        return self.tree.shape(self.name) or ()

    @cached_property
    def packing(self) -> Packing:
        """How the numbers are packed."""
        return packing_of(self.tree.array_attributes(self.name), self.name, self.tree.path)

    @property
    def units(self) -> str:
        """The unit in the file; empty if there is none."""
        return units_of(self.tree.array_attributes(self.name))

    @cached_property
    def order(self) -> str:
        """The axes as they are stored, such as `"zyx"` or `"rxyz"`.

        Raises
        ------
        InputError
            If the order in the mapping is not that of the names of the dimensions.
        """
        rank = len(self.shape)
        names = self.tree.dimension_names(self.name) or dimension_names_in(
            self.tree.array_attributes(self.name), rank
        )
        named = axis_order(names) if len(names) == rank else None
        if named is not None and self.axes is not None and named.replace(SNAPSHOTS, "") != self.axes:
            raise InputError(
                f"{self.name}: the mapping gives axes = {self.axes!r}, the file names the dimensions "
                f"{', '.join(map(str, names))}",
                file=self.tree.path,
                hint="leave axes out: the file's own names are used",
            )
        return named or (SNAPSHOTS * (rank - len(AXES)) + (self.axes or "xyz"))

    def cells(self) -> tuple[int, ...]:
        """Cells along x, y, z."""
        return tuple(
            n for axis in AXES for letter, n in zip(self.order, self.shape, strict=False) if letter == axis
        )

    def snapshots(self) -> int | None:
        """Length of the axis of snapshots; None if there is none."""
        return self.shape[self.order.index(SNAPSHOTS)] if SNAPSHOTS in self.order else None

    def read(self, index: int, region: Region, conversion: Conversion) -> np.ndarray:
        """The cells `region` of snapshot `index`, converted: float32, indexed (x, y, z)."""
        part = dict(zip(AXES, region, strict=True))
        raw = self.tree.read(
            self.name, tuple(index if letter == SNAPSHOTS else part[letter] for letter in self.order)
        )
        stored = self.order.replace(SNAPSHOTS, "")
        values = self.packing.converted(raw, conversion)
        return values.transpose([stored.index(axis) for axis in AXES])

    def numbers(self) -> np.ndarray:
        """All numbers of the array, unpacked: float64, one axis.

        Raises
        ------
        InputError
            If a part of the array was never written.
        """
        missing, _ = self.tree.unwritten(self.name)
        if missing:
            raise InputError(f"{self.name}: its numbers were never written", file=self.tree.path)
        return self.packing.unpacked(self.tree.read(self.name, (slice(None),) * len(self.shape))).reshape(-1)

    def check_written(self, field: str) -> None:
        """Check for chunks that were never written, whose meaning depends on the `field` of the array.

        They read as the fill value of the array. If that is a missing value, the check of values refuses it.
        Sources, photons and masks may be zero there. xi is the fill value there, with a warning. Gas and all
        other fields are everywhere.

        Raises
        ------
        InputError
            If chunks of another field were never written, or chunks of sources that would not read as zero.
        """
        missing, count = self.tree.unwritten(self.name)
        fill = float(self.packing.unpacked(self.tree.fill_value(self.name))[0]) if missing else 0.0
        is_zero = fill == 0 and field in ("n_src", "n_ion", "propagation_mask")
        if not missing or np.isnan(fill) or is_zero:
            return
        found = f"{self.name}: {missing} of {count} chunks were never written, or were deleted"
        if field == "xi":
            value = f"{fill:g}, the fill value," if fill else "zero"
            warnings.warn(f"{self.tree.path}: {found}: xi is {value} there", stacklevel=2)
            return
        raise InputError(
            f"{found}: they would read as {field} = {fill:g}",
            file=self.tree.path,
            hint="write the field again" + (": gas is everywhere" if field == "n_igm" else ", whole"),
        )
