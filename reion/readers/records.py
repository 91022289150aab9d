"""Tables of records (compound types of HDF5, structured arrays of NumPy): each member is a column.

A column is called `table/member`, or `member` in a `.npy` file, which holds one table. A member may be an
array in each record, such as a position of shape (3,). The shape of its column is then (records, 3).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from reion.readers.npy import file_header
from reion.readers.tree import ArrayKey, NumbersOnly


def member_type(records: np.dtype, member: str) -> tuple[np.dtype, tuple[int, ...]] | None:
    """Number type and shape of one member; None if `records` is no type of records or lacks the member."""
    if records.names is None or member not in records.names:
        return None
    return records[member].base, records[member].shape


def members_of(records: np.dtype, kinds: str = "f") -> list[str]:
    """The members of a record that are numbers of these NumPy kinds, or arrays of such numbers."""
    return [name for name in records.names or () if records[name].base.kind in kinds]


def member_at(table: np.ndarray, member: str, key: ArrayKey) -> np.ndarray:
    """A member of the records of `table` at `key`, whose last axes may be those of the member itself."""
    return np.asarray(table[member])[key]


class NpyRecords(NumbersOnly):
    """The records of a `.npy` file as `reion.readers.tree.Tree`: an array for each member."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._header = file_header(path, records=True)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of a column: that of the table, then that of the member; None if there is no such member."""
        found = member_type(self._header.dtype, name)
        return None if found is None else (*self._header.shape, *found[1])

    def read(self, name: str, key: ArrayKey) -> np.ndarray:
        """Numbers of a member; only the part at `key` is read."""
        header = self._header
        if 0 in header.shape:
            return np.empty(self.shape(name) or (0,))[key]
        return np.array(
            member_at(np.memmap(self.path, header.dtype, "r", header.start, header.shape), name, key)
        )

    def names(self) -> list[str]:
        """The members that are floating-point numbers."""
        return members_of(self._header.dtype)
