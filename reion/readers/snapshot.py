"""The results of a reader: `Snapshot`, one field at one redshift in a file, and `Box`, a simulation.

Every value is converted and checked when it is read. For every format alike, `reion.readers.series` puts the
snapshots in order, and `reion.readers.assembly` assembles them to a Simulation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from reion.errors import InputError
from reion.readers.settings import DEFAULT_MEAN_MOLECULAR_WEIGHT
from reion.simulation.contract import check_values
from reion.simulation.lazy import CellKey, LazyField, Region
from reion.simulation.units import Conversion

_ROUNDING = 1e-6
"""An overdensity of this much less than -1 is -1."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One field at one redshift in a file: values in `scale` times `units`.

    `read(region, conversion)` returns the cells of `region`, converted, as an array indexed (x, y, z). Most
    readers return `conversion(raw)`; readers of large files convert block by block. `of_masses` says that the
    file holds masses in haloes, to which the reader has applied the settings for masses.
    """

    name: str
    redshift: float
    file: Path
    shape: tuple[int, int, int]
    units: str
    read: Callable[[Region, Conversion], np.ndarray]
    scale: float = 1.0
    of_masses: bool = False


@dataclass(frozen=True, kw_only=True)
class Box:
    """Everything that a reader found for one simulation.

    `box_size` (comoving Mpc) and `cosmology` (H0, Om0, Ob0) are None if the files lack them. `centres` are
    cell centres in the files along an axis (comoving Mpc), for a check against the box size. `max_mfp_mpc` is
    the comoving radius that photons reach from each redshift on, by redshift; None if the files lack it.
    `mean_molecular_weight` is the baryon mass in proton masses by which the code of the files turns masses
    into photons.
    """

    label: str
    snapshots: Sequence[Snapshot]
    source_code: str
    box_size: float | Sequence[float] | None = None
    cosmology: Mapping[str, float] | None = None
    attrs: Mapping[str, Any] = field(default_factory=dict)
    centres: Mapping[str, np.ndarray] = field(default_factory=dict)
    max_mfp_mpc: Mapping[float, float] | None = None
    mean_molecular_weight: float = DEFAULT_MEAN_MOLECULAR_WEIGHT


class FieldInFiles(LazyField):
    """The snapshots of one field in files, as a lazy field.

    Every value is converted and checked when it is read. A value that is not finite or out of the field's
    range raises an `InputError` with the file and the cell.
    """

    def __init__(self, snapshots: Sequence[Snapshot], conversions: Sequence[Conversion]) -> None:
        super().__init__((len(snapshots), *snapshots[0].shape))
        self._files = tuple(snapshots)
        self._conversions = tuple(conversions)

    def snapshot(self, index: int, key: CellKey) -> np.ndarray:
        """The cells `key` of snapshot `index`, read from the smallest region that holds them."""
        region, rest = _bounding_region(key, self.shape[1:])
        return self._read_one(index, region)[rest]

    def _read_one(self, index: int, region: Region) -> np.ndarray:
        snapshot = self._files[index]
        try:
            values = snapshot.read(region, self._conversions[index])
        except OSError as error:
            raise InputError(f"cannot be read: {error}", file=snapshot.file) from error
        least = -_ROUNDING * self._conversions[index].offset
        if snapshot.name == "n_igm" and least < 0 and np.min(values, initial=0) < 0:
            # An overdensity of -1 may be rounded to less.
            values = np.where((values < 0) & (values >= least), np.float32(0), values)
        check_values(
            snapshot.name,
            values,
            redshift=snapshot.redshift,
            file=str(snapshot.file),
            origin=[axis.start for axis in region],
            whole=values.shape == self.shape[1:],
        )
        return np.clip(values, 0.0, 1.0, out=values) if snapshot.name == "xi" else values


def _bounding_region(key: CellKey, shape: Sequence[int]) -> tuple[Region, tuple[int | slice, ...]]:
    """Split a key into the smallest region of step 1 that holds its cells, and the key within the region."""
    region: list[slice] = []
    rest: list[int | slice] = []
    for axis, size in zip(key, shape, strict=True):
        cells = range(size)[axis]
        if isinstance(cells, int):
            region.append(slice(cells, cells + 1))
            rest.append(0)
        elif len(cells) == 0:
            region.append(slice(0, 1))
            rest.append(slice(0, 0))
        else:
            start = min(cells[0], cells[-1])
            region.append(slice(start, max(cells[0], cells[-1]) + 1))
            rest.append(slice(None, None, cells.step))
    return (region[0], region[1], region[2]), tuple(rest)
