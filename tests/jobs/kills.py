"""Kill a command before every step that moves or removes something, and give the same command again.

    python -m tests.jobs.kills COMMAND SIM FOLDER [MODEL [ENDING]]

A child process runs the command, which replaces an older output, and ends itself, as a kill would, before the
n-th step; n grows until the command ends by itself. Prints the steps at which it was killed.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import sys
from itertools import count
from pathlib import Path

import numpy as np
import xarray as xr

from reion.prediction.predict import predict
from reion.readers import open_simulation
from reion.storage.conversion import convert
from reion.storage.store import write_simulation

KILLED = 99


def die_at(step: int, below: Path) -> None:
    """End this process before the given one of all its renames, removals, and halves of removals."""
    left = [step]

    def reached(what: str, *paths) -> bool:
        if not any(str(path).startswith(str(below)) and ".zarr/" not in str(path) for path in paths):
            return False  # what zarr does inside a store
        left[0] -= 1
        if left[0] == 0:
            say(sys.stdout, f"{what} {' '.join(Path(path).name for path in paths)}")
        return left[0] == 0

    def before(name: str, function):
        def wrapped(*paths, **options):
            if "dir_fd" not in options and reached(name, *paths):
                os._exit(KILLED)
            return function(*paths, **options)

        return wrapped

    rmtree = shutil.rmtree

    def remove(path, *arguments, **options):
        if reached("removal of", path):
            os._exit(KILLED)
        if reached("half removal of", path):
            for file in [file for file in Path(path).rglob("*") if file.is_file()][::2]:
                unlink(file)
            os._exit(KILLED)
        rmtree(path, *arguments, **options)

    unlink = os.unlink
    os.rename, os.replace, os.unlink = (
        before(name, getattr(os, name)) for name in ("rename", "replace", "unlink")
    )
    shutil.rmtree = remove


def say(stream, line: str) -> None:
    stream.write(f"{line}\n")
    stream.flush()


def in_child(function) -> int:
    """The exit status of a child process that calls the function."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            function()
        except BaseException as error:  # noqa: BLE001 (this process ends here, whatever it is)
            say(sys.stderr, repr(error))
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def import_what_is_needed(function, note: Path) -> None:
    """Import here what the function imports, once, and not in every child.

    It is called in a child: its threads would not live on in those that are forked later.
    """

    def call() -> None:
        function()
        note.write_text("\n".join(sys.modules))

    assert in_child(call) == 0
    for name in note.read_text().splitlines():
        with contextlib.suppress(ImportError):  # a name that is no module of its own
            importlib.import_module(name)


def main(command: str, sim: Path, folder: Path, model: str = "", ending: str = ".zarr") -> None:
    old, out = folder / f"old{ending}", folder / "place" / f"out{ending}"
    out.parent.mkdir(parents=True)

    def run() -> None:
        if command == "convert":
            convert(sim, out, force=True)
        elif command == "predict":
            predict(model, sim, out, device="cpu", force=True)
        else:
            write_simulation(open_simulation(sim), out, force=True)

    def check(*snapshots: int) -> None:
        with xr.open_zarr(out, chunks=None) if ending == ".zarr" else open_simulation(out) as found:
            assert found.sizes["redshift"] in snapshots, found.sizes
            assert np.isfinite(found["xi"].values).all()

    def go_on() -> None:
        if out.exists():
            check(1, 2)
        run()
        check(2)

    def write_old() -> None:
        write_simulation(open_simulation(sim).isel(redshift=slice(0, 1)), folder / "first.zarr")
        convert(folder / "first.zarr", old)

    def unbroken() -> None:
        write_old()
        run()
        check(2)

    import_what_is_needed(unbroken, folder / "modules")
    for step in count(1):
        shutil.rmtree(out.parent)
        out.parent.mkdir()
        if old.is_dir():
            shutil.copytree(old, out)
        else:
            shutil.copy2(old, out)

        def killed(step: int = step) -> None:
            die_at(step, folder)
            run()

        status = in_child(killed)
        assert status in (0, KILLED), f"step {step}: it ended with {status}"
        if status == KILLED:
            assert in_child(go_on) == 0, f"step {step}: the same command does not go on"
        left = [path.name for path in out.parent.iterdir()]
        assert left == [out.name], f"step {step}: {left} is left"
        if status == 0:
            return


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:])
