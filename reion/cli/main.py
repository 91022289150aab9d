"""The entry point: it runs a command, prints one message for an error, and sets the exit code."""

from __future__ import annotations

import errno
import gc
import sys
import traceback
import warnings
from importlib import import_module
from pathlib import Path

import typer

from reion.cli.app import app
from reion.cli.environment import ensure_home
from reion.cli.streams import lasting_streams, write_error
from reion.errors import InputError

GROUPS = ("data", "ray_tracing", "training", "prediction", "sky", "models", "planning", "bench")
"""Modules of this folder that add commands to `app`, in the order in which `reion --help` lists them."""

for group in GROUPS:
    import_module(f"reion.cli.{group}")

_OBJECTS_BEFORE_GARBAGE = 100_000
"""Number of new objects after which Python looks for garbage; by default it is some hundreds."""

_UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""The exception that typer raises for arguments that it cannot parse; it has no public name."""

_OF_THE_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
"""Codes of system errors that no program can avoid, such as a full disk or a folder without permission."""


def main() -> None:
    """Run the command line.

    The exit code is 0 for done, 2 for bad usage or bad input, 1 for an error of reion, 130 for interrupted.
    """
    # Imports make many objects that last: looking for garbage among them, while they are made and again when
    # the interpreter ends, would take a second.
    gc.set_threshold(_OBJECTS_BEFORE_GARBAGE)
    with lasting_streams():
        ensure_home()
        sys.argv[1:] = map(_with_home, sys.argv[1:])
        code = _run(as_json="--json" in sys.argv)
        failure = write_error(sys.stdout)
        if failure is not None:
            sys.stderr.write(f"error: stdout could not be written: {failure}\n")
            code = code or 2
    gc.freeze()
    sys.exit(code)


def _run(*, as_json: bool) -> int:
    """Run the command that sys.argv names, print what went wrong, and return the exit code."""
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    try:
        code = app(prog_name="reion", standalone_mode=False)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except _UsageError as error:
        return _print_usage_error(error, as_json=as_json)
    except InputError as error:
        return _print_input_error(error, as_json=as_json)
    except OSError as error:
        if error.errno not in _OF_THE_MACHINE:
            return _print_own_error(error, as_json=as_json)
        file = error.filename if isinstance(error.filename, str) else None
        return _print_input_error(InputError(error.strerror or str(error), file=file), as_json=as_json)
    except Exception as error:  # noqa: BLE001 (the last handler: whatever arrives here is an error of reion)
        return _print_own_error(error, as_json=as_json)
    return code if isinstance(code, int) else 0


def _with_home(word: str) -> str:
    """A word of the command line with `~` expanded, which shells do not expand in `--out=~/sim.zarr`."""
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return option + equals + (str(Path(value).expanduser()) if value.startswith("~") else value)


def _print_input_error(error: InputError, *, as_json: bool) -> int:
    from reion.terminal import print_error

    print_error(error, as_json=as_json)
    return 2


def _print_usage_error(error: Exception, *, as_json: bool) -> int:
    """Print what is wrong with the arguments, with the usage of the command where there is one."""
    if not as_json:
        error.show()  # type: ignore[attr-defined]
        return 2
    context = getattr(error, "ctx", None)
    hint = None if context is None else f"`{context.command_path} --help` lists its arguments"
    message = error.format_message()  # type: ignore[attr-defined]
    return _print_input_error(InputError(message, hint=hint), as_json=True)


def _print_own_error(error: Exception, *, as_json: bool) -> int:
    traceback.print_exception(error)
    if as_json:
        from reion.terminal import print_json

        print_json({"error": {"message": f"{type(error).__name__}: {error}", "file": None, "hint": None}})
    sys.stderr.write("this is an error of reion, not yours: please report it with the lines above\n")
    return 1
