"""What a command will cost, known before it starts: cells, tiles, bytes, memory, arithmetic and time.

Sizes follow from the shape of the data and the model's card. Speed does not: it is measured by doing some of
the very pieces for a few seconds, or it is given.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from reion.cluster import Job
from reion.config import load_config
from reion.emulator import Emulator
from reion.errors import InputError
from reion.evaluation import Judge, matching_snapshots
from reion.excursion_set import Photons
from reion.inspection import Look
from reion.judging import predict_with
from reion.prediction import (
    PredictTiles,
    cells_of_tile,
    choose_tiles,
    create_xi_store,
    expected_peak_bytes,
    prediction_bytes,
)
from reion.readers import open_each, open_simulation, open_simulations
from reion.readers.zarr import is_store
from reion.regridding import regrid
from reion.simulation import AXES, FIELDS, box_size_mpc, require_fields
from reion.storage import (
    HISTORY,
    Block,
    WriteFields,
    blocks_of,
    chunk_shape,
    create_store,
    pieces_of,
    shape_of,
)
from reion.tiles import Shape, Tile, Tiling

if TYPE_CHECKING:
    from rich.table import Table

    from reion.config import RunConfig

IN_MEMORY_BYTES = 4 << 30
"""Training keeps its fields in memory up to this, and in files beyond (`reion.sampler`)."""

MEASURE_S = 10.0
"""How long to measure, once what has to be opened is open."""

_AT_LEAST = 5
"""Pieces to measure however long they take: how well they compress depends on the snapshot."""

_MEBIBYTE = 1 << 20

_CONVERT_BYTES = 190 * _MEBIBYTE
_CONVERT_KERNEL_BYTES = 96 * _MEBIBYTE
_CONVERT_BYTES_A_CELL = 21.0
"""What a conversion takes: the program (on Linux, x86-64, like all of these); kernels, loaded where photons
are summed up; and of a block a field as it is stored, decoded, put together and encoded again, or in place of
the decoding the photons in double precision."""

_INSPECT_BYTES = 229 * _MEBIBYTE
_INSPECT_LEAST_BYTES = 281 * _MEBIBYTE
_INSPECT_DECODING_BYTES = 88 * _MEBIBYTE
_INSPECT_DECODING_BYTES_A_CELL = 4.6
"""What a look takes beside four bytes for every field of a block: the program with its kernels; it while they
are loaded; and what decodes the chunks of a store."""

_EVALUATE_BYTES = 214 * _MEBIBYTE
_EVALUATE_BYTES_A_CELL = 144.0
"""The program; and of a snapshot the truth, a method at a time, and the transforms and distances of both."""

_EVALUATE_SIDE_CELLS = 128
"""A part of a snapshot is judged to measure how long that takes: the whole may be too large for that."""

_TRAIN_READING_BYTES = 150 * _MEBIBYTE
_THRESHOLD_BYTES_A_CELL = 110.0
"""What training takes beside the network: the kernels and what decodes chunks; and of a snapshot, in the end,
the transforms and distributions of the excursion set."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a command will cost.

    Parameters
    ----------
    command
        Its name.
    cells
        To be computed, or looked at: of all snapshots, and of all fields where it is about fields.
    pieces
        Independent pieces of work; no more workers than these are of use.
    tile_cells
        Cells of a tile, where there are tiles.
    bytes_read, bytes_written
        To and from the disk.
    compression
        Bytes on disk over bytes of the values, of what is written; 1 where there are no values to try.
    peak_memory_bytes
        Of one process.
    flops
        Floating-point operations of the convolutions; None where `onnx` is not there to count them.
    rate
        Cells a second of one machine like this one; None if it was neither measured nor given.
    rate_from
        Where the rate is from.
    machines
        How many work.
    bandwidth
        Bytes a second that all machines together get from the disk, if given.
    """

    command: str
    cells: int
    pieces: int
    tile_cells: Sequence[int] | None = None
    bytes_read: int
    bytes_written: int
    compression: float = 1.0
    peak_memory_bytes: int
    flops: int | None = None
    rate: float | None = None
    rate_from: str = "not measured"
    machines: int = 1
    bandwidth: float | None = None

    @property
    def seconds(self) -> float | None:
        """How long it takes: the longer of computing and of moving bytes."""
        times = []
        if self.rate:
            times.append(self.cells / self.rate / min(self.machines, self.pieces))
        if self.bandwidth:
            times.append((self.bytes_read + self.bytes_written) / self.bandwidth)
        return max(times, default=None)

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {**dataclasses.asdict(self), "seconds": self.seconds}


@dataclass(frozen=True, kw_only=True)
class Terms:
    """On what terms a plan is made.

    Parameters
    ----------
    rate
        Cells a second of one machine; measured if it is not given.
    bandwidth
        Bytes a second from and to the disk.
    machines
        How many machines like this one work.
    measure
        Whether to measure a rate that is not given.
    """

    rate: float | None = None
    bandwidth: float | None = None
    machines: int = 1
    measure: bool = True

    def known(self, sample: Callable[[], Sample]) -> dict[str, Any]:
        """The fields of a plan that these terms decide; `sample` measures."""
        known: dict[str, Any] = {"machines": self.machines, "bandwidth": self.bandwidth}
        if self.rate is not None:
            return {**known, "rate": self.rate, "rate_from": "given"}
        if not self.measure:
            return known
        measured = sample()
        words = f"measured here, {measured.seconds:.1f} s, {measured.cells} cells"
        return {**known, "rate": measured.cells / measured.seconds, "rate_from": words}


TERMS = Terms()
"""Measured here, for this machine alone."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Some of the work, done and measured."""

    cells: int
    seconds: float


