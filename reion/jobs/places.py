"""Where a command may write: at a place of its own, and in place of nothing but what reion wrote."""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

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
"""Endings by which people know what a file is: an output of another kind, or a folder, gets no such name."""

GENERATOR = b'<meta name="generator" content="reion">'
"""What a page of reion's bears, to be known by."""

_LONGEST_NAME = 255 - len(".replaced.4194304-abcdef@.") - 64
"""Bytes of an output's name that leave room for the temporary names beside it, on any usual file system."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What a command writes.

    Parameters
    ----------
    name
        What it is called, with its article.
    ending
        Of its name, if that says what it is; other endings that name no format are allowed.
    is_ours
        Whether a file or folder is one of this kind that reion wrote, and nothing else lies in it: then, and
        only then, `--force` replaces it.
    into_empty
        Whether an empty folder is as good as nothing at its place; otherwise it too takes `--force`.
    """

    name: str
    ending: str = ""
    is_ours: Callable[[Path], bool]
    into_empty: bool = False


def is_our_model(path: Path) -> bool:
    """Whether a file is a model that `reion export` wrote."""
    from reion_exports import dissect

    try:
        return "reion.format" in dissect(path.read_bytes()).metadata
    except (OSError, ValueError):
        return False


MODEL_FILE = Kind(name="a model file", ending=".onnx", is_ours=is_our_model)


def output_path(out: str | Path, kind: Kind, *, sources: Sequence[str | Path] = ()) -> Path:
    """The place that `out` names, `~` expanded; refused if no such output can be written there.

    Parameters
    ----------
    sources
        What the command reads: files, folders and patterns. The output may not be, contain or lie in one of
        them, whatever links lead there.

    Raises
    ------
    InputError
        For a place without a name, a link that leads nowhere, a name that is too long or says another format,
        a place in a Zarr store, and one that is not apart from the sources.
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
    except (OSError, RuntimeError) as error:  # RuntimeError: links that lead in a circle
        raise InputError(f"cannot be written: {error}", file=path) from error
    return path


def refuse_existing(path: Path, kind: Kind, *, force: bool, hint: str = "--force replaces it") -> None:
    """Refuse to write over what is at `path`, unless it may be replaced: with `force`, and if it is ours.

    Raises
    ------
    InputError
        If there is something and no `force`; with `force`, if it is not recognisably of this kind and ours,
        nor an empty folder.
    """
    try:
        empty = holds_only(path, ())
        if not path.exists() or (empty and kind.into_empty):
            return
        if not force:
            raise InputError("exists already", file=path, hint=hint)
        ours = empty or kind.is_ours(path)
    except OSError as error:
        raise InputError(f"cannot be written: {error}", file=path) from error
    if not ours:
        raise InputError(
            f"is not {kind.name} that reion wrote, or holds something else as well",
            file=path,
            hint="--force replaces nothing else: give another place, or move it away",
        )


@contextlib.contextmanager
def claimed(
    out: str | Path, kind: Kind, *, force: bool = False, sources: Sequence[str | Path] = ()
) -> Iterator[Path]:
    """The place of a command's output (see `output_path`), which this process alone may write in the block.

    Raises
    ------
    InputError
        As `output_path`, `refuse_existing` and `alone_at` do; in place of every OSError.
    """
    path = output_path(out, kind, sources=sources)
    try:
        refuse_existing(path, kind, force=force)
    except InputError:
        clear_after_kill(path)
        raise
    with alone_at(path):
        # Looked at again: another process may have written it, or what a killed one moved away is back.
        refuse_existing(path, kind, force=force)
        try:
            yield path
        except OSError as error:
            raise InputError(f"cannot be written: {error}", file=path) from error


def holds_only(folder: Path, names: Sequence[str]) -> bool:
    """Whether `folder` is one, and holds nothing but entries of these names and our own temporary ones."""
    return folder.is_dir() and all(
        entry.name in names or is_temporary(entry.name) for entry in folder.iterdir()
    )


def _existing(sources: Sequence[str | Path]) -> list[Path]:
    """The real paths of what exists among files, folders and patterns."""
    found: list[Path] = []
    for source in sources:
        path = Path(source).expanduser()
        if path.exists():
            found.append(path.resolve())
        elif glob.has_magic(str(path)):
            found += (Path(match).resolve() for match in glob.glob(str(path)))  # noqa: PTH207 (may be absolute)
    return found
