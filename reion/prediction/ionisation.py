"""z_reion, the redshift at which each cell is ionised, written beside the predicted xi in its store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from reion.jobs.workers import Job
from reion.metrics.crossings import ATTRS, Crossings, Oddities
from reion.prediction.tiles import Tiling
from reion.simulation.contract import AXES, cosmology
from reion.storage.store import consolidate, plain

Z_REION = "z_reion"


def create_z_reion(group: Any, tiling: Tiling) -> None:
    """Create the array that `WriteZReion` writes; its chunks are those of xi."""
    array = group.create_array(
        Z_REION,
        shape=tiling.mesh,
        dtype=np.float32,
        chunks=tiling.chunk,
        fill_value=np.nan,
        dimension_names=AXES,
    )
    array.attrs.update(plain(ATTRS))


class WriteZReion(Job[tuple[int, int], dict[str, int]]):
    """Writes z_reion of a tile; xi of all its snapshots is in the store.

    The second number of a piece is the number of the tile. The result is the `Oddities` of its cells,
    JSON-ready.
    """

    def __init__(self, sim: xr.Dataset, store: Path, tiling: Tiling) -> None:
        self._redshift = sim["redshift"].values
        self._cosmology = cosmology(sim)
        self._store, self._tiling = store, tiling

    @cached_property
    def _group(self) -> Any:
        import zarr

        return zarr.open_group(self._store, mode="r+")

    def __call__(self, piece: tuple[int, int]) -> dict[str, int]:
        """Write the tile."""
        place = self._tiling.place(piece[1])
        crossings = Crossings(self._redshift, self._cosmology)
        for index in range(self._redshift.size):
            crossings.add(np.clip(self._group["xi"][(index, *place)], 0, 1))
        self._group[Z_REION][place] = crossings.z_reion
        return dict(vars(crossings.oddities))


def note_oddities(store: Path, results: Iterable[Mapping[str, int]]) -> Oddities:
    """Write the numbers of cells with odd histories, summed over tiles, into the attributes of z_reion."""
    import zarr

    oddities = sum((Oddities(**result) for result in results), Oddities())
    group = zarr.open_group(store, mode="r+")
    group[Z_REION].attrs.update(plain(vars(oddities)))
    consolidate(group)
    return oddities
