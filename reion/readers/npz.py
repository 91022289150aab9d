"""Our `.npz` layout: one archive a snapshot, fields beside redshift and box size.

Byte level: a zip archive whose members are `.npy` files: `n_igm`, `n_src`, `xi` (any of them), each of shape
(x, y, z) and of a floating-point type, and the scalars `redshift` and `box_size` (comoving Mpc, one number or
three). Optional members: `H0`, `Om0`, `Ob0`. Units are those of the Simulation unless `--set` says otherwise.
Files of one simulation carry the same name but for the redshift: `box1_z08.000.npz`, `box1_z07.500.npz`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reion.errors import InputError
from reion.readers.filenames import label_of
from reion.readers.format import Format
from reion.readers.npy import MAGIC, Archive
from reion.readers.settings import Settings
from reion.readers.snapshot import Box, Region, Snapshot
from reion.simulation.contract import DEFAULT_COSMOLOGY, FIELDS
from reion.simulation.units import Conversion


def claim(paths: Sequence[Path]) -> list[Path]:
    """Files named `.npz`, but for those that are `.npy` inside."""
    return [path for path in paths if path.suffix == ".npz" and path.is_file() and not _is_npy(path)]


def scan(paths: Sequence[Path], settings: Settings) -> list[Box]:  # noqa: ARG001 (the files say it all)
    """One snapshot of one box for each file."""
    return [_scan_file(path) for path in sorted(paths)]


def _scan_file(path: Path) -> Box:
    archive = Archive(path)
    redshift = archive.numbers("redshift", sizes=(1,))
    box_size = archive.numbers("box_size", sizes=(1, 3))
    if redshift is None or box_size is None:
        lacking = "redshift" if redshift is None else "box_size"
        raise InputError(
            f"expected a member {lacking!r}; received members {', '.join(archive.members)}", file=path
        )
    cosmology = {key: archive.numbers(key, sizes=(1,)) for key in DEFAULT_COSMOLOGY}
    snapshots = []
    for name, spec in FIELDS.items():
        if name in archive.members:

            def read(region: Region, conversion: Conversion, name: str = name) -> np.ndarray:
                return conversion(archive.array(name)[region])

            snapshots.append(
                Snapshot(
                    name=name,
                    redshift=float(redshift[0]),
                    file=path,
                    shape=archive.shape(name),
                    units=spec.units[0],
                    read=read,
                )
            )
    if not snapshots:
        raise InputError(
            f"expected any of the members {', '.join(FIELDS)}; received {', '.join(archive.members)}",
            file=path,
        )
    return Box(
        label=label_of(path),
        snapshots=snapshots,
        box_size=float(box_size[0]) if box_size.size == 1 else box_size.tolist(),
        cosmology=None
        if any(value is None for value in cosmology.values())
        else {key: float(value[0]) for key, value in cosmology.items() if value is not None},
        source_code="npz",
    )


def _is_npy(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(MAGIC)) == MAGIC


FORMAT = Format(
    name="npz",
    description="our .npz archives, one a snapshot (n_igm, n_src, xi, redshift, box_size)",
    claim=claim,
    scan=scan,
)
