"""Fields whose snapshots are read or computed when they are asked for."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
from xarray.backends import BackendArray
from xarray.core import indexing

Region = tuple[slice, slice, slice]
"""Cells along x, y and z: slices with a start and a stop, step 1."""

CellKey = tuple[int | slice, ...]
"""An integer or a slice for each of the axes x, y, z."""


class LazyField(BackendArray):
    """A field of shape (redshift, x, y, z), float32, that xarray indexes lazily, one snapshot at a time."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.dtype = np.dtype(np.float32)

    @abstractmethod
    def snapshot(self, index: int, key: CellKey) -> np.ndarray:
        """The cells `key` of snapshot `index`, float32, with the axes that NumPy's indexing would leave."""

    def as_variable_data(self) -> Any:
        """The field in the form that a variable of xarray takes for its data."""
        return indexing.LazilyIndexedArray(self)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.BASIC, self._snapshots
        )

    def _snapshots(self, key: tuple[int | slice, ...]) -> np.ndarray:
        which = range(self.shape[0])[key[0]]
        if isinstance(which, int):
            return self.snapshot(which, key[1:])
        parts = [self.snapshot(index, key[1:]) for index in which]
        if len(parts) == 1:
            return parts[0][np.newaxis]
        return np.stack(parts) if parts else self.snapshot(0, key[1:])[np.newaxis][:0]
