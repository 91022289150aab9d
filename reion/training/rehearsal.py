"""Rehearsal: what a network knows, for a run that starts from it, so that the run forgets less.

A network that learns a new world forgets the old ones. Their boxes are not at hand, but what the network has
learnt from them is: its own answers before the run. The boxes of the new world are given to it with another
reach, another cell size and other photon numbers, and a part of every batch repeats its answers
(pseudo-rehearsal: Robins 1995, Connection Science 7, 123; Li & Hoiem 2016, arXiv:1606.09282).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import xarray as xr

from reion.config import RunConfig
from reion.errors import InputError
from reion.models.build import Model
from reion.models.coverage import Coverage
from reion.models.normalizer import Normalizer
from reion.simulation.contract import MAX_MFP, cubic_cell_size_mpc
from reion.simulation.recombinations import with_photons_left
from reion.training.sampler import (
    IN_MEMORY_BYTES,
    TrainingSnapshot,
    kept_in_file,
    slab_inputs,
    slabs_along_x,
    told_conditions,
    validation_cells_along_x,
)

SNAPSHOTS = 20
"""Number of snapshots for rehearsal."""

_MOST_PHOTONS = 2.0
"""The photons of a snapshot are multiplied by a random factor from 1 / `_MOST_PHOTONS` to `_MOST_PHOTONS`."""


def require_rehearsal(config: RunConfig, *, has_parent: bool) -> None:
    """Refuse rehearsal where there is nothing to repeat, or where the new world may look like an old one.

    Raises
    ------
    InputError
        If the run starts from no other network, or the network is not told how far photons reach.
    """
    if not config.training.rehearsal:
        return
    if not has_parent:
        raise InputError(
            "training.rehearsal repeats the answers of the network that a run starts from; this run starts "
            "from none",
            hint="name one with --from, or leave out training.rehearsal",
        )
    if MAX_MFP not in config.conditions:
        raise InputError(
            "training.rehearsal needs a network that is told max_mfp, so that it can tell the new world from "
            f"those that it repeats; {config.model.name} is not",
            hint="leave out training.rehearsal, or set it to 0",
        )


def rehearsal_snapshots(
    simulations: Sequence[xr.Dataset],
    model: Model,
    trunk: keras.Model,
    normalizer: Normalizer,
    coverage: Coverage,
    cache: Path,
) -> list[TrainingSnapshot]:
    """Snapshots of changed worlds, with the answers of a trained network in the place of their true xi.

    Each is a random snapshot of `simulations`. How far photons reach and the side of the cells are drawn anew
    from the ranges of `coverage`, evenly in the logarithm, and the photons are multiplied by a random factor.

    Parameters
    ----------
    simulations
        The boxes of the new world.
    model, normalizer
        The network and its normalisation.
    trunk
        What predicts, with the weights from before the run.
    coverage
        What the training of the network covered.
    cache
        Folder for channels that do not fit in memory.
    """
    rng = np.random.default_rng((model.config.seed, SNAPSHOTS))
    with_photons = [with_photons_left(sim) if "n_ion" in model.config.inputs else sim for sim in simulations]
    snapshots = []
    for number in range(SNAPSHOTS):
        sim = with_photons[rng.integers(len(simulations))]
        index = int(rng.integers(sim.sizes["redshift"]))
        reach = _drawn(rng, coverage.range_of("max_mfp") or (float(sim[MAX_MFP][index]),) * 2)
        cell_size_mpc = _drawn(rng, coverage.range_of("cell_size") or (cubic_cell_size_mpc(sim),) * 2)
        factor = np.float32(_drawn(rng, (1 / _MOST_PHOTONS, _MOST_PHOTONS)))
        density, photons = (sim[name][index].values for name in model.config.inputs)
        inputs: dict[str, Any] = dict(zip(model.config.inputs, (density, factor * photons), strict=True))
        channels = model.at_cell_size(cell_size_mpc).stem.prepare({**inputs, MAX_MFP: reach})
        if SNAPSHOTS * channels.nbytes > IN_MEMORY_BYTES:
            channels = kept_in_file(channels, cache / f"rehearsal-{number:05d}.npy")
        snapshot = TrainingSnapshot(
            redshift=float(sim["redshift"][index]),
            conditions=told_conditions(cell_size_mpc, reach),
            channels=channels,
            xi=np.empty(density.shape, dtype=np.float32),
            validation_cells=validation_cells_along_x(model.config, model, sim.sizes["x"]),
            quantities={},
            variance=np.empty(density.shape, dtype=np.float32) if model.trunk.output_shape[-1] == 2 else None,
        )
        _write_answers(snapshot, model, trunk, normalizer)
        snapshots.append(snapshot)
    return snapshots


def _drawn(rng: np.random.Generator, ends: tuple[float, float]) -> float:
    """A random number between two, evenly in the logarithm."""
    low, high = ends
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def _write_answers(
    snapshot: TrainingSnapshot, model: Model, trunk: keras.Model, normalizer: Normalizer
) -> None:
    """Write the trunk's prediction of the whole box into `xi`, and its squared spread into `variance`."""
    sides = snapshot.xi.shape
    for x in slabs_along_x(snapshot):
        shape = [-(-side // model.stride_cells) * model.stride_cells for side in (len(x), *sides[1:])]
        inputs = slab_inputs(snapshot, normalizer, model, x.start, shape)
        answer = keras.ops.convert_to_numpy(trunk(list(inputs), training=False)).astype(np.float32)
        answer = answer[0, : len(x), : sides[1], : sides[2]]
        if model.target_normalised:
            answer[..., 0] = np.clip(answer[..., 0] * normalizer.xi_std + normalizer.xi_mean, 0, 1)
        snapshot.xi[x.start : x.stop] = answer[..., 0]
        if snapshot.variance is not None:
            snapshot.variance[x.start : x.stop] = np.square(answer[..., 1])
