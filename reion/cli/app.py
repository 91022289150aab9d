"""The application that the modules of this folder add their commands to."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import reion


class _Commands(TyperGroup):
    """The commands. One that is interrupted says so: with the message of the KeyboardInterrupt, if any."""

    def invoke(self, ctx: Any) -> Any:  # typer has no public name for this context
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interruption:
            from reion.terminal import say

            say(str(interruption) or "interrupted: no output is half written")
            raise


app = typer.Typer(
    name="reion",
    cls=_Commands,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"reion {reion.__version__}\n")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Radiative transfer of cosmic reionisation, learnt.

    Gas density and ionising sources in, ionised fraction of every cell out.
    """


def example(call: str) -> str:
    """The text below the options in the help of a command; `call` is one line of shell."""
    return f"\b\nExample:\n  {call}"
