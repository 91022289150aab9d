"""One `.npy` file for each field and redshift: what the EPFL and PINION layouts have in common."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from reion.errors import InputError
from reion.readers.binary import BinaryCube
from reion.readers.npy import MAGIC, cube_shape, read_header
from reion.readers.snapshot import Box, Snapshot

FIELD_OF = {"rho": "n_igm", "nsrc": "n_src", "xHII": "xi"}
_NAME = re.compile(r"(rho|nsrc|xHII)_z(\d+(?:\.\d+)?)\.(npy|npz)")


def claim_series(paths: Sequence[Path], ending: str) -> list[Path]:
    """Files `rho_z*`, `nsrc_z*`, `xHII_z*` with this ending and `.npy` bytes."""
    claimed = []
    for path in paths:
        match = _NAME.fullmatch(path.name)
        if match and match.group(3) == ending and path.is_file():
            with path.open("rb") as stream:
                if stream.read(len(MAGIC)) == MAGIC or ending == "npy":
                    claimed.append(path)
    return claimed


def series_box(paths: Sequence[Path], units: Mapping[str, str], *, source_code: str) -> Box:
    """All files as one box, with the unit of each field (empty where the layout does not fix it)."""
    snapshots = []
    for path in paths:
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise InputError(
                "expected a name like rho_z8.397, nsrc_z8.397 or xHII_z8.397, ending in .npy or .npz",
                file=path,
            )
        cube = npy_cube(path)
        name = FIELD_OF[match.group(1)]
        snapshots.append(
            Snapshot(
                name=name,
                redshift=float(match.group(2)),
                file=path,
                shape=cube.shape,
                units=units[name],
                read=cube.read,
            )
        )
    return Box(label=paths[0].resolve().parent.name, snapshots=snapshots, source_code=source_code)


def npy_cube(path: Path) -> BinaryCube:
    """The cube in a `.npy` file.

    Raises
    ------
    InputError
        If it is damaged, of another size than it says, pickled, or no cube of floating-point numbers.
    """
    with path.open("rb") as stream:
        header = read_header(stream, file=path, name=path.name)
    size = path.stat().st_size
    if header.start + header.nbytes != size:
        raise InputError(
            f"shape {header.shape} of {header.dtype} needs {header.start + header.nbytes} bytes; "
            f"the file has {size}",
            file=path,
        )
    shape = cube_shape(header, file=path, name=path.name)
    return BinaryCube(
        path, header.dtype, shape, "F" if header.fortran_order else "C", [(header.start, header.nbytes)]
    )