def plan_any(
    model: str,
    sources: Sequence[Path],
    *,
    cells: int | None,
    snapshots: int,
    boxes: int,
    memory_bytes: int,
    terms: Terms,
) -> Plan:
    """Plan a prediction (`model` an ONNX file or a shipped name) or a training run (a TOML file).

    Parameters
    ----------
    sources
        The simulation, or those to train on.
    cells, snapshots, boxes
        In place of `sources`: cells along a side, snapshots of a box, and boxes to train on.

    Raises
    ------
    InputError
        If there are neither sources nor cells, or both; as `plan_predict` and `load_config` do.
    """
    if bool(sources) == (cells is not None):
        raise InputError("expected either a simulation or --cells", hint="--cells 1024 --snapshots 50")
    training = model.endswith(".toml")
    if training:
        config = load_config(Path(model))
        if cells is not None:
            return plan_train(config, boxes=boxes, snapshots=snapshots, cells=cells, terms=terms)
        return plan_train(config, open_each(sources), sources, terms=terms)
    emulator = Emulator(model)
    if cells is not None:
        shape = (cells, cells, cells)
        return plan_predict(emulator, shape, snapshots, memory_bytes=memory_bytes, terms=terms)
    sim = open_simulation(sources)
    return plan_predict(
        emulator,
        shape_of(sim),
        sim.sizes["redshift"],
        sim=sim,
        sources=sources,
        memory_bytes=memory_bytes,
        terms=terms,
    )


