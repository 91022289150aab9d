"""Warns of files and arrays that are not read although their names look like those of fields."""

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
    r"x_?ion|x_?he|(?<![a-z])x[ei]s?(?![a-z])|neutral|ioni[sz]|veloc|(?<![a-z])v_?[xyz](?![a-z])|mfp|mean_free|"
    r"baryon|matter|overdens|contrast|stellar|lumin|n_?dot|frac",
    re.IGNORECASE,
)
_WORD_OF_FIELD = re.compile(rf"[a-z0-9]*(?:{_FIELD.pattern})[a-z0-9]*", re.IGNORECASE)
_NOT_FIELDS = re.compile(r"ion_?rates?|irate|mask|brightness|xi_std", re.IGNORECASE)
"""Quantities that codes write beside the fields. Rates and masks are read only if a mapping names them."""
_CATALOGUE = re.compile(r"halo|sourc|(?<![a-z])src|(?<![a-z])fof(?![a-z])", re.IGNORECASE)
_DATA_ENDINGS = {
    *(".npy", ".npz", ".h5", ".hdf5", ".hdf", ".he5", ".nc", ".nc4", ".cdf", ".zarr", ".dat", ".bin", ".raw"),
    *(".txt", ".csv", ".tsv", ".ascii", ".list", ".fits", ".fit", ".mat", ".vtk", ".vti", ".pkl", ".pickle"),
    *(".parquet", ".asdf", ".bp", ".zip", ".tar", ".tgz", ".bz2", ".xz", ".zst", ".lz4"),
}
"""Endings of files that may hold a field, whether reion can read them or not."""
_MOST_NAMES = 10


def looks_like_a_field(name: str) -> bool:
    """Whether the name of a file, a group or an array could be that of a density, of sources or of xi."""
    return bool(_FIELD.search(name)) and not _NOT_FIELDS.search(name)


def is_never_read(name: str) -> bool:
    """Whether a file's name is that of a quantity that codes write beside the fields, such as IonRates."""
    return bool(_NOT_FIELDS.search(name))


def may_be_a_field(path: Path) -> bool:
    """Whether a path has the ending of files of data, and the name of a field."""
    return _may_hold_data(path) and looks_like_a_field(path.name)


def without_field(label: str) -> str:
    """The name of a simulation without the words that name a field: `box1` for `box1_density`."""
    return _WORD_OF_FIELD.sub("", label).strip("_-. ")


def warn_unused_files(paths: Sequence[Path], used: Collection[Path]) -> None:
    """Warn of the files that look like fields and are not among those `used`."""
    warn_unused(
        str(path)
        for path in paths
        if path not in used and (_is_folder_of_snapshot(path) or may_be_a_field(path))
    )


def _may_hold_data(path: Path) -> bool:
    return ending_of(path.name) in _DATA_ENDINGS or (path.is_dir() and not ending_of(path.name))


def _is_folder_of_snapshot(path: Path) -> bool:
    return path.is_dir() and redshift_of(path) is not None


def warn_unused_arrays(
    trees: Sequence[Tree], used: Collection[str], *, catalogues_used: bool = False
) -> None:
    """Warn once of each array of three or four axes that looks like a field and is not among those `used`.

    Without `catalogues_used`, also warn of groups whose names say that they list haloes or sources.
    """
    found: dict[str, list[str]] = {}
    for tree in trees:
        for name in tree.names():
            group, _, array = name.rpartition("/")
            if name not in used and looks_like_a_field(array) and _is_cube(tree, name):
                found.setdefault(name, []).append(tree.path.name)
            elif not catalogues_used and _CATALOGUE.search(group) and not _is_cube(tree, name):
                files = found.setdefault(group, [])
                files += [tree.path.name] if tree.path.name not in files else []
    warn_unused(
        f"{name} in {files[0]}{f' and {len(files) - 1} more files' if len(files) > 1 else ''}"
        for name, files in found.items()
    )


def check_there(paths: Iterable[Path]) -> None:
    """Refuse links that lead nowhere and folders that are named like files, if their names are those of data.

    Otherwise a series would be shorter without a warning.

    Raises
    ------
    InputError
        If there is such a path. The message names it.
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
    except InputError:  # an array that cannot be read does not matter to the others
        return False


def warn_unused(names: Iterable[str]) -> None:
    """Warn that the files or arrays of these names are not used, if there are any."""
    found = list(names)
    if found:
        more = f", and {len(found) - _MOST_NAMES} more" if len(found) > _MOST_NAMES else ""
        warnings.warn(f"not used: {', '.join(found[:_MOST_NAMES])}{more}", stacklevel=3)
