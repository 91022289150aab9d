"""Training: simulations and a schema in, a run folder out, and never a lost run."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import platform
import shutil
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np
import xarray as xr

from reion.config import ReionModel, RunConfig, differences, load_config, write_config
from reion.errors import InputError
from reion.jobs.outputs import alone_at, clear_stale, read_json, whole_file, whole_folder, write_json
from reion.models.build import Model, build_model, build_network
from reion.models.normalizer import Normalizer, fit_normalizer, fit_photons_per_source
from reion.models.stems import SHINING_TIME
from reion.physics.excursion_set import fit_threshold
from reion.simulation.contract import FIELDS, PHOTON_RATE_UNITS, cubic_cell_size_mpc
from reion.training.checkpoints import Checkpoint, load_newest, save_checkpoint
from reion.training.devices import has_gpu, resolve_precision
from reion.training.launch import Place
from reion.training.losses import build_loss
from reion.training.peers import Workers, average_gradients
from reion.training.sampler import Batch, CropSequence, Snapshot, prepare_snapshots, validation_pair

Progress = Callable[[int, int, Mapping[str, float]], None]
"""Called after every step with the steps done, the steps in all, and the newest loss and validation R²."""

CELL_SIZE_TOLERANCE = 0.01
_HISTORY = ("step", "loss", "validation_loss", "validation_r2", "learning_rate", "seconds", "waiting_share")


class TrainingDivergedError(InputError, ArithmeticError):
    """The loss became NaN or infinite; the run folder keeps the last good checkpoint."""


def train(
    simulations: Sequence[xr.Dataset],
    out: str | Path,
    config: RunConfig | None = None,
    *,
    resume: bool = False,
    force: bool = False,
    progress: Progress | None = None,
    place: Place | None = None,
) -> dict[str, Any]:
    """Train a network and write its run folder.

    Parameters
    ----------
    simulations
        One or more Simulations with n_igm, xi and n_ion or n_src, of one cell size.
    out
        The run folder: config.toml, normalizer.json, checkpoints/, history.csv, logs/ (TensorBoard),
        model.keras, metrics.json, provenance.json.
    config
        The schema; the default trains the default model.
    resume
        Go on from the newest whole checkpoint in `out`, which must come from the same schema and data.
        The result is the one an unbroken run would have given.
    force
        Replace a run that is there.
    place
        Of this process among several that train one network together, each called with the same arguments
        (see `reion.training.launch.place_from_environment`). The chief alone reads and writes `out`.

    Returns
    -------
    dict
        What metrics.json holds: validation scores, steps, seconds, speed, share of time waiting for data.
        Workers other than the chief return what they know of it.

    Raises
    ------
    InputError
        For unfit simulations, an occupied `out` (another run may be writing it), or a `resume` that does
        not fit.
    TrainingDivergedError
        If the loss is no longer a number.
    WorkerLostError
        If another process of the run stops or does not answer.
    """
    out = Path(out)
    if config is None:
        config = load_config()
    _check_together(simulations)
    config = with_photons(config, simulations)
    provenance = _provenance(config, simulations)
    with Workers.join(place, _digest(config, provenance)) as workers, ExitStack() as stack:
        checkpoint = None
        if workers.is_chief:
            stack.enter_context(alone_at(out))
            for folder, name in ((out.parent, out.name), (out, None), (out / "checkpoints", None)):
                clear_stale(folder, name)
            checkpoint = _enter(out, config, provenance, resume=resume, force=force)
        # Nobody writes anything, not even beside the folder, before the chief has taken it.
        workers.broadcast(b"entered")
        loop = Loop.on(simulations, out, config, progress, workers)
        if workers.is_chief and not resume:
            _open_run_folder(out, config, loop.normalizer, provenance)
        if checkpoint is not None:
            loop.restore(checkpoint)
        loop.begin()
        loop.run()
        if workers.is_chief:
            return _finish(loop, simulations)
        shutil.rmtree(_cache(out, workers.rank), ignore_errors=True)
        return loop.metrics()


def _finish(loop: Loop, simulations: Sequence[xr.Dataset]) -> dict[str, Any]:
    """Write the trained network, then the metrics, which say that the run is finished."""
    out, config = loop.out, loop.config
    single = build_model(config)
    single.trunk.set_weights(loop.best_weights())
    network = build_network(single, loop.normalizer)
    with _can_go_on(out, "the trained network"), whole_file(out / "model.keras") as partial:
        network.save(partial)
    metrics = {
        **loop.metrics(),
        "parameters": int(single.trunk.count_params()),
        "receptive_radius_cells": single.radius_cells,
        "cell_size_mpc": cubic_cell_size_mpc(simulations[0]),
        "redshift_range": _redshift_range(simulations),
        "n_src_units": _n_src_units(simulations),
        "excursion_set_threshold": fit_threshold(simulations, config.data.inputs),
    }
    with _can_go_on(out, "metrics.json"):
        write_json(out / "metrics.json", metrics)
    shutil.rmtree(_cache(out), ignore_errors=True)
    return metrics


@contextmanager
def _can_go_on(out: Path, what: str) -> Iterator[None]:
    """Say of a full disk that the run is not lost."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{what} could not be written: {error}",
            file=out,
            hint="the run is whole up to the checkpoint before: make room and go on with --resume",
        ) from error


