"""The four commands that hold people's work, on boxes so small that a hundred of each can be broken off."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import signal
import sys
import traceback
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import astropy.constants
import astropy.cosmology
import astropy.units  # noqa: F401 (what commands import on their way is imported once here, not in every child)
import dask.array  # noqa: F401
import h5py
import numba
import numpy as np
import onnxruntime  # noqa: F401
import xarray as xr
import zarr.codecs  # noqa: F401
from zarr.errors import GroupNotFoundError

from reion.config import load_config
from reion.errors import InputError
from reion.prediction.predict import predict
from reion.ray_tracing.settings import RayTracing
from reion.ray_tracing.simulate import simulate
from reion.readers import open_simulation
from reion.storage.conversion import convert
from reion.storage.store import write_simulation
from reion_kernels.photo_table import black_body_table
from tests.conftest import toy_simulation
from tests.ray_tracing.boxes import density_and_sources
from tests.tiny import TINY_NETWORK

REFUSED = 2
"""Exit status of a child whose command ended with one clear message."""


@dataclass(frozen=True)
class Work:
    """A command that may be killed and given again.

    Attributes
    ----------
    go_on
        Does the command for an output, or goes on with it; the second argument: replace what is there.
    content
        What is in a finished output, to be compared: name to array.
    ending
        Of the output.
    """

    name: str
    go_on: Callable[[Path, bool], object]
    content: Callable[[Path], dict[str, np.ndarray]]
    ending: str = ".zarr"


def in_child(function: Callable[[], object]) -> int:
    """Start a child process that calls the function, in a session of its own, and return its number."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.setsid()
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # toy boxes and toy models are far from anything
            function()
        status = 0
    except InputError as error:
        print(error, file=sys.stderr)  # noqa: T201
        status = REFUSED
    except BaseException:  # noqa: BLE001 (this process ends here, whatever it is)
        traceback.print_exc()
    finally:
        os._exit(status)


def wait(child: int) -> int:
    """The exit status of a child; negative is the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill(child: int) -> int:
    """Kill a child at once, and return its exit status: that of before, if it was too late."""
    os.kill(child, signal.SIGKILL)
    return wait(child)


def works(folder: Path, model: Path, names: list[str]) -> list[Work]:
    """The commands by name, with what they read in `folder`.

    Parameters
    ----------
    model
        The ONNX file to predict with, for n_igm and n_ion.
    """
    sim, sources = folder / "sim.zarr", folder / "sources.zarr"
    if not sim.exists():
        shape, redshift = (12, 8, 8), (12.0, 10.0, 8.0, 7.0)
        assert wait(in_child(lambda: write_simulation(toy_simulation(shape, redshift), sim))) == 0
        assert wait(in_child(lambda: write_simulation(density_and_sources(8, redshift[:3]), sources))) == 0
    settings = [*TINY_NETWORK, "training.batch_size=2", "training.steps=16", "training.round_steps=2"]

    def train_run(out: Path, force: bool) -> None:
        from reion.training.run import train

        resume = (out / "config.toml").exists()
        train([open_simulation(sim)], out, load_config(settings=settings), resume=resume)

    everything = {
        "train": Work("train", train_run, run_content, ""),
        "convert": Work("convert", lambda out, force: convert(sim, out, force=force), store_content),
        "predict": Work(
            "predict", lambda out, force: predict(model, sim, out, device="cpu", force=force), store_content
        ),
        "simulate": Work(
            "simulate",
            lambda out, force: simulate(sources, out, RayTracing(max_mfp=6.0), force=force),
            store_content,
        ),
    }
    if "train" in names:
        import tensorboard.plugins.hparams.summary_v2  # noqa: F401

        import reion.training.run  # noqa: F401 (TensorFlow is imported once, here)
    warm_up()
    return [everything[name] for name in names]


def warm_up() -> None:
    """Do once, in this process, what every child would do again."""
    numba.njit(lambda: 0)()  # what Numba imports when it first compiles
    black_body_table()  # keeps what it needs for every other one


def store_content(out: Path) -> dict[str, np.ndarray]:
    """Every array of a store, bit by bit."""
    with xr.open_zarr(out, chunks=None, consolidated=None) as found:
        return {str(name): np.asarray(found[name].values) for name in found.variables}


def run_content(out: Path) -> dict[str, np.ndarray]:
    """The weights of a finished run and its curve, without the columns that say how long it took."""
    content: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(out / "model.keras") as archive:
        stored = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(stored) as file:
        file.visititems(
            lambda name, item: content.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
        )
    with (out / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    for column in set(rows[0]) - {"seconds", "waiting_share"}:
        content[f"history {column}"] = np.array([row[column] for row in rows])
    return content


def differences(out: Path, work: Work, expected: dict[str, np.ndarray]) -> list[str]:
    """Names of what is in a finished output and is not as it must be."""
    try:
        found = work.content(out)
    except (OSError, KeyError, ValueError, GroupNotFoundError, zipfile.BadZipFile) as error:
        return [f"it cannot be read: {error}"]
    same = {
        name
        for name in set(found) & set(expected)
        if found[name].dtype == expected[name].dtype and found[name].tobytes() == expected[name].tobytes()
    }
    return sorted((set(found) | set(expected)) - same)


def leftovers(out: Path) -> list[str]:
    """What lies beside a finished output, or hidden inside of it."""
    beside = [path.name for path in out.parent.iterdir() if path != out]
    inside = [str(path.relative_to(out)) for path in out.rglob(".*")] if out.is_dir() else []
    inside += [str(path.relative_to(out)) for path in out.rglob("*.partial")] if out.is_dir() else []
    return beside + inside
