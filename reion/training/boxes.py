"""What the boxes of one training have in common: the size of their cells, the unit of their sources."""

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
    """Refuse simulations that one network cannot be trained on together.

    Raises
    ------
    InputError
        If there is none, their cells have several sizes and the network serves only one, or their sources
        have several units.
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
    """Whether these cell sizes count as one."""
    return max(sizes_mpc) <= min(sizes_mpc) * (1 + CELL_SIZE_TOLERANCE)


def source_units(sim: xr.Dataset, inputs: InputSet) -> str:
    """The unit of n_src in which a simulation has its sources.

    It is that of the field that the network is given: of n_src with `instant` inputs; with `history` of
    n_ion, which is in that unit times 1e18 s, or of the n_src that n_ion is added up from.
    """
    if inputs == "history" and "n_ion" in sim.data_vars:
        return rate_units(sim["n_ion"].attrs["units"])
    if "n_src" in sim.data_vars:
        return str(sim["n_src"].attrs["units"])
    return FIELDS["n_src"].units[0]


def rate_units(units_of_n_ion: str) -> str:
    """The unit of n_src of which n_ion is added up; inverse of `reion.simulation.contract.n_ion_units`."""
    return {n_ion_units(unit): unit for unit in SOURCE_UNITS}[units_of_n_ion]


def redshift_range(simulations: Sequence[xr.Dataset]) -> tuple[float, float]:
    """The lowest and the highest redshift of any snapshot."""
    values = np.concatenate([sim["redshift"].values for sim in simulations])
    return float(values.min()), float(values.max())
