"""Lists of sources as text: a count, then numbers, `i j k` (from 1) and strengths, for each source.

Where the numbers of a source break over several lines (Fortran wraps long records) does not matter: what
matters is that the count divides them.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reion.errors import InputError
from reion.readers.snapshot import Region
from reion.simulation.units import Conversion

_FEWEST, _MOST = 4, 12


@dataclass(frozen=True)
class SourceList:
    """A list of sources in a box of `shape` cells.

    `weights` say what a source's strength is: the sum of its numbers after `i j k`, each times its weight;
    numbers beyond the weights count nothing.
    """

    file: Path
    shape: tuple[int, int, int]
    weights: tuple[float, ...]

    def read(self, region: Region, conversion: Conversion) -> np.ndarray:
        """Total strength in each cell of `region`, converted: float32, indexed (x, y, z).

        Raises
        ------
        InputError
            If the list is damaged, or a source lies outside the box or shines with a negative strength.
        """
        from reion_kernels import deposit

        numbers = self._numbers()
        cells = numbers[:, :3] - 1
        columns = numbers[:, 3 : 3 + len(self.weights)]
        rates = columns @ np.asarray(self.weights[: columns.shape[1]])
        self._check(cells, rates)
        start = np.array([axis.start for axis in region])
        shape = (
            region[0].stop - region[0].start,
            region[1].stop - region[1].start,
            region[2].stop - region[2].start,
        )
        inside = np.all((cells >= start) & (cells < start + shape), axis=1)
        return conversion(deposit(cells[inside] - start + 0.5, rates[inside], shape))

    def _numbers(self) -> np.ndarray:
        text = self.file.read_bytes().replace(b"D", b"E")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", DeprecationWarning)
                numbers = np.fromstring(text.decode("ascii"), dtype=np.float64, sep=" ")
        except (ValueError, DeprecationWarning, UnicodeDecodeError) as error:
            raise InputError(
                f"expected a list of sources, numbers only; received {text[:40]!r}", file=self.file
            ) from error
        if numbers.size == 0 or numbers[0] < 0 or numbers[0] != np.floor(numbers[0]):
            raise InputError(f"expected the number of sources first; received {text[:20]!r}", file=self.file)
        count, rest = int(numbers[0]), numbers[1:]
        columns = rest.size // count if count else 0
        # A source has at least the numbers of the first one's line: a list cut short can divide evenly, too.
        fewest = max(_FEWEST, len(text.split(b"\n", 2)[1].split())) if count and b"\n" in text else _FEWEST
        if rest.size != count * columns or (count and not fewest <= columns <= _MOST):
            raise InputError(
                f"expected {count} sources of {fewest} to {_MOST} numbers each; received {rest.size} numbers",
                file=self.file,
            )
        return rest.reshape(count, columns or _FEWEST)

    def _check(self, cells: np.ndarray, rates: np.ndarray) -> None:
        outside = ~np.all((cells >= 0) & (cells < self.shape) & (cells == np.floor(cells)), axis=1)
        if outside.any():
            first = int(np.argmax(outside))
            raise InputError(
                f"source {first + 1}: expected cells from 1 to {self.shape}; received {cells[first] + 1}",
                file=self.file,
            )
        wrong = ~(np.isfinite(rates) & (rates >= 0))
        if wrong.any():
            first = int(np.argmax(wrong))
            raise InputError(
                f"source {first + 1}: expected a finite strength, not negative; received {rates[first]}",
                file=self.file,
            )