def plan_each(
    sources: Sequence[Path],
    format: str | None,  # noqa: A002 (the name of the command's flag)
    settings: Mapping[str, str],
    cell_size_mpc: float | None,
) -> list[Plan]:
    """Plan the conversion of every simulation in `sources`."""
    sims = open_simulations(sources, format=format, settings=settings)
    if cell_size_mpc is not None:
        sims = {label: regrid(sim, cell_size_mpc) for label, sim in sims.items()}
    # What files there are belongs to all of the simulations in them.
    plans = [plan_convert(sim, sources) for sim in sims.values()]
    return [dataclasses.replace(plan, bytes_read=plan.bytes_read // len(plans)) for plan in plans]


def plan_predict(
    emulator: Emulator,
    mesh: Shape,
    snapshots: int,
    *,
    sim: xr.Dataset | None = None,
    sources: Sequence[Path] = (),
    memory_bytes: int,
    terms: Terms = TERMS,
) -> Plan:
    """Plan the prediction of a simulation, or of a box of which only the shape is known.

    Raises
    ------
    InputError
        As `reion.prediction.predict`: if the model does not fit the simulation, or nothing fits in memory.
    """
    card = emulator.card
    if sim is not None:
        emulator.check(sim)
        if "n_ion" in card.inputs and "n_ion" not in sim.data_vars:
            sim = sim.assign(n_ion=sim["n_src"])  # of its shape and emptiness; its values do not matter here
    tiling, resident = choose_tiles(emulator, dict(zip(AXES, mesh, strict=True)), memory_bytes)
    peak = expected_peak_bytes(emulator, tiling, resident=resident)
    stored = sum(_stored_share(name, mesh, snapshots, sources) for name in card.inputs)
    cells_read = math.prod(mesh) if resident else sum(_chunk_cells(tiling, tile) for tile in tiling)
    compression = 1.0

    def sample() -> Sample:
        nonlocal compression
        small = Tiling(mesh=mesh, tile=_shape(min(96, n) for n in tiling.tile), halo_cells=tiling.halo_cells)
        costs = _tile_cost(emulator, tiling.tile) / _tile_cost(emulator, small.tile)
        with tempfile.TemporaryDirectory() as name:
            if sim is None:
                job: Job[tuple[int, int], Any] = _AnyWindow(emulator, small)
                done, seconds = _for_a_while(job, [(0, 0)] * 1000)
            else:
                store = Path(name) / "xi.zarr"
                create_xi_store(store, sim=sim, emulator=emulator, tiling=small)
                pieces = _spread([(index, n) for index in range(snapshots) for n in range(len(small))])
                job = PredictTiles(emulator, sim, store, small, resident=resident, device="auto")
                done, seconds = _for_a_while(job, pieces)
                cells = sum(cells_of_tile(small, number) for _, number in pieces[:done])
                compression = bytes_below([store / "xi" / "c"]) / (4 * cells)
        tiles = done / costs  # of the real ones, in the same time
        return Sample(cells=round(tiles * math.prod(mesh) / len(tiling)), seconds=seconds)

    known = terms.known(sample)
    flops = _flops(emulator, tiling.tile)
    cells = snapshots * math.prod(mesh)
    return Plan(
        command="predict",
        cells=cells,
        pieces=snapshots * len(tiling),
        tile_cells=list(tiling.tile),
        bytes_read=round(4 * snapshots * cells_read * stored),
        bytes_written=round(4 * cells * compression),
        compression=compression,
        peak_memory_bytes=peak,
        flops=None if flops is None else flops * len(tiling) * snapshots,
        **known,
    )


def plan_convert(sim: xr.Dataset, sources: Sequence[Path], *, terms: Terms = TERMS) -> Plan:
    """Plan a conversion."""
    written = [name for name in FIELDS if name in sim.data_vars]
    if "n_src" in written and "n_ion" not in written:
        written.append("n_ion")
    values = math.prod(sim.sizes[dim] for dim in ("redshift", *AXES))
    compression = 1.0

    def sample() -> Sample:
        nonlocal compression
        few = sim.isel(redshift=_few(sim.sizes["redshift"]))
        with tempfile.TemporaryDirectory() as name:
            store = Path(name) / "sim.zarr"
            create_store(few, store, {})
            pieces = pieces_of(few)
            blocks = blocks_of(shape_of(few))
            # Whole blocks, so that every field has its share.
            chosen = _spread(range(len(blocks)))
            job, cells, begin = WriteFields(few, store), 0, time.perf_counter()
            for number in chosen:
                for piece in pieces:
                    if piece[1] == number:
                        job(piece)
                cells += len(written) * few.sizes["redshift"] * _volume(blocks[number])
                if time.perf_counter() - begin > MEASURE_S:
                    break
            seconds = time.perf_counter() - begin
            stored = bytes_below([store / name / "c" for name in written])
            compression = stored / (4 * cells)
            return Sample(cells=cells, seconds=seconds)

    known = terms.known(sample)
    largest = max(map(_volume, blocks_of(shape_of(sim))))
    if "regridded_from_cells" in sim.attrs:
        # A block is mixed from all the old cells that share volume with it.
        largest = max(largest, round(largest * math.prod(sim.attrs["regridded_from_cells"]) / _cells(sim)))
    kernels = _CONVERT_KERNEL_BYTES if (HISTORY, 0) in pieces_of(sim) else 0
    return Plan(
        command="convert",
        cells=values * len(written),
        pieces=len(pieces_of(sim)),
        bytes_read=bytes_below(sources),
        bytes_written=round(4 * values * len(written) * compression),
        compression=compression,
        peak_memory_bytes=round(_CONVERT_BYTES + kernels + _CONVERT_BYTES_A_CELL * largest),
        **known,
    )


def plan_inspect(sim: xr.Dataset, sources: Sequence[Path], *, terms: Terms = TERMS) -> Plan:
    """Plan a look at every value."""
    names = [name for name in FIELDS if name in sim.data_vars]
    values = math.prod(sim.sizes[dim] for dim in ("redshift", *AXES))
    blocks = blocks_of(shape_of(sim))
    pieces = [(index, block) for index in range(sim.sizes["redshift"]) for block in range(len(blocks))]

    def sample() -> Sample:
        chosen = _spread(pieces)
        done, seconds = _for_a_while(Look(sim, None), chosen)
        return Sample(
            cells=len(names) * sum(_volume(blocks[block]) for _, block in chosen[:done]), seconds=seconds
        )

    largest = max(map(_volume, blocks))
    peak = max(_INSPECT_LEAST_BYTES, _INSPECT_BYTES + 4 * len(names) * largest)
    if any(map(is_store, sources)):
        peak += round(_INSPECT_DECODING_BYTES + _INSPECT_DECODING_BYTES_A_CELL * largest)
    return Plan(
        command="inspect",
        cells=values * len(names),
        pieces=len(pieces),
        bytes_read=bytes_below(sources),
        bytes_written=0,
        peak_memory_bytes=peak,
        **terms.known(sample),
    )


def plan_evaluate(
    methods: Sequence[str],
    sim: xr.Dataset,
    sources: Sequence[Path],
    *,
    report: bool = False,
    terms: Terms = TERMS,
) -> Plan:
    """Plan an evaluation of `methods` (see `reion.judging.predict_with`), whose predictions are part of it.

    The memory that Keras takes to predict with a run folder is not known.

    Raises
    ------
    InputError
        As `predict_with`: if there is no such model or file, or it does not fit the simulation.
    """
    require_fields(sim, ["xi"], purpose="evaluation")
    snapshots, cells = sim.sizes["redshift"], _cells(sim)
    small = _part_of(sim)
    with warnings.catch_warnings(action="ignore"):
        judged = [predict_with(method, small) for method in methods]
        sources_there = "n_igm" in sim.data_vars and {"n_ion", "n_src"} & set(map(str, sim.data_vars))
        photons = Photons(small, judged[0].inputs) if sources_there else None

    def sample() -> Sample:
        mesh = {axis: slice(small.sizes[axis]) for axis in AXES}
        predictions = {one.name: one.xi.isel(mesh) for one in judged}
        same = {name: matching_snapshots(name, xi, small) for name, xi in predictions.items()}
        common = [i for i in range(small.sizes["redshift"]) if all(i in found for found in same.values())]
        job = Judge(predictions, small, same, photons, 1.0)
        done, seconds = _for_a_while(job, common or [0], at_least=1)
        return Sample(cells=done * _cells(small), seconds=seconds)

    emitted = "n_ion" if "n_ion" in sim.data_vars else "n_src"
    excursion_set = ["n_igm", emitted if judged[0].inputs == "history" else "n_src"] if photons else []
    read = ["xi", "n_igm", *excursion_set]
    if report:
        # The page shows planes of boxes that are whole chunks, and more of them than the figures do.
        read += [
            "xi",
            "xi",
            "n_igm",
            "n_igm",
            "n_src" if "n_src" in sim.data_vars else "n_ion",
            *excursion_set,
        ]
    read += [emitted if name == "n_ion" else name for one in judged for name in one.fields]
    bytes_read = sum(_field_bytes(name, sim, sources) for name in read if name in sim.data_vars)
    for method, one in zip(methods, judged, strict=True):
        if one.stored is not None:
            bytes_read += _field_bytes("xi", one.stored, [Path(method)])
    emulators = [one.emulator for one in judged if one.emulator is not None]
    return Plan(
        command="evaluate",
        cells=snapshots * cells,
        pieces=snapshots,
        bytes_read=round(bytes_read),
        # For the page, what is predicted is kept until it is written.
        bytes_written=4 * snapshots * cells * len(emulators) if report else 0,
        # A session keeps what its largest tile has taken.
        peak_memory_bytes=round(
            _EVALUATE_BYTES
            + _EVALUATE_BYTES_A_CELL * cells
            + sum(prediction_bytes(emulator, sim.sizes) for emulator in emulators)
        ),
        **terms.known(sample),
    )


def _part_of(sim: xr.Dataset) -> xr.Dataset:
    """A few snapshots, of large ones a corner, as a box of their own."""
    corner: dict[str, Any] = {axis: slice(_EVALUATE_SIDE_CELLS) for axis in AXES}
    part = sim.isel({"redshift": _few(sim.sizes["redshift"]), **corner})
    lengths = zip(box_size_mpc(sim), AXES, strict=True)
    return part.assign_attrs(
        box_size=[length * part.sizes[axis] / sim.sizes[axis] for length, axis in lengths]
    )


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
    """Plan a training run on simulations, or on `boxes` of some `cells` along a side; a step is measured."""
    from reion.training_cost import training_cost

    meshes = [shape_of(sim) for sim in sims] or [(cells, cells, cells)]
    cost = training_cost(config, meshes)
    training = config.training
    values = sum(math.prod(sim.sizes.values()) for sim in sims) or boxes * snapshots * cells**3
    # Of all snapshots, the channels go to files where they are too many; the truth stays in memory.
    channels, truth = 4 * values * cost.channels, 4 * values
    on_disk = channels if channels + truth > IN_MEMORY_BYTES else 0
    rounds = -(-training.steps // training.round_steps)

    def sample() -> Sample:
        begin, done = time.perf_counter(), 0
        while time.perf_counter() - begin < MEASURE_S:
            cost.step()
            done += 1
        return Sample(
            cells=done * training.batch_size * training.crop_cells**3, seconds=time.perf_counter() - begin
        )

    known = terms.known(sample)
    largest = max(map(math.prod, meshes))
    preparing = cost.prepare_bytes_a_cell * largest
    derived = [sim for sim in sims if "n_ion" in config.inputs and "n_ion" not in sim.data_vars]
    preparing += max((4 * math.prod(sim.sizes.values()) for sim in derived), default=0)
    return Plan(
        command="train",
        cells=training.steps * training.batch_size * training.crop_cells**3,
        pieces=1,
        bytes_read=round(_training_reads(config, sims, sources) if sims else 3 * 3 * 4 * values),
        bytes_written=on_disk + rounds * cost.checkpoint_bytes + cost.model_bytes,
        peak_memory_bytes=round(
            cost.program_bytes
            + _TRAIN_READING_BYTES
            + channels
            - on_disk
            + truth
            + max(preparing, cost.computing_bytes + _THRESHOLD_BYTES_A_CELL * largest)
        ),
        flops=3 * cost.forward_flops * training.steps,
        **known,
    )


def _training_reads(config: RunConfig, sims: Sequence[xr.Dataset], sources: Sequence[Path]) -> float:
    """Every field for its checksum; then what is learnt from, to prepare it and to fit the excursion set."""
    total = 0.0
    for sim, source in zip(sims, sources, strict=True):
        there = [name for name in FIELDS if name in sim.data_vars]
        learnt = {name if name in there else "n_src" for name in (*config.inputs, "xi")}
        total += sum(_field_bytes(name, sim, [source]) for name in (*there, *learnt, *learnt))
    return total


class _AnyWindow(Job[tuple[int, int], None]):
    """Predicts a window of random numbers."""

    def __init__(self, emulator: Emulator, tiling: Tiling) -> None:
        window = [side + 2 * tiling.halo_cells for side in tiling.tile]
        some = np.random.default_rng(0).random(window, dtype=np.float32)
        self._emulator = emulator
        self._fields = {
            name: some * np.float32(4e-31) if name == "n_igm" else some for name in emulator.card.inputs
        }

    def __call__(self, piece: tuple[int, int]) -> None:  # noqa: ARG002 (all pieces are alike)
        self._emulator.predict_window(8.0, self._fields)


def _for_a_while(
    job: Job[Any, Any], pieces: Sequence[Any], *, at_least: int = _AT_LEAST
) -> tuple[int, float]:
    """Do pieces for some seconds: how many, how long.

    The first one, which opens things, is done twice, unless one is enough and it takes long already.
    """
    begin = time.perf_counter()
    job(pieces[0])
    if at_least == 1 and time.perf_counter() - begin > MEASURE_S:
        return 1, time.perf_counter() - begin
    begin, done = time.perf_counter(), 0
    for piece in pieces:
        job(piece)
        done += 1
        if done >= at_least and time.perf_counter() - begin > MEASURE_S:
            break
    return done, time.perf_counter() - begin


def _spread(pieces: Sequence[Any]) -> list[Any]:
    """The pieces in an order in which any first few are spread over all of them."""
    count = len(pieces)
    step = next(n for n in range(max(1, round(count * 0.618)), count + 1) if math.gcd(n, count) == 1)
    return [pieces[number * step % count] for number in range(count)]


def _few(count: int) -> list[int]:
    """The first, the middle and the last snapshot."""
    return sorted({0, count // 2, count - 1})


def _shape(sides: Iterable[int]) -> Shape:
    x, y, z = sides
    return (x, y, z)


def _cells(sim: xr.Dataset) -> int:
    return math.prod(shape_of(sim))


def _volume(block: Block) -> int:
    return math.prod(cells.stop - cells.start for cells in block)


def bytes_below(paths: Iterable[Path]) -> int:
    """Bytes of files, and of all files in folders."""
    files = [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path])]
    return sum(file.stat().st_size for file in files if file.is_file())


def _stored_share(name: str, mesh: Shape, snapshots: int, sources: Sequence[Path]) -> float:
    """Bytes on disk over bytes of the values of a field: from the store's files, or 1."""
    for source in sources:
        if is_store(source) and (source / name).is_dir():
            return bytes_below([source / name]) / (4 * snapshots * math.prod(mesh))
    return 1.0


def _field_bytes(name: str, sim: xr.Dataset, sources: Sequence[Path]) -> float:
    """Bytes on disk of a field: of its chunks in stores, of other files an even share."""
    stores = [source for source in sources if is_store(source)]
    fields = sum(field in sim.data_vars for field in FIELDS)
    files = bytes_below(source for source in sources if source not in stores)
    return bytes_below(store / name / "c" for store in stores) + files / fields


def _chunk_cells(tiling: Tiling, tile: Tile) -> int:
    """Cells of all chunks that are read for the window of a tile."""
    chunk = chunk_shape(tiling.mesh)
    total = 1
    for origin, length, n, side in zip(*tiling.window(tile), tiling.mesh, chunk, strict=True):
        cells, start, left = 0, origin, length
        while left > 0:
            here = start % n
            taken = min(left, n - here)
            first, last = here // side, (here + taken - 1) // side
            cells += min(n, (last + 1) * side) - first * side
            start, left = start + taken, left - taken
        total *= cells
    return total


def _tile_cost(emulator: Emulator, tile: Shape) -> float:
    """Of what the time for a tile is a multiple."""
    flops = _flops(emulator, tile)
    return math.prod(n + 2 * emulator.card.receptive_radius_cells for n in tile) if flops is None else flops


def _flops(emulator: Emulator, tile: Shape) -> int | None:
    """Operations of the convolutions for a tile."""
    if find_spec("onnx") is None:
        return None
    import onnx

    from reion_exports.cost import convolution_flops

    window = [side + 2 * emulator.card.receptive_radius_cells for side in tile]
    return convolution_flops(onnx.load_from_string(emulator.content), window)


def render(plan: Plan) -> Table:
    """A plan as a table for the terminal."""
    from rich.table import Table

    table = Table(title=f"reion {plan.command}", title_justify="left", show_header=False)
    rows = {
        "cells": f"{plan.cells:.4g}",
        "pieces of work": f"{plan.pieces}"
        + (f", tiles of {' x '.join(map(str, plan.tile_cells))} cells" if plan.tile_cells else ""),
        "read": _in_bytes(plan.bytes_read),
        "written": f"{_in_bytes(plan.bytes_written)} ({plan.compression:.2f} of the values' size)",
        "memory of a process": _in_bytes(plan.peak_memory_bytes),
        "operations": "install reion[train] to count them" if plan.flops is None else f"{plan.flops:.3g}",
        "rate": "not measured" if plan.rate is None else f"{plan.rate:.4g} cells a second ({plan.rate_from})",
        "machines": str(plan.machines),
        "time": "unknown" if plan.seconds is None else _in_time(plan.seconds),
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _in_bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} PB"


def _in_time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
