"""The cost of a training run: a step is measured on random numbers, without any data."""

from __future__ import annotations

import math
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import xarray as xr

from reion.config import RunConfig
from reion.jobs.plan import TERMS, Measurement, Plan, Terms, time_is_up
from reion.jobs.resources import resident_memory_bytes
from reion.models.build import Model, build_model, build_network
from reion.models.normalizer import Normalizer
from reion.simulation.contract import FIELDS, Shape, shape_of
from reion.storage.cost import field_bytes
from reion.training.checkpoints import save_checkpoint
from reion.training.devices import resolve_precision
from reion.training.rehearsal import SNAPSHOTS
from reion.training.sampler import IN_MEMORY_BYTES, validation_cells_along_x
from reion.training.state import State
from reion.training.stepping import compile_trunk

_MEBIBYTE = 1 << 20

_READING_BYTES = 150 * _MEBIBYTE
"""Bytes of memory of the compiled kernels and of the libraries that decode the chunks of a store."""

_LOG_BYTES = 40_000
"""Bytes on disk of the curves, slices, histograms and checksums of a short run."""

_THRESHOLD_BYTES_A_CELL = 110.0
"""Memory for each cell of a snapshot while the threshold of the excursion set is fitted at the end."""

_KERNEL_COPIES = 3
"""Copies of the channels of a validation window that are held when kernels compute it: as NumPy reads them,
as a tensor, and in the order that the kernels take."""

_WINDOW_CELLS = 64
"""Side, without the halo, of the larger window with which the memory of validation is measured."""


@dataclass(frozen=True)
class TrainingCost:
    """The cost of training a network, measured on random numbers.

    Attributes
    ----------
    channels
        Number of channels that the stem computes.
    prepare_bytes_a_cell
        Memory for each cell while the stem prepares a snapshot.
    program_bytes
        Memory of the process with the network built, before its first step.
    computing_bytes
        Memory that a step, or the largest validation window, takes on top of that and keeps.
    checkpoint_bytes, model_bytes
        Size on disk of a checkpoint and of the trained network.
    forward_flops
        Operations of the convolutions in one pass of a batch through the network; a step takes three times
        as many.
    step
        Takes one step on random numbers.
    """

    channels: int
    prepare_bytes_a_cell: float
    program_bytes: int
    computing_bytes: float
    checkpoint_bytes: int
    model_bytes: int
    forward_flops: int
    step: Callable[[], None]


def training_cost(config: RunConfig, meshes: Sequence[Shape]) -> TrainingCost:
    """Build the network; measure a step of random numbers, and validation of boxes of these meshes."""
    model = build_model(config, precision=resolve_precision(config.training.precision))
    count, training = len(model.stem.channels), config.training
    stem = model.stem
    normalizer = Normalizer.unfitted(stem.channels, stem.scale, stem.transform)
    model_bytes = _model_bytes(model, normalizer)
    stepping = compile_trunk(model, normalizer)
    rng = np.random.default_rng(0)
    side = training.crop_cells + 2 * model.trunk_radius_cells
    values = rng.normal(size=(training.batch_size, side, side, side, count)).astype(np.float32)
    conditions = np.zeros((training.batch_size, model.trunk.inputs[1].shape[1]), dtype=np.float32)
    xi = rng.random((training.batch_size, *(training.crop_cells,) * 3, 1), dtype=np.float32)

    def step() -> None:
        stepping.train_on_batch([values, conditions], xi)

    prepare_bytes_a_cell = _prepare_bytes_a_cell(model)
    checkpoint_bytes = _checkpoint_bytes(model)
    program_bytes = resident_memory_bytes() or 0
    validating_bytes = _validating_bytes(model, stepping, meshes)
    step()
    step_bytes = max(0, (resident_memory_bytes() or 0) - program_bytes)
    return TrainingCost(
        channels=count,
        prepare_bytes_a_cell=prepare_bytes_a_cell,
        program_bytes=program_bytes,
        computing_bytes=max(step_bytes, validating_bytes),
        checkpoint_bytes=checkpoint_bytes,
        model_bytes=model_bytes,
        forward_flops=_forward_flops(model.trunk, values, conditions),
        step=step,
    )


def _validating_bytes(model: Model, trunk: keras.Model, meshes: Sequence[Shape]) -> float:
    """Memory that `trunk` takes for the largest validation window.

    For layers it is extrapolated from two smaller windows, the smaller one first: TensorFlow does not give
    memory back, so a small window takes no new memory after a large one. Kernels take copies of the channels.
    """
    halo = 2 * model.trunk_radius_cells

    def memory_after(window: Sequence[int]) -> int:
        values = np.zeros((1, *window, len(model.stem.channels)), dtype=np.float32)
        trunk([values, np.zeros((1, model.trunk.inputs[1].shape[1]), dtype=np.float32)], training=False)
        return resident_memory_bytes() or 0

    windows = [
        [n + halo for n in (validation_cells_along_x(model.config, model, mesh[0]), *mesh[1:])]
        for mesh in meshes
    ]
    window = [n - (n - halo) % model.stride_cells for n in max(windows, key=math.prod)]
    if trunk is not model.trunk:
        return _KERNEL_COPIES * 4.0 * len(model.stem.channels) * math.prod(window)
    large = [min(n, _WINDOW_CELLS + halo) for n in window]
    small = [model.stride_cells + halo] * 3
    added_cells = math.prod(large) - math.prod(small)
    if added_cells <= 0:
        return 0.0
    before = memory_after(small)
    return max(0, memory_after(large) - before) / added_cells * math.prod(window)


