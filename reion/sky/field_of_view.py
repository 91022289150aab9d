"""Light cones with the same field of view on the sky at every distance, as an instrument sees them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reion.errors import InputError
from reion.metrics.fields import Curve, Field
from reion.storage.store import consolidate, plain

WIDEST_DEGREES = 30.0
"""Widest field of view for which the sky is taken as flat."""

_ALONG = ("distance", "redshift", "frequency")
_ACROSS = ("theta_x", "theta_y")


def check_field_of_view(degrees: float, farthest_mpc: float, sides_mpc: Sequence[float]) -> None:
    """Check a field of view.

    Parameters
    ----------
    degrees
        The field of view.
    farthest_mpc
        Comoving distance of the far end of the cone.
    sides_mpc
        Comoving sides of the box across the line of sight.

    Raises
    ------
    InputError
        If the field of view is not above 0 and at most `WIDEST_DEGREES`.

    Warns
    -----
    UserWarning
        If the field of view is wider than the box at the far end of the cone.
    """
    if not 0 < degrees <= WIDEST_DEGREES:
        raise InputError(
            f"expected a field of view above 0 and up to {WIDEST_DEGREES:g} degrees; received {degrees:g}"
        )
    width = np.radians(degrees) * farthest_mpc
    if width > min(sides_mpc) * (1 + 1e-6):
        warnings.warn(
            f"{degrees:g} degrees are {width:.0f} Mpc at the far end of the cone, and the box has "
            f"{min(sides_mpc):.0f}: structure repeats across",
            stacklevel=3,
        )


def on_the_sky(planes: Field, sides_mpc: Sequence[float], distance_mpc: Curve, degrees: float) -> Field:
    """Cut or repeat planes of a periodic box to the width of a field of view at their distances.

    A pixel holds the mean over its area. The sky is flat: an angle θ is θ times the comoving distance across.

    Parameters
    ----------
    planes
        Shape (x, y, distance).
    sides_mpc
        Comoving sides of the box along x and y.
    distance_mpc
        Comoving distance of each plane, shape (distance,).
    degrees
        Width of the field of view, the same along x and y; its middle is that of the box.

    Returns
    -------
    numpy.ndarray
        float32, the shape of `planes`: each plane has as many pixels as cells.
    """
    out = np.empty(planes.shape, dtype=np.float32)
    for index, distance in enumerate(distance_mpc):
        plane = planes[..., index].astype(np.float64)
        for axis, side in enumerate(sides_mpc):
            cells = planes.shape[axis]
            width = np.radians(degrees) * distance / side
            edges = cells * (0.5 + width * (np.arange(cells + 1) / cells - 0.5))
            plane = np.moveaxis(_means(np.moveaxis(plane, axis, 0), edges), 0, axis)
        out[..., index] = plane
    return out


def _means(values: Field, edges: Curve) -> Field:
    """Means of a periodic, piecewise constant function between edges, in cells, along the first axis."""
    cells = values.shape[0]
    sums = np.concatenate([np.zeros((1, *values.shape[1:])), np.cumsum(values, axis=0)])
    turns, rest = np.divmod(edges, cells)
    whole = np.minimum(rest.astype(np.int64), cells - 1)
    integral = turns[:, None] * sums[-1] + sums[whole] + (rest - whole)[:, None] * values[whole]
    means: Field = np.diff(integral, axis=0) / np.diff(edges)[:, None]
    return means


def write_on_the_sky(cone: Any, folder: Path, degrees: float, sides_mpc: Sequence[float]) -> None:
    """Write the store of a light cone with a field of view.

    Parameters
    ----------
    cone
        The Zarr group of the light cone whose planes are as wide as the box.
    folder
        Path of the new store. Its variables have dimensions (theta_x, theta_y, distance).
    """
    import zarr

    group = zarr.open_group(folder, mode="w", zarr_format=3)
    group.attrs.update(plain({**cone.attrs, "field_of_view_degrees": degrees}))
    shape = next(array.shape for _, array in cone.arrays() if array.ndim == 3)
    for name, pixels in zip(_ACROSS, shape, strict=False):
        angles = degrees * ((np.arange(pixels) + 0.5) / pixels - 0.5)
        array = group.create_array(name, data=angles, dimension_names=(name,))
        array.attrs.update(units="degrees", long_name="angle from the middle of the field of view")
    for name in _ALONG:
        array = group.create_array(name, data=cone[name][...], dimension_names=("distance",))
        array.attrs.update(cone[name].attrs)
    distance = cone["distance"][...]
    for name, source in cone.arrays():
        if source.ndim != 3:
            continue
        array = group.create_array(
            name,
            shape=source.shape,
            dtype=source.dtype,
            chunks=source.chunks,
            compressors=source.compressors,
            fill_value=source.fill_value,
            dimension_names=(*_ACROSS, "distance"),
        )
        array.attrs.update(source.attrs)
        for start in range(0, source.shape[2], source.chunks[2]):
            part = slice(start, start + source.chunks[2])
            array[..., part] = on_the_sky(source[..., part], sides_mpc, distance[part], degrees)
    consolidate(group)
