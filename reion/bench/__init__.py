"""Speed, as ratios against the hardware and the alternatives, both sides in one process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from reion.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

SUITES = ("kernels", "data", "train", "predict", "cluster")


def run(suites: Sequence[str], progress: Callable[[str], None]) -> dict[str, Any]:
    """Measure suites.

    Parameters
    ----------
    suites
        Names from `SUITES`; all of them if empty.
    progress
        Called with one line before each thing that takes time.

    Returns
    -------
    dict
        ``{"results": [{"name", "ratio", "against", "target", "spread": [min, max], ...}]}``; every ratio is
        so defined that larger is better.

    Raises
    ------
    InputError
        If there is no such suite.
    """
    for suite in suites:
        if suite not in SUITES:
            message = f"suite: expected one of {', '.join(SUITES)}. Received: {suite!r}"
            raise InputError(message)
    results = []
    for suite in suites or SUITES:
        measure = import_module(f"reion.bench.{suite}").measure
        results += [result.to_json() for result in measure(progress)]
    return {"results": results}


def render(measured: dict[str, Any]) -> Table:
    """Return what `run` measured as a table for the terminal."""
    from rich.table import Table

    table = Table("what", "ratio", "target", "spread", "against", "more")
    for result in measured["results"]:
        low, high = result["spread"]
        known = ("name", "ratio", "target", "spread", "against")
        more = [f"{name} {value:.3g}" for name, value in result.items() if name not in known]
        table.add_row(
            result["name"],
            f"{result['ratio']:.2f}",
            f"{result['target']:.2f}",
            f"{low:.2f} to {high:.2f}",
            result["against"],
            "\n".join(more),
        )
    return table
