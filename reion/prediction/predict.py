"""Predict a simulation of any size from file to file, in bounded memory, and resume after an interruption."""

from __future__ import annotations

import functools
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from reion.jobs.growing import GrowingStore, StorePiece
from reion.jobs.places import output_path
from reion.jobs.resources import peak_memory_bytes
from reion.jobs.sources import SourceFiles
from reion.jobs.workers import Job, Progress, ThisProcess, Workers
from reion.metrics.crossings import Oddities
from reion.models.coverage import Outside
from reion.prediction.budget import SnapshotBudget, backwards, budgets, tile_sums
from reion.prediction.emulator import Emulator
from reion.prediction.ionisation import WriteZReion, create_z_reion, note_oddities
from reion.prediction.memory import FittedTiles, default_memory_bytes, fit_tiles
from reion.prediction.portable_emulator import PortableEmulator
from reion.prediction.predicted_field import at_redshift
from reion.prediction.sessions import Device
from reion.prediction.tiles import Field, Tiling, predict_tile
from reion.prediction.warned import collected_warnings, store_warnings
from reion.readers import open_simulation, source_files
from reion.simulation.contract import DIMS, Shape, shape_of
from reion.simulation.photons import late_start_is_known
from reion.simulation.recombinations import less_recombinations
from reion.storage.conversion import described_conditions, grow_store
from reion.storage.single_file import kind_of, packing_of
from reion.storage.store import HISTORY, STORE, consolidate, create_group, plain
from reion_exports.convert import OUTPUTS


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The result of `predict`, and the time and memory that it took.

    Parameters
    ----------
    output
        The store.
    cells
        Number of cells of all snapshots.
    cells_computed, tiles_computed
        Cells and tiles that this call computed; fewer than all if it resumed an earlier call.
    seconds
        Duration of this call.
    provider
        The execution provider of onnxruntime.
    peak_memory_bytes
        Peak memory of the process that took most; None if the system does not report it.
    tiles, tile_cells
        Number of tiles of a snapshot, and cells of a tile along each axis.
    outside_training
        Quantities that the training of the model did not cover.
    warnings
        Everything that this call warned of, one sentence each; the attribute `warnings` of xi has it too.
    history
        The photon budget of every snapshot; empty if an earlier call had finished.
    z_reion
        Numbers of cells with odd histories; None if z_reion was not asked for, or an earlier call had
        finished.
    """

    output: Path
    cells: int
    cells_computed: int
    seconds: float
    provider: str
    peak_memory_bytes: int | None
    tiles: int
    tiles_computed: int
    tile_cells: Shape
    outside_training: tuple[Outside, ...]
    warnings: tuple[str, ...]
    history: tuple[SnapshotBudget, ...]
    z_reion: Oddities | None = None

    @property
    def cells_per_second(self) -> float:
        """Cells that this call computed per second."""
        return self.cells_computed / self.seconds

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values, as `reion predict --json` prints them."""
        return {
            "output": str(self.output),
            "cells": self.cells,
            "seconds": self.seconds,
            "cells_per_second": self.cells_per_second,
            "provider": self.provider,
            "peak_memory_bytes": self.peak_memory_bytes,
            "tiles": self.tiles,
            "tiles_computed": self.tiles_computed,
            "tile_cells": list(self.tile_cells),
            "outside_training": [item.to_json() for item in self.outside_training],
            "warnings": list(self.warnings),
            "history": [row.to_json() for row in self.history],
            "z_reion": None if self.z_reion is None else vars(self.z_reion),
        }


