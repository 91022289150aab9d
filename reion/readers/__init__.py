"""Simulations from files: `open_simulation` reads any of `FORMATS` into one lazy, checked Simulation."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from pathlib import Path

import xarray as xr

from reion.errors import InputError
from reion.readers import c2ray, epfl, hdf5, npz, pinion, pyc2ray, twentyonecmfast
from reion.readers import zarr as zarr_store
from reion.readers.format import Format
from reion.readers.settings import Settings
from reion.readers.snapshot import assemble, join_boxes

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
    )
}
"""Every format by its name, as `--format` takes it."""

Source = str | Path | Sequence[str | Path]


def open_simulation(
    source: Source,
    *,
    format: str | None = None,  # noqa: A002 (the name of the command's flag)
    settings: Mapping[str, str] | None = None,
) -> xr.Dataset:
    """Open one simulation, lazily.

    Structure is checked now, values when they are read: finite and within their range, or an `InputError`
    with the file and the cell.

    Parameters
    ----------
    source
        A file, a folder, a pattern such as `'run/box1_*.npz'`, or several of them.
    format
        A name in `FORMATS`; recognised from the files where it is None.
    settings
        What the files lack, as `--set` gives it: see the format's page.

    Returns
    -------
    xarray.Dataset
        A Simulation: fields of shape (redshift, x, y, z), float32, lazily read.

    Raises
    ------
    InputError
        If there is no such file, no or more than one format or simulation in it, something is lacking, or
        files are damaged or do not fit together.
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

    A folder, a store and a pattern are one simulation each. Plain files are put together by the name that
    they share, so that `box1_*.npz box3_*.npz`, spelled out by the shell, are two simulations.

    Raises
    ------
    InputError
        As `open_simulation`, for each.
    """
    files = [source for source in sources if Path(source).is_file()]
    sims = [
        open_simulation(source, format=format, settings=settings) for source in sources if source not in files
    ]
    if files:
        sims += open_simulations(files, format=format, settings=settings).values()
    return sims


def open_simulations(
    source: Source,
    *,
    format: str | None = None,  # noqa: A002 (the name of the command's flag)
    settings: Mapping[str, str] | None = None,
) -> dict[str, xr.Dataset]:
    """Open every simulation in `source`, by label (the name its files share).

    Parameters and errors are those of `open_simulation`, but for the number of simulations.
    """
    try:
        reader, claimed = _recognise(_expand(source), format, source)
        parsed = Settings(settings, reader.settings)
        boxes = join_boxes(reader.scan(claimed, parsed))
    except OSError as error:
        raise InputError(f"cannot be read: {error}", file=error.filename or _name(source)) from error
    return {box.label: assemble(box, parsed) for box in boxes}


def source_files(source: Source, *, format: str | None = None) -> list[Path]:  # noqa: A002
    """The files (and Zarr stores) that `open_simulations` reads: those in `source` that its format claims.

    Raises
    ------
    InputError
        As `open_simulations` does.
    """
    return _recognise(_expand(source), format, source)[1]


def _expand(source: Source) -> list[Path]:
    """Files (and Zarr stores) that the source names, folders and patterns spelled out."""
    given = [source] if isinstance(source, str | Path) else list(source)
    if not given:
        raise InputError("expected a file, a folder or a pattern; received nothing")
    paths: list[Path] = []
    for item in given:
        path = Path(item).expanduser()
        found = [path]
        if not path.exists() and glob.has_magic(str(path)):
            found = [Path(match) for match in sorted(glob.glob(str(path)))]  # noqa: PTH207 (patterns may be absolute)
        if not found or not found[0].exists():
            raise InputError("no such file or folder", file=path)
        for match in found:
            if match.is_dir() and not zarr_store.claim([match]):
                paths += sorted(child for child in match.iterdir() if not child.name.startswith("."))
            else:
                paths.append(match)
    return list(dict.fromkeys(paths))


def _recognise(paths: Sequence[Path], wanted: str | None, source: Source) -> tuple[Format, list[Path]]:
    if wanted is not None and wanted not in FORMATS:
        raise InputError(f"--format: expected one of {', '.join(FORMATS)}; received {wanted!r}")
    chosen = FORMATS.values() if wanted is None else [FORMATS[wanted]]
    claims = {reader.name: reader.claim(paths) for reader in chosen}
    claims = {name: claimed for name, claimed in claims.items() if claimed}
    if not claims:
        names = ", ".join(path.name for path in paths[:5]) or "nothing"
        expected = wanted or "one of the formats " + ", ".join(FORMATS)
        known = "\n".join(f"  {reader.name}: {reader.description}" for reader in FORMATS.values())
        folders = [path for path in paths if path.is_dir()]
        inside = (
            f"folders in folders are not searched: name them ({' '.join(map(str, folders[:3]))})\n"
            if folders
            else ""
        )
        raise InputError(
            f"expected files of {expected}; received {names}{', ...' if len(paths) > 5 else ''}",
            file=_name(source),
            hint=f"{inside}the formats (--format names one) are\n{known}",
        )
    if any(not FORMATS[name].generic for name in claims):
        claims = {name: claimed for name, claimed in claims.items() if not FORMATS[name].generic}
    # A format whose files are all another one's as well, which has more, is that other one.
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


def _name(source: Source) -> str:
    return str(source) if isinstance(source, str | Path) else ", ".join(map(str, source))
