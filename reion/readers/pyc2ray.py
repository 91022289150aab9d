"""pyC2Ray: ionised fractions and source lists, beside C2-Ray's densities and mass lists.

Byte level, little-endian (`--set byte_order=big` for the other), x fastest:

- `xfrac_z8.397.dat` (also `xfrac_8.397.dat`): int32 nx, ny, nz, then float64 numbers. `IonRates_z8.397.dat`,
  the same in float32, are not fields of a Simulation and are left alone.
- source lists `sources_z8.397.txt`, `src_8.397.txt` and the like: text. The number of sources; then for each
  i, j, k (from 1), photons per second, and a number that means nothing. A list without a redshift in its name
  shines at every redshift.
- `8.397n_all.dat` and `8.397-coarsest_wsubgrid_sources.dat` as for C2-Ray (`reion.readers.c2ray`), but
  photons are counted with 1.222 proton masses a baryon.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from reion.errors import InputError
from reion.readers import c2ray
from reion.readers.format import Format
from reion.readers.settings import Settings
from reion.readers.snapshot import Box, Snapshot
from reion.readers.source_list import SourceList
from reion.simulation.contract import MEAN_MOLECULAR_WEIGHT

XFRAC = re.compile(r"xfrac_z?(\d+\.\d+)\.dat")
SOURCES = re.compile(r"(?:sources?|src)[\w-]*?(?:_z?(\d+\.\d+))?\.(?:txt|dat)")


def claim(paths: Sequence[Path]) -> list[Path]:
    """pyC2Ray's ionised fractions and source lists, and C2-Ray's inputs beside them."""
    own = [path for path in paths if XFRAC.fullmatch(path.name) or SOURCES.fullmatch(path.name)]
    inputs = [
        path for path in paths if c2ray.DENSITY.fullmatch(path.name) or c2ray.SOURCES.fullmatch(path.name)
    ]
    return own + inputs if own else []


def scan(paths: Sequence[Path], settings: Settings) -> list[Box]:
    """All files as one box."""
    order = c2ray.byte_order(settings)
    xi = c2ray.fractions(paths, XFRAC, lambda path: c2ray.raw_cube(path, order, ("f8",)))
    redshifts = {snapshot.redshift for snapshot in xi} | {
        float(match.group(1)) for path in paths if (match := c2ray.DENSITY.fullmatch(path.name))
    }

    def photon_lists(shape: tuple[int, int, int]) -> list[Snapshot]:
        return [
            snapshot
            for path in paths
            if SOURCES.fullmatch(path.name)
            for snapshot in _photons(path, shape, sorted(redshifts))
        ]

    return [
        c2ray.box_of(
            paths,
            xi,
            settings,
            source_code="pyC2Ray",
            mean_molecular_weight=MEAN_MOLECULAR_WEIGHT,
            photon_lists=photon_lists,
        )
    ]


def _photons(path: Path, shape: tuple[int, int, int], redshifts: Sequence[float]) -> list[Snapshot]:
    """The list at its redshift, or at every one of `redshifts` where its name has none."""
    match = SOURCES.fullmatch(path.name)
    own = float(match.group(1)) if match and match.group(1) else None
    if own is None and not redshifts:
        raise InputError(
            "expected a redshift in the name, or ionised fractions or densities beside it",
            file=path,
            hint="name it like sources_z8.397.txt",
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
    description="pyC2Ray: xfrac_z*.dat and source lists, with C2-Ray's densities",
    claim=claim,
    scan=scan,
    settings=c2ray.SETTINGS,
)
