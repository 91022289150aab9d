"""The cost of a prediction: time, memory and data."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from reion.jobs.plan import TERMS, Measurement, Plan, Terms, bytes_below, spread_evenly, time_pieces
from reion.jobs.workers import Job
from reion.prediction.emulator import Emulator
from reion.prediction.memory import FittedTiles, default_memory_bytes, expected_peak_bytes, fit_tiles
from reion.prediction.model_file import card_of
from reion.prediction.predict import PredictTiles, create_xi_store
from reion.prediction.tiles import Field, Tile, Tiling
from reion.simulation.contract import Shape
from reion.storage.cost import stored_share
from reion.storage.store import chunk_shape

_STEM_FLOPS = 50_000
"""Operations of convolutions that take as long as the stem for one cell. The stem takes 0.5 µs of processor
time per cell; the kernel of the trunk does 80 to 120 operations per nanosecond."""


def plan_predict(
    emulator: Emulator,
    mesh: Shape,
    snapshots: int,
    *,
    sim: xr.Dataset | None = None,
    sources: Sequence[Path] = (),
    memory_bytes: int | None = None,
    terms: Terms = TERMS,
) -> Plan:
    """Plan the prediction of a simulation or, without `sim`, of a box of which only the shape is known.

    Raises
    ------
    InputError
        If the model does not fit the simulation, or not even the smallest tile fits in memory.
    """
    if sim is not None:
        emulator.check(sim)
        emulator = emulator.for_cells_of(sim)
        if "n_ion" in emulator.card.inputs and "n_ion" not in sim.data_vars:
            sim = sim.assign(n_ion=sim["n_src"])  # only shape and zeros of n_ion matter here
    card = emulator.card
    tiles = fit_tiles(emulator, mesh, default_memory_bytes() if memory_bytes is None else memory_bytes)
    tiling = tiles.tiling
    stored = sum(stored_share(name, mesh, snapshots, sources) for name in card.inputs)
    cells_read = math.prod(mesh) if tiles.keep_fields else sum(_chunk_cells(tiling, tile) for tile in tiling)
    compression = 1.0

    def measure() -> Measurement:
        nonlocal compression
        small = Tiling(mesh=mesh, tile=_shape(min(96, n) for n in tiling.tile), halo_cells=tiling.halo_cells)
        costs = _tile_cost(emulator, tiling.tile) / _tile_cost(emulator, small.tile)
        with tempfile.TemporaryDirectory() as name:
            if sim is None:
                job: Job[tuple[int, int], Any] = _AnyWindow(emulator, small)
                done, seconds = time_pieces(job, [(0, 0)] * 1000)
            else:
                store = Path(name) / "xi.zarr"
                create_xi_store(store, sim=sim, emulator=emulator, tiling=small)
                pieces = spread_evenly([(index, n) for index in range(snapshots) for n in range(len(small))])
                job = PredictTiles(emulator, sim, store, FittedTiles(small, tiles.keep_fields), device="auto")
                done, seconds = time_pieces(job, pieces)
                cells = sum(small.cells(number) for _, number in pieces[:done])
                compression = bytes_below([store / "xi" / "c"]) / (4 * cells)
        in_same_time = done / costs  # in the larger tiles of the plan
        return Measurement(cells=round(in_same_time * math.prod(mesh) / len(tiling)), seconds=seconds)

    speed = terms.speed(measure)
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
        peak_memory_bytes=expected_peak_bytes(emulator, tiles),
        flops=None if flops is None else flops * len(tiling) * snapshots,
        speed=speed,
    )


class _AnyWindow(Job[tuple[int, int], None]):
    """Predicts a window of random numbers."""

    def __init__(self, emulator: Emulator, tiling: Tiling) -> None:
        window = [side + 2 * tiling.halo_cells for side in tiling.tile]
        numbers = np.random.default_rng(0).random(window, dtype=np.float32)
        self._emulator = emulator
        self._fields: dict[str, Field] = {
            name: numbers * np.float32(4e-31) if name == "n_igm" else numbers for name in emulator.card.inputs
        }

    def __call__(self, piece: tuple[int, int]) -> None:  # noqa: ARG002 (all pieces are alike)
        numbers = dict.fromkeys(self._emulator.card.conditions, 30.0)
        self._emulator.predict_window(8.0, self._fields, conditions=numbers)


def _chunk_cells(tiling: Tiling, tile: Tile) -> int:
    """Cells of all chunks of a stored field that are read for the window of a tile."""
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
    """A measure of the time of a tile: its operations or, if these are unknown, the cells of its window."""
    flops = _flops(emulator, tile)
    window = math.prod(n + 2 * emulator.card.receptive_radius_cells for n in tile)
    if flops is None:
        return window
    return flops if emulator.stages is None else flops + _STEM_FLOPS * window


def _flops(emulator: Emulator, tile: Shape) -> int | None:
    """Operations of the convolutions for a tile; None if `onnx`, which counts them, is not installed."""
    if find_spec("onnx") is None:
        return None
    import onnx

    from reion_exports.cost import convolution_flops

    # For other cells only the stem differs, which has no convolutions.
    radius = card_of(emulator.file_content, emulator.file).receptive_radius_cells
    window = [side + 2 * radius for side in tile]
    return convolution_flops(onnx.load_from_string(emulator.file_content), window)


def _shape(sides: Iterable[int]) -> Shape:
    x, y, z = sides
    return (x, y, z)
