"""HDF5 with any names and units, given by a mapping (`reion.readers.mapping`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from reion.readers.format import Format
from reion.readers.hdf5_file import attributes, dataset_names, find, is_hdf5, open_hdf5, read, shape_of
from reion.readers.mapping import SETTINGS, boxes_from
from reion.readers.settings import Settings
from reion.readers.snapshot import Box


@dataclass(frozen=True)
class Hdf5Tree:
    """An HDF5 file as `reion.readers.mapping.Tree`; the attributes of each group are read once."""

    path: Path
    _known: dict[str, Mapping[str, Any] | None] = field(default_factory=dict, compare=False, repr=False)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of a dataset; None if there is none of that name."""
        with open_hdf5(self.path) as file:
            dataset = find(file, name, self.path)
            return None if dataset is None else shape_of(dataset, name, self.path)

    def read(self, name: str, key: tuple[int | slice, ...]) -> np.ndarray:
        """Numbers of a dataset."""
        with open_hdf5(self.path) as file:
            dataset = find(file, name, self.path)
            shape_of(dataset, name, self.path)
            return read(dataset, key, name, self.path)

    def attribute(self, name: str) -> Any | None:
        """An attribute, `group/name`."""
        group, _, attribute = name.rpartition("/")
        found = self._attributes(group)
        return None if found is None else found.get(attribute)

    def attributes(self) -> dict[str, Any]:
        """The attributes of the root group."""
        return dict(self._attributes("") or {})

    def _attributes(self, group: str) -> Mapping[str, Any] | None:
        if group not in self._known:
            with open_hdf5(self.path) as file:
                holder = find(file, group, self.path)
                self._known[group] = None if holder is None else attributes(holder)
        return self._known[group]

    def names(self) -> list[str]:
        """Datasets of floating-point numbers, the first ones of many."""
        with open_hdf5(self.path) as file:
            return dataset_names(file)


def claim(paths: Sequence[Path]) -> list[Path]:
    """All HDF5 files."""
    return [path for path in paths if is_hdf5(path)]


def scan(paths: Sequence[Path], settings: Settings) -> list[Box]:
    """What the mapping finds in each file."""
    return boxes_from(map(Hdf5Tree, paths), settings)


FORMAT = Format(
    name="hdf5",
    description="HDF5 with any names and units, given by a mapping",
    claim=claim,
    scan=scan,
    settings=SETTINGS,
    generic=True,
)
