"""A periodic box in tiles, each predicted from a window that is wider by a halo, so that there are no seams.

The predictor may be any function that takes windows of fields and returns the values inside of their halos.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from reion.errors import InputError
from reion.simulation.contract import Shape

Field = np.ndarray
"""(x, y, z) float32: the values of a field in a box, a window or a tile."""

Slices = tuple[slice, slice, slice]
"""Where a tile lies in the box, along x, y and z."""

_CHUNK_CELLS = 128
"""Longest side of a chunk of the store; a tile that is longer is a whole number of chunks along that axis."""


class Predictor(Protocol):
    """What predicts a tile from its window."""

    def __call__(self, fields: Mapping[str, Field], /, *, periodic: Shape) -> Field:
        """Predict a tile (X, Y, Z).

        The fields have the shape (X + 2 R, Y + 2 R, Z + 2 R), but along an axis where `periodic` is 1 they
        are as long as the box and have no halo. Several values a cell come along a first axis.
        """
        ...


@dataclass(frozen=True)
class Tile:
    """A part of the box: its first cell, and its cells along each axis, of which some may lie beyond."""

    origin: Shape
    shape: Shape


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """A periodic box of `mesh` cells in tiles of one shape.

    Parameters
    ----------
    mesh
        Cells of the box.
    tile
        Cells of a tile; multiples of the predictor's stride; along an axis, one tile may be the whole box.
    halo_cells
        How much wider a window is than its tile, on every side.
    """

    mesh: Shape
    tile: Shape
    halo_cells: int

    @property
    def counts(self) -> Shape:
        """Number of tiles along each axis."""
        x, y, z = (-(-n // side) for n, side in zip(self.mesh, self.tile, strict=True))
        return (x, y, z)

    @property
    def periodic(self) -> Shape:
        """1 for each axis along which one tile is the whole box: the predictor wraps it itself."""
        x, y, z = (int(count == 1) for count in self.counts)
        return (x, y, z)

    @property
    def chunk(self) -> Shape:
        """Cells of the chunks of the store, chosen so that no two tiles share a chunk."""
        sides = (min(side, n) for side, n in zip(self.tile, self.mesh, strict=True))
        x, y, z = (-(-side // math.ceil(side / _CHUNK_CELLS)) for side in sides)
        return (x, y, z)

    @property
    def cells_computed(self) -> int:
        """Cells of the windows of all tiles."""
        return len(self) * math.prod(self.window(self[0])[1])

    def __len__(self) -> int:
        return math.prod(self.counts)

    def __getitem__(self, number: int) -> Tile:
        i, j, k = np.unravel_index(number, self.counts)
        x, y, z = self.tile
        return Tile((int(i) * x, int(j) * y, int(k) * z), self.tile)

    def __iter__(self) -> Iterator[Tile]:
        return map(self.__getitem__, range(len(self)))

    def place(self, number: int) -> Slices:
        """Where a tile lies in the box, cut off where the box ends."""
        x, y, z = (
            slice(start, min(start + side, n))
            for start, side, n in zip(self[number].origin, self.tile, self.mesh, strict=True)
        )
        return (x, y, z)

    def cells(self, number: int) -> int:
        """Cells of a tile that lie in the box."""
        return math.prod(axis.stop - axis.start for axis in self.place(number))

    def window(self, tile: Tile) -> tuple[Shape, Shape]:
        """Return origin (which may be negative) and shape of the window that a tile is predicted from."""
        origin, shape = [], []
        for start, side, n, whole in zip(tile.origin, tile.shape, self.mesh, self.periodic, strict=True):
            origin.append(0 if whole else start - self.halo_cells)
            shape.append(n if whole else side + 2 * self.halo_cells)
        return (origin[0], origin[1], origin[2]), (shape[0], shape[1], shape[2])

    def inner(self, window: Field, number: int) -> Field:
        """The cells of a window that belong to its tile and lie in the box."""
        x, y, z = (
            slice(halo := 0 if whole else self.halo_cells, halo + axis.stop - axis.start)
            for axis, whole in zip(self.place(number), self.periodic, strict=True)
        )
        return window[x, y, z]


def cheapest_tiles(
    mesh: Sequence[int],
    *,
    halo_cells: int,
    stride_cells: int,
    needed_bytes: Callable[[Shape], float],
    allowed_bytes: float,
) -> Tiling:
    """Choose the tiles that fit in memory and whose windows have the fewest cells in all.

    A tile that is as long as the box has no halo along that axis, which is why tiles are rods and slabs
    rather than cubes where the halo is wide. Among tilings with as many cells, the one with the fewest tiles
    is taken, and of these the one that is cut along x first, where the cells of a tile lie side by side.

    Parameters
    ----------
    needed_bytes
        Gives the bytes that predicting a tile of some shape takes.

    Raises
    ------
    InputError
        If not even the smallest tile fits; the message says what it takes.
    """
    nx, ny, nz = mesh
    lengths = [_sides(n, stride_cells) for n in mesh]
    counts = np.meshgrid(
        *([-(-n // side) for side in sides] for n, sides in zip(mesh, lengths, strict=True)), indexing="ij"
    )
    # The windows of a tiling have together what those along each axis have, multiplied.
    along = [
        [n if side >= n else -(-n // side) * (side + 2 * halo_cells) for side in sides]
        for n, sides in zip(mesh, lengths, strict=True)
    ]
    x_cells, y_cells, z_cells = np.meshgrid(*(np.array(cells, dtype=float) for cells in along), indexing="ij")
    computed = x_cells * y_cells * z_cells
    x_count, y_count, z_count = (count.ravel() for count in counts)
    ranked = np.lexsort((y_count, z_count, x_count * y_count * z_count, computed.ravel()))
    for number in ranked:
        i, j, k = np.unravel_index(number, computed.shape)
        tile = (lengths[0][i], lengths[1][j], lengths[2][k])
        if needed_bytes(tile) <= allowed_bytes:
            return Tiling(mesh=(nx, ny, nz), tile=tile, halo_cells=halo_cells)
    needed = needed_bytes((lengths[0][-1], lengths[1][-1], lengths[2][-1]))
    raise InputError(
        f"a box of {nx} x {ny} x {nz} cells needs at least {math.ceil(needed / 2**20)} MiB of memory "
        f"beside the program itself; {max(0, math.floor(allowed_bytes / 2**20))} MiB are allowed",
        hint="give more with --memory",
    )


def _sides(cells: int, stride_cells: int) -> list[int]:
    """Lengths that tiles may have along an axis, the longest first."""
    sides = []
    count = 1
    while True:
        side = _side(cells, count, stride_cells)
        sides.append(side)
        if side <= stride_cells:
            return sides
        while _side(cells, count, stride_cells) >= side:
            count += 1


def _side(cells: int, count: int, stride_cells: int) -> int:
    """Length of a tile when `count` of them cover `cells`."""
    side = -(-cells // count)
    chunks = math.ceil(side / _CHUNK_CELLS) if count > 1 else 1
    unit = chunks * stride_cells
    return -(-side // unit) * unit


def read_window(box: Any, origin: Shape, shape: Shape) -> Field:
    """Read a window of a periodic box into a new array.

    Parameters
    ----------
    box
        Anything that gives arrays for slices along three axes: an array, a Zarr array, a lazy DataArray.
    origin, shape
        May reach beyond the box on either side, also more than once around it.
    """
    window = np.empty(shape, dtype=np.float32)
    along = [segments(*axis) for axis in zip(origin, shape, box.shape, strict=True)]
    for parts in itertools.product(*along):
        in_box, in_window = zip(*parts, strict=True)
        window[in_window] = box[in_box]
    return window


def segments(origin: int, length: int, cells: int) -> list[tuple[slice, slice]]:
    """A window along one periodic axis as contiguous parts: for each its slices of the box and the window."""
    parts, done = [], 0
    while done < length:
        start = (origin + done) % cells
        size = min(length - done, cells - start)
        parts.append((slice(start, start + size), slice(done, done + size)))
        done += size
    return parts


def predict_tile(predict: Predictor, fields: Mapping[str, Any], tiling: Tiling, number: int) -> Field:
    """Predict one tile of a box, cut off where the box ends.

    Parameters
    ----------
    predict
        See `Predictor`.
    fields
        Name to periodic box, see `read_window`.
    """
    origin, shape = tiling.window(tiling[number])
    windows = {name: read_window(box, origin, shape) for name, box in fields.items()}
    x, y, z = tiling.place(number)
    values = predict(windows, periodic=tiling.periodic)
    return values[..., : x.stop - x.start, : y.stop - y.start, : z.stop - z.start]
