"""Training: simulations and a schema in, a run folder out; a run that is killed can be resumed."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import keras
import xarray as xr

from reion.config import RunConfig, differences, load_config
from reion.errors import InputError
from reion.jobs.outputs import alone_at, read_record, scratch_folder
from reion.jobs.places import output_path, refuse_existing
from reion.models.build import build_model, build_network
from reion.models.normalizer import fit_photons_per_source
from reion.models.photon_plan import SHINING_TIME
from reion.models.transport import REFERENCE_CELL_SIZE_MPC
from reion.models.validity import require_valid
from reion.networks import PhotonSettings
from reion.physics.excursion_set import fit_threshold
from reion.simulation.contract import PHOTON_RATE_UNITS, cubic_cell_size_mpc
from reion.training.boxes import are_alike, redshift_range, require_together, source_units
from reion.training.checkpoints import Checkpoint, load_newest
from reion.training.loop import Loop, NotFiniteError, StepProgress
from reion.training.parent import Parent
from reion.training.pictures import is_drawn
from reion.training.processes import Processes
from reion.training.provenance import Lengthened, Provenance
from reion.training.rehearsal import require_rehearsal
from reion.training.run_folder import RUN, Metrics, RunFolder


class TrainingDivergedError(InputError, ArithmeticError):
    """The loss or a weight became NaN or infinite; the run folder keeps the last good checkpoint."""


def train(
    simulations: Sequence[xr.Dataset],
    out: str | Path,
    config: RunConfig | None = None,
    *,
    parent: Parent | None = None,
    resume: bool = False,
    force: bool = False,
    progress: StepProgress | None = None,
    processes: Processes | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    say: Callable[[str], None] = lambda _: None,
) -> Metrics:
    """Train a network and write its run folder.

    Parameters
    ----------
    simulations
        One or more Simulations with n_igm, xi and n_ion or n_src; of one cell size, unless the network
        serves any.
    out
        The run folder: config.toml, normalizer.json, checkpoints/, history.csv, logs/ (TensorBoard),
        model.keras, metrics.json, provenance.json.
    config
        The schema; the default trains the default model.
    parent
        The network to start from (see `reion.training.parent.load_parent`), by default a fresh one. Its
        `defaults()` are a sensible base of the schema.
    resume
        Go on from the newest whole checkpoint in `out`, which must come from the same schema and data.
        The result is that of an uninterrupted run. A schema that differs only in a larger
        `training.steps` lengthens the run, finished or not: from there on the learning rate follows the new
        number of steps.
    force
        Replace a run that is there.
    progress
        Called after every step.
    processes
        This process among several that train one network together, each called with the same arguments
        (see `reion.training.processes.Processes.join`). The chief alone reads and writes `out`.
    callbacks
        Keras callbacks (see `reion.training.callbacks.Callbacks`); a resumed run needs the same ones.
    say
        Called with a line of text when the run is lengthened.

    Returns
    -------
    Metrics
        The content of metrics.json, in every process.

    Raises
    ------
    InputError
        If the simulations do not suit the schema, `parent` has another network or other units of the sources,
        `out` is occupied (another run may be writing it), or `resume` does not suit the run in `out`.
    TrainingDivergedError
        If the loss or a weight is NaN or infinite.
    ProcessLostError
        If another process of the run does not answer.
    """
    folder = RunFolder(output_path(out, RUN))
    config = _fitted(config or load_config(), simulations, parent)
    if not resume:  # a run that goes on has been checked, and its record says what it started from
        require_rehearsal(config, has_parent=parent is not None)
    provenance = Provenance.of_run(config, simulations, None if parent is None else parent.ancestor)
    with processes or Processes() as processes, ExitStack() as stack:
        processes.require_same(provenance.digest(config))
        checkpoint = None
        if processes.is_chief:
            stack.enter_context(alone_at(folder.path))
            checkpoint = _enter(folder, config, provenance, resume=resume, force=force, say=say)
        # No process writes anything, not even beside the folder, before the chief has locked it.
        processes.broadcast(b"entered")
        loop = Loop.prepare(
            simulations,
            config,
            stack.enter_context(scratch_folder(folder.path)),
            parent=parent,
            processes=processes,
            progress=progress,
            callbacks=callbacks,
        )
        _begin(folder, loop, provenance, checkpoint, processes, resume=resume)
        _take_rounds(folder, loop, processes)
        return _finish(folder, loop, simulations, parent, processes)


def _fitted(config: RunConfig, simulations: Sequence[xr.Dataset], parent: Parent | None) -> RunConfig:
    """The complete schema of a run; refuse simulations, or a parent, that do not suit it."""
    require_together(config, simulations)
    if parent is not None:
        parent.require_sources(config, simulations)
    config = with_photons(config, simulations)
    if parent is not None:
        parent.require_fit(config)
    return config


def _begin(
    folder: RunFolder,
    loop: Loop,
    provenance: Provenance,
    checkpoint: Checkpoint | None,
    processes: Processes,
    *,
    resume: bool,
) -> None:
    """Prepare the run folder, and the network of every process, for the first step."""
    model, network = loop.state.model, loop.state.model.config.network
    require_valid(model.trunk, network.short, model.trunk_radius_cells, stride_cells=network.stride_cells)
    if processes.is_chief and resume:
        folder.keep_normalizer(loop.normalizer)
        folder.forget_batch()
    elif processes.is_chief:
        folder.create(model.config, loop.normalizer, provenance)
    if checkpoint is not None:
        loop.state.restore(checkpoint)
        folder.write_history(loop.state.history)
    loop.state.share(processes)


def _take_rounds(folder: RunFolder, loop: Loop, processes: Processes) -> None:
    """Train to the end; after each round the chief keeps a checkpoint.

    Raises
    ------
    TrainingDivergedError
        If the loss or a weight is NaN or infinite.
    """
    state, training = loop.state, loop.state.model.config.training
    try:
        for _ in loop.rounds():
            if processes.is_chief:
                folder.save(state.to_checkpoint(), state.history)
                if is_drawn(state.step, steps=training.steps, round_steps=training.round_steps):
                    folder.draw(state.step, loop.slices(), state.weights)
    except NotFiniteError as error:
        raise _diverged(folder, loop, error, keep=processes.is_chief) from error


def _finish(
    folder: RunFolder,
    loop: Loop,
    simulations: Sequence[xr.Dataset],
    parent: Parent | None,
    processes: Processes,
) -> Metrics:
    """Return the metrics of the run in every process; the chief writes them and the trained network."""
    written = ""
    if processes.is_chief:
        written = json.dumps(_write_network(folder, loop, simulations, parent).to_json())
    # The others wait without limit: the chief fits the excursion set to the boxes.
    metrics = processes.broadcast(written.encode(), patience_s=math.inf)
    return Metrics.from_json(json.loads(metrics))


def _write_network(
    folder: RunFolder, loop: Loop, simulations: Sequence[xr.Dataset], parent: Parent | None
) -> Metrics:
    """Write the trained network and its metrics."""
    coverage = loop.coverage if parent is None else loop.coverage.with_others(parent.coverage)
    state, config = loop.state, loop.state.model.config
    ranges = [redshift_range(simulations), *(() if parent is None else (parent.redshift_range,))]
    sizes = [cubic_cell_size_mpc(sim) for sim in simulations]
    cell_size = sizes[0] if are_alike(sizes) else min(max(REFERENCE_CELL_SIZE_MPC, min(sizes)), max(sizes))
    single = build_model(config, cell_size_mpc=cell_size)
    weights = state.best_weights()
    single.trunk.set_weights(weights)
    state.trunk.set_weights(weights)  # `mean_error_share` below measures these weights
    last, training = state.history[-1], config.training
    metrics = Metrics(
        steps=state.step,
        validation_r2=state.validation_r2 if math.isfinite(state.validation_r2) else None,
        loss=last.loss,
        seconds=round(state.seconds, 1),
        cells_per_second=round(
            state.step * training.batch_size * training.crop_cells**3 / max(state.seconds, 1e-9)
        ),
        waiting_share=last.waiting_share,
        parameters=int(single.trunk.count_params()),
        receptive_radius_cells=single.radius_cells,
        cell_size_mpc=cell_size,
        redshift_range=(min(ends[0] for ends in ranges), max(ends[1] for ends in ranges)),
        n_src_units=source_units(simulations[0], config.data.inputs),
        excursion_set_threshold=fit_threshold(simulations, config.data.inputs),
        mean_error_share=loop.mean_error_share(),
        coverage=coverage.to_json(),
    )
    folder.finish(build_network(single, loop.normalizer), metrics)
    return metrics


def _diverged(folder: RunFolder, loop: Loop, error: NotFiniteError, *, keep: bool) -> TrainingDivergedError:
    """The error of a run that diverged at its last step; with `keep`, write the batch of that step."""
    message = str(error)
    if keep:
        try:
            message += f"; the batch is kept in {folder.keep_batch(loop.last_batch())}"
        except OSError as failure:
            message += f"; the batch could not be kept: {failure}"
    return TrainingDivergedError(
        f"{message}; the last good checkpoint is in {folder.checkpoints}",
        hint="look for values out of range in that batch, or lower training.learning_rate",
    )


def _enter(
    folder: RunFolder,
    config: RunConfig,
    provenance: Provenance,
    *,
    resume: bool,
    force: bool,
    say: Callable[[str], None],
) -> Checkpoint | None:
    """Check that the run folder may be written; with `resume`, return the checkpoint to go on from."""
    out = folder.path
    folder.clear_stale()
    if resume:
        if not (out / "config.toml").is_file():
            raise InputError("expected a run folder to resume", file=out, hint="start it without --resume")
        stored = load_config(out / "config.toml")
        longer = config.training.steps > stored.training.steps and config == _with_steps(
            stored, config.training.steps
        )
        if stored != config and not longer:
            raise InputError(
                "the configuration differs from the one the run was started with: "
                + ", ".join(differences(stored, config)),
                file=out / "config.toml",
                hint=f"resume with --config {out / 'config.toml'}, or start a new run",
            )
        started = read_record(out / "provenance.json", Provenance)
        started.require_same(provenance, out)
        checkpoint = load_newest(folder.checkpoints)
        if checkpoint is None and any(folder.checkpoints.glob("step-*")):
            warnings.warn(
                f"no checkpoint in {folder.checkpoints} is whole: the run starts from its first step",
                stacklevel=3,
            )
        if longer and checkpoint is not None:
            patience = stored.training.patience_rounds
            spent = patience is not None and checkpoint.state["stale_rounds"] >= patience
            if spent or checkpoint.state["stopped"]:
                raise InputError(
                    f"the run ended by itself at step {checkpoint.step}, since it no longer improved: more "
                    "steps would not be taken",
                    file=out,
                    hint="start a new run without training.patience_rounds; --from takes these weights",
                )
        done = 0 if checkpoint is None else checkpoint.step
        story = _as_it_was(started.lengthened, stored.training.steps, done)
        if longer:
            change = Lengthened(at_step=done, before=stored.training.steps, after=config.training.steps)
            folder.reopen(config, replace(started, lengthened=[*story, change]))
            say(
                f"lengthened from {stored.training.steps} to {config.training.steps} steps: from step {done} "
                f"on, the learning rate is that of a run of {config.training.steps} steps"
            )
        elif story != started.lengthened:
            folder.reopen(stored, replace(started, lengthened=story))
        return checkpoint
    refuse_existing(out, RUN, force=force, hint="--resume goes on with it, --force replaces it")
    return None


def _with_steps(config: RunConfig, steps: int) -> RunConfig:
    return config.model_copy(update={"training": config.training.model_copy(update={"steps": steps})})


def _as_it_was(lengthened: Sequence[Lengthened], steps: int, done: int) -> list[Lengthened]:
    """The lengthenings that hold for a run of `steps` steps that goes on from step `done`.

    A command that was killed before it wrote the longer schema has lengthened nothing: its record is dropped.
    If checkpoints were lost, the steps after `done` are taken again, with the present length: no record is
    at a later step.
    """
    story = list(lengthened)
    while story and story[-1].after != steps:
        story.pop()
    return [replace(change, at_step=min(change.at_step, done)) for change in story]


def with_photons(config: RunConfig, simulations: Sequence[xr.Dataset]) -> RunConfig:
    """Add `photons_per_source`, fitted to the simulations, if neither the schema nor the unit gives it."""
    model = config.model
    if not isinstance(model, PhotonSettings) or model.photons_per_source is not None:
        return config
    if source_units(simulations[0], config.data.inputs) == PHOTON_RATE_UNITS:
        return config
    instant = config.data.inputs == "instant"
    photons = fit_photons_per_source(simulations, shining_time=SHINING_TIME if instant else None)
    return config.model_copy(update={"model": model.model_copy(update={"photons_per_source": photons})})
