"""Slices through the boxes, packed so small that a page can carry all of them."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Iterable, Mapping

import numpy as np

LARGEST_SIDE = 160
"""Cells along a picture's longer side; a larger box is averaged in blocks."""

PLANES_BYTES = 3_000_000
"""Bytes of one field before packing; a box with more planes shows every n-th."""

COLOURS = {"density": "cividis", "sources": "magma", "xi": "viridis", "difference": "PuOr_r"}
"""Colour maps that a colour-blind reader can tell apart, and that keep their order in grey."""


class Slicer:
    """Cuts planes across z out of boxes of one shape and writes them as bytes from 0 to 255.

    Parameters
    ----------
    shape
        Cells along x, y, z.
    snapshots
        How many snapshots are shown.
    """

    def __init__(self, shape: tuple[int, int, int], snapshots: int) -> None:
        nx, ny, nz = shape
        self._block = max(1, -(-max(nx, ny) // LARGEST_SIDE))
        self.columns, self.rows = -(-nx // self._block), -(-ny // self._block)
        planes = max(1, PLANES_BYTES // (self.columns * self.rows * snapshots))
        step = -(-nz // planes)
        self.depths = list(range(step // 2, nz, step))

    def planes(self, box: np.ndarray) -> np.ndarray:
        """The shown planes of a box (x, y, z): shape (depth, row, column), y upwards, blocks averaged."""
        planes = np.moveaxis(box[:, :, self.depths], 2, 0)
        for axis in (1, 2):
            starts = np.arange(0, planes.shape[axis], self._block)
            counts = np.diff(np.append(starts, planes.shape[axis]))
            sums = np.add.reduceat(planes, starts, axis=axis)
            planes = sums / np.expand_dims(counts, tuple({0, 1, 2} - {axis}))
        return planes.transpose(0, 2, 1)[:, ::-1]

    def cut(self, boxes: Iterable[np.ndarray]) -> np.ndarray:
        """The shown planes of every snapshot, float32, shape (snapshot, depth, row, column)."""
        return np.stack([self.planes(box).astype(np.float32) for box in boxes])


def pack(planes: np.ndarray, low: float, high: float) -> str:
    """Bytes 0 (`low`) to 255 (`high`), gzipped, as text; a JavaScript page unpacks it by itself."""
    levels = np.clip((planes - low) / (high - low), 0, 1)
    levels = np.rint(levels * 255).astype(np.uint8)
    return base64.b64encode(gzip.compress(levels.tobytes(), compresslevel=6, mtime=0)).decode()


def colour_tables() -> Mapping[str, str]:
    """Each colour map's 256 colours as packed RGB bytes."""
    import matplotlib as mpl

    tables = {}
    for use, name in COLOURS.items():
        colours = np.rint(mpl.colormaps[name](np.linspace(0, 1, 256))[:, :3] * 255).astype(np.uint8)
        tables[use] = base64.b64encode(colours.tobytes()).decode()
    return tables
