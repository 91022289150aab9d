"""The arrays that metrics take and return, and the checks that every metric makes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reion.errors import InputError

Field = np.ndarray
"""A field of a periodic box, real numbers of shape (x, y, z)."""

Transform = np.ndarray
"""The Fourier transform of a real field, complex128 of shape (x, y, z // 2 + 1)."""

Curve = np.ndarray
"""One number for each bin, shell or radius, float64 of shape (bins,)."""


def checked_field(field: np.ndarray, name: str = "field") -> Field:
    """Return `field` as a float array of shape (x, y, z), or raise.

    Raises
    ------
    InputError
        If the field is not three-dimensional, is empty, or holds a value that is not finite (the message
        names the first such cell).
    """
    values = np.asarray(field)
    if values.dtype.kind not in "fiub":
        raise InputError(f"{name}: expected real numbers; received {values.dtype}")
    if values.ndim != 3 or values.size == 0:
        raise InputError(f"{name}: expected an array of shape (x, y, z); received {values.shape}")
    if values.dtype.kind != "f":
        return values.astype(np.float64)
    total = float(values.sum(dtype=np.float64))
    if not np.isfinite(total):
        bad = ~np.isfinite(values)
        if bad.any():
            cell = tuple(int(i) for i in np.unravel_index(int(np.argmax(bad)), values.shape))
            raise InputError(
                f"{name}: expected finite numbers; received {int(bad.sum())} that are not, the first at cell "
                f"{cell}: {values[cell]}"
            )
    return values


def checked_pair(pred: np.ndarray, true: np.ndarray) -> tuple[Field, Field]:
    """Return prediction and truth as checked fields of one shape (see `checked_field`).

    Raises
    ------
    InputError
        If their shapes differ; for the reasons that `checked_field` gives.
    """
    pred, true = checked_field(pred, "prediction"), checked_field(true, "truth")
    if pred.shape != true.shape:
        raise InputError(
            f"expected a prediction of the truth's shape {true.shape}; received {pred.shape}",
            hint="predict on the same grid, or regrid one of the two",
        )
    return pred, true


def checked_box_size(box_size_mpc: float | Sequence[float]) -> tuple[float, float, float]:
    """Return the three comoving sides of the box in Mpc, given one number or three.

    Raises
    ------
    InputError
        If `box_size_mpc` is not one or three positive, finite lengths.
    """
    lengths = np.atleast_1d(np.asarray(box_size_mpc, dtype=np.float64))
    if lengths.shape not in ((1,), (3,)) or not np.all(np.isfinite(lengths)) or np.any(lengths <= 0):
        raise InputError(
            f"expected a box size of one or three positive lengths in Mpc; received {box_size_mpc}"
        )
    x, y, z = np.broadcast_to(lengths, 3).tolist()
    return x, y, z


def is_uniform(field: Field) -> bool:
    """Whether all cells have the same value, up to the rounding of float32 (see `is_uniform_between`)."""
    return is_uniform_between(float(field.min()), float(field.max()))


def is_uniform_between(low: float, high: float) -> bool:
    """Whether a field with these extremes is uniform, up to the rounding of float32 (one part in 1e6)."""
    return high - low <= 1e-6 * max(abs(low), abs(high))
