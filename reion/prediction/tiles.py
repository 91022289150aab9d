"""A periodic box in tiles: each predicted from a window that is wider by a halo, without seams.

Any predictor will do that takes windows of some fields and returns what lies a halo inside of them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from reion.errors import InputError
from reion.simulation.contract import Shape

_BLOCK_CELLS = 128
"""Tiles longer than this are whole numbers of blocks not longer than it, the chunks they are stored in."""


class Predictor(Protocol):
    """What predicts one window.

    Takes fields of shape (X + 2 R, Y + 2 R, Z + 2 R), or, along the axes where `periodic` is 1, without the
    halo and with the box's own length; returns (X, Y, Z).
    """

    def __call__(self, fields: Mapping[str, np.ndarray], /, *, periodic: Shape) -> np.ndarray:  # noqa: D102
        ...


@dataclass(frozen=True)
class Tile:
    """A part of the box: its first cell and its size, which may reach beyond the box by less than a tile."""

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
    def block(self) -> Shape:
        """Chunks to store the answer in, so that no two tiles share one."""
        sides = (min(side, n) for side, n in zip(self.tile, self.mesh, strict=True))
        x, y, z = (-(-side // math.ceil(side / _BLOCK_CELLS)) for side in sides)
        return (x, y, z)

    def __len__(self) -> int:
        return math.prod(self.counts)

    def __iter__(self) -> Iterator[Tile]:
        for corner in itertools.product(*map(range, self.counts)):
            x, y, z = (index * side for index, side in zip(corner, self.tile, strict=True))
            yield Tile((x, y, z), self.tile)

    def window(self, tile: Tile) -> tuple[Shape, Shape]:
        """Return origin (which may be negative) and shape of the window a tile is predicted from."""
        origin, shape = [], []
        for start, side, n, whole in zip(tile.origin, tile.shape, self.mesh, self.periodic, strict=True):
            origin.append(0 if whole else start - self.halo_cells)
            shape.append(n if whole else side + 2 * self.halo_cells)
        return (origin[0], origin[1], origin[2]), (shape[0], shape[1], shape[2])


def plan(
    mesh: Sequence[int],
    *,
    halo_cells: int,
    stride_cells: int,
    needed_bytes: Callable[[Shape], float],
    allowed_bytes: float,
) -> Tiling:
    """Choose the fewest tiles that fit in memory, as close to cubes as the box allows.

    Parameters
    ----------
    needed_bytes
        What predicting a tile of that shape takes.

    Raises
    ------
    InputError
        If not even the smallest tile fits; the message says what it takes.
    """
    nx, ny, nz = mesh
    counts = [1, 1, 1]
    while True:
        x, y, z = (_side(n, count, stride_cells) for n, count in zip(mesh, counts, strict=True))
        needed = needed_bytes((x, y, z))
        if needed <= allowed_bytes:
            return Tiling(mesh=(nx, ny, nz), tile=(x, y, z), halo_cells=halo_cells)
        longest = int(np.argmax((x, y, z)))
        if (x, y, z)[longest] <= stride_cells:
            raise InputError(
                f"a box of {nx} x {ny} x {nz} cells needs at least {math.ceil(needed / 2**20)} MiB of memory "
                f"beside the program itself; {max(0, math.floor(allowed_bytes / 2**20))} MiB are allowed",
                hint="give more with --memory",
            )
        while _side(mesh[longest], counts[longest], stride_cells) >= (x, y, z)[longest]:
            counts[longest] += 1


def _side(cells: int, count: int, stride_cells: int) -> int:
    """Length of a tile when `count` of them cover `cells`."""
    side = -(-cells // count)
    pieces = math.ceil(side / _BLOCK_CELLS) if count > 1 else 1
    unit = pieces * stride_cells
    return -(-side // unit) * unit


def read_window(box: Any, origin: Shape, shape: Shape) -> np.ndarray:
    """Read a window of a periodic box into an array of its own, float32.

    Parameters
    ----------
    box
        Anything that gives arrays for slices along three axes: an array, a Zarr array, a lazy DataArray.
    origin, shape
        May reach beyond the box on either side, also more than once around it.
    """
    out = np.empty(shape, dtype=np.float32)
    segments = [_segments(*axis) for axis in zip(origin, shape, box.shape, strict=True)]
    for parts in itertools.product(*segments):
        out[tuple(there for _, there in parts)] = box[tuple(here for here, _ in parts)]
    return out


def _segments(origin: int, length: int, cells: int) -> list[tuple[slice, slice]]:
    """The window along one periodic axis in contiguous pieces: where in the box, where in the window."""
    pieces, done = [], 0
    while done < length:
        start = (origin + done) % cells
        size = min(length - done, cells - start)
        pieces.append((slice(start, start + size), slice(done, done + size)))
        done += size
    return pieces


def predict_tiles(
    predict: Predictor,
    fields: Mapping[str, Any],
    tiling: Tiling,
    *,
    skip: Collection[int] = (),
) -> Iterator[tuple[int, tuple[slice, slice, slice], np.ndarray]]:
    """Predict a box tile by tile.

    Parameters
    ----------
    predict
        See `Predictor`.
    fields
        Name to periodic box, see `read_window`.
    skip
        Numbers of tiles that are not wanted.

    Yields
    ------
    A tile's number, where in the box it belongs, and its values, cut off where the box ends.
    """
    for number, tile in enumerate(tiling):
        if number in skip:
            continue
        origin, shape = tiling.window(tile)
        windows = {name: read_window(box, origin, shape) for name, box in fields.items()}
        answer = predict(windows, periodic=tiling.periodic)
        x, y, z = (
            slice(start, min(start + side, n))
            for start, side, n in zip(tile.origin, tile.shape, tiling.mesh, strict=True)
        )
        yield number, (x, y, z), answer[: x.stop - x.start, : y.stop - y.start, : z.stop - z.start]
