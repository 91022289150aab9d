"""The cells of a sphere around a source, in the order in which its light meets them."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

INT32 = np.int32
FLOAT32 = np.float32


class Sphere(NamedTuple):
    """Geometry of the rays from the middle of a source's cell to the middles of the cells around.

    It is the same for every source. Cells are sorted by layers: layer n is the shell of a cube of 2 n + 1
    cells a side. A ray enters a cell of layer n from up to four cells of layer n - 1 (Raga et al. 1999;
    Mellema, Iliev, Alvarez & Shapiro 2006, appendix A).

    Attributes
    ----------
    offsets
        (cells, 3), int32: cells relative to the source; the source's own is the first.
    layers
        (layers + 1,), int64: index of the first cell of each layer and, last, the number of cells.
    upstream
        (cells, 4), int32: indices, within the layer before, of the cells through which a ray comes.
    weights
        (cells, 4), float32: share of each of these cells, from the point where the ray crosses their layer.
    path
        (cells,), float32: length of the ray within the cell, in cells; half a cell for the source's own.
    spread
        (cells,), float32: path / volume of the shell, 1 / (4 pi r^2) in cells; see `build` for the two ways.
    leaving
        (cells,), float32: share of all directions in which rays leave the sphere behind this cell.
    columns, column
        (columns, 2) and (cells,), int32: the distinct (x, y) of the offsets, and the index among them of each
        cell.
    height
        (cells,), int32: z of the offset, counted from the lowest.
    """

    offsets: NDArray[np.int32]
    layers: NDArray[np.int64]
    upstream: NDArray[np.int32]
    weights: NDArray[np.float32]
    path: NDArray[np.float32]
    spread: NDArray[np.float32]
    leaving: NDArray[np.float32]
    columns: NDArray[np.int32]
    column: NDArray[np.int32]
    height: NDArray[np.int32]


def sphere(radius_cells: float, shape: tuple[int, ...], *, conserve: bool) -> Sphere:
    """Return the cells within a distance of a source on a periodic mesh.

    Parameters
    ----------
    radius_cells
        A cell belongs to the sphere if its middle is not farther than this from the middle of the source's
        cell.
    shape
        Cells of the mesh. Where the sphere is wider than the mesh, a cell is reached through its nearest
        image, or through several that are equally near, and the rest of the sphere is left out.
    conserve
        Divide the solid angles of the cells by their sum over the layer (0.938, 0.977, 0.990, ...), so that
        every photon meets every layer once.

    Returns
    -------
    Sphere
        It takes about 60 bytes a cell. The last few spheres are cached.
    """
    reach = tuple(min(int(radius_cells), n // 2) for n in shape)
    return build(math.floor(min(radius_cells, math.sqrt(3) * max(reach)) ** 2 + 1e-9), reach, conserve)


@lru_cache(maxsize=4)
def build(radius_squared: int, reach: tuple[int, ...], conserve: bool) -> Sphere:
    """Make the sphere of a squared radius in cells that reaches no farther than `reach` along each axis."""
    # The cells just outside are included first, because they give the share that leaves.
    outer = math.sqrt(radius_squared) + 2.0
    offsets, layer = _by_layers(math.floor(outer**2), tuple(n + 1 for n in reach))
    starts = np.searchsorted(layer, np.arange(layer[-1] + 2))
    upstream, weights = _upstream(offsets, layer, starts)
    distance = np.sqrt((offsets.astype(np.float64) ** 2).sum(axis=1))
    path = np.full(len(layer), 0.5)
    path[1:] = distance[1:] / layer[1:]
    spread = np.full(len(layer), 0.5)
    spread[1:] = 1.0 / (4.0 * math.pi * distance[1:] ** 2)
    solid_angle = np.ones(len(layer))
    solid_angle[1:] = spread[1:] / path[1:] / _layer_sums(layer[-1])[layer[1:]]
    if conserve:
        spread[1:] = solid_angle[1:] * path[1:]

    inside = (offsets**2).sum(axis=1) <= radius_squared
    inside &= (np.abs(offsets) <= np.array(reach)).all(axis=1)
    before = upstream + starts[np.maximum(layer - 1, 0)][:, None]
    leaving = np.zeros(len(layer))
    np.add.at(leaving, before[~inside], weights[~inside] * solid_angle[~inside, None])
    leaving = leaving[inside] / leaving[inside].sum()  # without gas all photons leave

    # Indices of cells within a layer, without the cells outside.
    number = np.cumsum(inside) - 1
    kept = np.searchsorted(layer[inside], np.arange(layer[inside][-1] + 2))
    upstream = np.where(weights > 0, number[before] - kept[np.maximum(layer - 1, 0)][:, None], -1)[inside]
    # A neighbour with a weight of zero may be outside; any other index may replace it.
    upstream = np.where(upstream < 0, upstream.max(axis=1, keepdims=True), upstream)
    offsets = offsets[inside]
    columns, column = np.unique(offsets[:, :2], axis=0, return_inverse=True)
    return Sphere(
        offsets=_line(offsets, INT32),
        layers=_line(kept, np.int64),
        upstream=_line(np.maximum(upstream, 0), INT32),
        weights=_line(weights[inside], FLOAT32),
        path=_line(path[inside], FLOAT32),
        spread=_line(spread[inside], FLOAT32),
        leaving=_line(leaving, FLOAT32),
        columns=_line(columns, INT32),
        column=_line(column.reshape(-1), INT32),
        height=_line(offsets[:, 2] - offsets[:, 2].min(), INT32),
    )


def _by_layers(radius_squared: int, reach: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Offsets within the sphere and the box, sorted by layer and then x, y, z, and their layers."""
    widest = math.isqrt(radius_squared)
    x, y, z = np.ogrid[tuple(slice(-min(widest, n), min(widest, n) + 1) for n in reach)]
    at = np.nonzero(x**2 + y**2 + z**2 <= radius_squared)
    offsets = np.stack([i - min(widest, n) for i, n in zip(at, reach, strict=True)], axis=1)
    layer = np.abs(offsets).max(axis=1)
    order = np.argsort(layer, kind="stable")
    return offsets[order], layer[order]


