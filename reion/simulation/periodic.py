"""Distances and balls in a periodic box."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def squared_distance(shape: Sequence[int], cell_sides: Sequence[float] = (1.0, 1.0, 1.0)) -> np.ndarray:
    """Squared distance of every cell's centre from that of the first cell, round the box where it is nearer.

    Parameters
    ----------
    shape
        Cells along x, y and z.
    cell_sides
        Of a cell along x, y and z; the distance is in their unit.

    Returns
    -------
    numpy.ndarray
        Of that shape, float64. Cells within a radius are a ball around the first cell, or the whole box.
    """
    x, y, z = (
        (np.minimum(np.arange(n), n - np.arange(n)) * np.float64(side)) ** 2
        for n, side in zip(shape, cell_sides, strict=True)
    )
    distance: np.ndarray = x[:, None, None] + y[:, None] + z
    return distance


def ball_counts(shape: Sequence[int], radii_cells: Sequence[float]) -> np.ndarray:
    """How often a ball around the first cell reaches each cell, which is more than once if it meets itself.

    Parameters
    ----------
    shape
        Cells along x, y and z.
    radii_cells
        Of the ball along x, y and z. It reaches a cell if it reaches the cell's centre.

    Returns
    -------
    numpy.ndarray
        Of that shape, float32, whole numbers.
    """
    reaches = [np.arange(-int(radius), int(radius) + 1) for radius in radii_cells]
    x, y, z = np.meshgrid(*reaches, indexing="ij", sparse=True)
    rx, ry, rz = radii_cells
    inside = (x / rx) ** 2 + (y / ry) ** 2 + (z / rz) ** 2 <= 1.0
    counts = np.zeros(shape, dtype=np.float32)
    cells = [offsets[which] % n for offsets, which, n in zip(reaches, np.nonzero(inside), shape, strict=True)]
    np.add.at(counts, tuple(cells), np.float32(1.0))
    return counts
