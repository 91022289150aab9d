"""Batches: crops of simulations at random places and in random orientations, normalised."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
from reion.models.coverage import quantities
from reion.models.normalizer import Normalizer
from reion.models.shapes import BoxChannels, BoxField
from reion.models.transport import cell_size_condition, reach_condition
from reion.physics.mean_free_path import require_max_mfp
from reion.registry import AUGMENTATIONS, only_turned
from reion.simulation.contract import MAX_MFP, cubic_cell_size_mpc, require_fields
from reion.simulation.recombinations import clumping_of, with_photons_left
from reion_kernels import crop, crop_batch

_UNIFORM_MEAN_XI = 1e-3
"""A snapshot whose mean xi is closer than this to 0 or 1 is nearly uniform and teaches little."""
_UNIFORM_WEIGHT = 0.3
"""Weight with which such a snapshot is drawn; that of the others is 1."""
IN_MEMORY_BYTES = 4 << 30
"""If channels and true xi of all snapshots take more than this, the channels go to files."""
_VALUES_AT_ONCE = 1 << 18
"""Small batches are read in groups of about this number of values: one call costs less than several."""

_CONDITION_NOISE = 0.1
"""Half width of the uniform noise that training adds to the conditions reach and cell size. The training
boxes have only a few values of each, and the trunk must not recognise a box by them."""

Batch = tuple[tuple[np.ndarray, np.ndarray], np.ndarray]
"""((channels, conditions), target), all float32: channels (batch, x, y, z, channel), conditions
(batch, condition), target (batch, x, y, z, 1 or 2). The target is the true xi; with rehearsal, its second
channel is the variance of the true xi about the first, which is 0 where the truth is known."""


@dataclass(frozen=True)
class TrainingSnapshot:
    """One snapshot of one box, ready to be cropped.

    Attributes
    ----------
    redshift
        Redshift of the snapshot.
    conditions
        The conditions of the trunk besides the redshift: reach and cell size, if the network takes them.
    channels
        Channels that the stem has computed from the fields, before they are normalised.
    xi
        The true ionised fraction; in rehearsal, the prediction of the network that the run started from.
    validation_cells
        Thickness of the slab across x, from cell 0, that is kept for validation.
    quantities
        What the snapshot adds to the coverage of the training, see `reion.models.coverage.quantities`.
    variance
        In rehearsal, the variance of the true xi about `xi`; None where `xi` is the truth.
    """

    redshift: float
    conditions: tuple[float, ...]
    channels: BoxChannels
    xi: BoxField
    validation_cells: int
    quantities: Mapping[str, float]
    variance: BoxField | None = None


def prepare_snapshots(simulations: Sequence[xr.Dataset], model: Model, cache: Path) -> list[TrainingSnapshot]:
    """Compute the channels of every snapshot once.

    If channels and true xi take more than 4 GiB, the channels are memory-mapped files in the folder `cache`.

    Raises
    ------
    InputError
        If a box is too small to train on beside its validation slab, or a field is missing.
    """
    config = model.config
    crop_cells = config.training.crop_cells
    cells = sum(int(np.prod([*sim.sizes.values()])) for sim in simulations)
    on_disk = cells * 4 * (len(model.stem.channels) + 1) > IN_MEMORY_BYTES
    snapshots: list[TrainingSnapshot] = []
    for sim in simulations:
        require_fields(sim, ["n_igm", "xi"], purpose="training")
        if "n_ion" in config.inputs:
            sim = with_photons_left(sim)
        require_fields(sim, config.inputs, purpose="training")
        validation_cells = validation_cells_along_x(config, model, sim.sizes["x"])
        if _free_origins(sim.sizes["x"], validation_cells, config.data, crop_cells) < 1:
            raise InputError(
                f"expected boxes with room for crops of {crop_cells} cells beside the validation slab of "
                f"{validation_cells} and its margins of {config.data.validation_margin_cells}; received "
                f"{sim.sizes['x']} cells along x",
                hint="give a smaller --set training.crop_cells",
            )
        if config.conditions:
            require_max_mfp(sim, purpose="training")
        cell_size_mpc = cubic_cell_size_mpc(sim)
        stem = model.at_cell_size(cell_size_mpc).stem
        for index, redshift in enumerate(sim["redshift"].values):
            fields = {name: sim[name][index].values for name in config.inputs}
            numbers = {name: float(sim[name][index]) for name in config.conditions}
            inputs: dict[str, Any] = {**fields, **numbers}
            channels = stem.prepare(inputs)
            if on_disk:
                channels = kept_in_file(channels, cache / f"{len(snapshots):05d}.npy")
            xi = np.clip(sim["xi"][index].values.astype(np.float32), 0.0, 1.0)
            told = told_conditions(cell_size_mpc, **numbers)
            covered = quantities(
                *fields.values(),
                photon_units=str(sim[config.inputs[1]].attrs["units"]),
                photons_per_source=getattr(config.model, "photons_per_source", None),
                cell_size_mpc=cell_size_mpc,
                max_mfp=float(sim[MAX_MFP][index]) if MAX_MFP in sim.variables else None,
                clumping=clumping_of(sim.attrs, float(redshift)),
            )
            snapshots.append(TrainingSnapshot(float(redshift), told, channels, xi, validation_cells, covered))
    return snapshots


def kept_in_file(channels: BoxChannels, file: Path) -> BoxChannels:
    """Write channels into a file and return them memory-mapped."""
    file.parent.mkdir(parents=True, exist_ok=True)
    np.save(file, channels)
    mapped: BoxChannels = np.load(file, mmap_mode="r")
    return mapped


def validation_cells_along_x(config: RunConfig, model: Model, cells: int) -> int:
    """Thickness of the validation slab of a box of `cells` cells along x, in cells."""
    return max(model.stride_cells, round(config.data.validation_share * cells))


class CropSequence(keras.utils.PyDataset):
    """Batches of random crops; a batch depends on the seed and its number only, not on earlier batches.

    Item `i` is batch number `first + i`: a `Batch` whose xi has `training.crop_cells` along a side and whose
    channels have the trunk's radius more on every side; channels and redshift are normalised. The crops of xi
    never touch the validation slab or its margins. If there are snapshots `rehearsed`, the share
    `training.rehearsal` of the crops comes from them. Of a batch, only the `rows` of this process are read.
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
        rehearsed: Sequence[TrainingSnapshot] = (),
    ) -> None:
        super().__init__()
        self._rows = rows
        training = model.config.training
        learnt = len(snapshots)
        self._snapshots = snapshots = [*snapshots, *rehearsed]
        self._with_variance = any(snapshot.variance is not None for snapshot in snapshots)
        self._normalizer = normalizer
        self._radius_cells = model.trunk_radius_cells
        self._crop_cells = training.crop_cells
        self._batch_size = training.batch_size
        self._data = model.config.data
        self._augmentation = AUGMENTATIONS.find(self._data.augmentation)
        self._options = self._augmentation.settings.model_validate(self._data.augmentation_options)
        self._seed = model.config.seed
        self._first = first
        self._batches = batches
        mean = np.array([snapshot.xi.mean() for snapshot in snapshots])
        weight = np.where(np.minimum(mean, 1 - mean) < _UNIFORM_MEAN_XI, _UNIFORM_WEIGHT, 1.0)
        if rehearsed:
            share = training.rehearsal
            weight[:learnt] *= (1 - share) / weight[:learnt].sum()
            weight[learnt:] *= share / weight[learnt:].sum()
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
        """Read several batches in one call, which for small batches is faster than one by one."""
        drawn = [[draws[self._rows] for draws in self._draw(index)] for index in indices]
        chosen, origins, orientations, noise = (np.concatenate(draws) for draws in zip(*drawn, strict=True))
        inner, outer = self._crop_cells, self._crop_cells + 2 * self._radius_cells
        channels = len(self._normalizer.channels)
        values = np.empty((len(chosen), outer, outer, outer, channels), dtype=np.float32)
        conditions = np.empty((len(chosen), noise.shape[1]))
        xi = np.empty((len(chosen), inner, inner, inner, 1), dtype=np.float32)
        variance = np.zeros_like(xi) if self._with_variance else None
        for number in np.unique(chosen):
            snapshot, places = self._snapshots[number], np.flatnonzero(chosen == number)
            starts, symmetries = origins[places], orientations[places]
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
            if variance is not None and snapshot.variance is not None:
                crop_batch(snapshot.variance[None], starts, out=variance, places=places, indices=symmetries)
            known = np.array([snapshot.redshift, *snapshot.conditions])
            conditions[places] = known + noise[places]
        conditions[:, 0] = normalise_redshift(conditions[:, 0], self._normalizer)
        conditions = conditions.astype(np.float32)
        if self._augmentation.function is not only_turned:
            rows = range(self._batch_size)[self._rows]
            numbers = [(index, row) for index in indices for row in rows]
            for place, number in enumerate(numbers):
                self._augment(number, place, values, conditions, xi)
        target = xi if variance is None else np.concatenate([xi, variance], axis=-1)
        size = len(chosen) // len(drawn)
        parts = [slice(start, start + size) for start in range(0, len(chosen), size)]
        return [((values[part], conditions[part]), target[part]) for part in parts]

    def ahead(self) -> Iterator[Batch]:
        """Yield every batch; a thread reads the next batches while the caller works with the current ones."""
        outer = self._crop_cells + 2 * self._radius_cells
        values = self._batch_size * outer**3 * len(self._normalizer.channels)
        size = max(1, _VALUES_AT_ONCE // values)
        groups = [range(start, min(start + size, self._batches)) for start in range(0, self._batches, size)]
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="reion-sampler") as reader:
            pending = reader.submit(self.read, groups[0])
            for following in [*groups[1:], None]:
                batches = pending.result()
                if following is not None:
                    pending = reader.submit(self.read, following)
                yield from batches

    def _augment(
        self, number: tuple[int, int], place: int, values: np.ndarray, conditions: np.ndarray, xi: np.ndarray
    ) -> None:
        """Let the augmentation change one crop in place.

        `number` holds the numbers of the crop's batch and of its row there; `place` is its row in the arrays.
        """
        index, row = number
        # The third number makes these draws independent of those of `_draw` and of the other crops.
        rng = np.random.default_rng((self._seed, self._first + index, row + 1))
        crop = values[place], conditions[place], xi[place]
        changed = self._augmentation.function(self._options, rng, *crop)
        for old, new in zip(crop, changed, strict=True):
            if np.shape(new) != old.shape:
                raise InputError(
                    f"the augmentation {self._augmentation.short}: expected an array {old.shape} back; "
                    f"received {np.shape(new)}"
                )
            old[...] = new

    def _draw(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Draw the crops of a whole batch: snapshot, first cell, orientation, noise on the conditions."""
        rng = np.random.default_rng((self._seed, self._first + index))
        size = self._batch_size
        chosen = rng.choice(len(self._snapshots), size=size, p=self._probability)
        first, free = self._first_origin[chosen], self._origins[chosen]
        origins = first + rng.integers(0, free)
        orientations = rng.integers(0, self._augmentation.orientations, size=size)
        others = len(self._snapshots[0].conditions)
        widths = np.array([self._data.redshift_noise, *(_CONDITION_NOISE,) * others])
        noise = widths * rng.uniform(-1.0, 1.0, (size, 1 + others))
        return chosen, origins, orientations, noise


def crop_channels(
    channels: BoxChannels, origin: Sequence[int], normalizer: Normalizer, *, out: np.ndarray
) -> None:
    """Write the periodic window at `origin`, normalised, into `out` (x, y, z, channel)."""
    crop(
        channels,
        origin,
        out=out,
        scale=normalizer.scale,
        mean=normalizer.mean,
        std=normalizer.std,
        transform=normalizer.transform,
    )


def told_conditions(cell_size_mpc: float, max_mfp: float | None = None) -> tuple[float, ...]:
    """The conditions of the trunk besides the redshift: none for a stem without max_mfp."""
    if max_mfp is None:
        return ()
    return (float(reach_condition(max_mfp)), cell_size_condition(cell_size_mpc))


def normalise_redshift(redshift: Any, normalizer: Normalizer) -> Any:
    """(z − mean) / σ for a number or an array, with mean and σ of the training snapshots."""
    return (redshift - normalizer.redshift_mean) / normalizer.redshift_std


def validation_pair(snapshot: TrainingSnapshot, normalizer: Normalizer, model: Model) -> Batch:
    """The validation slab of a snapshot as a batch of one, see `slab_pair`."""
    return slab_pair(snapshot, normalizer, model, range(snapshot.validation_cells))


def slabs_along_x(snapshot: TrainingSnapshot) -> Iterator[range]:
    """Cut a box into slabs no thicker than the validation slab; yield the cells of each along x."""
    cells, thickness = snapshot.xi.shape[0], snapshot.validation_cells
    for start in range(0, cells, thickness):
        yield range(start, min(start + thickness, cells))


def slab_pair(snapshot: TrainingSnapshot, normalizer: Normalizer, model: Model, x: range) -> Batch:
    """A slab across the x axis as a batch of one; its channels include the halo that the trunk needs.

    The sides of its xi are multiples of the network's stride; the remaining cells are not used.
    """
    sides = (len(x), *snapshot.xi.shape[1:])
    shape = tuple(side // model.stride_cells * model.stride_cells for side in sides)
    xi = snapshot.xi[None, x.start : x.start + shape[0], : shape[1], : shape[2], None]
    return slab_inputs(snapshot, normalizer, model, x.start, shape), xi


def slab_inputs(
    snapshot: TrainingSnapshot, normalizer: Normalizer, model: Model, first: int, shape: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Channels and conditions, a batch of one, for a prediction of `shape` cells from (`first`, 0, 0)."""
    radius = model.trunk_radius_cells
    values = np.empty((1, *(n + 2 * radius for n in shape), len(normalizer.channels)), dtype=np.float32)
    crop_channels(snapshot.channels, [first - radius, -radius, -radius], normalizer, out=values[0])
    redshift = normalise_redshift(snapshot.redshift, normalizer)
    return values, np.array([[redshift, *snapshot.conditions]], dtype=np.float32)


def _free_origins(cells: int, validation_cells: int, data: DataConfig, crop_cells: int) -> int:
    """Number of places along x at which a crop can start clear of the validation slab and its margins."""
    return cells - validation_cells - 2 * data.validation_margin_cells - crop_cells + 1
