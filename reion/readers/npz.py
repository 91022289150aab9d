"""`.npz` archives: those of reion's layout, and others through a mapping (`reion.readers.mapping`).

An archive of reion's layout is a zip archive whose members are `.npy` files: `n_igm`, `n_src`, `xi` (any of
them), each of shape (x, y, z), and the scalars `redshift` and `box_size` (comoving Mpc, one number or three).
Optional members: `H0`, `Om0`, `Ob0`. Units are those of the Simulation unless `--set` gives others. The names
of the files of one simulation differ only in redshift: `box1_z08.000.npz`, `box1_z07.500.npz`. Other members
may hold anything. An archive that reion wrote holds all snapshots and a member `attributes`, a JSON text with
the attributes of the store and of its fields, such as the clumping factor.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from reion.errors import InputError
from reion.jobs.places import is_by_reion
from reion.readers.filenames import ending_of
from reion.readers.format import Format
from reion.readers.mapping import boxes_from
from reion.readers.npy import MAGIC, Archive
from reion.readers.records import member_at, member_type, members_of
from reion.readers.settings import Settings
from reion.readers.snapshot import Box
from reion.readers.tree import ArrayKey, NumbersOnly
from reion.simulation.contract import FIELDS

ATTRIBUTES = "attributes"
"""The member with the attributes, in archives that reion wrote."""
_MOST_ATTRIBUTE_BYTES = 1 << 26


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

    def attribute(self, name: str) -> Any | None:
        """Value of the attribute `name` or `field/name`, if reion wrote the archive; None otherwise."""
        field, _, attribute = name.rpartition("/")
        holder = self._written["fields"].get(field, {}) if field else self._written["store"]
        return holder.get(attribute)

    def attributes(self) -> dict[str, Any]:
        """The attributes of the store that the archive was written from; empty if reion did not write it."""
        return dict(self._written["store"])

    @cached_property
    def _written(self) -> Mapping[str, Any]:
        return attributes_in(self._archive) or {"store": {}, "fields": {}}

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


def attributes_in(archive: Archive) -> Mapping[str, Any] | None:
    """The attributes of the `store` and of its `fields`, by their names; None if reion did not write them.

    Raises
    ------
    InputError
        If the archive is damaged.
    """
    if ATTRIBUTES not in archive.members:
        return None
    try:
        header = archive.header(ATTRIBUTES, records=True)
    except InputError:  # in an archive of another program this member may hold anything
        return None
    if header.dtype.kind != "U" or header.shape or header.nbytes > _MOST_ATTRIBUTE_BYTES:
        return None
    try:
        found = json.loads(str(archive.array(ATTRIBUTES, records=True)))
        is_ours = is_by_reion(found["store"]) and all(hasattr(of, "items") for of in found["fields"].values())
    except InputError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        return None
    return found if is_ours else None


def claim(paths: Sequence[Path]) -> list[Path]:
    """Files named `.npz` whose content is not `.npy`."""
    return [path for path in paths if ending_of(path.name) == ".npz" and path.is_file() and not _is_npy(path)]


def scan(paths: Sequence[Path], settings: Settings) -> list[Box]:
    """One box for each file, by the mapping or the names of the Simulation."""
    trees = [NpzTree(path) for path in sorted(paths)]
    boxes = boxes_from(trees, settings)
    return [
        box if tree.attribute("source_code") else replace(box, source_code="npz")
        for tree, box in zip(trees, boxes, strict=True)
    ]


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
