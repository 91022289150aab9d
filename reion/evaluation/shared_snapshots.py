"""The snapshots that a simulation and several ionised fractions share."""

from __future__ import annotations

from collections.abc import Mapping

import xarray as xr

from reion.simulation.joining import matching_snapshots


def shared_snapshots(
    fields: Mapping[str, xr.DataArray], sim: xr.Dataset
) -> tuple[dict[str, dict[int, int]], list[int]]:
    """Find the snapshots of a simulation that each xi has, and those that all of them have.

    Parameters
    ----------
    fields
        Ionised fractions by name, with dimensions (redshift, x, y, z).

    Returns
    -------
    tuple of dict and list
        For each xi, its snapshot numbers by the numbers of the same snapshots in the simulation (see
        `reion.simulation.joining.matching_snapshots`); and the numbers, in the simulation, of the snapshots
        that all have, in order.

    Raises
    ------
    InputError
        If the meshes or the boxes differ.
    """
    indices = {name: dict(matching_snapshots(name, xi, sim)) for name, xi in fields.items()}
    count = sim.sizes["redshift"]
    return indices, [i for i in range(count) if all(i in index for index in indices.values())]
