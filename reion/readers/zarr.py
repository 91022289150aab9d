"""Zarr stores: those that `reion convert` writes, and others through a mapping (`reion.readers.mapping`).

A store of reion holds arrays with the names of the Simulation's fields, such as `n_igm`, `n_src` and `xi`
(any of them), of shape (redshift, x, y, z) with `units` in their attributes; `max_mfp` of shape (redshift,);
the coordinates `redshift`, `x`, `y`, `z`; and the group attributes `box_size` (comoving Mpc), `H0`, `Om0`,
`Ob0`, `cosmology_assumed`, `source_code` and the provenance.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from reion.errors import InputError
from reion.readers.format import Format
from reion.readers.mapping import boxes_from
from reion.readers.settings import Settings
from reion.readers.snapshot import Box
from reion.readers.tree import ArrayKey
from reion.readers.zarr_chunks import check_chunks, check_size, unwritten

_MOST_NAMES, _DEEPEST = 10_000, 8
"""Most arrays of a store, and deepest nesting of groups, that are searched."""


def is_store(path: Path) -> bool:
    """Whether a folder is a Zarr group (either version of the format)."""
    return (path / "zarr.json").is_file() or (path / ".zgroup").is_file()


class ZarrTree:
    """A Zarr group as `reion.readers.tree.Tree`; each array and group in it is opened once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, Any] = {}

    @cached_property
    def _group(self) -> Any:
        import zarr

        try:
            # Consolidated metadata cannot be read at all if those of one array, even an unused one, cannot.
            return zarr.open_group(self.path, mode="r", use_consolidated=False)
        except Exception as error:  # zarr may raise any error for a damaged store
            raise InputError(f"the Zarr store cannot be opened: {error}", file=self.path) from error

    def _find(self, name: str) -> Any | None:
        if not name:
            return self._group
        try:
            if name not in self._known:
                self._known[name] = self._group.get(name)
            return self._known[name]
        except Exception as error:  # zarr may raise any error for a damaged store
            raise InputError(f"{name}: cannot be opened: {error}", file=self.path) from error

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of an array of numbers; None if there is none of that name."""
        array = self._find(name)
        if array is None:
            return None
        if not hasattr(array, "shape") or array.dtype.kind not in "fiu":
            raise InputError(f"{name}: expected an array of numbers", file=self.path)
        shape = tuple(array.shape)
        check_size(array, shape, self.path)
        return shape

    def array_attributes(self, name: str) -> Mapping[str, Any]:
        """The attributes of an array, in Zarr 2 with the array's own fill value if it is not zero."""
        array = self._find(name)
        if array is None:
            return {}
        found = dict(array.attrs)
        fill = array.fill_value
        if array.metadata.zarr_format == 2 and array.dtype.kind in "fiu" and fill:
            # xarray stores `_FillValue` as the fill value; zero is Zarr's own default.
            found.setdefault("_FillValue", fill)
        return found

    def dimension_names(self, name: str) -> Sequence[str | None]:
        """The `dimension_names` of Zarr 3; empty if there are none."""
        array = self._find(name)
        names = getattr(getattr(array, "metadata", None), "dimension_names", None) or []
        return list(names) if any(names) else []

    def unwritten(self, name: str) -> tuple[int, int]:
        """Number of chunks that were never written, and number of all chunks."""
        array = self._find(name)
        return (0, 0) if array is None else unwritten(array, self.path)

    def fill_value(self, name: str) -> np.ndarray:
        """The fill value of an array; zero if it has none."""
        array = self._find(name)
        return np.array([getattr(array, "fill_value", None) or 0], getattr(array, "dtype", None))

    def read(self, name: str, key: ArrayKey) -> np.ndarray:
        """Numbers of an array, after a check that chunks expand to the size of their shape."""
        array = self._find(name)
        check_chunks(array, key, self.path)
        try:
            return np.asarray(array[key])  # type: ignore[index]
        except Exception as error:  # zarr may raise any error for a damaged chunk
            raise InputError(f"{name}: a chunk cannot be read: {error}", file=self.path) from error

    def attribute(self, name: str) -> Any | None:
        """Value of the attribute `group/name`, or None."""
        group, _, attribute = name.rpartition("/")
        holder = self._find(group)
        return None if holder is None else holder.attrs.get(attribute)

    def names(self) -> list[str]:
        """Arrays of floating-point numbers."""
        names = []
        for folder, children, files in os.walk(self.path):
            relative = Path(folder).relative_to(self.path)
            if len(relative.parts) >= _DEEPEST or ".zarray" in files:
                children.clear()
            if relative.parts and {"zarr.json", ".zarray"} & set(files):
                # An array that cannot be read does not matter to the others.
                with contextlib.suppress(InputError):
                    item = self._find(relative.as_posix())
                    if item is not None and hasattr(item, "dtype"):
                        children.clear()
                        if item.dtype.kind == "f":
                            names.append(relative.as_posix())
            if len(names) == _MOST_NAMES:
                break
        return names

    def attributes(self) -> dict[str, Any]:
        """The attributes of the group."""
        return dict(self._group.attrs)


def claim(paths: Sequence[Path]) -> list[Path]:
    """Folders that are Zarr groups or are named `.zarr`."""
    return [path for path in paths if is_store(path) or (path.is_dir() and path.suffix.lower() == ".zarr")]


def scan(paths: Sequence[Path], settings: Settings) -> list[Box]:
    """One box for each store, by the mapping or the names of the Simulation."""
    return boxes_from(map(ZarrTree, paths), settings)


FORMAT = Format(
    name="zarr",
    description="Zarr stores: those of reion convert, and any others through a mapping",
    claim=claim,
    scan=scan,
    mapped=True,
)
