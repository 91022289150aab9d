"""Checks that Python callers pass what a function expects, and says in words what they passed."""

from __future__ import annotations

import xarray as xr

from reion.errors import InputError


def require_dataset(sim: object, file: str | None = None) -> None:
    """Raise `InputError` if `sim` is no Dataset, such as a path or an array."""
    if not isinstance(sim, xr.Dataset):
        raise InputError(
            f"expected a Simulation, which is an xarray.Dataset; received {described(sim)}",
            file=file,
            hint="reion.open_simulation reads one from files, reion.make_simulation makes one of arrays",
        )


def described(value: object) -> str:
    """The type of a value, with its shape if it has one, such as `numpy.ndarray of shape (4, 4)`."""
    shape = getattr(value, "shape", None)
    kind = f"{type(value).__module__.partition('.')[0]}.{type(value).__name__}".removeprefix("builtins.")
    return kind if shape is None else f"{kind} of shape {shape}"