def _open_run_folder(
    out: Path, config: RunConfig, normalizer: Normalizer, provenance: Mapping[str, Any]
) -> None:
    """Put the folder of a new run in its place: a kill leaves one that can be resumed, or none."""
    try:
        with whole_folder(out) as fresh:
            write_config(config, fresh / "config.toml")
            write_json(fresh / "normalizer.json", normalizer.to_dict())
            write_json(fresh / "provenance.json", provenance)
    except OSError as error:
        raise InputError(f"the run folder could not be written: {error}", file=out) from error


class Loop:
    """The state of a training run between two steps, and the loop over them."""

    def __init__(
        self,
        out: Path,
        config: RunConfig,
        model: Model,
        normalizer: Normalizer,
        snapshots: Sequence[Snapshot],
        progress: Progress | None,
        workers: Workers,
    ) -> None:
        self.out = out
        self.config = config
        self.model = model
        self.trunk = model.trunk
        self.normalizer = normalizer
        self.snapshots = snapshots
        self.progress = progress
        self.workers = workers
        self.step = 0
        self.history: list[dict[str, float]] = []
        self.best: list[np.ndarray] | None = None
        self.best_r2 = -math.inf
        self.stale_rounds = 0
        self.seconds = 0.0
        self.waiting = 0.0
        self.logged = 0
        self.ahead: Iterator[Batch] = iter(())
        training = config.training
        if training.batch_size < workers.count:
            raise InputError(
                f"expected a crop for each of {workers.count} workers; received "
                f"training.batch_size={training.batch_size}",
                hint=f"take at most {training.batch_size} workers, or a larger batch",
            )
        self.rows = workers.rows(training.batch_size)
        self.share = len(range(training.batch_size)[self.rows]) / training.batch_size
        target = (normalizer.xi_mean, normalizer.xi_std) if model.target_normalised else (0.0, 1.0)
        self.trunk.compile(
            optimizer=_optimizer(config),
            loss=build_loss(training.loss, target_mean=target[0], target_std=target[1]),
            # XLA is many times slower than oneDNN for 3D convolutions on a CPU, and in TensorFlow it cannot
            # call back to average gradients.
            jit_compile=False
            if keras.backend.backend() == "tensorflow" and (workers.count > 1 or not has_gpu())
            else "auto",
        )
        self.trunk.optimizer.build(self.trunk.trainable_variables)
        if workers.count > 1:
            average_gradients(self.trunk, workers, self.share)

    @classmethod
    def on(
        cls,
        simulations: Sequence[xr.Dataset],
        out: Path,
        config: RunConfig,
        progress: Progress | None = None,
        workers: Workers | None = None,
    ) -> Loop:
        """Prepare the simulations, measure their normalisation, build the network."""
        workers = workers or Workers()
        model = build_model(config, precision=resolve_precision(config.training.precision))
        snapshots = prepare_snapshots(simulations, model, _cache(out, workers.rank))
        normalizer = fit_normalizer(
            model.stem.channels,
            model.stem.scale,
            model.stem.transform,
            ((snapshot.redshift, snapshot.channels, snapshot.xi) for snapshot in snapshots),
        )
        # Sums of floats may differ between machines: the chief's are everybody's.
        agreed = workers.broadcast(json.dumps(normalizer.to_dict()).encode())
        normalizer = Normalizer.from_dict(json.loads(agreed))
        return cls(out, config, model, normalizer, snapshots, progress, workers)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint."""
        arrays = [*checkpoint.arrays["network"], *checkpoint.arrays["optimizer"]]
        for variable, array in zip(self._variables(), arrays, strict=True):
            variable.assign(array)
        self.step = checkpoint.step
        state = checkpoint.state
        # In JSON a number that is not finite is null.
        self.history = [
            {name: math.nan if value is None else value for name, value in row.items()}
            for row in state["history"]
        ]
        self.best = checkpoint.arrays.get("best")
        self.best_r2 = state["best_r2"] if state["best_r2"] is not None else -math.inf
        self.stale_rounds = state["stale_rounds"]
        self.seconds = state["seconds"]
        self.waiting = state["waiting"]
        self._write_history()

    def begin(self) -> None:
        """Bring every worker to where the chief stands."""
        if self.workers.count == 1:
            return
        content = io.BytesIO()
        if self.workers.is_chief:
            np.savez(content, *(keras.ops.convert_to_numpy(variable) for variable in self._variables()))
        with np.load(io.BytesIO(self.workers.broadcast(content.getvalue())), allow_pickle=False) as stored:
            for variable, name in zip(self._variables(), stored.files, strict=True):
                variable.assign(stored[name])
        state = {
            "step": self.step,
            "history": self.history,
            "best_r2": self.best_r2,
            "stale": self.stale_rounds,
        }
        state = json.loads(self.workers.broadcast(json.dumps(state).encode()))
        self.step, self.history = state["step"], state["history"]
        self.best_r2, self.stale_rounds = state["best_r2"], state["stale"]
        self._draw_apart()

    def _variables(self) -> list[Any]:
        return [*self.trunk.variables, *self.trunk.optimizer.variables]

    def run(self) -> None:
        """Go on to the end of the schema's steps, or of its patience."""
        training = self.config.training
        while self.step < training.steps and not self._out_of_patience():
            stop = min(training.steps, (self.step // training.round_steps + 1) * training.round_steps)
            loss = self.steps(stop - self.step)
            self._average_statistics()
            self._check_weights()
            self._validate(loss)
            if self.workers.is_chief:
                self._save()

    def batches(self, count: int) -> CropSequence:
        """The next batches, of each the share of this worker."""
        return CropSequence(
            self.snapshots, self.normalizer, self.model, first=self.step, batches=count, rows=self.rows
        )

    def steps(self, count: int) -> float:
        """Take `count` steps and return their mean loss."""
        losses = []
        last_r2 = self.history[-1]["validation_r2"] if self.history else math.nan
        started = time.perf_counter()
        for left in range(count, 0, -1):
            before = time.perf_counter()
            batch = next(self.ahead, None)
            if batch is None:
                self.ahead = self.batches(max(left, self.config.training.steps - self.step)).ahead()
                batch = next(self.ahead)
            self.waiting += time.perf_counter() - before
            loss = self._take_step(batch)
            self.step += 1
            if not math.isfinite(loss):
                raise self._diverged(f"the loss is {loss}")
            losses.append(loss)
            if self.progress is not None:
                values_now = {"loss": loss, "r2": last_r2}
                self.progress(self.step, self.config.training.steps, values_now)
        self.seconds += time.perf_counter() - started
        return float(np.mean(losses))

    def _take_step(self, batch: Batch) -> float:
        """Update the network by this worker's share of a batch; return the loss of the whole batch."""
        (values, redshift), target = batch
        try:
            loss = float(self.trunk.train_on_batch([values, redshift], target))
        except Exception:
            # Backends wrap what is raised inside a compiled step.
            if self.workers.failure is not None:
                raise self.workers.failure from None
            raise
        if self.workers.count == 1:
            return loss
        return float(self.workers.sum(np.array(loss * self.share)))

    def _average_statistics(self) -> None:
        """Average the moving statistics of batch normalisation, which every worker has of its own crops."""
        if self.workers.count == 1:
            return
        for variable in self.trunk.non_trainable_variables:
            if "float" in keras.backend.standardize_dtype(variable.dtype):
                mine = keras.ops.convert_to_numpy(variable) / np.float32(self.workers.count)
                variable.assign(self.workers.sum(mine))

    def _draw_apart(self) -> None:
        """Give every worker its own random numbers for dropout; the chief's are those of a single process."""
        for variable in self.trunk.non_trainable_variables:
            if keras.backend.standardize_dtype(variable.dtype) == "uint32":
                state = keras.ops.convert_to_numpy(variable).copy()
                state.flat[0] += np.uint32(self.workers.rank)
                variable.assign(state)

    def _validate(self, loss: float) -> None:
        r2, validation_loss = self._score()
        row = {
            "step": self.step,
            "loss": loss,
            "validation_loss": validation_loss,
            "validation_r2": r2,
            "learning_rate": float(self.trunk.optimizer.learning_rate),
            "seconds": round(self.seconds, 3),
            "waiting_share": round(self.waiting / max(self.seconds, 1e-9), 5),
        }
        self.history.append(row)
        if self.config.training.patience_rounds is None or math.isnan(r2):
            return
        if r2 > self.best_r2:
            self.best_r2, self.stale_rounds = r2, 0
            self.best = self.trunk.get_weights()
        else:
            self.stale_rounds += 1

    def _score(self) -> tuple[float, float]:
        """Validation R² and mean squared error, pooled over snapshots neither neutral nor ionised."""
        squares = total = total_squares = count = 0.0
        for snapshot in self.snapshots[self.workers.rank :: self.workers.count]:
            mean = float(snapshot.xi.mean())
            if not 1e-3 <= mean <= 1 - 1e-3:
                continue
            (values, redshift), true = validation_pair(snapshot, self.normalizer, self.model)
            pred = keras.ops.convert_to_numpy(self.trunk([values, redshift], training=False))
            if self.model.target_normalised:
                pred = np.clip(pred * self.normalizer.xi_std + self.normalizer.xi_mean, 0, 1)
            error = pred.astype(np.float64) - true
            squares += float((error**2).sum())
            total += float(true.sum(dtype=np.float64))
            total_squares += float((true.astype(np.float64) ** 2).sum())
            count += true.size
        squares, total, total_squares, count = self.workers.sum(
            np.array([squares, total, total_squares, count])
        ).tolist()
        if count == 0 or total_squares <= total**2 / count:
            return math.nan, math.nan
        return 1.0 - squares / (total_squares - total**2 / count), squares / count

    def _out_of_patience(self) -> bool:
        patience = self.config.training.patience_rounds
        return patience is not None and self.stale_rounds >= patience

    def checkpoint(self) -> Checkpoint:
        """The state of the run now."""
        numpy = keras.ops.convert_to_numpy
        arrays = {
            "network": [np.asarray(numpy(v)) for v in self.trunk.variables],
            "optimizer": [np.asarray(numpy(v)) for v in self.trunk.optimizer.variables],
        }
        if self.best is not None:
            arrays["best"] = self.best
        state = {
            "history": self.history,
            "best_r2": self.best_r2 if math.isfinite(self.best_r2) else None,
            "stale_rounds": self.stale_rounds,
            "seconds": self.seconds,
            "waiting": self.waiting,
        }
        return Checkpoint(self.step, arrays, state)

    def _save(self) -> None:
        with _can_go_on(self.out, f"the checkpoint of step {self.step}"):
            save_checkpoint(self.out / "checkpoints", self.checkpoint())
            self._write_history()

    def _write_history(self) -> None:
        with (
            whole_file(self.out / "history.csv") as partial,
            partial.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, fieldnames=_HISTORY)
            writer.writeheader()
            writer.writerows(self.history)
        # One unbroken curve, also of a run that goes on from an older checkpoint than its last one.
        _log_to_tensorboard(
            self.out / "logs" / "events.out.tfevents.reion",
            self.history[self.logged :],
            (self.out / "config.toml").stat().st_mtime,
            anew=self.logged == 0,
        )
        self.logged = len(self.history)

    def _check_weights(self) -> None:
        """Refuse to validate or save a network whose last step, whose loss was still good, broke it."""
        for variable in self._variables():
            values = keras.ops.convert_to_numpy(variable)
            if not np.isfinite(values.astype(np.float64)).all():
                raise self._diverged(f"{variable.path} is not finite")

    def _diverged(self, what: str) -> TrainingDivergedError:
        """The error of a run that broke at this step; the chief keeps the whole batch."""
        kept = self.out / "diverged.npz"
        message = f"{what} at step {self.step}"
        if self.workers.is_chief:
            ((values, redshift), target) = CropSequence(
                self.snapshots, self.normalizer, self.model, first=self.step - 1, batches=1
            )[0]
            try:
                with whole_file(kept) as partial:
                    np.savez(partial, channels=values, redshift=redshift, xi=target)
                message += f"; the batch is kept in {kept}"
            except OSError as error:
                message += f"; the batch could not be kept: {error}"
        return TrainingDivergedError(
            f"{message}; the last good checkpoint is in {self.out / 'checkpoints'}",
            hint="look for values out of range in that batch, or lower training.learning_rate",
        )

    def best_weights(self) -> list[np.ndarray]:
        """Weights of the trunk: the best by patience's measure, or else the last."""
        weights: list[np.ndarray] = self.trunk.get_weights() if self.best is None else self.best
        return weights

    def metrics(self) -> dict[str, Any]:
        """What the run came to so far."""
        training = self.config.training
        last = self.history[-1]
        r2 = last["validation_r2"] if self.best is None else self.best_r2
        cells = self.step * training.batch_size * training.crop_cells**3
        return {
            "steps": self.step,
            "validation_r2": r2 if math.isfinite(r2) else None,
            "loss": last["loss"],
            "seconds": round(self.seconds, 1),
            "cells_per_second": round(cells / max(self.seconds, 1e-9)),
            "waiting_share": last["waiting_share"],
        }


def with_photons(config: RunConfig, simulations: Sequence[xr.Dataset]) -> RunConfig:
    """Say how many photons a unit of the sources is, where neither their unit nor the schema does."""
    model = config.model
    if not isinstance(model, ReionModel) or model.photons_per_source is not None:
        return config
    if _n_src_units(simulations) == PHOTON_RATE_UNITS:
        return config
    instant = config.data.inputs == "instant"
    photons = fit_photons_per_source(simulations, shining_time=SHINING_TIME if instant else None)
    return config.model_copy(update={"model": model.model_copy(update={"photons_per_source": photons})})


def _cache(out: Path, rank: int = 0) -> Path:
    return out.with_name(f".{out.name}.cache{rank or ''}")


def _optimizer(config: RunConfig) -> keras.optimizers.Optimizer:
    training = config.training
    warmup = round(training.warmup_share * training.steps)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else training.learning_rate,
        max(1, training.steps - warmup),
        warmup_target=training.learning_rate if warmup else None,
        warmup_steps=warmup,
        alpha=0.01,
    )
    if training.weight_decay:
        return keras.optimizers.AdamW(
            schedule, weight_decay=training.weight_decay, clipnorm=training.clip_norm
        )
    return keras.optimizers.Adam(schedule, clipnorm=training.clip_norm)


def _enter(
    out: Path, config: RunConfig, provenance: Mapping[str, Any], *, resume: bool, force: bool
) -> Checkpoint | None:
    """Check that the run folder may be written; with `resume`, return the checkpoint to go on from."""
    if resume:
        if not (out / "config.toml").is_file():
            raise InputError("expected a run folder to resume", file=out, hint="start it without --resume")
        stored = load_config(out / "config.toml")
        if stored != config:
            raise InputError(
                "the configuration differs from the one the run was started with: "
                + ", ".join(differences(stored, config)),
                file=out / "config.toml",
                hint=f"resume with --config {out / 'config.toml'}, or start a new run",
            )
        if read_json(out / "provenance.json")["data"] != provenance["data"]:
            raise InputError("the run was started with other simulations", file=out)
        checkpoint = load_newest(out / "checkpoints")
        if checkpoint is None and any((out / "checkpoints").glob("step-*")):
            warnings.warn(
                f"no checkpoint in {out / 'checkpoints'} is whole: the run starts from its first step",
                stacklevel=3,
            )
        return checkpoint
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not force:
            raise InputError(
                "the output is already there", file=out, hint="--resume goes on with it, --force replaces it"
            )
        if out.is_dir() and not (out / "config.toml").is_file():
            raise InputError("will not replace a folder that is not a run", file=out)
    return None


def _check_together(simulations: Sequence[xr.Dataset]) -> None:
    if not simulations:
        raise InputError("expected at least one simulation to train on; received none")
    sizes = [cubic_cell_size_mpc(sim) for sim in simulations]
    if max(sizes) > min(sizes) * (1 + CELL_SIZE_TOLERANCE):
        raise InputError(
            "expected simulations of one cell size; received " + ", ".join(f"{size:g} Mpc" for size in sizes),
            hint="bring them to one with `reion convert --cell-size MPC`",
        )
    units = {sim["n_src"].attrs["units"] for sim in simulations if "n_src" in sim}
    if len(units) > 1:
        raise InputError(f"expected n_src in one unit; received {', '.join(sorted(units))}")


def _n_src_units(simulations: Sequence[xr.Dataset]) -> str:
    for sim in simulations:
        if "n_src" in sim:
            return str(sim["n_src"].attrs["units"])
    return FIELDS["n_src"].units[0]


def _redshift_range(simulations: Sequence[xr.Dataset]) -> list[float]:
    values = np.concatenate([sim["redshift"].values for sim in simulations])
    return [float(values.min()), float(values.max())]


def _provenance(config: RunConfig, simulations: Sequence[xr.Dataset]) -> dict[str, Any]:
    packages = ("reion", "keras", "numpy", "numba", "xarray", keras.backend.backend())
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in packages}},
        "backend": keras.backend.backend(),
        "seed": config.seed,
        "git_commit": _git_commit(),
        "data": [describe(sim) for sim in simulations],
    }


