"""pyC2Ray: ionised fractions and source lists, beside C2-Ray's densities and mass lists.

Byte level, little-endian (`--set byte_order=big` for the other), x fastest:

- `xfrac_z8.397.dat` (also `xfrac_8.397.dat`): int32 nx, ny, nz, then float64 numbers; or `.npy`
  (`reion.readers.npy`), indexed x, y, z. `IonRates_z8.397.dat`, the same in float32, are not read.
- source lists `sources_z8.397.txt`, `src_8.397.txt` and the like: text. The number of sources; then for each
  i, j, k (from 1), photons per second, and a number that is ignored. A list without a redshift in its name
  shines at every redshift. A list whose name ends in a whole number is refused, as this may be a redshift.
- `8.397-coarsest_wsubgrid_sources.hdf5`: datasets `sources_positions`, (sources, 3), cells from 0, and
  `sources_mass`, (sources,), mass in haloes in solar masses.
- `8.397n_all.dat` and `8.397-coarsest_wsubgrid_sources.dat` as for C2-Ray (`reion.readers.c2ray`), but
  photons are counted with 1.222 proton masses a baryon.

The files may lie in the folders `results`, `sources` and `coarser_densities` of the run. All but HDF5 and
`.npy` may be gzipped.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from reion.errors import InputError
from reion.readers import c2ray
from reion.readers.binary import BinaryCube
from reion.readers.filenames import ending_of, ending_removed, redshift_of, why_no_redshift
from reion.readers.format import Format
from reion.readers.hdf5 import Hdf5Tree
from reion.readers.npy_series import npy_cube
from reion.readers.settings import Settings
from reion.readers.snapshot import Box, Snapshot
from reion.readers.source_list import SourceList, deposit_cells
from reion.readers.tree import StoredArray, shown
from reion.simulation.contract import MEAN_MOLECULAR_WEIGHT
from reion.simulation.lazy import Region
from reion.simulation.units import Conversion

_REDSHIFT = r"z?(\d+\.\d+|(?<=z)\d+)"
"""A redshift has decimals, or stands behind a z."""
XFRAC = re.compile(rf"xfrac_{_REDSHIFT}\.(?i:dat(?:\.gz)?|npy)")
SOURCES = re.compile(rf"(?:sources?|src)[\w-]*?(?:_{_REDSHIFT})?\.(?i:(?:txt|dat)(?:\.gz)?)")
_WHOLE_NUMBER = re.compile(r"_\d+$")
"""A number that may be a redshift without its z or the number of a list, so that the name is refused."""
MASSES = re.compile(r"(\d+\.\d+)-coarsest\w*_sources\.(?i:hdf5|h5)")
_POSITIONS, _MASS = "sources_positions", "sources_mass"


def claim(paths: Sequence[Path]) -> list[Path]:
    """pyC2Ray's ionised fractions and source lists, and C2-Ray's inputs beside them."""
    own = [path for path in paths if any(name.fullmatch(path.name) for name in (XFRAC, SOURCES, MASSES))]
    inputs = [path for path in paths if c2ray.DENSITY.fullmatch(path.name) or c2ray.is_mass_list(path)]
    return own + inputs if own else []


def scan(paths: Sequence[Path], settings: Settings) -> list[Box]:
    """All files as one box."""
    order = c2ray.byte_order(settings)

    def cube_of(path: Path) -> BinaryCube:
        return npy_cube(path) if ending_of(path.name) == ".npy" else c2ray.raw_cube(path, order, ("f8",))

    xi = c2ray.fractions(paths, XFRAC, cube_of)
    redshifts = {snapshot.redshift for snapshot in xi} | {
        float(match.group(1)) for path in paths if (match := c2ray.DENSITY.fullmatch(path.name))
    }

    def more_sources(shape: tuple[int, int, int]) -> list[Snapshot]:
        photons = [
            snapshot
            for path in paths
            if SOURCES.fullmatch(path.name)
            for snapshot in _photons(path, shape, sorted(redshifts))
        ]
        return photons + _masses(paths, shape, settings)

    return [
        c2ray.box_of(
            paths,
            xi,
            settings,
            source_code="pyC2Ray",
            mean_molecular_weight=MEAN_MOLECULAR_WEIGHT,
            more_sources=more_sources,
        )
    ]


@dataclass(frozen=True)
class MassList:
    """An HDF5 list of haloes in a box of `shape` cells; a halo's strength is its mass in Msun x `weight`."""

    file: Path
    shape: tuple[int, int, int]
    weight: float

    def read(self, region: Region, conversion: Conversion) -> np.ndarray:
        """Total strength in each cell of `region`, converted: float32, indexed (x, y, z).

        Raises
        ------
        InputError
            If the list is damaged, or a halo lies outside the box or has a negative mass.
        """
        tree = Hdf5Tree(self.file)
        shape = tree.shape(_POSITIONS)
        if shape is None or tree.shape(_MASS) is None:
            raise InputError(
                f"expected the datasets {_POSITIONS} and {_MASS}; received {shown(tree.names(), 'neither')}",
                file=self.file,
            )
        mass = StoredArray(tree, _MASS).numbers()
        positions = StoredArray(tree, _POSITIONS).numbers()
        if shape not in ((mass.size, 3), (3, mass.size)):
            raise InputError(
                f"{_POSITIONS}: expected shape ({mass.size}, 3); received {shape}", file=self.file
            )
        cells = positions.reshape(shape) if shape[1] == 3 else positions.reshape(shape).T
        return conversion(deposit_cells(cells, mass * self.weight, self.shape, region, self.file, first=0))


