"""Redshifts, labels and endings in file names."""

from __future__ import annotations

import re
from pathlib import Path

_REDSHIFT = re.compile(
    r"(?<![A-Za-z])(?:redshift|zred|z)[=_-]?(?P<number>\d{1,4}(?:[.,p]\d+)?)(?![A-Za-z0-9]|\.\d)",
    re.IGNORECASE,
)
"""A redshift is a number behind the word z, zred or redshift: `nz64` and `xyz64` are none. EAGLE and others
write `z008p500` for 8.5, some write 8,5."""

_MESH = re.compile(r"y[=_-]?\d+[_x-]?$", re.IGNORECASE)
"""What stands before the z of `x64y64z64` and `nx64_ny64_z64`, which is a number of cells."""

_COMPRESSED = ".gz"


def redshift_of(path: Path) -> float | None:
    """The redshift in a name like `xi_z8.397.npy`, `snap_z008p397.h5` or `redshift=8.4.h5`; None without one.

    Of several the last counts: `box_z64cells_z8.0.h5` and `z64_z8.0.h5` are at 8.
    """
    match = _last_redshift(ending_removed(path.name))
    return None if match is None else float(match["number"].lower().replace("p", ".").replace(",", "."))


def label_of(path: Path) -> str:
    """The name of the simulation a file belongs to: the file's name without redshift and ending.

    `box1_z06.000.npz` gives `box1`; a name that is only a redshift gives the folder's name.
    """
    stem = ending_removed(path.name)
    match = _last_redshift(stem)
    if match is not None:
        stem = stem[: match.start()].rstrip("_-. ") + stem[match.end() :]
    return stem.strip("_-. ") or path.resolve().parent.name


def ending_of(name: str) -> str:
    """The ending of a file's name in lower case, `.gz` left away: `.dat` for `xfrac_8.397.DAT.gz`."""
    return Path(name.lower().removesuffix(_COMPRESSED)).suffix


def ending_removed(name: str) -> str:
    """A file's name without its ending and without `.gz`; a number such as `z8.397` is no ending."""
    stem = name[: -len(_COMPRESSED)] if name.lower().endswith(_COMPRESSED) else name
    suffix = Path(stem).suffix
    return stem if suffix[1:].isdigit() else stem.removesuffix(suffix)


def _last_redshift(stem: str) -> re.Match[str] | None:
    matches = [match for match in _REDSHIFT.finditer(stem) if not _MESH.search(stem[: match.start()])]
    return matches[-1] if matches else None
