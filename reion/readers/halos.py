"""Sources from a halo catalogue: `[halos]` in a mapping (`reion.readers.mapping`), beside any format.

.. code-block:: toml

    [halos]
    file = "halos_z*.txt"        # text, HDF5, .npz or .npy, one for each redshift; left out: a text file in
                                 # the source, or the arrays in the density's own HDF5, Zarr or .npz
    x = 2                        # columns of a text (or .npy) by number, from 1, or by names in its header;
    y = 3                        # arrays by their paths, members of records as "table/member", columns of
    z = 4                        # arrays of two axes as "array/2". positions = "Pos" in place of
                                 # x, y and z: an array of shape (haloes, 3)
    position_unit = "kpc/h"      # comoving; also "cells" (0 is where the box begins), "cells from 1" (whole
                                 # numbers of cells, as in Fortran) and "box" (from 0 to 1)
    mass = 1
    mass_unit = "1e10 Msun/h"
    deposit = "cloud_in_cell"    # or "nearest", the default: the whole halo goes to the cell that it is in

Haloes are added up on the mesh of the density (or on `--set mesh=N` cells along a side). With `--set
f_gamma=30 --set lifetime_myr=10` they shine: each of the baryons in a halo of mass M, which are M Ob0 / Om0,
emits f_gamma photons in that time. This number may depend on the mass,

    f_gamma (M / mass_pivot_msun)^mass_slope exp(-mass_cut_off_msun / M)   for M >= mass_minimum_msun,

with parameters given by `--set`. Without f_gamma the field is the mass in haloes (Msun Mpc-3). In place of
`mass`, `photons` names a column of photons per second. Text is read in the dialects of
`reion.readers.text_numbers`. If `x`, `y`, `z` or `mass` are left out, columns are found by the names that
halo finders give them.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from reion.errors import InputError
from reion.readers.filenames import ending_of, redshift_of, why_no_redshift
from reion.readers.folders import matches
from reion.readers.names import Column, Halos
from reion.readers.settings import HALO_SETTINGS, MASS_SETTINGS, Settings
from reion.readers.snapshot import Box, Snapshot
from reion.readers.tables import Table, table_of
from reion.readers.tree import shown
from reion.readers.unused import looks_like_a_field
from reion.simulation.contract import AXES, DEFAULT_COSMOLOGY, REDSHIFT_TOLERANCE
from reion.simulation.lazy import Region
from reion.simulation.units import Conversion, length_mpc, mass_msun

_TEXT_ENDINGS = {".txt", ".csv", ".ascii", ".asc", ".list", ".tsv", ".cat"}
_ENOUGH, _FILLED = 100, 0.9
"""In a catalogue of at least `_ENOUGH` haloes, these reach at least `_FILLED` of a side of their box."""
_IN_A_CORNER = 0.05
"""Such a catalogue that reaches less than this share of each side is not believed."""
_USUAL_AXES = (
    "{0}",
    "(?i:{0})",
    "(?i:{0}c|{0}_?cm|{0}_?pos|{0}_?cen(?:ter|tre)?)",
    "(?i:(?:halo_?|group_?)?(?:pos|position|coord|cen|center|centre)_?{0})",
    "(?i:(?:halo|group)_?{0})",
)
_USUAL_MASS = re.compile(
    r"(?:halo_?|group_?|subhalo_?|fof_?|host_?)?(?:m|mass|masses)(?:_?(?:halo|vir|tot|total|200[cm]?|500c?|fof|"
    r"200_?mean|200_?crit|180b?))?(?:_?msun)?(?:_?h)?|group_m_(?:crit|mean)200|halo_masses",
    re.IGNORECASE,
)
_USUAL_POSITIONS = re.compile(
    r"(?:halo_?|group_?|subhalo_?)?(?:pos|position|positions|coords|coordinates|centre|center|centreofpotential|com)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Efficiency:
    """The strength of a halo by its mass in Msun: photons per second; without `rate_per_msun`, the mass."""

    rate_per_msun: float | None = None
    slope: float = 0.0
    pivot_msun: float = 1e10
    cut_off_msun: float = 0.0
    minimum_msun: float = 0.0

    @property
    def units(self) -> str:
        """The unit of the strengths, summed in a cell."""
        return "Msun per cell" if self.rate_per_msun is None else "s-1 per cell"

    def __call__(self, mass_msun: np.ndarray) -> np.ndarray:
        """Strength of each halo, (haloes,) float64."""
        if self.rate_per_msun is None:
            return mass_msun
        with np.errstate(divide="ignore", invalid="ignore"):
            shape = (mass_msun / self.pivot_msun) ** self.slope * np.exp(-self.cut_off_msun / mass_msun)
        shines = (mass_msun >= self.minimum_msun) & (mass_msun > 0)
        return np.where(shines, self.rate_per_msun * mass_msun * np.where(shines, shape, 0.0), 0.0)


@dataclass(frozen=True)
class Catalogue:
    """The haloes of one redshift on a mesh of `shape` cells in a box of `sides_mpc` (comoving)."""

    table: Table
    columns: Halos
    shape: tuple[int, int, int]
    sides_mpc: tuple[float, ...]
    cosmology: Mapping[str, float]
    efficiency: Efficiency

    def read(self, region: Region, conversion: Conversion) -> np.ndarray:
        """Total strength in each cell of `region`, converted: float32, indexed (x, y, z).

        Raises
        ------
        InputError
            If a column is missing, a halo lies outside the box, or a mass is negative or not finite.
        """
        positions = self._positions_cells()
        strengths = self._strengths()
        if len(positions) != len(strengths):
            raise InputError(
                f"expected a strength for each position; received {len(strengths)} for {len(positions)}",
                file=self.table.path,
            )
        return conversion(_deposited(positions, strengths, self.shape, region, self.columns.deposit))

    def _strengths(self) -> np.ndarray:
        """The strength of each halo, (haloes,) float64: the column of photons, or the efficiency's."""
        column, factor, logarithm = self.columns.photons, 1.0, False
        if column is None:
            column = self._mass_column()
            unit = self.columns.mass_unit or self.table.unit(column)
            if not unit:
                raise _lacking("mass_unit", "Msun/h", "the unit of masses", self.table.path)
            logarithm = unit.lower().startswith("log10")
            msun = mass_msun(unit[len("log10") :] if logarithm else unit, self.cosmology)
            if msun is None:
                raise InputError(f"[halos] mass_unit: expected a mass such as 1e10 Msun/h; received {unit!r}")
            factor = msun
        values = self.table.numbers(column)
        masses = factor * (10.0**values if logarithm else values)
        wrong = ~(np.isfinite(masses) & (masses >= 0))
        if wrong.any():
            worst = int(np.argmax(wrong))
            raise InputError(
                f"halo {worst + 1}: expected a finite {column}, not negative; received {values[worst]}",
                file=self.table.path,
            )
        return masses if self.columns.photons is not None else self.efficiency(masses)

    def _positions_cells(self) -> np.ndarray:
        """The position of each halo, (haloes, 3) float64, in cells from the corner of the box."""
        places = self._position_columns()
        if len(places) == 1:
            shape = self.table.shape(places[0])
            if len(shape) != 2 or len(AXES) not in shape:
                raise InputError(
                    f"{places[0]}: expected shape (haloes, 3); received {shape}", file=self.table.path
                )
            flat = self.table.numbers(places[0])
            raw = flat.reshape(shape) if shape[1] == len(AXES) else flat.reshape(shape).T
        else:
            raw = np.stack([self.table.numbers(place) for place in places], axis=1)
        unit = self.columns.position_unit or self.table.unit(places[0])
        if not unit:
            raise _lacking("position_unit", "Mpc/h", "the unit of positions", self.table.path)
        if unit in ("cells", "cells from 1"):
            cells = raw - (0.5 if unit == "cells from 1" else 0.0)
        elif unit == "box":
            cells = raw * self.shape
        else:
            factor = length_mpc(unit.replace("comoving", "").strip(), self.cosmology)
            if factor is None:
                raise InputError(
                    "[halos] position_unit: expected a length such as kpc/h, cells, cells from 1 or box; "
                    f"received {unit!r}"
                )
            cells = raw * (factor * np.asarray(self.shape) / np.asarray(self.sides_mpc))
        self._check_positions(cells, unit)
        return np.asarray(cells, dtype=np.float64)

    def _check_positions(self, cells: np.ndarray, unit: str) -> None:
        """Refuse haloes outside the box, but for a margin of one cell, which wraps around.

        Refuse many haloes in one corner of the box, and warn of many that leave a part of it empty.
        """
        inside = (cells >= -1.0) & (cells <= np.asarray(self.shape) + 1.0)
        if not np.all(inside):  # NaN is not inside either
            worst = int(np.argmin(inside.all(axis=1)))
            raise InputError(
                f"halo {worst + 1}: expected a position in the box of {self.sides_mpc} Mpc, {self.shape} "
                f"cells; received {cells[worst]} cells, as positions are in {unit}",
                file=self.table.path,
                hint="is position_unit right (h, kpc)? Does the box begin at 0?",
            )
        if len(cells) < _ENOUGH:
            return
        reach = float(np.max(cells.max(axis=0) / self.shape))
        if reach < _IN_A_CORNER:
            raise InputError(
                f"expected haloes in all of the box; received {len(cells)} that reach only {reach:.2g} of "
                f"its sides, as positions are in {unit}",
                file=self.table.path,
                hint=f"is position_unit {unit!r} right (h, kpc)?",
            )
        if reach < _FILLED:
            warnings.warn(
                f"{self.table.path}: haloes reach only {reach:.2f} of the sides of the box: is position_unit "
                f"{unit!r} right?",
                stacklevel=2,
            )

    def _mass_column(self) -> Column:
        if self.columns.mass is not None:
            return self.columns.mass
        found = [name for name in self.table.names() if _USUAL_MASS.fullmatch(name.rpartition("/")[2])]
        if not found:
            raise _lacking("mass", "Mvir", "the column of masses", self.table.path)
        return found[0]

    def _position_columns(self) -> Sequence[Column]:
        """One column of shape (haloes, 3), or the columns of x, y and z."""
        spec = self.columns
        if spec.positions is not None:
            return [spec.positions]
        given = [spec.x, spec.y, spec.z]
        chosen = [column for column in given if column is not None]
        if len(chosen) == len(AXES):
            return chosen
        names = self.table.names()
        for pattern in _USUAL_AXES:
            found = [
                next((n for n in names if re.fullmatch(pattern.format(axis), n.rpartition("/")[2])), None)
                for axis in AXES
            ]
            columns = [name for name in found if name is not None]
            if len(columns) == len(AXES):
                return columns
        usual = [name for name in names if _USUAL_POSITIONS.fullmatch(name.rpartition("/")[2])]
        if usual:
            return usual[:1]
        raise InputError(
            f"[halos]: expected x, y and z, or positions; received columns {shown(names)}",
            file=self.table.path,
            hint="say in the mapping which columns they are: x = 2, or x = 'its name'",
        )


