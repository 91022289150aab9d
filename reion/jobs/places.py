"""Where a command may write: apart from its sources, and over nothing but outputs of reion."""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reion.errors import InputError
from reion.jobs.outputs import alone_at, clear_after_kill, is_temporary

_FORMAT_ENDINGS = (
    *(
        ".asdf",
        ".bin",
        ".bz2",
        ".cdf",
        ".csv",
        ".dat",
        ".fit",
        ".fits",
        ".gz",
        ".h5",
        ".hdf",
        ".hdf5",
        ".html",
    ),
    *(".jpg", ".json", ".keras", ".log", ".mat", ".md", ".nc", ".nc4", ".npy", ".npz", ".onnx", ".parquet"),
    *(
        ".pdf",
        ".pickle",
        ".pkl",
        ".png",
        ".pt",
        ".py",
        ".svg",
        ".tar",
        ".tgz",
        ".toml",
        ".tsv",
        ".txt",
        ".vtk",
    ),
    *(".xml", ".xz", ".yaml", ".yml", ".zip", ".zst"),
)
"""Endings that name a format. An output of another format, or a folder, must not have such a name."""

GENERATOR = b'<meta name="generator" content="reion">'
"""The tag by which a page is recognised as one that reion wrote."""

_LONGEST_NAME = 255 - len(".replaced.4194304-abcdef@.") - 64
"""Most bytes in the name of an output, so that temporary names beside it fit on any usual file system."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of output.

    Parameters
    ----------
    name
        Its name in messages, with the article.
    ending
        The ending of file names of this kind, if it has one. Endings that name no format are also allowed.
    is_ours
        Whether a file or folder is of this kind, was written by reion and holds nothing else. `--force`
        replaces only such outputs.
    into_empty
        Whether an empty folder at the place counts as nothing. Otherwise it takes `--force` to replace it.
    """

    name: str
    ending: str = ""
    is_ours: Callable[[Path], bool]
    into_empty: bool = False


def is_by_reion(attributes: Mapping[str, Any]) -> bool:
    """Whether the attributes of a store or a file say that reion wrote it."""
    return str(attributes.get("written_by", "")).startswith("reion ")


def is_our_model(path: Path) -> bool:
    """Whether a file is a model that `reion export` wrote."""
    from reion_exports import dissect

    try:
        return "reion.format" in dissect(path.read_bytes()).metadata
    except (OSError, ValueError):
        return False


MODEL_FILE = Kind(name="a model file", ending=".onnx", is_ours=is_our_model)


def output_path(out: str | Path, kind: Kind, *, sources: Sequence[str | Path] = ()) -> Path:
    """The path that `out` names, with `~` expanded, once it is known that the output may be written there.

    Parameters
    ----------
    sources
        Files, folders and patterns that the command reads. The output may not be, contain or lie in one of
        them, also by way of links.

    Raises
    ------
    InputError
        If the path has no name, its name is too long or says another format, it is a link that leads nowhere,
        it lies in a Zarr store or is not apart from the sources, or its folder cannot be made or written to.
    """
    path = Path(out).expanduser()
    if path.name in ("", ".."):
        raise InputError(f"expected the name of {kind.name} to write; received {str(out)!r}", file=path)
    ending = path.suffix.lower()
    if ending in _FORMAT_ENDINGS and ending != kind.ending:
        expected = f"a name that ends in {kind.ending}" if kind.ending else "a name without such an ending"
        raise InputError(
            f"this would be {kind.name}, not a file of format {ending}: expected {expected}", file=path
        )
    if len(os.fsencode(path.name)) > _LONGEST_NAME:
        raise InputError(f"expected a name of at most {_LONGEST_NAME} bytes for {kind.name}", file=path)
    try:
        if path.is_symlink():
            if not path.exists():
                raise InputError(f"is a link to {path.readlink()}, where nothing is", file=path)
            path = path.resolve()
        real = path.resolve()
        for source in _existing(sources):
            if real == source or source in real.parents or real in source.parents:
                raise InputError(
                    f"the output would be, contain or lie in {source}, which is read",
                    file=path,
                    hint="give another place for the output",
                )
        for folder in real.parents:
            if (folder / "zarr.json").is_file() or (folder / ".zgroup").is_file():
                raise InputError(f"lies in the Zarr store {folder}", file=path, hint="give another place")
        _require_folder_for(path)
    except (OSError, RuntimeError) as error:  # RuntimeError: links that lead in a circle
        raise InputError(f"cannot be written: {error}", file=path) from error
    return path


