"""Regrids a box to other cells. Mass, photons and ionised volume are conserved."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from reion.errors import InputError
from reion.simulation.contract import (
    AXES,
    CELL_SIZE_TOLERANCE,
    CUBIC_TOLERANCE,
    DIMS,
    box_size_mpc,
    check_simulation,
)
from reion.simulation.lazy import CellKey, LazyField

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_MOST_CELLS = 10_000


def regrid(sim: xr.Dataset, cell_size_mpc: float) -> xr.Dataset:
    """Return the simulation on cells of about the size `cell_size_mpc`, lazily.

    Each new cell holds the mean over its volume: every old cell counts with the volume that it shares with
    the new one (first-order conservative remapping). So the mean of every field stays the same: mass
    (`n_igm`), photons (`n_src`, `n_ion`) and ionised volume (`xi`). Variables without cells, such as
    `max_mfp`, stay as they are.

    Parameters
    ----------
    cell_size_mpc
        Comoving Mpc. Along each axis the number of cells is the one whose cells come closest to this size.

    Raises
    ------
    InputError
        If the size is not positive, or gives no cell or more than 10,000 cells along an axis; if a variable
        has some but not all of the axes of space.
    """
    check_simulation(sim, values=False)
    if not np.isfinite(cell_size_mpc) or cell_size_mpc <= 0:
        raise InputError(f"--cell-size: expected a positive length in Mpc; received {cell_size_mpc:g}")
    lengths = box_size_mpc(sim)
    shape = nearest_mesh(lengths, cell_size_mpc)
    if min(shape) < 1 or max(shape) > _MOST_CELLS:
        raise InputError(
            f"--cell-size: expected a mesh of 1 to {_MOST_CELLS} cells along an axis; cells of "
            f"{cell_size_mpc:g} Mpc make {shape} in a box of {' x '.join(f'{n:g}' for n in lengths)} Mpc"
        )
    fields: dict[Hashable, Any] = {}
    for name, variable in sim.data_vars.items():
        if variable.dims == DIMS:
            attrs = {key: value for key, value in variable.attrs.items() if key != "sha256"}
            fields[name] = (DIMS, _Regridded(variable, shape).as_variable_data(), attrs)
        elif set(AXES).isdisjoint(variable.dims):
            fields[name] = variable.variable
        else:
            raise InputError(
                f"{name}: expected dimensions {DIMS} or none of {', '.join(AXES)}; received {variable.dims}",
                hint="leave it out of what is regridded",
            )
    coords = {
        axis: (axis, (np.arange(n) + 0.5) * (length / n), sim[axis].attrs)
        for axis, n, length in zip(AXES, shape, lengths, strict=True)
    }
    attrs = {**sim.attrs, "regridded_from_cells": [sim.sizes[axis] for axis in AXES]}
    new = xr.Dataset(fields, coords={"redshift": sim["redshift"], **coords}, attrs=attrs)
    return check_simulation(new, values=False)


def nearest_mesh(lengths_mpc: Sequence[float], cell_size_mpc: float) -> tuple[int, ...]:
    """Cells along each axis of a box with sides `lengths_mpc`, for cells that come closest to a size."""
    return tuple(round(length / cell_size_mpc) for length in lengths_mpc)


def how_to_regrid(sim: xr.Dataset, cell_size_mpc: float) -> str:
    """A hint for a simulation whose cells differ too much from the cells of a model, `cell_size_mpc`."""
    lengths = box_size_mpc(sim)
    shape = [max(count, 1) for count in nearest_mesh(lengths, cell_size_mpc)]
    sides = [length / count for length, count in zip(lengths, shape, strict=True)]
    near = all(abs(side / cell_size_mpc - 1.0) <= CELL_SIZE_TOLERANCE for side in sides)
    mesh = f"{' x '.join(map(str, shape))} cells of {' x '.join(f'{side:.4g}' for side in sides)} Mpc"
    if near and max(sides) <= min(sides) * (1 + CUBIC_TOLERANCE):
        return f"regrid with `reion convert --cell-size {cell_size_mpc:g}`, which makes {mesh}"
    return (
        f"regridding does not help: a box of {' x '.join(f'{side:g}' for side in lengths)} Mpc has no mesh "
        f"of cubes within {CELL_SIZE_TOLERANCE:.0%} of that, the nearest has {mesh}; `reion models` "
        "lists other models, `reion train` makes one for cells of this size"
    )


def shared_fractions(old: int, new: int) -> csr_array:
    """The weight of each of `old` cells along an axis in the mean of each of `new` cells along this axis.

    Returns
    -------
    scipy.sparse.csr_array
        (new, old), float64: shared length divided by the length of a new cell. Rows sum to one.
    """
    from scipy.sparse import csr_array

    # In units in which a new cell has the length `old` and an old cell the length `new`, edges are integers.
    edges = np.union1d(np.arange(new + 1) * old, np.arange(old + 1) * new)
    start = edges[:-1]
    return csr_array((np.diff(edges) / old, (start // old, start // new)), shape=(new, old))


class _Regridded(LazyField):
    """A field on another mesh, computed plane by plane."""

    def __init__(self, field: xr.DataArray, shape: tuple[int, ...]) -> None:
        super().__init__((field.shape[0], *shape))
        self._field = field
        self._fractions = [shared_fractions(o, n) for o, n in zip(field.shape[1:], shape, strict=True)]

    def snapshot(self, index: int, key: CellKey) -> np.ndarray:
        """The cells `key` of snapshot `index`, from the old cells that share volume with them."""
        # The axis of an integer in the key is kept, with one cell, until the end.
        new_cells = [np.atleast_1d(np.arange(n)[k]) for n, k in zip(self.shape[1:], key, strict=True)]
        weights = [fractions[cells] for fractions, cells in zip(self._fractions, new_cells, strict=True)]
        old_cells = [
            slice(rows.indices.min(), rows.indices.max() + 1) if rows.nnz else slice(0, 1) for rows in weights
        ]
        x, y, z = (rows[:, cells] for rows, cells in zip(weights, old_cells, strict=True))
        old = self._field[index, *old_cells].values
        new = np.empty([cells.size for cells in new_cells], dtype=np.float32)
        for plane in range(new.shape[0]):
            stored = slice(x.indptr[plane], x.indptr[plane + 1])
            mean_along_x = np.tensordot(x.data[stored], old[x.indices[stored]].astype(np.float64), axes=1)
            new[plane] = (z @ (y @ mean_along_x).T).T
        return new[tuple(0 if isinstance(k, int) else slice(None) for k in key)]