def _masses(paths: Sequence[Path], shape: tuple[int, int, int], settings: Settings) -> list[Snapshot]:
    """The HDF5 lists of haloes, as photons or, with --set sources=mass, as masses."""
    found = [(path, match) for path in paths if (match := MASSES.fullmatch(path.name))]
    if not found:
        return []
    weight, units = 1.0, "Msun per cell"
    settings.choice("sources", ("photons", "mass"))
    if c2ray.shines(settings):
        weight = settings.photons_per_msun(
            c2ray.known_cosmology(settings, found[0][0]),
            file=found[0][0],
            mean_molecular_weight=MEAN_MOLECULAR_WEIGHT,
            otherwise="--set sources=mass to keep the mass in haloes",
        )
        units = "s-1 per cell"
        if settings.text("f_gamma_low") is not None and not any(map(c2ray.is_mass_list, paths)):
            warnings.warn(
                f"--set f_gamma_low: not used: {found[0][0].name} has one mass for each source", stacklevel=2
            )
    return [
        Snapshot(
            name="n_src",
            redshift=float(match.group(1)),
            file=path,
            shape=shape,
            units=units,
            read=MassList(path, shape, weight).read,
            of_masses=c2ray.shines(settings),
        )
        for path, match in found
    ]


def _photons(path: Path, shape: tuple[int, int, int], redshifts: Sequence[float]) -> list[Snapshot]:
    """Snapshots of a list: one at the redshift in its name, or, without one, one at each of `redshifts`."""
    match = SOURCES.fullmatch(path.name)
    own = float(match.group(1)) if match and match.group(1) else redshift_of(path)
    unclear = why_no_redshift(path) or (
        f": {path.name!r} ends in a whole number" if _WHOLE_NUMBER.search(ending_removed(path.name)) else ""
    )
    if own is None and (unclear or not redshifts):
        raise InputError(
            f"expected a redshift in the name{unclear}"
            + ("" if unclear else ", or ionised fractions or densities beside it"),
            file=path,
            hint="name it like sources_z8.397.txt"
            + (", or without a number if it shines at every redshift" if unclear else ""),
        )
    one = Snapshot(
        name="n_src",
        redshift=own if own is not None else redshifts[0],
        file=path,
        shape=shape,
        units="s-1 per cell",
        read=SourceList(path, shape, (1.0,)).read,
    )
    return [one] if own is not None else [replace(one, redshift=redshift) for redshift in redshifts]


FORMAT = Format(
    name="pyc2ray",
    description="pyC2Ray: xfrac_z*.dat or .npy and source lists, with C2-Ray's densities",
    claim=claim,
    scan=scan,
    settings=c2ray.SETTINGS,
)
