"""The packaged sample: two boxes of real radiative transfer, one to train on and one held out."""

from __future__ import annotations

from importlib.resources import as_file, files
from itertools import pairwise
from typing import NamedTuple

import h5py
import numpy as np
import xarray as xr

from reion.simulation.contract import make_simulation, with_max_mfp

_MAX_MFP_MPC = 30.0
"""The comoving radius that the photons of both boxes were followed to."""


class Sample(NamedTuple):
    """The two boxes of the packaged sample."""

    train: xr.Dataset
    held_out: xr.Dataset


def load_sample() -> Sample:
    """Read the packaged sample: 64^3 cells, 128 Mpc, ten redshifts from 12 to 6, with n_igm, n_src and xi.

    How the boxes were made and how exact they are: `reion/sample/README.md`.
    """
    return Sample(_load("rt64_train.h5"), _load("rt64_held_out.h5"))


def _load(name: str) -> xr.Dataset:
    with as_file(files(__package__) / name) as path, h5py.File(path) as file:
        overdensity = file["overdensity"][:]
        n_src = np.zeros((overdensity.shape[0], overdensity[0].size), dtype=np.float32)
        offset = file["source_offset"][:]
        for index, (start, stop) in enumerate(pairwise(offset)):
            n_src[index, file["source_cell"][start:stop]] = file["source_rate"][start:stop]
        mean = file["mean_n_igm"][:].reshape(-1, 1, 1, 1)
        sim = make_simulation(
            {
                "n_igm": (overdensity * mean).astype(np.float32),
                "n_src": n_src.reshape(overdensity.shape),
                "xi": file["xi"][:].astype(np.float32),
            },
            redshift=file["redshift"][:],
            box_size=float(file.attrs["box_size"]),
            cosmology={key: float(file.attrs[key]) for key in ("H0", "Om0", "Ob0")},
            source_code=str(file.attrs["source_code"]),
        )
        return with_max_mfp(sim, [_MAX_MFP_MPC] * sim.sizes["redshift"])
