"""Benchmarks: speed as ratios to the hardware's and to alternatives, both measured in one process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from reion.bench.harness import Result
from reion.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

SUITES = ("kernels", "data", "simulate", "train", "predict", "cluster", "gpu")
"""Modules of this folder, each with a function `measure`."""


def run(suites: Sequence[str], say: Callable[[str], None]) -> list[Result]:
    """Measure suites.

    Parameters
    ----------
    suites
        Names from `SUITES`; all of them if empty.
    say
        Called with one line before each measurement that takes time.

    Raises
    ------
    InputError
        If there is no such suite, or a package that it needs is not installed.
    """
    for suite in suites:
        if suite not in SUITES:
            raise InputError(f"suite: expected one of {', '.join(SUITES)}. Received: {suite!r}")
    results: list[Result] = []
    for suite in suites or SUITES:
        try:
            results += import_module(f"reion.bench.{suite}").measure(say)
        except ModuleNotFoundError as error:
            raise InputError(
                f"the benchmark {suite} needs {error.name}", hint="pip install 'reion[train]'"
            ) from error
    return results


def render(results: Sequence[Result]) -> Table:
    """The results as a table for the terminal."""
    from rich.table import Table

    table = Table("what", "ratio", "target", "spread", "against", "more")
    for result in results:
        table.add_row(
            result.name,
            f"{result.ratio.value:.2f}",
            f"{result.target:.2f}",
            f"{result.ratio.smallest:.2f} to {result.ratio.largest:.2f}",
            result.against,
            "\n".join(f"{name} {value:.3g}" for name, value in result.extra.items()),
        )
    return table
