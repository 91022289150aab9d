"""The run folder: written while a network trains, read back to predict with the network or to export it."""

from __future__ import annotations

import hashlib
import time
import tomllib
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import xarray as xr

from reion.config import RunConfig, flat, load_config, write_config
from reion.errors import InputError
from reion.jobs.outputs import (
    clear_stale,
    json_bytes,
    read_json,
    read_record,
    sha256_of,
    whole_file,
    whole_folder,
    write_json,
    write_whole,
)
from reion.jobs.places import Kind, holds_only
from reion.models.build import Model, build_model, build_network
from reion.models.normalizer import Normalizer
from reion.physics.mean_free_path import require_max_mfp
from reion.simulation.contract import DIMS, cubic_cell_size_mpc, require_fields
from reion.simulation.recombinations import with_photons_left
from reion.training import pictures
from reion.training.checkpoints import Checkpoint, save_checkpoint
from reion.training.history import Round, to_csv, to_events
from reion.training.pictures import Slices, hyperparameters
from reion.training.provenance import Provenance, code_of
from reion.training.sampler import Batch

CHECKSUMS = "checksums.json"
"""The file with the SHA-256 of every file from which a finished run is read, by name."""

_CHECKED = ("config.toml", "normalizer.json", "provenance.json", "model.keras", "metrics.json")

_RESTORE = (
    "put back the file as it was; or remove metrics.json from the folder and finish the run again, from its "
    "last checkpoint: the same `reion train` with --resume"
)

_FILES = (
    *("config.toml", "normalizer.json", "provenance.json", "checkpoints", "history.csv", "logs"),
    *("model.keras", "metrics.json", CHECKSUMS, "diverged.npz"),
    *("model.onnx", "evaluations"),  # that `reion compare` puts there
)


def is_our_run(path: Path) -> bool:
    """Whether `reion train` or `reion compare` wrote the folder, and it holds no other files."""
    return holds_only(path, _FILES) and all(
        (path / name).is_file() for name in ("config.toml", "provenance.json")
    )


RUN = Kind(name="a run folder", is_ours=is_our_run, into_empty=True)


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """The results of a finished run, as metrics.json holds them.

    Attributes
    ----------
    steps
        Steps done.
    validation_r2
        R² of the weights that were kept, in the validation slabs; None if xi does not vary there.
    loss
        Mean training loss of the last round.
    seconds, cells_per_second
        Time spent in steps, and cells predicted in them.
    waiting_share
        Share of that time in which the network waited for batches.
    parameters
        Number of weights, the moving statistics of batch normalisation included.
    receptive_radius_cells
        Cells of raw fields that the network needs on every side of the cells that it predicts.
    cell_size_mpc, redshift_range, n_src_units
        Those of the training boxes. If their cell sizes differ, the cell size of an export by default.
    coverage
        The range of each quantity in the training boxes: see `reion.models.coverage.Coverage`.
    excursion_set_threshold
        Photons per hydrogen atom at which the excursion set fits the training boxes best.
    mean_error_share
        Error of mean xi divided by mean xi_std: see `reion.training.loop.Loop.mean_error_share`.
    """

    steps: int
    validation_r2: float | None
    loss: float
    seconds: float
    cells_per_second: int
    waiting_share: float
    parameters: int
    receptive_radius_cells: int
    cell_size_mpc: float
    redshift_range: tuple[float, float]
    n_src_units: str
    excursion_set_threshold: float
    mean_error_share: float | None
    coverage: Mapping[str, list[tuple[float, float, float]]]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Metrics:
        """Inverse of `to_json`."""
        low, high = values["redshift_range"]
        return cls(**{**values, "redshift_range": (low, high)})


