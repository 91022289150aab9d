"""Output that several commands share: results, plans, and how to go on after an interruption."""

from __future__ import annotations

import glob
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

    from reion.jobs.plan import Plan


def print_result(result: Mapping[str, Any], in_words: Callable[[], RenderableType], *, json: bool) -> None:
    """Print a result: as one JSON object, or as the text or table that `in_words` makes of it.

    In JSON, a number that is not finite becomes null.
    """
    from reion.terminal import print_json, print_table

    if json:
        from reion.jobs.outputs import finite

        print_json(finite(result))
        return
    words = in_words()
    if isinstance(words, str):
        sys.stdout.write(f"{words}\n")
    else:
        print_table(words)


def check_place(out: Path, sources: Sequence[Path]) -> None:
    """Raise InputError if `convert` or `predict` could not write to `out` when they read `sources`."""
    from reion.jobs.places import output_path
    from reion.storage.single_file import kind_of

    output_path(out, kind_of(out), sources=sources)


def print_plans(plans: Sequence[Plan], *, json: bool) -> None:
    """Print plans, the costs of commands: as one JSON object, or as a table for each plan."""
    from rich.console import Group

    from reion.jobs.plan import render

    print_result({"plans": [plan.to_json() for plan in plans]}, lambda: Group(*map(render, plans)), json=json)


@contextmanager
def resumable(out: Path) -> Iterator[None]:
    """If the block is interrupted, raise a KeyboardInterrupt that says whether work on `out` can go on."""
    before = _identity(out.expanduser())
    try:
        yield
    except KeyboardInterrupt as interruption:
        line = f"interrupted before anything was done for {out}"
        if _identity(out.expanduser()) not in (None, before):
            line = f"interrupted, but {out} was in its place already, whole"
        if _is_begun(out.expanduser()):
            line = f"interrupted: what is done for {out} is kept, and the same command with --resume goes on"
        raise KeyboardInterrupt(line) from interruption


def _identity(out: Path) -> int | None:
    """The inode of a store or a file, by which it differs from the one it replaces; None if there is none."""
    try:
        return out.stat().st_ino if out.is_file() or (out / "zarr.json").is_file() else None
    except OSError:
        return None


def _is_begun(out: Path) -> bool:
    """Whether a store is growing beside `out` or inside it, or `out` is or holds a run folder."""
    growing, run = f".{glob.escape(out.name)}.*/conditions.json", "config.toml"
    inside = (found for pattern in (".*/conditions.json", run, f"*/{run}") for found in out.glob(pattern))
    return any(out.parent.glob(growing)) or any(inside)