def predict(
    model: str | Path | bytes | Emulator,
    sim_path: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    device: Device = "auto",
    memory_bytes: int | None = None,
    threads: int | None = None,
    uncertainty: bool = False,
    z_reion: bool = False,
    format: str | None = None,  # noqa: A002 (the name of the command's flag)
    settings: Mapping[str, str] | None = None,
    force: bool = False,
    resume: bool = False,
    workers: Workers | None = None,
    progress: Progress | None = None,
) -> Prediction:
    """Predict the ionised fraction of a simulation into a Zarr store.

    The box is predicted tile by tile, each from a window that is wider by the model's receptive radius, so
    that the result is that of a prediction of the whole box. After an interruption, a call with the same
    model, simulation and `out` goes on with the missing tiles. The store appears at `out` when it is whole.
    If an input file changes during the prediction, no store appears.

    Parameters
    ----------
    model
        See `reion.prediction.emulator.Emulator`.
    sim_path, format, settings
        See `reion.readers.open_simulation`.
    out
        Zarr store with `xi` (redshift, x, y, z), float32, that `xarray.open_zarr` opens; or a file, HDF5 or
        `.npz`, by its ending (see `reion.storage.single_file`).
    memory_bytes
        Memory that a process may take on the CPU; by default `default_memory_bytes()`.
    device, threads
        See `reion.prediction.emulator.Emulator`. With an `Emulator` as `model`, only other processes use
        `device`.
    uncertainty
        Write `xi_std` too, the standard deviation of the error of xi in every cell.
    z_reion
        Write `z_reion` too, (x, y, z): the redshift at which each cell is ionised, as
        `reion.metrics.crossings.z_reion` finds it from the predicted xi.
    force
        Replace a store of reion at `out`.
    resume
        Only go on with an earlier call; refuse to start a new prediction.
    workers
        The processes that predict the tiles; by default this process alone.
    progress
        Called with the number of cells done and of all cells.

    Raises
    ------
    InputError
        If `out` exists and `force` is not set, or it is not a store of reion; if `out` would be, contain or
        lie in a file that is read; if the model does not fit the simulation (see `Emulator.check`); if
        not even the smallest tile fits in memory; if a file changed while it was read.
    """
    started = time.perf_counter()
    growing = _output(model, sim_path, out, force=force)
    emulator = model if isinstance(model, Emulator) else Emulator(model, device=device, threads=threads)
    if uncertainty:
        emulator.require_spread()
    files = SourceFiles.list(source_files(sim_path, format=format, settings=settings))
    with collected_warnings() as warned:
        sim = open_simulation(sim_path, format=format, settings=settings)
        outside = emulator.check(sim)
    emulator = emulator.for_cells_of(sim)
    memory_bytes = default_memory_bytes() if memory_bytes is None else memory_bytes
    fitted = fit_tiles(emulator, shape_of(sim), memory_bytes)
    workers = workers or ThisProcess()
    with growing.alone():
        common = {"model": emulator.sha256, "files or sources": files.digest, **described_conditions(sim)}
        common |= {"uncertainty": uncertainty, "z_reion": z_reion}
        tiling, memory = _begun_tiling(growing.conditions(), common, fitted.tiling, memory_bytes)
        create = functools.partial(
            create_xi_store, sim=sim, emulator=emulator, tiling=tiling, spread=uncertainty, z_reion=z_reion
        )
        growing.begin({**common, "memory": memory, "tiles": tiling.tile}, create, resume=resume)
        pieces = [] if growing.is_moved_in() else list(np.ndindex(sim.sizes["redshift"], len(tiling)))
        done = growing.done()
        missing = [piece for piece in pieces if piece not in done]
        cells = sim.sizes["redshift"] * math.prod(tiling.mesh)
        cells_before = sum(tiling.cells(number) for index, number in done if index != HISTORY)
        cells_computed = 0
        sim = _with_history(sim, emulator, growing, workers) if missing else sim
        fitted = FittedTiles(tiling, fitted.keep_fields)
        job = PredictTiles(emulator, sim, growing.store, fitted, device=device, spread=uncertainty)
        for _, number in growing.do(workers, job, missing):
            cells_computed += tiling.cells(number)
            if progress is not None:
                progress(cells_before + cells_computed, cells)
        results = {piece: growing.result(piece) for piece in pieces}
        peaks = [peak for piece in missing if (peak := results[piece]["peak"]) is not None]
        oddities = _write_z_reion(growing, workers, sim, tiling) if z_reion and pieces else Oddities()
        history = budgets(sim, emulator.card, _sums(results, sim.sizes["redshift"])) if results else ()
        late = [*backwards(history), *oddities.complaints(float(sim["redshift"][0]))]
        if pieces:
            store_warnings(growing.store, [*warned, *late])
        growing.move_in(files)
    for text in late:
        warnings.warn(text, stacklevel=2)
    return Prediction(
        output=growing.out,
        cells=cells,
        cells_computed=cells_computed,
        seconds=time.perf_counter() - started,
        provider=emulator.provider,
        peak_memory_bytes=max(peaks) if peaks else peak_memory_bytes(),
        tiles=len(tiling),
        tiles_computed=len(missing),
        tile_cells=tiling.tile,
        outside_training=tuple(outside),
        warnings=(*warned, *late),
        history=history,
        z_reion=oddities if oddities.cells else None,
    )


def _output(
    model: Any, sim_path: str | Path | Sequence[str | Path], out: str | Path, *, force: bool
) -> GrowingStore:
    """The unfinished store at `out`; an error if nothing may be written there."""
    sources = [sim_path] if isinstance(sim_path, str | Path) else list(sim_path)
    models = [model] if isinstance(model, str | Path) else []
    kind = kind_of(out)
    place = output_path(out, kind, sources=[*sources, *models])
    growing = GrowingStore(place, kind, "predicting", force, packing_of(place))
    growing.refuse_existing()
    return growing


def _begun_tiling(
    earlier: Mapping[str, Any], common: Mapping[str, Any], tiling: Tiling, memory_bytes: int
) -> tuple[Tiling, int]:
    """The tiles and the memory that they were fitted to: those of an earlier call that this one resumes."""
    # With less memory than before, the earlier tiles may not fit.
    begun = all(earlier.get(name) == value for name, value in common.items())
    if begun and earlier["memory"] <= memory_bytes:
        tiles = _shape(earlier["tiles"])
        return Tiling(mesh=tiling.mesh, tile=tiles, halo_cells=tiling.halo_cells), earlier["memory"]
    return tiling, memory_bytes


