"""Redshifts in file names."""

from __future__ import annotations

import re
from pathlib import Path

_REDSHIFT = re.compile(r"[_-]?z(\d{1,3}(?:\.\d+)?)(?![\d.]*\d)")


def redshift_of(path: Path) -> float | None:
    """The redshift in a name like `xi_z8.397.npy`, or None."""
    match = _REDSHIFT.search(path.name)
    return float(match.group(1)) if match else None


def label_of(path: Path) -> str:
    """The name of the simulation a file belongs to: the file's name without redshift and ending.

    `box1_z06.000.npz` gives `box1`; a name that is only a redshift gives the folder's name.
    """
    stem = _REDSHIFT.sub("", path.name.removesuffix(path.suffix))
    return stem.strip("_-. ") or path.resolve().parent.name