def catalogues_of(columns: Halos | None, paths: Sequence[Path], mapping: str | None) -> list[Path]:
    """The catalogues: files that `file` names, or the text files among `paths`; none without `[halos]`.

    Raises
    ------
    InputError
        If `file` names no file.
    """
    if columns is None:
        return []
    if columns.file is None:
        texts = [path for path in paths if path.is_file() and ending_of(path.name) in _TEXT_ENDINGS]
        # A README is no catalogue.
        likely = [
            path
            for path in texts
            if redshift_of(path) is not None or why_no_redshift(path) or looks_like_a_field(path.name)
        ]
        return likely or texts
    pattern = Path(columns.file).expanduser()
    named = [path for path in paths if path.match(columns.file)]
    folders = [
        *dict.fromkeys(path.parent for path in paths),
        *([Path(mapping).expanduser().parent] if mapping else []),
    ]
    if pattern.is_absolute():
        named = named or [path for path in matches(pattern) if path.exists()]
    for folder in folders:
        named = named or ([] if pattern.is_absolute() else sorted(folder.glob(columns.file)))
    if not named and pattern.is_file():
        named = [pattern]
    if not named:
        beside = "" if pattern.is_absolute() else " beside the density or the mapping"
        raise InputError(
            f"[halos] file: there is no {columns.file}{beside}", file=folders[0] if folders else None
        )
    return named


