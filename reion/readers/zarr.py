"""Zarr: our native format, as `reion convert` writes it, and any other store through a mapping.

Layout of ours: arrays `n_igm`, `n_src`, `n_ion`, `xi` (any of them) of shape (redshift, x, y, z) with `units`
in their attributes; coordinates `redshift`, `x`, `y`, `z`; group attributes `box_size` (comoving Mpc), `H0`,
`Om0`, `Ob0`, `cosmology_assumed`, `source_code` and where everything came from. Other names and units are
given by a mapping (`reion.readers.mapping`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from reion.errors import InputError
from reion.readers.format import Format
from reion.readers.mapping import SETTINGS, boxes_from
from reion.readers.settings import Settings
from reion.readers.snapshot import Box
from reion.readers.zarr_chunks import check_chunks, check_size

_MOST_NAMES, _DEEPEST = 20, 8


def is_store(path: Path) -> bool:
    """Whether a folder is a Zarr group (either version of the format)."""
    return (path / "zarr.json").is_file() or (path / ".zgroup").is_file()


class ZarrTree:
    """A Zarr group as `reion.readers.mapping.Tree`; what is in it is looked up once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, Any] = {}

    @cached_property
    def _group(self) -> Any:
        import zarr

        try:
            return zarr.open_group(self.path, mode="r")
        except Exception as error:  # whatever a damaged store raises, the store is damaged
            raise InputError(f"the Zarr store cannot be opened: {error}", file=self.path) from error

    def _find(self, name: str) -> Any | None:
        if not name:
            return self._group
        try:
            if name not in self._known:
                self._known[name] = self._group.get(name)
            return self._known[name]
        except Exception as error:  # whatever a damaged store raises, the store is damaged
            raise InputError(f"{name}: cannot be opened: {error}", file=self.path) from error

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of an array of floating-point numbers; None if there is none of that name."""
        array = self._find(name)
        if array is None:
            return None
        if not hasattr(array, "shape") or array.dtype.kind != "f":
            raise InputError(f"{name}: expected an array of floating-point numbers", file=self.path)
        shape = tuple(array.shape)
        check_size(array, shape, self.path)
        return shape

    def read(self, name: str, key: tuple[int | slice, ...]) -> np.ndarray:
        """Numbers of an array, from chunks that expand to what their shape needs."""
        array = self._find(name)
        check_chunks(array, key, self.path)
        try:
            return np.asarray(array[key])  # type: ignore[index]
        except Exception as error:  # whatever a damaged chunk raises, the store is damaged
            raise InputError(f"{name}: a chunk cannot be read: {error}", file=self.path) from error

    def attribute(self, name: str) -> Any | None:
        """An attribute, `group/name`."""
        group, _, attribute = name.rpartition("/")
        holder = self._find(group)
        return None if holder is None else holder.attrs.get(attribute)

    def names(self) -> list[str]:
        """Arrays of floating-point numbers, the first ones of many."""
        try:
            members = itertools.islice(self._group.members(max_depth=_DEEPEST), _MOST_NAMES)
            return [name for name, item in members if hasattr(item, "dtype") and item.dtype.kind == "f"]
        except Exception as error:  # whatever a damaged store raises, the store is damaged
            raise InputError(f"the Zarr store is damaged: {error}", file=self.path) from error

    def attributes(self) -> dict[str, Any]:
        """The attributes of the group."""
        return dict(self._group.attrs)


def claim(paths: Sequence[Path]) -> list[Path]:
    """Folders that are Zarr groups, or are named so."""
    return [path for path in paths if is_store(path) or (path.is_dir() and path.suffix == ".zarr")]


def scan(paths: Sequence[Path], settings: Settings) -> list[Box]:
    """What the mapping finds in each store."""
    return boxes_from(map(ZarrTree, paths), settings)


FORMAT = Format(
    name="zarr",
    description="Zarr stores: those of reion convert, and any others through a mapping",
    claim=claim,
    scan=scan,
    settings=SETTINGS,
)