def _prepare_bytes_a_cell(model: Model) -> float:
    """Peak memory for each cell while the stem prepares a snapshot, inputs included."""
    side = 24
    rng = np.random.default_rng(0)
    fields = {
        name: rng.random((side, side, side), dtype=np.float32) * (4e-31 if name == "n_igm" else 1.0)
        for name in model.config.inputs
    }
    inputs: dict[str, Any] = {**fields, **dict.fromkeys(model.config.conditions, 30.0)}
    model.stem.prepare(inputs)  # compiles the kernels, whose memory is no part of this
    tracemalloc.start()
    model.stem.prepare(inputs)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / side**3 + 4 * len(fields)


def _model_bytes(model: Model, normalizer: Normalizer) -> int:
    """Size of model.keras, which holds no state of the optimiser."""
    with tempfile.TemporaryDirectory() as folder:
        network = Path(folder) / "model.keras"
        build_network(model, normalizer).save(network)
        return network.stat().st_size


def _checkpoint_bytes(model: Model) -> int:
    state = State(model)
    if model.config.training.patience_rounds is not None:
        state.best = model.trunk.get_weights()  # a checkpoint holds them too
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = save_checkpoint(Path(folder), state.to_checkpoint())
        return sum(file.stat().st_size for file in checkpoint.iterdir())


def _forward_flops(trunk: keras.Model, values: np.ndarray, conditions: np.ndarray) -> int:
    """Operations of all convolutions and matrix products for a batch; zero without TensorFlow as backend."""
    if keras.backend.backend() != "tensorflow":
        return 0
    import tensorflow as tf

    specs = [tf.TensorSpec(array.shape, tf.float32) for array in (values, conditions)]
    graph = tf.function(lambda x, z: trunk([x, z], training=False)).get_concrete_function(*specs).graph
    total = 0
    for operation in graph.get_operations():
        if operation.type in ("Conv3D", "Conv2D", "MatMul"):
            kernel = operation.inputs[1].shape.as_list()
            total += 2 * math.prod(operation.outputs[0].shape.as_list()) * math.prod(kernel[:-1])
    return total


def plan_train(
    config: RunConfig,
    sims: Sequence[xr.Dataset] = (),
    sources: Sequence[Path] = (),
    *,
    boxes: int = 1,
    snapshots: int = 1,
    cells: int = 0,
    terms: Terms = TERMS,
) -> Plan:
    """Plan a training run on simulations, whose files are `sources`, and measure the speed of a step.

    Without simulations, plan for `boxes` boxes of `snapshots` snapshots each, `cells` cells along a side.
    """
    meshes = [shape_of(sim) for sim in sims] or [(cells, cells, cells)]
    cost = training_cost(config, meshes)
    training = config.training
    values = sum(math.prod(sim.sizes.values()) for sim in sims) or boxes * snapshots * cells**3
    # Channels that do not fit in memory go to files; the true xi stays in memory.
    channels, truth = 4 * values * cost.channels, 4 * values
    on_disk = channels if channels + truth > IN_MEMORY_BYTES else 0
    largest = max(map(math.prod, meshes))
    if training.rehearsal:
        repeated = 4 * SNAPSHOTS * largest * cost.channels
        channels, truth = channels + repeated, truth + 2 * 4 * SNAPSHOTS * largest
        on_disk += repeated if repeated > IN_MEMORY_BYTES else 0
    rounds = -(-training.steps // training.round_steps)

    def measure() -> Measurement:
        begin, done = time.perf_counter(), 0
        while not time_is_up(begin):
            cost.step()
            done += 1
        return Measurement(
            cells=done * training.batch_size * training.crop_cells**3, seconds=time.perf_counter() - begin
        )

    speed = terms.speed(measure)
    preparing = cost.prepare_bytes_a_cell * largest
    derived = [sim for sim in sims if "n_ion" in config.inputs and "n_ion" not in sim.data_vars]
    preparing += max((4 * math.prod(sim.sizes.values()) for sim in derived), default=0)
    return Plan(
        command="train",
        cells=training.steps * training.batch_size * training.crop_cells**3,
        pieces=1,
        bytes_read=round(_training_reads(config, sims, sources) if sims else 3 * 3 * 4 * values),
        bytes_written=on_disk + rounds * cost.checkpoint_bytes + cost.model_bytes + _LOG_BYTES,
        peak_memory_bytes=round(
            cost.program_bytes
            + _READING_BYTES
            + channels
            - on_disk
            + truth
            + max(preparing, cost.computing_bytes + _THRESHOLD_BYTES_A_CELL * largest)
        ),
        flops=3 * cost.forward_flops * training.steps,
        speed=speed,
    )


def _training_reads(config: RunConfig, sims: Sequence[xr.Dataset], sources: Sequence[Path]) -> float:
    """Bytes read: every field for its checksum; inputs and xi twice more, for channels and threshold."""
    total = 0.0
    # If one simulation is in several files, each simulation counts an even share of all files.
    apart = len(sims) == len(sources)
    for index, sim in enumerate(sims):
        files = [sources[index]] if apart else sources
        stored = [name for name in FIELDS if name in sim.data_vars]
        used = {name if name in stored else "n_src" for name in (*config.inputs, "xi")}
        read = sum(field_bytes(name, sim, files) for name in (*stored, *used, *used))
        total += read if apart else read / len(sims)
    return total