def box_without_mesh(catalogues: Sequence[Path]) -> Box:
    """A box for catalogues alone, without any field yet."""
    return Box(label=catalogues[0].resolve().parent.name, snapshots=[], source_code="halo catalogue")


def with_halos(box: Box, columns: Halos, catalogues: Sequence[Path], settings: Settings) -> Box:
    """The box with its haloes as sources.

    Raises
    ------
    InputError
        If the box has sources already, a fact that a catalogue lacks is not set, or settings for masses are
        given for a column of photons.
    """
    if any(snapshot.name == "n_src" for snapshot in box.snapshots):
        raise InputError(
            "expected sources once; received n_src and [halos]",
            file=box.snapshots[0].file,
            hint="leave one of them out of the mapping",
        )
    without_meaning = [key for key in (*MASS_SETTINGS, *HALO_SETTINGS) if settings.text(key) is not None]
    if columns.photons is not None and without_meaning:
        raise InputError(
            f"--set {', '.join(without_meaning)}: expected haloes by their mass; received photons per "
            "second, which these settings do not change",
            hint="leave them out, or give mass in place of photons under [halos]",
        )
    if columns.photons is None and settings.text("n_src_unit") is not None:
        raise InputError(
            "--set n_src_unit: expected sources on a mesh; received haloes, whose masses have their own unit",
            hint='say it in the mapping, under [halos]: mass_unit = "1e10 Msun/h"',
        )
    file = box.snapshots[0].file if box.snapshots else catalogues[0]
    cosmology = settings.cosmology(box.cosmology, file=file) or DEFAULT_COSMOLOGY
    box_size = settings.box_size(box.box_size, cosmology, file=file)
    shape = box.snapshots[0].shape if box.snapshots else settings.mesh_shape(file=file)
    efficiency = _efficiency(settings, cosmology, file)
    snapshots = [
        Snapshot(
            name="n_src",
            redshift=redshift,
            file=table.path,
            shape=shape,
            units="s-1 per cell" if columns.photons is not None else efficiency.units,
            read=Catalogue(
                table, columns, shape, tuple(np.broadcast_to(box_size, 3).tolist()), cosmology, efficiency
            ).read,
            of_masses=columns.photons is None,
        )
        for redshift, table in _tables(box, catalogues)
    ]
    return replace(box, snapshots=[*box.snapshots, *snapshots])


