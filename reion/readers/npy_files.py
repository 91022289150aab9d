"""`.npy` files with any names, one array each: `density_z8.0.npy`, `photons_z8.0.npy`.

The files of one folder whose names have the same redshift are a snapshot; `density_8.0.npy` will do for an
array that the mapping names. The name of a file without redshift
and ending (`density`) is the name of its array in a mapping (`reion.readers.mapping`). The mapping gives the
units, and the redshift and the size of the box where neither a file nor `--set` gives them. Without a mapping
the arrays have the names and units of the Simulation: `n_igm_z8.0.npy`, `n_src_z8.0.npy`, `xi_z8.0.npy`,
`redshift.npy`, `box_size.npy`. Byte level: `reion.readers.npy`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reion.errors import InputError
from reion.readers.filenames import ending_of, label_of, redshift_of, why_no_redshift
from reion.readers.format import Format
from reion.readers.mapping import box_from
from reion.readers.names import NumberPlace, names_from
from reion.readers.npy import file_header
from reion.readers.settings import Settings
from reion.readers.snapshot import Box
from reion.readers.tree import ArrayKey, NumbersOnly
from reion.readers.unused import warn_unused_arrays
from reion.simulation.contract import FIELDS

_BARE_REDSHIFT = re.compile(r"(.+?)_(\d+\.\d+)")


class NpyTree(NumbersOnly):
    """The `.npy` files of one snapshot, or of all snapshots, as `reion.readers.tree.Tree`.

    Parameters
    ----------
    files
        The file of each array, by the name of the array.
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        self.path = next(iter(files.values()))
        self._files = dict(files)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of a file's array; None if there is none of that name."""
        name = _plain(name)
        return file_header(self._files[name]).shape if name in self._files else None

    def read(self, name: str, key: ArrayKey) -> np.ndarray:
        """Numbers of an array, mapped into memory: only the part at `key` is read."""
        file = self._files[_plain(name)]
        header = file_header(file)
        order = "F" if header.fortran_order else "C"
        stored = np.memmap(file, header.dtype, "r", header.start, header.shape, order)  # type: ignore[call-overload]
        return np.array(stored[key])

    def array_attributes(self, name: str) -> Mapping[str, Any]:
        """The unit of an array that has the name of a field of the Simulation."""
        return {"units": FIELDS[name].units[0]} if name in FIELDS else {}

    def names(self) -> list[str]:
        """Arrays of floating-point numbers."""
        return [name for name, file in self._files.items() if _is_real(file)]


def claim(paths: Sequence[Path]) -> list[Path]:
    """All `.npy` files."""
    return [path for path in paths if ending_of(path.name) == ".npy" and path.is_file()]


def scan(paths: Sequence[Path], settings: Settings) -> list[Box]:
    """One box for each redshift in the names of a folder's files; files without one belong to all boxes."""
    names = names_from(settings)
    wanted = {place.array.removesuffix(".npy") for place in names.arrays().values()}
    folders: dict[Path, dict[float | None, dict[str, Path]]] = {}
    for path in paths:
        label, redshift = _name_of(path, wanted)
        files = folders.setdefault(path.resolve().parent, {}).setdefault(redshift, {})
        if why_no_redshift(path) and label not in wanted and label.startswith(tuple(wanted)):
            raise InputError(
                f"expected a redshift in the name{why_no_redshift(path)}",
                file=path,
                hint="name it like density_z8.500.npy",
            )
        if label in files:
            raise InputError(
                f"expected one file of {label} at a redshift; {files[label]} is another", file=path
            )
        files[label] = path
    boxes, trees = [], []
    for folder, snapshots in folders.items():
        shared = snapshots.pop(None, {})
        for redshift, own in snapshots.items() or [(None, shared)]:
            # A file with a redshift in its name comes first, because the tree takes its path from it.
            trees.append(
                NpyTree({**own, **{label: path for label, path in shared.items() if label not in own}})
            )
            box_names = names
            if names.redshift is None and redshift is not None and redshift_of(trees[-1].path) is None:
                box_names = names.model_copy(update={"redshift": NumberPlace(value=redshift)})
            boxes.append(box_from(trees[-1], box_names, settings, label=folder.name))
    warn_unused_arrays(trees, wanted)
    return boxes


def _name_of(path: Path, wanted: Collection[str]) -> tuple[str, float | None]:
    """The name of a file's array, and the redshift in the file's name, or None.

    Behind the name of an array that is `wanted` a number with decimals is a redshift without its z.
    """
    redshift = redshift_of(path)
    if redshift is not None:
        return label_of(path), redshift
    plain = _plain(path.name)
    match = _BARE_REDSHIFT.fullmatch(plain)
    if match and match.group(1) in wanted and plain not in wanted:
        return match.group(1), float(match.group(2))
    return plain, None


def _plain(name: str) -> str:
    return name[: -len(".npy")] if name.lower().endswith(".npy") else name


def _is_real(file: Path) -> bool:
    try:
        return file_header(file).dtype.kind == "f"
    except InputError:  # a file that cannot be read does not matter to the others
        return False


FORMAT = Format(
    name="npy",
    description=".npy files with any names, one array each, given by a mapping",
    claim=claim,
    scan=scan,
    generic=True,
    mapped=True,
)
