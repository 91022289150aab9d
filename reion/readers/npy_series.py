"""The common part of the EPFL and PINION layouts: one `.npy` file for each field and redshift."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from reion.readers.binary import BinaryCube
from reion.readers.format import Format
from reion.readers.npy import MAGIC, cube_shape, file_header
from reion.readers.settings import Settings
from reion.readers.snapshot import Box, Snapshot

FIELD_OF = {"rho": "n_igm", "nsrc": "n_src", "xHII": "xi"}
_NAME = re.compile(r"(rho|nsrc|xHII)_z(\d+(?:[.p]\d+)?)\.((?i:npy|npz))")


def series_format(
    *, name: str, description: str, ending: str, units: Mapping[str, str], source_code: str
) -> Format:
    """The format of files `rho_z*`, `nsrc_z*`, `xHII_z*` with this `ending`.

    `units` gives the unit of each field; it is empty where a setting must give the unit.
    """

    def claim(paths: Sequence[Path]) -> list[Path]:
        return [path for path in paths if _is_of_series(path, ending)]

    def scan(paths: Sequence[Path], settings: Settings) -> list[Box]:  # noqa: ARG001 (units come later)
        snapshots = [_snapshot(path, match, units) for path in paths if (match := _NAME.fullmatch(path.name))]
        return [Box(label=paths[0].resolve().parent.name, snapshots=snapshots, source_code=source_code)]

    return Format(name=name, description=description, claim=claim, scan=scan)


def _is_of_series(path: Path, ending: str) -> bool:
    match = _NAME.fullmatch(path.name)
    if not match or match.group(3).lower() != ending or not path.is_file():
        return False
    if ending == "npy":
        return True
    with path.open("rb") as stream:
        return stream.read(len(MAGIC)) == MAGIC


def _snapshot(path: Path, match: re.Match[str], units: Mapping[str, str]) -> Snapshot:
    cube = npy_cube(path)
    field = FIELD_OF[match.group(1)]
    return Snapshot(
        name=field,
        redshift=float(match.group(2).replace("p", ".")),
        file=path,
        shape=cube.shape,
        units=units[field],
        read=cube.read,
    )


def npy_cube(path: Path) -> BinaryCube:
    """The cube in a `.npy` file.

    Raises
    ------
    InputError
        If the file is damaged, its size does not fit its shape, or it holds no cube of numbers.
    """
    header = file_header(path)
    shape = cube_shape(header, file=path, name=path.name)
    return BinaryCube(
        path, header.dtype, shape, "F" if header.fortran_order else "C", [(header.start, header.nbytes)]
    )
