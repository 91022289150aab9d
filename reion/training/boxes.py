"""Properties that the boxes of one training must share: the cell size and the unit of the sources."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from reion.config import InputSet, RunConfig
from reion.errors import InputError
from reion.registry import STEMS
from reion.simulation.contract import (
    CELL_SIZE_TOLERANCE,
    FIELDS,
    SOURCE_UNITS,
    cubic_cell_size_mpc,
    n_ion_units,
)


def require_together(config: RunConfig, simulations: Sequence[xr.Dataset]) -> None:
    """Refuse simulations on which one network cannot be trained.

    Raises
    ------
    InputError
        If there is no simulation, if their cell sizes differ and the network serves only one, or if the units
        of their sources differ.
    """
    if not simulations:
        raise InputError("expected at least one simulation to train on; received none")
    sizes = [cubic_cell_size_mpc(sim) for sim in simulations]
    if not are_alike(sizes) and not STEMS.find(config.network.stem).any_cell_size:
        raise InputError(
            "expected simulations of one cell size; received " + ", ".join(f"{size:g} Mpc" for size in sizes),
            hint="bring them to one with `reion convert --cell-size MPC`, or train the network for any: "
            "--set model.name=transport",
        )
    units = {source_units(sim, config.data.inputs) for sim in simulations}
    if len(units) > 1:
        raise InputError(f"expected sources in one unit; received {', '.join(sorted(units))}")


def are_alike(sizes_mpc: Sequence[float]) -> bool:
    """Whether these cell sizes are equal within the tolerance of the contract."""
    return max(sizes_mpc) <= min(sizes_mpc) * (1 + CELL_SIZE_TOLERANCE)


def source_units(sim: xr.Dataset, inputs: InputSet) -> str:
    """The unit of n_src in which a simulation gives its sources.

    With `history` inputs and a stored n_ion it follows from the unit of n_ion, which is that unit times
    1e18 s. Otherwise it is the unit of n_src, from which n_ion is added up if the inputs need it.
    """
    if inputs == "history" and "n_ion" in sim.data_vars:
        return rate_units(sim["n_ion"].attrs["units"])
    if "n_src" in sim.data_vars:
        return str(sim["n_src"].attrs["units"])
    return FIELDS["n_src"].units[0]


def rate_units(units_of_n_ion: str) -> str:
    """The unit of n_src for a unit of n_ion; inverse of `reion.simulation.contract.n_ion_units`."""
    return {n_ion_units(unit): unit for unit in SOURCE_UNITS}[units_of_n_ion]


def redshift_range(simulations: Sequence[xr.Dataset]) -> tuple[float, float]:
    """The lowest and the highest redshift of any snapshot."""
    values = np.concatenate([sim["redshift"].values for sim in simulations])
    return float(values.min()), float(values.max())
