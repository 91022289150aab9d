"""From simulations to batches: crops at random places and orientations, normalised on the way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import xarray as xr

from reion.config import DataConfig, RunConfig
from reion.errors import InputError
from reion.models.build import Model
from reion.models.normalizer import Normalizer
from reion.simulation.contract import require_fields, with_n_ion
from reion_kernels import N_ROTATIONS, N_SYMMETRIES, crop, crop_batch

_UNIFORM = 1e-3
"""Snapshots whose mean xi is closer than this to 0 or 1 have little to teach and are drawn less often."""
_UNIFORM_WEIGHT = 0.3
_ORIENTATIONS = {"none": 1, "rotations": N_ROTATIONS, "symmetries": N_SYMMETRIES}
IN_MEMORY_BYTES = 4 << 30
"""Channels and truths of all snapshots are kept in memory up to this; beyond it, channels go to files."""
_VALUES_AT_ONCE = 1 << 18
"""Values of the small batches that are read together."""

Batch = tuple[tuple[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class TrainingSnapshot:
    """One redshift of one box, ready to crop from.

    Attributes
    ----------
    redshift
        Of the snapshot.
    channels
        What the stem makes of the fields, before scaling: (channel, x, y, z) float32.
    xi
        The truth, (x, y, z) float32.
    validation_cells
        Cells along x, from the first, that are kept for validation.
    """

    redshift: float
    channels: np.ndarray
    xi: np.ndarray
    validation_cells: int


def prepare_snapshots(simulations: Sequence[xr.Dataset], model: Model, cache: Path) -> list[TrainingSnapshot]:
    """Compute every snapshot's channels once.

    They are kept in memory up to 4 GiB in all, beyond that in memory-mapped files in the folder `cache`.

    Raises
    ------
    InputError
        If a box is too small to train on beside its validation slab, or a field is missing.
    """
    config, stem = model.config, model.stem
    crop_cells = config.training.crop_cells
    cells = sum(int(np.prod([*sim.sizes.values()])) for sim in simulations)
    on_disk = cells * 4 * (len(stem.channels) + 1) > IN_MEMORY_BYTES
    snapshots: list[TrainingSnapshot] = []
    for sim in simulations:
        require_fields(sim, ["n_igm", "xi"], purpose="training")
        if "n_ion" in config.inputs:
            sim = with_n_ion(sim)
        require_fields(sim, config.inputs, purpose="training")
        validation_cells = validation_cells_along_x(config, model, sim.sizes["x"])
        if _free_origins(sim.sizes["x"], validation_cells, config.data, crop_cells) < 1:
            raise InputError(
                f"expected boxes with room for crops of {crop_cells} cells beside the validation slab of "
                f"{validation_cells} and its margins of {config.data.validation_margin_cells}; received "
                f"{sim.sizes['x']} cells along x",
                hint="give a smaller --set training.crop_cells",
            )
        for index, redshift in enumerate(sim["redshift"].values):
            fields = {name: sim[name][index].values for name in config.inputs}
            channels = stem.prepare(fields)
            if on_disk:
                cache.mkdir(parents=True, exist_ok=True)
                path = cache / f"{len(snapshots):05d}.npy"
                np.save(path, channels)
                channels = np.load(path, mmap_mode="r")
            xi = np.clip(sim["xi"][index].values.astype(np.float32), 0.0, 1.0)
            snapshots.append(TrainingSnapshot(float(redshift), channels, xi, validation_cells))
    return snapshots


def validation_cells_along_x(config: RunConfig, model: Model, cells: int) -> int:
    """Of a box of so many cells along x, those that are kept for validation."""
    return max(model.stride_cells, round(config.data.validation_share * cells))


class CropSequence(keras.utils.PyDataset):
    """Random crops of snapshots: every batch is a function of the seed and its number alone.

    Item `i` is batch number `first + i`: ((channels, redshift), xi), float32, of shapes
    (batch, crop + 2 radius, .., .., channel), (batch, 1) and (batch, crop, crop, crop, 1), channels and
    redshift normalised. Targets never lie in the validation slab or its margin. Of each batch only `rows`
    are read, a worker's share.
    """

    def __init__(
        self,
        snapshots: Sequence[TrainingSnapshot],
        normalizer: Normalizer,
        model: Model,
        *,
        first: int = 0,
        batches: int,
        rows: slice = slice(None),
    ) -> None:
        super().__init__()
        self._rows = rows
        training = model.config.training
        self._snapshots = snapshots
        self._normalizer = normalizer
        self._radius_cells = model.trunk_radius_cells
        self._crop_cells = training.crop_cells
        self._batch_size = training.batch_size
        self._data = model.config.data
        self._seed = model.config.seed
        self._first = first
        self._batches = batches
        mean = np.array([snapshot.xi.mean() for snapshot in snapshots])
        weight = np.where(np.minimum(mean, 1 - mean) < _UNIFORM, _UNIFORM_WEIGHT, 1.0)
        self._probability = weight / weight.sum()
        self._first_origin = np.array(
            [[s.validation_cells + self._data.validation_margin_cells, 0, 0] for s in snapshots]
        )
        self._origins = np.array(
            [
                [
                    _free_origins(s.xi.shape[0], s.validation_cells, self._data, self._crop_cells),
                    *s.xi.shape[1:],
                ]
                for s in snapshots
            ]
        )

    def __len__(self) -> int:
        return self._batches

    def __getitem__(self, index: int) -> Batch:
        if not 0 <= index < self._batches:
            raise IndexError(f"expected a batch from 0 to {self._batches - 1}; received {index}")
        return self.read(range(index, index + 1))[0]

    def read(self, indices: Sequence[int]) -> list[Batch]:
        """Several batches at once: small ones take less time together than one by one."""
        drawn = [[draws[self._rows] for draws in self._draw(index)] for index in indices]
        chosen, origins, turns, noise = (np.concatenate(draws) for draws in zip(*drawn, strict=True))
        inner, outer = self._crop_cells, self._crop_cells + 2 * self._radius_cells
        channels = len(self._normalizer.channels)
        values = np.empty((len(chosen), outer, outer, outer, channels), dtype=np.float32)
        redshift = np.empty((len(chosen), 1), dtype=np.float32)
        xi = np.empty((len(chosen), inner, inner, inner, 1), dtype=np.float32)
        for number in np.unique(chosen):
            snapshot, places = self._snapshots[number], np.flatnonzero(chosen == number)
            starts, symmetries = origins[places], turns[places]
            crop_batch(
                snapshot.channels,
                starts - self._radius_cells,
                out=values,
                places=places,
                indices=symmetries,
                scale=self._normalizer.scale,
                mean=self._normalizer.mean,
                std=self._normalizer.std,
                transform=self._normalizer.transform,
            )
            crop_batch(snapshot.xi[None], starts, out=xi, places=places, indices=symmetries)
            redshift[places, 0] = normalise_redshift(snapshot.redshift + noise[places], self._normalizer)
        size = len(chosen) // len(drawn)
        parts = [slice(start, start + size) for start in range(0, len(chosen), size)]
        return [((values[part], redshift[part]), xi[part]) for part in parts]

    def ahead(self) -> Iterator[Batch]:
        """Every batch in turn, the next read in a thread of its own while the caller works with one."""
        outer = self._crop_cells + 2 * self._radius_cells
        values = self._batch_size * outer**3 * len(self._normalizer.channels)
        together = max(1, _VALUES_AT_ONCE // values)
        groups = [
            range(start, min(start + together, self._batches)) for start in range(0, self._batches, together)
        ]
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="reion-sampler") as reader:
            pending = reader.submit(self.read, groups[0])
            for following in [*groups[1:], None]:
                batches = pending.result()
                if following is not None:
                    pending = reader.submit(self.read, following)
                yield from batches

    def _draw(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Draw a whole batch: number of the snapshot, origin of the target, orientation, noise."""
        rng = np.random.default_rng((self._seed, self._first + index))
        size = self._batch_size
        chosen = rng.choice(len(self._snapshots), size=size, p=self._probability)
        first, free = self._first_origin[chosen], self._origins[chosen]
        origins = first + rng.integers(0, free)
        turns = rng.integers(0, _ORIENTATIONS[self._data.augmentation], size=size)
        noise = self._data.redshift_noise * rng.uniform(-1.0, 1.0, size)
        return chosen, origins, turns, noise


