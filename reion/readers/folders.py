"""Expands the files, folders and patterns that a user names to the files that may be read."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from reion.errors import InputError
from reion.readers import zarr as zarr_stores

_PARTS_OF_RUN = {
    "results",
    "sources",
    "sources_hdf5",
    "coarser_densities",
    "densities",
    "halos",
    "halo_catalogues",
}
"""Folders in which codes keep the parts of one run (pyC2Ray's, and catalogues beside densities)."""
_DEEPEST, _MOST_FILES = 6, 100_000


def is_part_of_run(folder: Path) -> bool:
    """Whether a folder has the name of a part of a run, such as `results`."""
    return folder.name.lower() in _PARTS_OF_RUN


def expand(source: str | Path | Sequence[str | Path]) -> list[Path]:
    """The files (and Zarr stores) in a source, with patterns and folders expanded.

    Folders in a folder are expanded only if they hold parts of a run, such as `results` and `sources`.

    Raises
    ------
    InputError
        If nothing has one of the names.
    """
    return list(dict.fromkeys(path for _, found in expand_each(source) for path in found))


def expand_each(source: str | Path | Sequence[str | Path]) -> list[tuple[Path, list[Path]]]:
    """Each folder, file or match of a pattern in a source, with the files (and Zarr stores) in it.

    A file (or store) is given with itself. Errors are those of `expand`.
    """
    given = [source] if isinstance(source, str | Path) else list(source)
    if not given:
        raise InputError("expected a file, a folder or a pattern; received nothing")
    each: list[tuple[Path, list[Path]]] = []
    for item in given:
        path = Path(item).expanduser()
        found = [path] if path.exists() else matches(path)
        if found and found[0].is_symlink() and not found[0].exists():
            raise InputError(f"the link leads nowhere: {found[0].readlink()} is not there", file=found[0])
        if not found or not found[0].exists():
            raise InputError("no such file or folder", file=path)
        for match in found:
            is_folder = match.is_dir() and not zarr_stores.claim([match])
            each.append((match, _children(match) if is_folder else [match]))
    return each


def matches(pattern: Path) -> list[Path]:
    """The paths that match a pattern, sorted; the folders of it that exist by their names are no pattern."""
    folder = next(parent for parent in pattern.parents if parent.exists())
    rest = pattern.relative_to(folder)
    if not glob.has_magic(str(rest)):
        return [pattern]
    found = glob.glob(str(Path(glob.escape(str(folder))) / rest))  # noqa: PTH207 (patterns may be absolute)
    return [Path(match) for match in sorted(found)]


def files_below(folders: Sequence[Path]) -> list[Path]:
    """All files below the folders, as deep as in a cache of 21cmFAST; hidden ones are left out."""
    found: list[Path] = []
    level = list(folders)
    for _ in range(_DEEPEST):
        children = [child for folder in level for child in _visible(folder)]
        found += [child for child in children if child.is_file()]
        level = [child for child in children if child.is_dir() and not child.is_symlink()]
        if len(found) > _MOST_FILES:
            break
    return found


def _children(folder: Path) -> list[Path]:
    children = []
    for child in _visible(folder):
        parts = child.is_dir() and is_part_of_run(child) and not zarr_stores.claim([child])
        children += _children(child) if parts else [child]
    return children


def _visible(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if not child.name.startswith("."))
