"""What a run was made of: versions, seed, the commit of the code, and a checksum of every box."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np
import xarray as xr

from reion.config import RunConfig
from reion.simulation.contract import FIELDS


@dataclass(frozen=True, kw_only=True)
class TrainingBox:
    """What is written down of a simulation that a run was trained on.

    Attributes
    ----------
    source_code
        The code that made it.
    box_size
        Comoving, in Mpc: one number, or one for each axis.
    cells
        Along x, y and z.
    redshift
        Of its snapshots.
    sha256
        Over the fields' values as float32, in the order of the data contract.
    """

    source_code: str
    box_size: float | list[float]
    cells: list[int]
    redshift: list[float]
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Ancestor:
    """What is written down of the network that a run started from.

    Attributes
    ----------
    name
        Of the shipped model, or of the run's folder.
    weights_sha256
        Over the file of its weights.
    """

    name: str
    weights_sha256: str


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What provenance.json holds.

    Attributes
    ----------
    versions
        Of Python and of the packages whose numbers enter.
    backend, seed
        The Keras backend, and the seed of the schema.
    git_commit
        Of reion's checkout; None where it does not run from one.
    data
        The simulations, in order.
    parent
        The network that the run started from; None for a fresh one.
    """

    versions: dict[str, str]
    backend: str
    seed: int
    git_commit: str | None
    data: list[TrainingBox]
    parent: Ancestor | None

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)

    @classmethod
    def of_run(
        cls, config: RunConfig, simulations: Sequence[xr.Dataset], parent: Ancestor | None = None
    ) -> Provenance:
        """Write down what a run that starts now is made of; reads every value of the simulations."""
        packages = ("reion", "keras", "numpy", "numba", "xarray", keras.backend.backend())
        return cls(
            versions={"python": platform.python_version(), **{name: _version(name) for name in packages}},
            backend=keras.backend.backend(),
            seed=config.seed,
            git_commit=_git_commit(),
            data=[describe(sim) for sim in simulations],
            parent=parent,
        )

    def digest(self, config: RunConfig) -> bytes:
        """SHA-256 of what all processes of a run must have in common: schema, data and reion's version."""
        own = self.to_json()
        common = {
            "config": config.model_dump(mode="json"),
            "data": own["data"],
            "parent": own["parent"],
            "reion": self.versions["reion"],
        }
        return hashlib.sha256(json.dumps(common, sort_keys=True).encode()).digest()


def describe(sim: xr.Dataset) -> TrainingBox:
    """What a run's provenance says of a simulation; reads all of its values."""
    digest = hashlib.sha256()
    for name in FIELDS:
        if name in sim:
            digest.update(name.encode())
            for snapshot in sim[name]:
                digest.update(np.ascontiguousarray(snapshot.values, dtype="<f4").data)
    return TrainingBox(
        source_code=sim.attrs.get("source_code", "unknown"),
        box_size=sim.attrs["box_size"],
        cells=[sim.sizes[axis] for axis in ("x", "y", "z")],
        redshift=sim["redshift"].values.tolist(),
        sha256=digest.hexdigest(),
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except ModuleNotFoundError:
        return "unknown"


def _git_commit() -> str | None:
    """The commit of reion's own checkout, where it runs from one."""
    git = shutil.which("git")
    checkout = Path(__file__).resolve().parents[2]
    if git is None or not (checkout / ".git").exists():
        return None
    result = subprocess.run(
        [git, "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return result.stdout.strip() or None
