"""Functions that print: JSON, tables, errors and the progress of long work."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from reion.errors import InputError

_LINE_INTERVAL_S = 15.0
"""Seconds between two lines of progress where stderr is no terminal."""


def print_json(values: Mapping[str, Any]) -> None:
    """Print one JSON object on stdout."""
    sys.stdout.write(json.dumps(values, allow_nan=False) + "\n")


def print_error(error: InputError, *, as_json: bool) -> None:
    """Print an error: as a JSON object on stdout, or in words on stderr."""
    if as_json:
        print_json({"error": {"message": error.message, "file": error.file, "hint": error.hint}})
    else:
        sys.stderr.write(f"error: {error}\n")


def say(line: str) -> None:
    """Print a line on stderr."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Hide what native libraries write to stderr while the block runs; show it if the block raises."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as hidden:
        os.dup2(hidden.fileno(), 2)
        try:
            yield
        except BaseException:
            hidden.seek(0)
            os.write(stderr, hidden.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[..., None]]:
    """Show the progress of long work: a bar on a terminal, a line now and then elsewhere.

    Yields a function to call with the number of pieces done, the number of all pieces and, optionally, named
    figures to show beside them.
    """
    if sys.stderr.isatty():
        yield from _bar(title)
    else:
        yield _lines(title)


def _bar(title: str) -> Iterator[Callable[..., None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[values]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None, values="")

        def update(done: int, total: int, values: Mapping[str, float] | None = None) -> None:
            bar.update(task, completed=done, total=total, values=_in_words(values))

        yield update


def _lines(title: str) -> Callable[..., None]:
    first: tuple[int, float] | None = None
    last = -_LINE_INTERVAL_S

    def update(done: int, total: int, values: Mapping[str, float] | None = None) -> None:
        nonlocal first, last
        now = time.monotonic()
        if first is None:
            # The first piece includes compilation, so its time says nothing about the rest.
            first, last = (done, now), now
        if done < total and now - last < _LINE_INTERVAL_S:
            return
        last = now
        left = (now - first[1]) / max(done - first[0], 1) * (total - done)
        say(f"{title}: {done} of {total}, {left:.0f} s left {_in_words(values)}".rstrip())

    return update


def _in_words(values: Mapping[str, float] | None) -> str:
    names = {"r2": "R²"}
    return "  ".join(
        f"{names.get(name, name)} {value:.4f}" for name, value in (values or {}).items() if value == value
    )


def print_table(renderable: Any) -> None:
    """Print a table on stdout, as wide as it needs to be where stdout is not a terminal."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    console.print(renderable)
