"""The command that measures speed: bench."""

from __future__ import annotations

from typing import Annotated

import typer

from reion.cli.app import app, example
from reion.cli.options import Json
from reion.cli.output import print_result


@app.command(epilog=example("reion bench kernels predict"))
def bench(
    suites: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SUITE...]",
            help="kernels, data, simulate, train, predict, cluster, gpu; all by default.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Measure speed.

    Figures are ratios against the hardware and the alternatives, both sides measured in one process.
    """
    from reion.bench import render
    from reion.bench import run as run_bench
    from reion.terminal import say

    results = run_bench(suites or [], say)
    print_result(
        {"results": [result.to_json() for result in results]},
        lambda: render(results) if results else "nothing was measured",
        json=json,
    )