def crop_channels(
    channels: np.ndarray, origin: Sequence[int], normalizer: Normalizer, *, out: np.ndarray, index: int = 0
) -> None:
    """Write the periodic window at `origin`, normalised and turned by symmetry `index`, into `out`."""
    crop(
        channels,
        origin,
        out=out,
        index=index,
        scale=normalizer.scale,
        mean=normalizer.mean,
        std=normalizer.std,
        transform=normalizer.transform,
    )


def normalise_redshift(redshift: Any, normalizer: Normalizer) -> Any:
    """(z − mean) / σ of the training snapshots, of a number or an array."""
    return (redshift - normalizer.redshift_mean) / normalizer.redshift_std


def validation_pair(snapshot: TrainingSnapshot, normalizer: Normalizer, model: Model) -> Batch:
    """The validation slab of a snapshot as a batch of one, with the halo the trunk needs around it.

    Its sides are multiples of the network's stride: what is left over is not judged.
    """
    radius = model.trunk_radius_cells
    sides = (snapshot.validation_cells, *snapshot.xi.shape[1:])
    shape = tuple(side // model.stride_cells * model.stride_cells for side in sides)
    values = np.empty((1, *(n + 2 * radius for n in shape), len(normalizer.channels)), dtype=np.float32)
    crop_channels(snapshot.channels, [-radius] * 3, normalizer, out=values[0])
    redshift = np.array([[normalise_redshift(snapshot.redshift, normalizer)]], dtype=np.float32)
    return (values, redshift), snapshot.xi[None, : shape[0], : shape[1], : shape[2], None]


def _free_origins(cells: int, validation_cells: int, data: DataConfig, crop_cells: int) -> int:
    return cells - validation_cells - 2 * data.validation_margin_cells - crop_cells + 1
