"""Cubes of plain numbers in binary files, read in blocks and converted on the way.

A gzipped file is expanded up to the last byte needed, which takes time but no memory. Reading in blocks that
stay in the cache is as fast as reading the whole file, and no second copy of the cube is in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import numpy as np

from reion.errors import InputError
from reion.readers.compressed import is_gzip, open_plain
from reion.simulation.lazy import Region
from reion.simulation.units import Conversion

_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class BinaryCube:
    """Where the numbers of a cube lie in a file.

    Attributes
    ----------
    shape
        Cells along x, y, z.
    order
        `"F"`: x fastest; `"C"`: z fastest.
    spans
        Pieces of the file (first byte, number of bytes) that follow one another in the cube.
    """

    file: Path
    dtype: np.dtype
    shape: tuple[int, int, int]
    order: Literal["C", "F"]
    spans: Sequence[tuple[int, int]]

    def read(self, region: Region, conversion: Conversion) -> np.ndarray:
        """Read the cells of `region`, converted: float32, indexed (x, y, z), in the file's memory order."""
        slow, middle, fast = region if self.order == "C" else region[::-1]
        shape = self.shape if self.order == "C" else self.shape[::-1]
        plane_bytes = shape[1] * shape[2] * self.dtype.itemsize
        planes = max(1, _BLOCK_BYTES // plane_bytes)
        buffer = np.empty((planes, shape[1], shape[2]), self.dtype)
        out = np.empty(
            (slow.stop - slow.start, middle.stop - middle.start, fast.stop - fast.start), np.float32
        )
        with open_plain(self.file) as stream:
            for start in range(slow.start, slow.stop, planes):
                block = buffer[: min(planes, slow.stop - start)]
                self._fill(stream, block, start * plane_bytes)
                done = start - slow.start
                conversion(block[:, middle, fast], out=out[done : done + len(block)])
            if is_gzip(self.file) and slow.stop == shape[0]:
                stream.read(1)  # at the end gzip compares the checksum
        return out if self.order == "C" else out.T

    def _fill(self, stream: IO[bytes], block: np.ndarray, start: int) -> None:
        """Fill `block` with the bytes of the cube from byte `start` on."""
        wanted = memoryview(block.view(np.uint8).reshape(-1).data)
        for offset, size in self.spans:
            if start < size:
                stream.seek(offset + start)
                here = wanted[: size - start]
                while here:
                    count = stream.readinto(here)  # type: ignore[attr-defined]
                    if not count:
                        raise InputError("expected more data: the file ends early", file=self.file)
                    here, wanted, start = here[count:], wanted[count:], start + count
                if not wanted:
                    return
            start -= size
