"""Reads simulations from files: `open_simulation` opens any of `FORMATS` as one lazy, checked Simulation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import xarray as xr

from reion.errors import InputError, did_you_mean
from reion.readers import c2ray, epfl, halos, hdf5, npy_files, npz, pinion, pyc2ray, twentyonecmfast
from reion.readers import zarr as zarr_store
from reion.readers.assembly import assemble
from reion.readers.folders import expand, expand_each, files_below
from reion.readers.foreign import said_of_foreign
from reion.readers.format import Format
from reion.readers.joining import join_boxes
from reion.readers.names import Names, names_from
from reion.readers.settings import HALO_SETTINGS, Settings
from reion.readers.tree import shown
from reion.readers.unused import check_there, is_never_read, may_be_a_field, warn_unused_files

__all__ = ["FORMATS", "Format", "open_each", "open_simulation", "open_simulations", "source_files"]

FORMATS: Mapping[str, Format] = {
    reader.FORMAT.name: reader.FORMAT
    for reader in (
        zarr_store,
        npz,
        c2ray,
        pyc2ray,
        twentyonecmfast,
        epfl,
        pinion,
        hdf5,
        npy_files,
    )
}
"""Every format by its name, as `--format` takes it."""

_SETTINGS_OF_ALL = {key: meaning for reader in FORMATS.values() for key, meaning in reader.settings.items()}
Source = str | Path | Sequence[str | Path]
_MOST_NAMED = 5
"""Files that a message names of many."""


def open_simulation(
    source: Source,
    *,
    format: str | None = None,  # noqa: A002 (the name of the command's flag)
    settings: Mapping[str, str] | None = None,
) -> xr.Dataset:
    """Open one simulation, lazily.

    The structure is checked now, values when they are read: a value that is not finite or out of range raises
    an `InputError` with the file and the cell.

    Parameters
    ----------
    source
        A file, a folder, a pattern such as `'run/box1_*.npz'`, or several of them.
    format
        A name in `FORMATS`; recognised from the files where it is None.
    settings
        Facts that the files lack, as `--set` gives them: see the page of the format.

    Returns
    -------
    xarray.Dataset
        A Simulation: fields of shape (redshift, x, y, z), float32, lazily read.

    Raises
    ------
    InputError
        If a file is missing or damaged, the files are not of exactly one format and one simulation, a fact is
        missing, or files do not fit together.
    """
    sims = open_simulations(source, format=format, settings=settings)
    if len(sims) > 1:
        raise InputError(
            f"expected one simulation; received {len(sims)}: {', '.join(sims)}",
            file=_name(source),
            hint="name the files of one of them (a pattern such as "
            f"'{next(iter(sims))}_*' does), or give `reion convert` a folder as --out: one store each",
        )
    return next(iter(sims.values()))


def open_each(
    sources: Sequence[str | Path],
    *,
    format: str | None = None,  # noqa: A002 (the name of the command's flag)
    settings: Mapping[str, str] | None = None,
) -> list[xr.Dataset]:
    """Open several simulations, such as the boxes of a training set.

    A folder, a store and a pattern are one simulation each. Plain files are grouped by their format and the
    name that they share, so that `box1_*.npz box3_*.npz box4.h5`, which a shell expands, are three
    simulations.

    Raises
    ------
    InputError
        As `open_simulation`, for each.
    """
    files = [source for source in sources if Path(source).is_file()]
    sims = [
        open_simulation(source, format=format, settings=settings) for source in sources if source not in files
    ]
    mapped = "mapping" in (settings or {})
    together = [files] if files and (format is not None or mapped) else _groups_of(files)
    for group in together:
        sims += open_simulations(group, format=format, settings=settings).values()
    return sims


def _groups_of(files: Sequence[str | Path]) -> list[list[Path]]:
    """The files in groups that are opened together: those that only one generic format reads are a group."""
    paths = [Path(file) for file in files]
    recognised = {path for reader in FORMATS.values() if not reader.generic for path in reader.claim(paths)}
    others = [path for path in paths if path not in recognised]
    claims = [reader.claim(others) for reader in FORMATS.values() if reader.generic]
    groups = [group for group in ([path for path in paths if path in recognised], *claims) if group]
    if not groups:
        return [paths] if paths else []
    grouped = {path for group in groups for path in group}
    return [[*groups[0], *(path for path in paths if path not in grouped)], *groups[1:]]


def open_simulations(
    source: Source,
    *,
    format: str | None = None,  # noqa: A002 (the name of the command's flag)
    settings: Mapping[str, str] | None = None,
) -> dict[str, xr.Dataset]:
    """Open every simulation in `source`, by label (the name its files share).

    Parameters and errors are those of `open_simulation`, but for the number of simulations.
    """
    with _readable(source):
        return _open(source, format, settings)


def source_files(
    source: Source,
    *,
    format: str | None = None,  # noqa: A002 (the name of the command's flag)
    settings: Mapping[str, str] | None = None,
) -> list[Path]:
    """The files (and Zarr stores) that `open_simulations` reads, with the mapping if there is one.

    Raises
    ------
    InputError
        As `open_simulations` does.
    """
    with _readable(source):
        found = _find(source, format, settings)
    mapping = found.settings.text("mapping")
    return [*found.claimed, *found.catalogues, *([Path(mapping).expanduser()] if mapping else [])]


@dataclass(frozen=True)
class _Found:
    """The paths in a source: files of its format (`reader` None: there are none), and halo catalogues."""

    paths: Sequence[Path]
    reader: Format | None
    claimed: Sequence[Path]
    catalogues: Sequence[Path]
    settings: Settings
    names: Names


def _find(source: Source, wanted: str | None, settings: Mapping[str, str] | None) -> _Found:
    if wanted is not None and wanted not in FORMATS:
        raise InputError(
            f"--format: expected one of {', '.join(FORMATS)}; received {wanted!r}"
            + did_you_mean(wanted, FORMATS)
        )
    paths = expand(source)
    check_there(paths)
    # The mapping is read before the format is known, so settings of all formats are accepted here.
    names = names_from(Settings(settings, _SETTINGS_OF_ALL))
    catalogues = halos.catalogues_of(names.halos, paths, (settings or {}).get("mapping"))
    rest = [path for path in paths if path not in catalogues]
    if catalogues and not rest:
        return _Found(paths, None, [], catalogues, Settings(settings), names)
    reader, claimed = _recognise(rest, wanted, source, mapped=bool(names.given()))
    _check_all_read(source, rest, reader, claimed)
    return _Found(paths, reader, claimed, catalogues, Settings(settings, reader.settings), names)


def _open(source: Source, wanted: str | None, settings: Mapping[str, str] | None) -> dict[str, xr.Dataset]:
    found = _find(source, wanted, settings)
    if found.reader is None:
        boxes = [halos.box_without_mesh(found.catalogues)]
    else:
        boxes = join_boxes(found.reader.scan(found.claimed, found.settings))
    by_mass = [key for key in HALO_SETTINGS if found.settings.text(key) is not None]
    if by_mass and found.names.halos is None:
        raise InputError(
            f"--set {', '.join(by_mass)}: expected a list of haloes, whose masses are known; received none",
            hint="say where it is under [halos] in a mapping",
        )
    if found.names.halos is not None:
        boxes = [halos.with_halos(box, found.names.halos, found.catalogues, found.settings) for box in boxes]
    warn_unused_files(found.paths, {*found.claimed, *found.catalogues})
    return {box.label: assemble(box, found.settings) for box in boxes}


def _recognise(
    paths: Sequence[Path], wanted: str | None, source: Source, *, mapped: bool
) -> tuple[Format, list[Path]]:
    """The format of the files, and the files that are of this format.

    With `mapped`, a mapping says which array is what, and formats with fixed names are left out.
    """
    chosen = [reader for reader in FORMATS.values() if wanted in (None, reader.name)]
    if mapped:
        chosen = [reader for reader in chosen if reader.mapped]
        if not chosen:
            with_mapping = ", ".join(name for name, reader in FORMATS.items() if reader.mapped)
            raise InputError(f"--format {wanted}: has names of its own; a mapping is for {with_mapping}")
    claims = {reader.name: reader.claim(paths) for reader in chosen}
    claims = {name: claimed for name, claimed in claims.items() if claimed}
    if not claims and not mapped and wanted in (None, twentyonecmfast.FORMAT.name):
        # A cache of 21cmFAST has nested folders; its files are recognised by their content.
        below = twentyonecmfast.claim(files_below([path for path in paths if path.is_dir()]))
        claims = {twentyonecmfast.FORMAT.name: below} if below else {}
    if not claims:
        raise _nothing_found(paths, wanted, source)
    if any(not FORMATS[name].generic for name in claims):
        claims = {name: claimed for name, claimed in claims.items() if not FORMATS[name].generic}
    # A format is left out if another format claims all of its files and more.
    best = [
        name
        for name, claimed in claims.items()
        if not any(set(claimed) < set(other) for other in claims.values())
    ]
    if len(best) > 1:
        listed = "; ".join(f"{name}: {len(claims[name])} files ({claims[name][0].name} ...)" for name in best)
        raise InputError(
            f"expected files of one format; received {listed}",
            file=_name(source),
            hint="choose with --format",
        )
    return FORMATS[best[0]], claims[best[0]]


def _check_all_read(source: Source, paths: Sequence[Path], reader: Format, claimed: Sequence[Path]) -> None:
    """Refuse files that the user named (not those in a folder) and that are not of the format that is read.

    Raises
    ------
    InputError
        If there is such a file that another format reads, or whose name looks like that of a field.
    """
    named = {item for item, found in expand_each(source) if found == [item]}
    unread = [path for path in paths if path in named - set(claimed) and not is_never_read(path.name)]
    formats = {
        path: [other.name for other in FORMATS.values() if path in other.claim([path])] for path in unread
    }
    received = [
        f"{path.name} ({' or '.join(formats[path]) or 'no format that is read'})"
        for path in unread
        if formats[path] or may_be_a_field(path)
    ]
    if received:
        raise InputError(
            f"expected files of one format, here {reader.name} ({claimed[0].name}); received also "
            f"{shown(received, most=_MOST_NAMED)}",
            file=_name(source),
            hint="name only the files of one format, or choose it with --format; files of another format are "
            "another simulation",
        )


def _nothing_found(paths: Sequence[Path], wanted: str | None, source: Source) -> InputError:
    names = shown([path.name for path in paths], "nothing", most=_MOST_NAMED)
    formats = "\n".join(f"  {reader.name}: {reader.description}" for reader in FORMATS.values())
    folders = [path for path in paths if path.is_dir()]
    inside = (
        f"folders in folders are not searched: name them ({' '.join(map(str, folders[:3]))})\n"
        if folders
        else ""
    )
    foreign = said_of_foreign(paths)
    return InputError(
        f"expected files of {wanted or 'one of the formats ' + ', '.join(FORMATS)}; received {names}",
        file=_name(source),
        hint=foreign or f"{inside}the formats (--format names one) are\n{formats}",
    )


@contextlib.contextmanager
def _readable(source: Source) -> Iterator[None]:
    """Turn an OSError in the block into an `InputError`."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot be read: {error}", file=error.filename or _name(source)) from error


def _name(source: Source) -> str:
    """The source as messages name it: of many files the first few, and how many more there are."""
    if isinstance(source, str | Path):
        return str(source)
    return shown(list(map(str, source)), most=_MOST_NAMED)