def _tables(box: Box, catalogues: Sequence[Path]) -> list[tuple[float, Table]]:
    """Redshift and columns of every catalogue of the box."""
    redshifts = sorted({snapshot.redshift for snapshot in box.snapshots})
    if not catalogues:
        files = {snapshot.redshift: snapshot.file for snapshot in box.snapshots}
        if len(set(files.values())) < len(files):
            raise InputError(
                "expected the haloes of one redshift in each file; received several",
                file=box.snapshots[0].file,
            )
        return [(redshift, table_of(file)) for redshift, file in files.items()]
    tables = []
    for path in catalogues:
        redshift = redshift_of(path)
        if redshift is None and not why_no_redshift(path) and len(redshifts) == len(catalogues) == 1:
            redshift = redshifts[0]
        if redshift is None:
            raise InputError(
                f"the redshift of the haloes is not in the file's name{why_no_redshift(path)}",
                file=path,
                hint="name it like halos_z8.397.txt",
            )
        near = [own for own in redshifts if abs(own - redshift) < REDSHIFT_TOLERANCE]
        tables.append((near[0] if near else redshift, table_of(path)))
    return tables


def _efficiency(settings: Settings, cosmology: Mapping[str, float], file: Path) -> Efficiency:
    given = {key: settings.number(key) for key in HALO_SETTINGS}
    shape: dict[str, Any] = {
        key.removeprefix("mass_"): value for key, value in given.items() if value is not None
    }
    if settings.text("f_gamma") is None:
        alone = [key for key in (*MASS_SETTINGS, *HALO_SETTINGS) if settings.text(key) is not None]
        if alone:
            raise InputError(
                f"--set {', '.join(alone)}: expected f_gamma as well",
                hint="give --set f_gamma=... --set lifetime_myr=...",
            )
        return Efficiency()
    return Efficiency(settings.photons_per_msun(cosmology, file=file), **shape)


def _deposited(
    positions: np.ndarray,
    strengths: np.ndarray,
    shape: tuple[int, int, int],
    region: Region,
    scheme: Any,
) -> np.ndarray:
    """Sum of the strengths in each cell of `region`, float64; positions (haloes, 3) in cells of the box.

    Only the region is in memory, with a margin of one cell for clouds that reach beyond its edge.
    """
    from reion_kernels import deposit

    start = np.array([axis.start for axis in region])
    sides = np.array([axis.stop - axis.start for axis in region])
    whole = sides + 2 >= np.asarray(shape)
    mesh = np.where(whole, shape, sides + 2)
    first = np.where(whole, 0, start - 1)
    relative = np.mod(positions - first, shape)
    # The remainder of a number that is a rounding error below zero is rounded up to the whole side.
    relative = np.where(relative >= shape, 0.0, relative)
    inside = np.all(relative < mesh, axis=1)
    total = deposit(
        relative[inside], strengths[inside], (int(mesh[0]), int(mesh[1]), int(mesh[2])), scheme=scheme
    )
    part = tuple(
        slice(begin, begin + side)
        for begin, side in zip(np.where(whole, start, 1).tolist(), sides.tolist(), strict=True)
    )
    return np.asarray(total[part])


def _lacking(key: str, example: str, what: str, file: Path) -> InputError:
    return InputError(
        f"[halos]: the files do not say {what}",
        file=file,
        hint=f'give it in the mapping: {key} = "{example}"',
    )