def describe(sim: xr.Dataset) -> dict[str, Any]:
    """What a run's provenance says of a simulation, with the checksum of its fields."""
    return {
        "source_code": sim.attrs.get("source_code", "unknown"),
        "box_size": sim.attrs["box_size"],
        "cells": [sim.sizes[axis] for axis in ("x", "y", "z")],
        "redshift": sim["redshift"].values.tolist(),
        "sha256": _checksum(sim),
    }


def _digest(config: RunConfig, provenance: Mapping[str, Any]) -> bytes:
    """What the workers of a run must have in common."""
    common = {
        "config": config.model_dump(mode="json"),
        "data": provenance["data"],
        "reion": provenance["versions"]["reion"],
    }
    return hashlib.sha256(json.dumps(common, sort_keys=True).encode()).digest()


def _checksum(sim: xr.Dataset) -> str:
    """SHA-256 over the fields' values as float32, in the order of the data contract."""
    digest = hashlib.sha256()
    for name in FIELDS:
        if name in sim:
            digest.update(name.encode())
            for snapshot in sim[name]:
                digest.update(np.ascontiguousarray(snapshot.values, dtype="<f4").data)
    return digest.hexdigest()


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


def _log_to_tensorboard(path: Path, rows: Sequence[Mapping[str, float]], began: float, *, anew: bool) -> None:
    """Append rows to a TensorBoard event file, which a TensorBoard may have open, or write it `anew`.

    `began` is when the run was started, in seconds since 1970.
    """
    import tensorflow as tf

    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(".events.tmp")
    with tf.io.TFRecordWriter(str(temporary)) as writer:
        if anew:
            writer.write(tf.compat.v1.Event(file_version="brain.Event:2").SerializeToString())
        for row in rows:
            values = [
                tf.compat.v1.Summary.Value(tag=name, simple_value=row[name])
                for name in ("loss", "validation_loss", "validation_r2", "learning_rate")
            ]
            event = tf.compat.v1.Event(
                step=int(row["step"]),
                wall_time=began + row["seconds"],
                summary=tf.compat.v1.Summary(value=values),
            )
            writer.write(event.SerializeToString())
    if anew:
        temporary.replace(path)
    else:
        with path.open("ab") as file:
            file.write(temporary.read_bytes())
        temporary.unlink()
