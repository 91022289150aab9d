"""The layout of the EPFL student project: `rho_z8.397.npy`, `nsrc_z8.397.npy`, `xHII_z8.397.npy`.

Byte level: `.npy` (see `reion.readers.npy`), arrays of shape (x, y, z). `rho` is the comoving baryon density
in g cm-3, `xHII` the ionised fraction; the unit of `nsrc` is not in the files and is asked for, as is the
size of the box.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reion.readers.format import Format
from reion.readers.npy_series import claim_series, series_box
from reion.readers.settings import Settings
from reion.readers.snapshot import Box


def claim(paths: Sequence[Path]) -> list[Path]:
    """`.npy` files with the layout's names."""
    return claim_series(paths, "npy")


def scan(paths: Sequence[Path], settings: Settings) -> list[Box]:  # noqa: ARG001 (units are asked for later)
    """All files as one box."""
    return [series_box(paths, {"n_igm": "g cm-3", "n_src": "", "xi": "1"}, source_code="C2-Ray, EPFL layout")]


FORMAT = Format(
    name="epfl",
    description="the EPFL project's rho_z*.npy, nsrc_z*.npy, xHII_z*.npy",
    claim=claim,
    scan=scan,
)
