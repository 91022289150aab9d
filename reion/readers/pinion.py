"""The layout of PINION: `rho_z8.397.npz`, `nsrc_z8.397.npz`, `xHII_z8.397.npz`.

Byte level: `.npy` bytes (see `reion.readers.npy`) under `.npz` names, arrays of shape (x, y, z). `rho` is the
overdensity rho / mean - 1, `xHII` the ionised fraction; the unit of `nsrc` is not in the files and is asked
for, as is the size of the box. `irate` and `mask` are not fields of a Simulation and are left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reion.readers.format import Format
from reion.readers.npy_series import claim_series, series_box
from reion.readers.settings import Settings
from reion.readers.snapshot import Box


def claim(paths: Sequence[Path]) -> list[Path]:
    """`.npz` files with the layout's names and `.npy` bytes."""
    return claim_series(paths, "npz")


def scan(paths: Sequence[Path], settings: Settings) -> list[Box]:  # noqa: ARG001 (units are asked for later)
    """All files as one box."""
    return [series_box(paths, {"n_igm": "overdensity", "n_src": "", "xi": "1"}, source_code="C2-Ray, PINION")]


FORMAT = Format(
    name="pinion",
    description="PINION's rho_z*.npz, nsrc_z*.npz, xHII_z*.npz (.npy bytes under .npz names)",
    claim=claim,
    scan=scan,
)
