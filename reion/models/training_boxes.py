"""The boxes that a network was trained on: their records, and how a box is recognised later."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import xarray as xr

from reion.simulation.contract import FIELDS, MAX_MFP, cosmological_parameters


@dataclass(frozen=True, kw_only=True)
class TrainingBox:
    """The record of a simulation that a run was trained on.

    Attributes
    ----------
    source_code
        The code that made the simulation.
    box_size
        Comoving side in Mpc: one number, or one for each axis.
    cells
        Numbers of cells along x, y and z.
    redshift
        Redshifts of the snapshots.
    sha256
        Checksum over the values of the fields as float32, in the order of the data contract.
    units
        Units of the fields, by name.
    cosmology
        H0 in km s-1 Mpc-1, Om0 and Ob0.
    max_mfp
        Reach of the photons in each snapshot, comoving Mpc; None if the simulation does not give it.
    """

    source_code: str
    box_size: float | list[float]
    cells: list[int]
    redshift: list[float]
    sha256: str
    units: dict[str, str]
    cosmology: dict[str, float]
    max_mfp: list[float] | None


def describe(sim: xr.Dataset) -> TrainingBox:
    """The record of a simulation for the provenance of a run; this reads all values."""
    return TrainingBox(
        source_code=sim.attrs.get("source_code", "unknown"),
        box_size=sim.attrs["box_size"],
        cells=[sim.sizes[axis] for axis in ("x", "y", "z")],
        redshift=sim["redshift"].values.tolist(),
        sha256=checksum_of(sim),
        units={name: str(sim[name].attrs["units"]) for name in FIELDS if name in sim},
        cosmology=cosmological_parameters(sim),
        max_mfp=sim[MAX_MFP].values.tolist() if MAX_MFP in sim.variables else None,
    )


def checksum_of(sim: xr.Dataset) -> str:
    """SHA-256 over the values of a simulation's fields as float32; this reads all values."""
    digest = hashlib.sha256()
    for name in FIELDS:
        if name in sim:
            digest.update(name.encode())
            for snapshot in sim[name]:
                digest.update(np.ascontiguousarray(snapshot.values, dtype="<f4").data)
    return digest.hexdigest()


def changes(before: Sequence[TrainingBox], now: Sequence[TrainingBox]) -> list[str]:
    """Phrases that say how simulations differ from recorded ones; empty if they agree."""
    if len(before) != len(now):
        return [f"{len(before)} of them instead of {len(now)}"]
    found = []
    for number, (old, new) in enumerate(zip(before, now, strict=True), start=1):
        for item in fields(TrainingBox):
            if getattr(old, item.name) != getattr(new, item.name):
                what = "values" if item.name == "sha256" else item.name
                found.append(f"{what} of box {number}")
    return found


def boxes_in(training: Any) -> tuple[list[str], list[Mapping[str, Any]]]:
    """Read the boxes of a training from its provenance.

    Parameters
    ----------
    training
        The content of provenance.json. It may come from an unknown file: malformed parts are ignored.

    Returns
    -------
    tuple of list and list
        Checksums of all boxes that the network has learnt from, those of earlier trainings included; and the
        boxes of this training, as JSON of `TrainingBox`.
    """
    values = training if isinstance(training, Mapping) else {}
    data, parent = values.get("data"), values.get("parent")
    boxes = [box for box in data if isinstance(box, Mapping)] if isinstance(data, list) else []
    before = parent.get("training_data") if isinstance(parent, Mapping) else None
    checksums = [box.get("sha256") for box in boxes] + (before if isinstance(before, list) else [])
    return [text for text in checksums if isinstance(text, str)], boxes


def is_training_box(sim: xr.Dataset, checksums: Iterable[str], boxes: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a simulation is one of the boxes that a network was trained on.

    The values of the simulation are read only if needed: not if all boxes have a record and none has the same
    cells and redshifts.

    Parameters
    ----------
    sim
        The simulation.
    checksums
        Checksums of the boxes, as `checksum_of` returns them.
    boxes
        Records of the boxes, as JSON of `TrainingBox`; some may be missing.
    """
    wanted = set(checksums)
    if not wanted:
        return False
    if all(any(box.get("sha256") == checksum for box in boxes) for checksum in wanted):
        cells = [sim.sizes[axis] for axis in ("x", "y", "z")]
        redshift = sim["redshift"].values.tolist()
        if not any(box.get("cells") == cells and box.get("redshift") == redshift for box in boxes):
            return False
    return checksum_of(sim) in wanted
