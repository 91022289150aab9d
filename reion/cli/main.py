"""The entry point: every command, run with exit codes and one clear message for each error."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from importlib import import_module

from reion.cli.app import app
from reion.errors import InputError

GROUPS = ("data", "ray_tracing", "training", "prediction", "planning", "bench")
"""Modules of this folder that add commands to `app`, in the order in which `reion --help` lists them."""

for group in GROUPS:
    import_module(f"reion.cli.{group}")


def main() -> None:
    """Run the command line.

    The exit code is 0 for done, 2 for bad usage or bad input, 1 for an error of reion, 130 for interrupted.
    """
    as_json = "--json" in sys.argv
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    try:
        app(prog_name="reion")
    except InputError as error:
        from reion.terminal import print_error

        print_error(error, as_json=as_json)
        sys.exit(2)
    except BrokenPipeError:
        # Whatever read our output has stopped reading, as `| head` does: nothing is wrong.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:  # noqa: BLE001 (the last handler: whatever arrives here is an error of reion)
        traceback.print_exc()
        if as_json:
            from reion.terminal import print_json

            print_json({"error": {"message": f"{type(error).__name__}: {error}", "file": None, "hint": None}})
        sys.stderr.write("this is an error of reion, not yours: please report it with the lines above\n")
        sys.exit(1)
