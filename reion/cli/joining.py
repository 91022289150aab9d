"""An ionised fraction and the gas that it belongs to, named by two places on the command line."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reion.cli.options import parse_settings

if TYPE_CHECKING:
    import xarray as xr


def joined(
    xi: Path,
    xi_format: str | None,
    xi_settings: Sequence[str] | None,
    sources: Sequence[Path] | None,
    format_: str | None,
    settings: Sequence[str] | None,
) -> xr.Dataset:
    """The Simulation of `sources` with the ionised fraction at `xi`; that at `xi` alone without any."""
    from reion.readers import open_simulation
    from reion.simulation.contract import require_fields
    from reion.simulation.joining import with_xi

    facts: Mapping[str, Any] = parse_settings(xi_settings)
    own = open_simulation(xi, format=xi_format, settings=facts)
    if not sources:
        require_fields(own, ["xi"], purpose="this command", file=str(xi))
        return own
    sim = open_simulation(sources, format=format_, settings=parse_settings(settings))
    return with_xi(sim, own, file=str(xi))


def opened(sources: Sequence[Path], format_: str | None, settings: Sequence[str] | None) -> xr.Dataset:
    """The Simulation of `sources`; where the first is a store with xi and others follow, the two joined.

    A store is a simulation by itself, so that one among several sources can be nothing else.
    """
    from reion.readers import open_simulation
    from reion.readers.zarr import is_store
    from reion.simulation.joining import with_xi

    first, *others = sources
    own = open_simulation(first) if others and is_store(first) else None
    if own is None or "xi" not in own.data_vars:
        return open_simulation(sources, format=format_, settings=parse_settings(settings))
    sim = open_simulation(others, format=format_, settings=parse_settings(settings))
    both = with_xi(sim, own, file=str(first))
    if both.sizes["redshift"] < sim.sizes["redshift"] and "n_src" in sim and "n_ion" not in sim:
        left_out = sorted(set(sim["redshift"].values) - set(both["redshift"].values), reverse=True)
        warnings.warn(
            f"{first} has no xi at z = {', '.join(f'{z:g}' for z in left_out)}: photons of the sources there "
            "are not counted; `reion convert` stores the photons emitted so far, which are counted whole",
            stacklevel=2,
        )
    return both