def _write_z_reion(growing: GrowingStore, workers: Workers, sim: xr.Dataset, tiling: Tiling) -> Oddities:
    """Write z_reion of the tiles that lack it; xi of all snapshots is in the store."""
    done = growing.done()
    pieces = [(HISTORY, number) for number in range(len(tiling))]
    missing = [piece for piece in pieces if piece not in done]
    for _ in growing.do(workers, WriteZReion(sim, growing.store, tiling), missing):
        pass
    return note_oddities(growing.store, map(growing.result, pieces))


def _sums(results: Mapping[StorePiece, Any], snapshots: int) -> list[dict[str, float]]:
    """The sums of `tile_sums` over all tiles of each snapshot."""
    totals: list[dict[str, float]] = [{} for _ in range(snapshots)]
    for (index, _), result in results.items():
        for name, value in result["sums"].items():
            totals[index][name] = totals[index].get(name, 0.0) + value
    return totals


class PredictTiles(Job[StorePiece, dict[str, Any]]):
    """Predicts a tile of a snapshot into the store, in which no two tiles share a chunk.

    The result holds the `peak` memory of the process in bytes, if the system reports it, and the `sums` of
    the tile (see `reion.prediction.budget.tile_sums`).
    """

    def __init__(
        self,
        emulator: Emulator,
        sim: xr.Dataset,
        store: Path,
        tiles: FittedTiles,
        *,
        device: Device,
        spread: bool = False,
    ) -> None:
        self._model = PortableEmulator(emulator, device)
        self._sim, self._store, self._tiles = sim, store, tiles
        self._spread = spread

    @cached_property
    def _outputs(self) -> list[Any]:
        """The arrays of the store that are written: xi and, with `spread`, xi_std."""
        import zarr

        names = OUTPUTS if self._spread else OUTPUTS[:1]
        return [zarr.open_array(self._store, path=name, mode="r+") for name in names]

    @cached_property
    def _fields_in_memory(self) -> dict[int, dict[str, xr.DataArray]]:
        """The fields of the snapshot that was predicted last, by its number."""
        return {}

    def _fields(self, index: int) -> dict[str, xr.DataArray]:
        """The fields of a snapshot, each (x, y, z): lazy, or in memory if there is room."""
        fields = {name: self._sim[name][index] for name in self._model.emulator.card.inputs}
        if not self._tiles.keep_fields:
            return fields
        if index not in self._fields_in_memory:
            self._fields_in_memory.clear()
            self._fields_in_memory[index] = {name: field.load() for name, field in fields.items()}
        return self._fields_in_memory[index]

    def __call__(self, piece: StorePiece) -> dict[str, Any]:
        """Predict one tile."""
        index, number = piece
        predict_window = at_redshift(self._model.emulator, self._sim, index, spread=self._spread)
        tiling = self._tiles.tiling
        place = tiling.place(number)
        inner: dict[str, Field] = {}

        def predict(windows: Mapping[str, Field], /, *, periodic: Shape) -> Field:
            inner.update({name: tiling.inner(window, number) for name, window in windows.items()})
            return predict_window(windows, periodic=periodic)

        values = predict_tile(predict, self._fields(index), tiling, number)
        outputs = values if self._spread else [values]
        for array, output in zip(self._outputs, outputs, strict=True):
            array[(index, *place)] = output
        return {"peak": peak_memory_bytes(), "sums": tile_sums(outputs[0], inner, *outputs[1:])}


def _shape(sides: Sequence[int]) -> Shape:
    return (sides[0], sides[1], sides[2])


def _with_history(sim: xr.Dataset, emulator: Emulator, growing: GrowingStore, workers: Workers) -> xr.Dataset:
    """Return the simulation with n_ion, if the model takes it, integrated block by block into a store."""
    if "n_ion" not in emulator.card.inputs or "n_ion" in (sim := less_recombinations(sim)).data_vars:
        return sim
    history = GrowingStore(growing.folder / "history.zarr", STORE, "converting")
    if not history.out.exists():
        with late_start_is_known():  # it was said when the model was checked
            grow_store(sim[["n_src"]], history, conditions=growing.conditions(), workers=workers)
    return sim.assign(n_ion=open_simulation(history.out.absolute())["n_ion"])


def create_xi_store(
    path: Path,
    *,
    sim: xr.Dataset,
    emulator: Emulator,
    tiling: Tiling,
    spread: bool = False,
    z_reion: bool = False,
) -> None:
    """Create the store for the tiles."""
    group = create_group(sim, path, {})
    for name in OUTPUTS if spread else OUTPUTS[:1]:
        array = group.create_array(
            name,
            shape=(sim.sizes["redshift"], *tiling.mesh),
            dtype=np.float32,
            chunks=(1, *tiling.chunk),
            fill_value=np.nan,
            dimension_names=DIMS,
        )
        array.attrs.update(plain(emulator.provenance(sim, output=name)))
    if z_reion:
        create_z_reion(group, tiling)
    consolidate(group)
