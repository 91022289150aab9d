"""Sources from a list onto the mesh."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from reion_kernels._jit import FLOAT, kernel, target
from reion_kernels._layout import Real, check_real

Scheme = Literal["nearest", "cloud_in_cell"]


def deposit(
    positions: Real, rates: Real, shape: tuple[int, int, int], *, scheme: Scheme = "nearest"
) -> NDArray[np.float64]:
    """Add up sources in the cells of a periodic mesh.

    Parameters
    ----------
    positions
        (sources, 3), float32 or float64, in cells: cell i covers i to i + 1. Positions outside the box are
        wrapped.
    rates
        (sources,), float32 or float64: the value that each source adds, in any unit. NaN and infinities are
        added like any number.
    shape
        Cells along x, y, z.
    scheme
        ``"nearest"``: adds the rate to the cell of the source. ``"cloud_in_cell"``: divides it over the eight
        cells that a cube of one cell around the source overlaps, by volume (Hockney & Eastwood 1981, section
        5-3).

    Returns
    -------
    ndarray
        float64 array of `shape`: the sum in each cell, added in the order of the list. Divide it by the
        volume of a cell for a rate per volume.

    Raises
    ------
    TypeError
        If an array has another dtype.
    ValueError
        If the shapes do not fit, a position is not finite, a length is not positive, or `scheme` is unknown.
    """
    check_real(positions, "positions")
    check_real(rates, "rates")
    if scheme not in ("nearest", "cloud_in_cell"):
        message = f"scheme: expected nearest or cloud_in_cell. Received: {scheme!r}"
        raise ValueError(message)
    if rates.ndim != 1 or positions.shape != (rates.size, 3):
        message = (
            "positions, rates: expected shapes (sources, 3) and (sources,). "
            f"Received: {positions.shape} and {rates.shape}"
        )
        raise ValueError(message)
    if len(shape) != 3 or min(shape) < 1:
        message = f"shape: expected three positive numbers of cells. Received: {shape}"
        raise ValueError(message)
    wrong = np.flatnonzero(~np.isfinite(positions).all(axis=1))
    if wrong.size:
        message = f"positions: expected finite numbers. Received: {positions[wrong[0]]} for source {wrong[0]}"
        raise ValueError(message)
    mesh = np.zeros(shape)
    scatter = _scatter_clouds if scheme == "cloud_in_cell" else _scatter_points
    # Lists are small compared with meshes: converting them to float64 costs little and saves three
    # compilations.
    scatter(positions.astype(np.float64, order="C"), rates.astype(np.float64), mesh)
    return mesh


@kernel((target(FLOAT, 2), target(FLOAT), target(FLOAT, 3)))
def _scatter_points(positions, rates, mesh):  # type: ignore[no-untyped-def]
    # Cells are wrapped as floats, because a position may be outside the range of integers.
    n_x, n_y, n_z = mesh.shape
    for s in range(len(rates)):
        x = int(np.floor(positions[s, 0]) % n_x)
        y = int(np.floor(positions[s, 1]) % n_y)
        z = int(np.floor(positions[s, 2]) % n_z)
        mesh[x, y, z] += rates[s]


@kernel((target(FLOAT, 2), target(FLOAT), target(FLOAT, 3)))
def _scatter_clouds(positions, rates, mesh):  # type: ignore[no-untyped-def]
    # Along each axis the cube around the source covers two cells. The share of the upper one is the distance,
    # in cells, of the source from the middle of the lower one.
    cells = np.empty((2, 3), dtype=np.int64)
    shares = np.empty((2, 3), dtype=np.float64)
    for s in range(len(rates)):
        for axis in range(3):
            n = mesh.shape[axis]
            place = positions[s, axis] - 0.5
            lower = np.floor(place)
            cells[0, axis] = int(lower % n)
            cells[1, axis] = (cells[0, axis] + 1) % n
            shares[1, axis] = place - lower
            shares[0, axis] = 1.0 - shares[1, axis]
        for c in range(2):
            for b in range(2):
                for a in range(2):
                    share = rates[s] * shares[a, 0] * shares[b, 1] * shares[c, 2]
                    mesh[cells[a, 0], cells[b, 1], cells[c, 2]] += share
