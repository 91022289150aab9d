"""Lists of sources as text: a count, then numbers, `i j k` (from 1) and strengths, for each source.

The count may have further numbers on its line (`3 0.0`), or be missing if there is one line for each source.
The numbers of a source may break over several lines, as Fortran wraps long records; only their total must be
a multiple of the count. The dialects of numbers are those of `reion.readers.text_numbers`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reion.errors import InputError
from reion.readers.text_numbers import data_lines, numbers_in, text_of
from reion.simulation.lazy import Region
from reion.simulation.units import Conversion

_FEWEST, _MOST = 4, 12


@dataclass(frozen=True)
class SourceList:
    """A list of sources in a box of `shape` cells.

    The strength of a source is the sum of its numbers after `i j k`, each times its weight in `weights`.
    Numbers beyond the weights are ignored.
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
        numbers = source_rows(self.file, self.shape)
        columns = numbers[:, 3 : 3 + len(self.weights)]
        strengths = columns @ np.asarray(self.weights[: columns.shape[1]])
        return conversion(
            deposit_cells(numbers[:, :3] - 1, strengths, self.shape, region, self.file, first=1)
        )


def deposit_cells(
    cells: np.ndarray,
    strengths: np.ndarray,
    shape: tuple[int, int, int],
    region: Region,
    file: Path,
    *,
    first: int,
) -> np.ndarray:
    """Sum of the strengths in each cell of `region`: float64, indexed (x, y, z).

    Parameters
    ----------
    cells
        The cell of each source, (sources, 3), counted from 0.
    strengths
        (sources,), in any unit.
    first
        The number of the first cell in the file, 0 or 1, for messages.

    Raises
    ------
    InputError
        If a source lies outside the box of `shape`, or its strength is negative or not finite.
    """
    from reion_kernels import deposit

    outside = ~np.all((cells >= 0) & (cells < shape) & (cells == np.floor(cells)), axis=1)
    if outside.any():
        worst = int(np.argmax(outside))
        last = shape if first else tuple(n - 1 for n in shape)
        raise InputError(
            f"source {worst + 1}: expected cells from {first} to {last}; received {cells[worst] + first}",
            file=file,
        )
    wrong = ~(np.isfinite(strengths) & (strengths >= 0))
    if wrong.any():
        worst = int(np.argmax(wrong))
        raise InputError(
            f"source {worst + 1}: expected a finite strength, not negative; received {strengths[worst]}",
            file=file,
        )
    start = np.array([axis.start for axis in region])
    sides = tuple(axis.stop - axis.start for axis in region)
    inside = np.all((cells >= start) & (cells < start + sides), axis=1)
    return deposit(cells[inside] - start + 0.5, strengths[inside], (sides[0], sides[1], sides[2]))


def source_rows(file: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """The numbers of each source, (sources, numbers) float64.

    Raises
    ------
    InputError
        If there are more or fewer numbers than the count of the list needs.
    """
    lines = data_lines(text_of(file))
    widths = [len(line.split()) for line in lines]
    uniform = len(set(widths)) == 1
    if lines and widths[0] >= _FEWEST and uniform:
        return numbers_in(lines, file).reshape(len(lines), -1)
    count = _count(lines, file)
    # A header of one to three numbers is a line of its own; a list may also be one long line.
    rest = numbers_in(lines[1:], file) if widths[0] < _FEWEST else numbers_in(lines, file)[1:]
    columns = rest.size // count if count else 0
    # A source has at least the numbers of the first one's line: a list cut short can divide evenly, too.
    fewest = max(_FEWEST, widths[1]) if count and len(lines) > 1 and widths[0] < _FEWEST else _FEWEST
    if rest.size != count * columns or (count and not fewest <= columns <= _MOST):
        raise InputError(
            f"expected {count} sources of {fewest} to {_MOST} numbers each; received {rest.size} numbers",
            file=file,
        )
    rows = rest.reshape(count, columns or _FEWEST)
    if count and len(set(widths[1:])) == 1 and widths[1] >= _FEWEST and columns > widths[1]:
        # Lines of one width with fewer numbers than a source: wrapped, unless each is a source itself.
        inner = rest.reshape(-1, widths[1])[:, :3]
        if np.all((inner == np.floor(inner)) & (inner >= 1) & (inner <= shape)):
            raise InputError(
                f"expected {count} sources; received {len(lines) - 1} lines of sources", file=file
            )
    return rows


def _count(lines: list[str], file: Path) -> int:
    first = lines[0].split()[0] if lines else ""
    if first and not first[:1].isdigit() and first[:1] not in "+-.":
        raise InputError(f"expected a list of sources, numbers only; received {lines[0][:40]!r}", file=file)
    value = numbers_in([first], file) if first else np.empty(0)
    if value.size == 0 or not value[0] >= 0 or value[0] != np.floor(value[0]):
        raise InputError(f"expected the number of sources first; received {first[:20]!r}", file=file)
    return int(value[0])
