"""Columns of numbers in a catalogue file: text, HDF5, Zarr, `.npz`, `.npy`, or the members of records."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from reion.errors import InputError
from reion.readers.filenames import ending_of
from reion.readers.foreign import said_of_foreign
from reion.readers.hdf5 import Hdf5Tree
from reion.readers.hdf5_file import is_hdf5
from reion.readers.names import Column
from reion.readers.npy import file_header
from reion.readers.npz import NpzTree
from reion.readers.records import NpyRecords
from reion.readers.text_numbers import data_lines, header_names, names_in, rows_in, text_of
from reion.readers.tree import StoredArray, Tree, shown
from reion.readers.zarr import ZarrTree, is_store


@dataclass(frozen=True)
class Table:
    """The columns of one catalogue file: an array of a tree for each name, or the columns of a text."""

    path: Path
    tree: Tree | None = None

    @cached_property
    def _text(self) -> tuple[list[str], np.ndarray]:
        """Names of the columns (empty without a header), and the numbers, (haloes, columns) float64."""
        if ending_of(self.path.name) == ".npy":
            return [], _npy_columns(self.path)
        text = text_of(self.path)
        names = header_names(text)
        # The names may stand before or behind the number of haloes.
        lines = [
            line
            for number, line in enumerate(data_lines(text))
            if number > 1 or not names or names_in(line)[: len(names)] != names
        ]
        if len(lines) > 1 and len(lines[0].split()) < len(lines[1].split()):
            self._check_count(lines[0], len(lines) - 1)
            lines = lines[1:]
        if not text.strip():
            raise InputError("expected a catalogue of haloes; received an empty file", file=self.path)
        if [line.split() for line in lines] == [["0"]]:
            lines = []  # the number of haloes
        if not lines:
            return names, np.empty((0, len(names)))
        try:
            rows = rows_in(lines, self.path)
        except InputError as error:
            error.hint = said_of_foreign([self.path]) or None
            raise
        if names and rows.shape[1] != len(names):
            raise InputError(
                f"expected a number for each of {', '.join(names)}; received {rows.shape[1]} on a line",
                file=self.path,
            )
        return names, rows

    def _check_count(self, first: str, haloes: int) -> None:
        """Refuse a list with more or fewer haloes than its first line says, if that is one whole number."""
        if first.strip().isdecimal() and int(first) != haloes:
            raise InputError(
                f"expected {int(first)} haloes, the number on the first line; received {haloes}",
                file=self.path,
                hint="the list was cut short, or has grown; if the first number is something else, write # "
                "before it",
            )

    def names(self) -> list[str]:
        """The columns, as a mapping names them."""
        if self.tree is not None:
            return self.tree.names()
        names, numbers = self._text
        return names or [str(number + 1) for number in range(numbers.shape[1])]

    def shape(self, column: Column) -> tuple[int, ...]:
        """Shape of a column.

        Raises
        ------
        InputError
            If there is no such column.
        """
        shape = self._text_shape(column) if self.tree is None else self.tree.shape(str(column))
        numbered = _numbered(column)
        if shape is None and self.tree is not None and numbered is not None:
            rows = self.tree.shape(numbered[0]) or ()
            shape = rows[:1] if len(rows) == 2 and 1 <= numbered[1] <= rows[1] else None
        if shape is None:
            raise InputError(
                f"[halos]: expected a column {column!r}; received {shown(self.names())}",
                file=self.path,
                hint=None
                if self.tree is None
                else "a column is an array of numbers, a member of records ('table/Mvir'), or a column of an "
                "array of shape (haloes, columns) by its number ('table/1'). "
                'Haloes in files of their own are named in the mapping: file = "halos_z*.dat"',
            )
        return shape

    def _text_shape(self, column: Column) -> tuple[int, ...] | None:
        names, numbers = self._text
        there = column in names if isinstance(column, str) else 1 <= column <= numbers.shape[1]
        # The first snapshots have no haloes, and an empty list may have no columns.
        return (len(numbers),) if there or (len(numbers) == 0 and not names) else None

    def numbers(self, column: Column) -> np.ndarray:
        """The numbers of a column, float64, one axis."""
        self.shape(column)
        if self.tree is not None:
            numbered = _numbered(column)
            if numbered is None or self.tree.shape(str(column)) is not None:
                return StoredArray(self.tree, str(column)).numbers()
            array = StoredArray(self.tree, numbered[0])
            return array.numbers().reshape(array.shape)[:, numbered[1] - 1]
        names, numbers = self._text
        if len(numbers) == 0:
            return np.empty(0)
        return numbers[:, names.index(column) if isinstance(column, str) else column - 1]

    def unit(self, column: Column) -> str:
        """The unit that the file gives a column, empty if it gives none."""
        return "" if self.tree is None else StoredArray(self.tree, str(column)).units


def _numbered(column: Column) -> tuple[str, int] | None:
    """The array and the number, from 1, of a column `array/3` of an array of shape (haloes, columns)."""
    array, _, number = str(column).rpartition("/")
    return (array, int(number)) if array and number.isdecimal() else None


def _npy_columns(path: Path) -> np.ndarray:
    """The columns of an array in a `.npy` file, (haloes, columns) float64."""
    header = file_header(path)
    if len(header.shape) != 2:
        raise InputError(f"expected shape (haloes, columns); received {header.shape}", file=path)
    order = "F" if header.fortran_order else "C"
    return np.array(
        np.memmap(path, header.dtype, "r", header.start, header.shape, order)  # type: ignore[call-overload]
        if 0 not in header.shape
        else np.empty(header.shape),
        dtype=np.float64,
    )


def table_of(path: Path) -> Table:
    """The columns of a catalogue file of any kind."""
    if is_store(path):
        return Table(path, ZarrTree(path))
    if is_hdf5(path):
        return Table(path, Hdf5Tree(path))
    if ending_of(path.name) == ".npy" and file_header(path, records=True).dtype.names:
        return Table(path, NpyRecords(path))
    return Table(path, NpzTree(path)) if ending_of(path.name) == ".npz" else Table(path)
