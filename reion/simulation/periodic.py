"""Distances and balls in a periodic box."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def squared_distance(shape: Sequence[int], cell_sides: Sequence[float] = (1.0, 1.0, 1.0)) -> np.ndarray:
    """Squared distance of each cell's centre from that of the first cell, by the shorter way round the box.

    Parameters
    ----------
    shape
        Cells along x, y and z.
    cell_sides
        Sides of a cell along x, y and z. The distance is in their unit.

    Returns
    -------
    numpy.ndarray
        The squared distances, of shape `shape`, float64.
    """
    x, y, z = (
        (np.minimum(np.arange(n), n - np.arange(n)) * np.float64(side)) ** 2
        for n, side in zip(shape, cell_sides, strict=True)
    )
    distance: np.ndarray = x[:, None, None] + y[:, None] + z
    return distance


def ball_counts(shape: Sequence[int], radii_cells: Sequence[float]) -> np.ndarray:
    """How often a ball around the first cell covers each cell: more than once where the ball meets itself.

    Parameters
    ----------
    shape
        Cells along x, y and z.
    radii_cells
        Radii of the ball along x, y and z. The ball covers a cell if it covers its centre.

    Returns
    -------
    numpy.ndarray
        The counts, of shape `shape`, float32, whole numbers.
    """
    reaches = [np.arange(-int(radius), int(radius) + 1) for radius in radii_cells]
    x, y, z = np.meshgrid(*reaches, indexing="ij", sparse=True)
    rx, ry, rz = radii_cells
    inside = (x / rx) ** 2 + (y / ry) ** 2 + (z / rz) ** 2 <= 1.0
    counts = np.zeros(shape, dtype=np.float32)
    cells = [offsets[which] % n for offsets, which, n in zip(reaches, np.nonzero(inside), shape, strict=True)]
    np.add.at(counts, tuple(cells), np.float32(1.0))
    return counts
