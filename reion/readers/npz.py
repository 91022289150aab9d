"""`.npz` archives: those of reion's layout, and others through a mapping (`reion.readers.mapping`).

An archive of reion's layout is a zip archive whose members are `.npy` files: `n_igm`, `n_src`, `xi` (any of
them), each of shape (x, y, z), and the scalars `redshift` and `box_size` (comoving Mpc, one number or three).
Optional members: `H0`, `Om0`, `Ob0`. Units are those of the Simulation unless `--set` gives others. The names
of the files of one simulation differ only in redshift: `box1_z08.000.npz`, `box1_z07.500.npz`. Other members
may hold anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from reion.errors import InputError
from reion.readers.filenames import ending_of
from reion.readers.format import Format
from reion.readers.mapping import boxes_from
from reion.readers.npy import MAGIC, Archive
from reion.readers.records import member_at, member_type, members_of
from reion.readers.settings import Settings
from reion.readers.snapshot import Box
from reion.readers.tree import ArrayKey, NumbersOnly
from reion.simulation.contract import FIELDS


class NpzTree(NumbersOnly):
    """An `.npz` archive as `reion.readers.tree.Tree`; arrays with names of fields have their units."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._archive = Archive(path)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of a member; None if there is none of that name."""
        name = name.removesuffix(".npy")
        table, _, column = name.rpartition("/")
        if name in self._archive.members or table not in self._archive.members:
            return self._archive.header(name).shape if name in self._archive.members else None
        header = self._archive.header(table, records=True)
        found = member_type(header.dtype, column)
        return None if found is None else (*header.shape, *found[1])

    def read(self, name: str, key: ArrayKey) -> np.ndarray:
        """Numbers of a member, which is decompressed whole."""
        name = name.removesuffix(".npy")
        if name in self._archive.members:
            return np.asarray(self._archive.array(name)[key])
        table, _, column = name.rpartition("/")
        return member_at(self._archive.array(table, records=True), column, key)

    def array_attributes(self, name: str) -> Mapping[str, Any]:
        """The unit of an array that has the name of a field of the Simulation."""
        return {"units": FIELDS[name].units[0]} if name in FIELDS else {}

    def names(self) -> list[str]:
        """Members of floating-point numbers, and such columns of members that are tables of records."""
        return [column for name in self._archive.members for column in self._real(name)]

    def _real(self, name: str) -> list[str]:
        try:
            header = self._archive.header(name, records=True)
        except InputError:  # a member that cannot be read does not matter to the others
            return []
        if header.dtype.kind == "f" and header.shape:
            return [name]
        return [f"{name}/{member}" for member in members_of(header.dtype)]


def claim(paths: Sequence[Path]) -> list[Path]:
    """Files named `.npz` whose content is not `.npy`."""
    return [path for path in paths if ending_of(path.name) == ".npz" and path.is_file() and not _is_npy(path)]


def scan(paths: Sequence[Path], settings: Settings) -> list[Box]:
    """One box for each file, by the mapping or the names of the Simulation."""
    boxes = boxes_from(map(NpzTree, sorted(paths)), settings)
    return [replace(box, source_code="npz") for box in boxes]


def _is_npy(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(MAGIC)) == MAGIC


FORMAT = Format(
    name="npz",
    description=".npz archives, one a snapshot: n_igm, n_src, xi, redshift, box_size, or by a mapping",
    claim=claim,
    scan=scan,
    mapped=True,
)
