"""Files and arrays that nobody reads but whose names look like a field: they are named in a warning."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from reion.errors import InputError
from reion.readers.filenames import ending_of, redshift_of
from reion.readers.tree import Tree

_FIELD = re.compile(
    r"dens|rho|delta|n_?igm|n_?h(?![a-z])|gas|n_?src|sourc|src|sfr|emissiv|photon|n_?ion|halo|x_?hi+|x_?h2|xfrac|"
    r"x_?ion|(?<![a-z])x[ei]s?(?![a-z])|neutral|ioni[sz]|veloc|(?<![a-z])v[xyz](?![a-z])|mfp|mean_free",
    re.IGNORECASE,
)
_NOT_FIELDS = re.compile(r"ion_?rates?|irate|mask|brightness", re.IGNORECASE)
"""What the codes write beside their fields and no command uses: the formats' pages say so."""
_DATA_ENDINGS = {
    ".npy",
    ".npz",
    ".h5",
    ".hdf5",
    ".hdf",
    ".nc",
    ".nc4",
    ".zarr",
    ".dat",
    ".bin",
    ".txt",
    ".csv",
}
_MOST_NAMES = 10


def looks_like_a_field(name: str) -> bool:
    """Whether the name of a file, a group or an array could be that of a density, of sources or of xi."""
    return bool(_FIELD.search(name)) and not _NOT_FIELDS.search(name)


def warn_unused_files(paths: Sequence[Path], used: Collection[Path]) -> None:
    """Name the files that look like fields and are not among those `used`."""
    warn_unused(
        str(path)
        for path in paths
        if path not in used
        and (ending_of(path.name) in _DATA_ENDINGS or (path.is_dir() and not ending_of(path.name)))
        and looks_like_a_field(path.name)
    )


def warn_unused_arrays(trees: Sequence[Tree], used: Collection[str]) -> None:
    """Name the arrays of three or four axes that look like fields and are not `used`, once each."""
    found: dict[str, list[str]] = {}
    for tree in trees:
        for name in tree.names():
            if name not in used and looks_like_a_field(name.rpartition("/")[2]) and _is_cube(tree, name):
                found.setdefault(name, []).append(tree.path.name)
    warn_unused(
        f"{name} in {files[0]}{f' and {len(files) - 1} more files' if len(files) > 1 else ''}"
        for name, files in found.items()
    )


def check_there(paths: Iterable[Path]) -> None:
    """Refuse what has the name of data and is none: a link that leads nowhere, a folder called like a file.

    Passed over, it would make a series shorter without a word.

    Raises
    ------
    InputError
        Naming it.
    """
    for path in paths:
        is_data = ending_of(path.name) in _DATA_ENDINGS or redshift_of(path) is not None
        if path.is_symlink() and not path.exists() and is_data:
            raise InputError(f"the link leads nowhere: {path.readlink()} is not there", file=path)
        if path.is_dir() and ending_of(path.name) in _DATA_ENDINGS - {".zarr"}:
            raise InputError(
                "expected a file; received a folder of that name",
                file=path,
                hint="rename the folder, or name the files to read",
            )


def _is_cube(tree: Tree, name: str) -> bool:
    try:
        return len(tree.shape(name) or ()) in (3, 4)
    except InputError:  # a neighbour that cannot be read
        return False


def warn_unused(names: Iterable[str]) -> None:
    """Name what is not used, if there is anything."""
    found = list(names)
    if found:
        more = f", and {len(found) - _MOST_NAMES} more" if len(found) > _MOST_NAMES else ""
        warnings.warn(f"not used: {', '.join(found[:_MOST_NAMES])}{more}", stacklevel=3)