def require_folder(out: Path) -> None:
    """Refuse a folder of several outputs that cannot be made or written to.

    Raises
    ------
    InputError
        If `out` or a folder above it is a file, or may not be written to.
    """
    try:
        _require_folder_for(out / "an output")
    except OSError as error:
        raise InputError(f"cannot be written: {error}", file=out) from error


def _require_folder_for(path: Path) -> None:
    """Refuse a path whose folder cannot be made, because a file is in its way, or may not be written to."""
    for folder in path.parents:
        if folder.is_dir():
            effective = os.access in os.supports_effective_ids
            if not os.access(folder, os.W_OK | os.X_OK, effective_ids=effective):
                raise InputError(
                    f"cannot be written: no permission to write into {folder}",
                    file=path,
                    hint="give another place for the output",
                )
            return
        if os.path.lexists(folder):
            raise InputError(
                f"cannot be written: {folder} is not a folder",
                file=path,
                hint="give another place for the output",
            )


def refuse_existing(path: Path, kind: Kind, *, force: bool, hint: str = "--force replaces it") -> None:
    """Refuse to write over what is at `path`, unless `force` is given and reion wrote it.

    Parameters
    ----------
    hint
        What to do about an output of this kind that reion wrote.

    Raises
    ------
    InputError
        If something is there and `force` is not given; with `force`, if it is neither an output of this kind
        that reion wrote nor an empty folder. `hint` is given only where `force` would help.
    """
    try:
        empty = holds_only(path, ())
        if not path.exists() or (empty and kind.into_empty):
            return
        ours = empty or kind.is_ours(path)
    except OSError as error:
        raise InputError(f"cannot be written: {error}", file=path) from error
    if not ours:
        raise InputError(
            f"exists already; it is not {kind.name} that reion wrote, or holds something else as well",
            file=path,
            hint="--force does not replace it: give another place, or move it away",
        )
    if not force:
        raise InputError("exists already", file=path, hint=hint)


@contextlib.contextmanager
def claimed(
    out: str | Path, kind: Kind, *, force: bool = False, sources: Sequence[str | Path] = ()
) -> Iterator[Path]:
    """Yield the path of an output (see `output_path`), which only this process may write in the block.

    Raises
    ------
    InputError
        As `output_path`, `refuse_existing` and `alone_at` do; in place of any OSError.
    """
    path = output_path(out, kind, sources=sources)
    try:
        refuse_existing(path, kind, force=force)
    except InputError:
        clear_after_kill(path)
        raise
    with alone_at(path):
        # Checked again: another process may have written it, or `alone_at` has put a replaced output back.
        refuse_existing(path, kind, force=force)
        try:
            yield path
        except OSError as error:
            raise InputError(f"cannot be written: {error}", file=path) from error


def holds_only(folder: Path, names: Sequence[str]) -> bool:
    """Whether `folder` is a folder with no entries but those of these names and reion's temporary ones."""
    return folder.is_dir() and all(
        entry.name in names or is_temporary(entry.name) for entry in folder.iterdir()
    )


def _existing(sources: Sequence[str | Path]) -> list[Path]:
    """The resolved paths of the sources that exist."""
    found: list[Path] = []
    for source in sources:
        path = Path(source).expanduser()
        if path.exists():
            found.append(path.resolve())
        elif glob.has_magic(str(path)):
            found += (Path(match).resolve() for match in glob.glob(str(path)))  # noqa: PTH207 (may be absolute)
    return found
