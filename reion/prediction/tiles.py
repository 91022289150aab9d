"""Cut a periodic box into tiles, each predicted from a window that is wider by a halo: there are no seams.

The predictor may be any function that takes windows of fields and returns the values inside their halos.
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
    """A function that predicts a tile from its window."""

    def __call__(self, fields: Mapping[str, Field], /, *, periodic: Shape) -> Field:
        """Predict a tile (X, Y, Z).

        The fields have the shape (X + 2 R, Y + 2 R, Z + 2 R) with the halo R, but along an axis where
        `periodic` is 1 they are as long as the box and have no halo. If the predictor has several outputs,
        they are along a first axis.
        """
        ...


@dataclass(frozen=True)
class Tile:
    """A part of the box: its first cell, and its cells along each axis, which may go beyond the box."""

    origin: Shape
    shape: Shape


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """A periodic box cut into tiles of equal shape.

    Parameters
    ----------
    mesh
        Cells of the box along each axis.
    tile
        Cells of a tile along each axis, multiples of the predictor's stride. One tile may span the box.
    halo_cells
        Cells that a window is wider than its tile, on every side.
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
        """1 for each axis along which one tile spans the box, which the predictor then wraps; otherwise 0."""
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
        """The slices of a tile in the box, cut off where the box ends."""
        x, y, z = (
            slice(start, min(start + side, n))
            for start, side, n in zip(self[number].origin, self.tile, self.mesh, strict=True)
        )
        return (x, y, z)

    def cells(self, number: int) -> int:
        """Cells of a tile that lie in the box."""
        return math.prod(axis.stop - axis.start for axis in self.place(number))

    def window(self, tile: Tile) -> tuple[Shape, Shape]:
        """The origin, which may be negative, and the shape of the window of a tile."""
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
    """Choose the tiles that fit in memory and whose windows have the fewest cells in total.

    A tile that spans the box has no halo along that axis; if the halo is wide, tiles are therefore rods and
    slabs rather than cubes. Among tilings with equally many cells, the one with the fewest tiles is taken,
    and among these the one that is cut along x first, because cells with the same x are contiguous in memory.

    Parameters
    ----------
    mesh
        Cells of the box along each axis.
    halo_cells, stride_cells
        Halo and stride of the predictor.
    needed_bytes
        Returns the bytes that the prediction of a tile of a given shape takes.
    allowed_bytes
        Memory that the prediction of a tile may take.

    Raises
    ------
    InputError
        If not even the smallest tile fits; the message gives the memory that it takes.
    """
    nx, ny, nz = mesh
    lengths = [_sides(n, stride_cells) for n in mesh]
    counts = np.meshgrid(
        *([-(-n // side) for side in sides] for n, sides in zip(mesh, lengths, strict=True)), indexing="ij"
    )
    # The cells of all windows of a tiling are the product of the window lengths summed along each axis.
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
    """Length of a tile if `count` tiles cover `cells` cells."""
    side = -(-cells // count)
    chunks = math.ceil(side / _CHUNK_CELLS) if count > 1 else 1
    unit = chunks * stride_cells
    return -(-side // unit) * unit


def read_window(box: Any, origin: Shape, shape: Shape) -> Field:
    """Read a window of a periodic box into a new array.

    Parameters
    ----------
    box
        An object that returns arrays for slices along three axes: an array, a Zarr array, a lazy DataArray.
    origin, shape
        First cell and cells of the window, which may reach beyond the box, even several times around it.
    """
    window = np.empty(shape, dtype=np.float32)
    along = [segments(*axis) for axis in zip(origin, shape, box.shape, strict=True)]
    for parts in itertools.product(*along):
        in_box, in_window = zip(*parts, strict=True)
        window[in_window] = box[in_box]
    return window


def segments(origin: int, length: int, cells: int) -> list[tuple[slice, slice]]:
    """Contiguous parts of a window along one periodic axis: for each, its slices of box and window."""
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
        Periodic boxes by name, see `read_window`.
    """
    origin, shape = tiling.window(tiling[number])
    windows = {name: read_window(box, origin, shape) for name, box in fields.items()}
    x, y, z = tiling.place(number)
    values = predict(windows, periodic=tiling.periodic)
    return values[..., : x.stop - x.start, : y.stop - y.start, : z.stop - z.start]