def _upstream(
    offsets: NDArray[np.int64], layer: NDArray[np.int64], starts: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The four cells before each cell, as indices within the layer before, and their weights."""
    cells = np.arange(len(offsets))
    low = offsets.min(axis=0)
    lookup = np.zeros(offsets.max(axis=0) - low + 1, dtype=np.int64)
    lookup[tuple((offsets - low).T)] = cells - starts[layer]
    forward = np.argmax(np.abs(offsets), axis=1)
    sideways = [(forward + 1) % 3, (forward + 2) % 3]
    step = np.sign(offsets)
    slant = [np.abs(offsets[cells, axis]) / np.maximum(layer, 1) for axis in sideways]
    upstream = np.zeros((len(offsets), 4), dtype=np.int64)
    weights = np.zeros((len(offsets), 4))
    for corner in range(4):
        before = offsets.copy()
        before[cells, forward] -= step[cells, forward]
        weight = (layer > 0).astype(np.float64)
        for axis, along, bit in zip(sideways, slant, (1, 2), strict=True):
            if corner & bit:
                before[cells, axis] -= step[cells, axis]
            weight = weight * (along if corner & bit else 1.0 - along)
        weights[:, corner] = weight
        real = weight > 0
        upstream[real, corner] = lookup[tuple((before[real] - low).T)]
    return upstream, weights


def _layer_sums(layers: int) -> NDArray[np.float64]:
    """Sum of the solid angles n / (4 pi r^3) over each whole layer, in units of the sphere."""

    def angle(*offset: Any) -> Any:
        return n / (4.0 * math.pi * sum(axis**2 for axis in offset) ** 1.5)

    sums = np.ones(layers + 1)
    for n in range(1, layers + 1):
        side = np.arange(1 - n, n)
        faces = angle(n, side[:, None], side).sum()
        sums[n] = 6.0 * faces + 12.0 * angle(n, n, side).sum() + 8.0 * angle(n, n, n)
    return sums


def _line(values: NDArray[Any], dtype: Any) -> NDArray[Any]:
    return np.ascontiguousarray(values, dtype=dtype)
