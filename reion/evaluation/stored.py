"""Read what an output of `reion predict` holds besides xi: its error bar, warnings and model."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from reion.readers.hdf5_file import attributes, find, is_hdf5, open_hdf5, read, shape_of
from reion.readers.zarr import is_store
from reion.simulation.contract import DIMS
from reion.simulation.lazy import CellKey, LazyField
from reion.storage.single_file import attributes_in_npz, is_our_hdf5, is_our_npz

SPREAD = "xi_std"


@contextlib.contextmanager
def error_bar_is_used() -> Iterator[None]:
    """Within the block, opening a store does not warn that xi_std is unused, because evaluation uses it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=rf"not used: {SPREAD} in [^,]*$")
        yield


def attributes_of_xi(place: Path) -> dict[str, Any]:
    """The attributes of xi in an output of reion, such as its model; empty for files of other programs.

    `place` is a Zarr store, or a single file as `reion predict` writes it.
    """
    if is_store(place):
        import zarr

        group = zarr.open_group(place, mode="r")
        return dict(group["xi"].attrs) if "xi" in group else {}
    if _is_hdf5_of_ours(place):
        with open_hdf5(place) as file:
            xi = find(file, "xi", place)
            return {} if xi is None else dict(attributes(xi))
    if place.is_file() and is_our_npz(place):
        return dict(attributes_in_npz(place)["fields"].get("xi", {}))
    return {}


def warnings_in(attributes: Mapping[str, Any]) -> list[str]:
    """The warnings that were given when xi with these attributes was predicted."""
    return str(attributes.get("warnings", "")).splitlines()


def training_in(attributes: Mapping[str, Any]) -> Any:
    """Provenance of the training of the model that predicted xi with these attributes; None if unknown."""
    try:
        provenance = json.loads(attributes["model_provenance"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return provenance.get("training") if isinstance(provenance, dict) else None


def spread_of(place: Path) -> xr.DataArray | None:
    """`xi_std` (redshift, x, y, z) in an output of reion; None if it has none, or reion did not write it.

    The values are read lazily, except those of an `.npz` archive, which is decompressed as a whole.
    """
    if is_store(place):
        stored = xr.open_dataset(place, engine="zarr", chunks=None)
        return stored[SPREAD] if SPREAD in stored.data_vars else None
    if _is_hdf5_of_ours(place):
        with open_hdf5(place) as file:
            dataset, redshift = find(file, SPREAD, place), find(file, "redshift", place)
            if dataset is None or redshift is None:
                return None
            shape = shape_of(dataset, SPREAD, place)
            redshifts = read(redshift, (slice(None),), "redshift", place)
        values = _InHdf5(place, shape).as_variable_data()
        return xr.DataArray(xr.Variable(DIMS, values), coords={"redshift": redshifts}, name=SPREAD)
    if place.is_file() and is_our_npz(place):
        with np.load(place, allow_pickle=False) as archive:
            if SPREAD not in archive.files:
                return None
            return xr.DataArray(archive[SPREAD], {"redshift": archive["redshift"]}, DIMS, name=SPREAD)
    return None


def _is_hdf5_of_ours(place: Path) -> bool:
    return is_hdf5(place) and is_our_hdf5(place)


class _InHdf5(LazyField):
    """`xi_std` in an HDF5 file, which is open only while cells are read."""

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        super().__init__(shape)
        self._path = path

    def snapshot(self, index: int, key: CellKey) -> np.ndarray:
        """The cells `key` of snapshot `index`."""
        with open_hdf5(self._path) as file:
            dataset = find(file, SPREAD, self._path)
            return read(dataset, (index, *key), SPREAD, self._path).astype(np.float32, copy=False)
