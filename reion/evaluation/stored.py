"""What a store that `reion predict` wrote holds beside xi: its error bar, and what the model warned of."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import xarray as xr

from reion.readers.zarr import is_store

SPREAD = "xi_std"


@contextlib.contextmanager
def error_bar_is_used() -> Iterator[None]:
    """Opening a store with xi_std does not warn that xi_std is not used: whoever opens it here uses it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=rf"not used: {SPREAD} in [^,]*$")
        yield


def attributes_of_xi(place: Path) -> dict[str, Any]:
    """What a Zarr store says of the xi in it, such as the model that predicted it; nothing of other files."""
    if not is_store(place):
        return {}
    import zarr

    group = zarr.open_group(place, mode="r")
    return dict(group["xi"].attrs) if "xi" in group else {}


def warnings_in(attributes: Mapping[str, Any]) -> list[str]:
    """What the model warned of when it predicted xi with these attributes."""
    return str(attributes.get("warnings", "")).splitlines()


def spread_of(place: Path) -> xr.DataArray | None:
    """`xi_std` (redshift, x, y, z) in a Zarr store, not yet read; None where there is none, or no store."""
    if not is_store(place):
        return None
    stored = xr.open_dataset(place, engine="zarr", chunks=None)
    return stored[SPREAD] if SPREAD in stored.data_vars else None