class RunFolder:
    """The files of a run in training, for the one process that writes them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.logs = path / "logs"
        self._rounds_logged = 0
        self._is_drawing = False

    def clear_stale(self) -> None:
        """Remove the temporary files that killed processes left in the folder."""
        for folder in (self.path, self.checkpoints, self.logs):
            clear_stale(folder)

    def create(self, config: RunConfig, normalizer: Normalizer, provenance: Provenance) -> None:
        """Create the folder of a new run; a kill leaves a run that can be resumed, or no folder.

        Raises
        ------
        InputError
            If the folder cannot be written; the old content of its place is then still there.
        """
        try:
            with whole_folder(self.path) as fresh:
                write_config(config, fresh / "config.toml")
                write_json(fresh / "normalizer.json", normalizer.to_dict())
                write_json(fresh / "provenance.json", provenance.to_json())
        except OSError as error:
            raise InputError(f"the run folder could not be written: {error}", file=self.path) from error

    def reopen(self, config: RunConfig, provenance: Provenance) -> None:
        """Mark a finished run as unfinished and give it a new schema, so that it can go on.

        Raises
        ------
        InputError
            If a file cannot be written.
        """
        with self._resumable("the new schema"):
            (self.path / "metrics.json").unlink(missing_ok=True)
            write_json(self.path / "provenance.json", provenance.to_json())
            with whole_file(self.path / "config.toml") as partial:
                write_config(config, partial)

    def keep_normalizer(self, normalizer: Normalizer) -> None:
        """Write the normalisation of a resumed run, if normalizer.json does not hold exactly that one.

        Raises
        ------
        InputError
            If the file cannot be written.
        """
        path, wanted = self.path / "normalizer.json", json_bytes(normalizer.to_dict())
        with self._resumable("normalizer.json"):
            if not path.is_file() or path.read_bytes() != wanted:
                (self.path / "metrics.json").unlink(missing_ok=True)
                write_whole(path, wanted)

    def save(self, checkpoint: Checkpoint, history: Sequence[Round]) -> None:
        """Write a checkpoint, then the history up to it.

        Raises
        ------
        InputError
            If the disk is full; earlier checkpoints stay whole.
        """
        with self._resumable(f"the checkpoint of step {checkpoint.step}"):
            save_checkpoint(self.checkpoints, checkpoint)
            self.write_history(history)

    def write_history(self, history: Sequence[Round]) -> None:
        """Write history.csv, and the curves of TensorBoard."""
        write_whole(self.path / "history.csv", to_csv(history))
        events = self.logs / "events.out.tfevents.reion"
        events.parent.mkdir(exist_ok=True)
        # The first call writes the file anew, so that a run that resumes from an older checkpoint has one
        # unbroken curve. Later calls append, because a TensorBoard may have the file open.
        begin = self._rounds_logged == 0
        start_time = (self.path / "config.toml").stat().st_mtime
        records = to_events(history[self._rounds_logged :], start_time, begin=begin)
        if begin:
            settings = flat(load_config(self.path / "config.toml").model_dump(mode="json"))
            write_whole(events, records + hyperparameters(settings, start_time))
        else:
            with events.open("ab") as file:
                file.write(records)
        self._rounds_logged = len(history)

    def draw(self, step: int, slices: Slices | None, weights: Mapping[str, np.ndarray]) -> None:
        """Add a slice of the validation slab and histograms of the weights to the log for TensorBoard.

        They go to a file of their own, which is only appended to: no checkpoint holds them.

        Raises
        ------
        InputError
            If the disk is full; the run can be resumed.
        """
        with self._resumable("a picture of the run"):
            folder = self.logs / "pictures"
            folder.mkdir(parents=True, exist_ok=True)
            records = pictures.to_events(
                step, time.time(), slices=slices, weights=weights, begin=not self._is_drawing
            )
            with (folder / "events.out.tfevents.reion").open("ab") as file:
                file.write(records)
        self._is_drawing = True

    def keep_batch(self, batch: Batch) -> Path:
        """Write the batch at which a run diverged to diverged.npz; return its path.

        Raises
        ------
        OSError
            If the file cannot be written.
        """
        (values, conditions), xi = batch
        path = self.path / "diverged.npz"
        with whole_file(path) as partial:
            np.savez(partial, channels=values, conditions=conditions, xi=xi)
        return path

    def forget_batch(self) -> None:
        """Remove the batch at which the run diverged: the resumed run may end otherwise."""
        (self.path / "diverged.npz").unlink(missing_ok=True)

    def finish(self, network: keras.Model, metrics: Metrics) -> None:
        """Write the trained network, the checksums, then the metrics, which say that the run is finished.

        Raises
        ------
        InputError
            If the disk is full; the run can be resumed.
        """
        with self._resumable("the trained network"), whole_file(self.path / "model.keras") as partial:
            network.save(partial)
            (self.path / "metrics.json").unlink(
                missing_ok=True
            )  # the run is not finished until the new metrics are written
        with self._resumable("metrics.json"):
            written = json_bytes(metrics.to_json())
            sums = {name: sha256_of(self.path / name) for name in _CHECKED if name != "metrics.json"}
            write_json(self.path / CHECKSUMS, {**sums, "metrics.json": hashlib.sha256(written).hexdigest()})
            write_whole(self.path / "metrics.json", written)

    @contextmanager
    def _resumable(self, what: str) -> Iterator[None]:
        """Turn an error of the disk into an InputError that says that the run can be resumed."""
        try:
            yield
        except OSError as error:
            raise InputError(
                f"{what} could not be written: {error}",
                file=self.path,
                hint="the run is whole up to the checkpoint before: make room and go on with --resume",
            ) from error


@dataclass(frozen=True)
class Run:
    """A finished training run, read back.

    Attributes
    ----------
    network
        Predicts xi from raw fields, as `reion.models.build.build_network` describes it.
    """

    folder: Path
    config: RunConfig
    model: Model
    normalizer: Normalizer
    network: keras.Model
    metrics: Metrics
    provenance: Provenance

    def predict(self, sim: xr.Dataset) -> xr.DataArray:
        """Predict xi of every snapshot with Keras, each box as a whole.

        For boxes that do not fit in memory, export the run and use `reion.prediction.emulator.Emulator`.
        """
        names = self.config.inputs
        if "n_ion" in names:
            sim = with_photons_left(sim)
        require_fields(sim, names, purpose="prediction")
        if self.config.conditions:
            require_max_mfp(sim, purpose="prediction")
        model, network = self.model, self.network
        if model.any_cell_size:
            model = model.at_cell_size(cubic_cell_size_mpc(sim))
            network = build_network(model, self.normalizer)
        radius = model.radius_cells
        xi = np.empty(sim[names[0]].shape, dtype=np.float32)
        for index, redshift in enumerate(sim["redshift"].values):
            # The box is padded periodically to a multiple of the stride; the added cells are dropped below.
            width = [(radius, radius + -n % model.stride_cells) for n in xi.shape[1:]]
            inputs = {name: np.pad(sim[name][index].values, width, mode="wrap")[None] for name in names}
            numbers = {"redshift": redshift, **{name: sim[name][index] for name in self.config.conditions}}
            inputs |= {name: np.array([number], dtype=np.float32) for name, number in numbers.items()}
            answer = network(inputs, training=False)
            answer = answer["xi"] if isinstance(answer, Mapping) else answer
            answer = keras.ops.convert_to_numpy(answer)[0]
            xi[index] = answer[tuple(map(slice, xi.shape[1:]))]
        attrs = {"units": "1", "model": str(self.folder)}
        return xr.DataArray(
            xi, dims=DIMS, coords={dim: sim.coords[dim] for dim in DIMS}, name="xi", attrs=attrs
        )


def stored_schema(folder: Path) -> dict[str, Any] | None:
    """The schema of the run that was begun in a folder, as nested values; None if there is no such run.

    Raises
    ------
    InputError
        If the schema is there but damaged.
    """
    if not (folder / "config.toml").is_file():
        return None
    return load_config(folder / "config.toml").model_dump(mode="json", exclude_none=True)


def load_run(folder: str | Path) -> Run:
    """Read a finished run folder.

    Raises
    ------
    InputError
        If it is no run folder, its training has not finished, or a file in it was changed afterwards.
    """
    folder = Path(folder)
    if not (folder / "config.toml").is_file():
        raise InputError("expected a run folder, as `reion train --out` writes it", file=folder)
    if not (folder / "metrics.json").is_file():
        raise InputError(
            "this run has not finished",
            file=folder,
            hint="finish it: the same `reion train` with --resume",
        )
    require_unchanged(folder)
    config = load_config(folder / "config.toml")
    lacking = (
        RunConfig.model_fields.keys() - tomllib.loads((folder / "config.toml").read_text("utf-8")).keys()
    )
    if lacking:  # the schema of a run is written in full; defaults could belong to another network
        raise InputError(f"is cut off: lacks {', '.join(sorted(lacking))}", file=folder / "config.toml")
    normalizer = read_record(folder / "normalizer.json", Normalizer)
    metrics = read_record(folder / "metrics.json", Metrics)
    provenance = read_record(folder / "provenance.json", Provenance)
    changed = [
        code.name
        for code, now in zip(provenance.code, code_of(config), strict=False)
        if code.sha256 != now.sha256
    ]
    if changed:
        warnings.warn(
            f"the code of {', '.join(changed)} has changed since {folder} was trained", stacklevel=2
        )
    model = build_model(config, cell_size_mpc=metrics.cell_size_mpc)
    if normalizer.channels != model.stem.channels:
        raise InputError(
            f"expected the channels {', '.join(model.stem.channels)}, as config.toml has them; received "
            f"{', '.join(normalizer.channels)}",
            file=folder / "normalizer.json",
        )
    network = build_network(model, normalizer)
    load_weights(network, folder / "model.keras")
    return Run(folder, config, model, normalizer, network, metrics, provenance)


def require_unchanged(folder: Path) -> None:
    """Compare the files of a finished run with their checksums.

    Raises
    ------
    InputError
        If a file was changed, or there are no checksums.
    """
    if not (folder / CHECKSUMS).is_file():
        raise InputError(
            "is missing: nothing says whether the run is as it was when it finished",
            file=folder / CHECKSUMS,
            hint=_RESTORE,
        )
    stored = read_json(folder / CHECKSUMS)
    for name in _CHECKED:
        path = folder / name
        if not path.is_file():
            raise InputError("is missing from the run folder", file=path, hint=_RESTORE)
        if stored.get(name) != sha256_of(path):
            raise InputError(
                "was changed after the run had finished: it is not what scores and provenance speak of",
                file=path,
                hint=_RESTORE,
            )


def load_weights(network: keras.Model, path: Path) -> None:
    """Read the weights of a network.

    Raises
    ------
    InputError
        If the file is missing or damaged, does not fit the network, or holds NaN or infinite weights.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # Keras does not check every checksum
        if damaged is not None:
            raise InputError(f"is damaged: the checksum of {damaged} is wrong", file=path)
        network.load_weights(path)
    except InputError:
        raise
    except Exception as error:  # Keras and zipfile raise errors without a common base for a damaged file
        raise InputError(
            f"the weights cannot be read, or do not fit config.toml: {error}", file=path
        ) from error
    if not all(np.isfinite(weights).all() for weights in network.get_weights()):
        raise InputError("holds weights that are NaN or infinite", file=path)
