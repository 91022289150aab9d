"""HDF5 and NetCDF 4 with any names and units, given by a mapping (`reion.readers.mapping`)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from reion.jobs.places import is_by_reion
from reion.readers.format import Format
from reion.readers.hdf5_file import (
    attributes,
    dataset_names,
    dimension_names,
    find,
    find_column,
    is_hdf5,
    is_scale_without_data,
    open_hdf5,
    read,
    shape_of,
    unwritten,
)
from reion.readers.mapping import boxes_from
from reion.readers.settings import Settings
from reion.readers.snapshot import Box
from reion.readers.tree import ArrayKey

IN_JSON = "attributes_in_json"
"""The attribute with those attributes that HDF5 would change, as a JSON text, in files that reion wrote."""


@dataclass(frozen=True)
class Hdf5Tree:
    """An HDF5 file as `reion.readers.tree.Tree`; the attributes of each group and dataset are read once."""

    path: Path
    _attributes_of: dict[str, Mapping[str, Any] | None] = field(
        default_factory=dict, compare=False, repr=False
    )

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of a dataset; None if there is none of that name."""
        with open_hdf5(self.path) as file:
            dataset, member = find_column(file, name, self.path)
            if dataset is None or is_scale_without_data(dataset):
                return None
            return shape_of(dataset, name, self.path, whole=False, member=member)

    def read(self, name: str, key: ArrayKey) -> np.ndarray:
        """Numbers of a dataset."""
        with open_hdf5(self.path) as file:
            dataset, member = find_column(file, name, self.path)
            shape_of(dataset, name, self.path, whole=False, member=member)
            return read(dataset, key, name, self.path, member=member)

    def array_attributes(self, name: str) -> Mapping[str, Any]:
        """The attributes of a dataset."""
        return self._attributes(name) or {}

    def dimension_names(self, name: str) -> Sequence[str | None]:
        """Names of the dimension scales attached to a dataset; empty if there are none."""
        with open_hdf5(self.path) as file:
            dataset = find(file, name, self.path)
            names = [] if dataset is None else dimension_names(dataset)
        return names if any(names) else []

    def unwritten(self, name: str) -> tuple[int, int]:
        """Number of chunks that were never written, and number of all chunks."""
        with open_hdf5(self.path) as file:
            dataset, _ = find_column(file, name, self.path)
            return (0, 0) if dataset is None else unwritten(dataset)

    def fill_value(self, name: str) -> np.ndarray:
        """The fill value of a dataset, or of a column of a table."""
        with open_hdf5(self.path) as file:
            dataset, member = find_column(file, name, self.path)
            if dataset is None:
                return np.zeros(1)
            return np.ravel(dataset.fillvalue if member is None else dataset.fillvalue[member])

    def attribute(self, name: str) -> Any | None:
        """Value of the attribute `group/name`, or None."""
        group, _, attribute = name.rpartition("/")
        found = self._attributes(group)
        return None if found is None else found.get(attribute)

    def attributes(self) -> dict[str, Any]:
        """The attributes of the root group; in a file that reion wrote, as they were in its store."""
        found = dict(self._attributes("") or {})
        if not is_by_reion(found):
            return found
        try:
            kept = json.loads(found.pop(IN_JSON, "{}"))
        except (TypeError, ValueError, RecursionError):
            return found
        return {**found, **kept} if isinstance(kept, dict) else found

    def _attributes(self, name: str) -> Mapping[str, Any] | None:
        if name not in self._attributes_of:
            with open_hdf5(self.path) as file:
                holder = find(file, name, self.path)
                self._attributes_of[name] = None if holder is None else attributes(holder)
        return self._attributes_of[name]

    def names(self) -> list[str]:
        """Datasets of floating-point numbers and columns of tables."""
        with open_hdf5(self.path) as file:
            return dataset_names(file)


def claim(paths: Sequence[Path]) -> list[Path]:
    """All HDF5 files."""
    return [path for path in paths if is_hdf5(path)]


def scan(paths: Sequence[Path], settings: Settings) -> list[Box]:
    """One box for each file, by the mapping or the names of the Simulation."""
    return boxes_from(map(Hdf5Tree, paths), settings)


FORMAT = Format(
    name="hdf5",
    description="HDF5 and NetCDF 4 with any names and units, given by a mapping",
    claim=claim,
    scan=scan,
    generic=True,
    mapped=True,
)
