"""Predict a simulation of any size from file to file, in bounded memory; interrupted, it goes on."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from reion.jobs.growing import GrowingStore, StorePiece
from reion.jobs.outputs import whole_file
from reion.jobs.places import output_path
from reion.jobs.resources import peak_memory_bytes, resident_memory_bytes, thread_limit
from reion.jobs.sources import SourceFiles
from reion.jobs.workers import Job, Portable, Progress, ThisProcess, Workers
from reion.prediction.emulator import Device, Emulator
from reion.prediction.tiles import Tiling, plan, predict_tiles
from reion.prediction.unlike_training import warn_of_inputs
from reion.readers import open_simulation, source_files
from reion.simulation.contract import AXES, DIMS, Shape
from reion.simulation.lazy import CellKey, LazyField
from reion.simulation.photons import EmittedPhotons
from reion.storage.conversion import described_conditions, grow_store
from reion.storage.store import STORE, consolidate, create_group, plain

DEFAULT_MEMORY_BYTES = 2 << 30

_PROGRAM_BYTES = 256 << 20
"""What the program itself takes where the system does not tell."""

_READING_BYTES = 96 << 20
"""Room for the chunks of the store that are being read, which hold at most 32 MiB each."""

_SCRATCH = 1.6
"""What onnxruntime takes in all, over the values that are alive at once: gaps between them and scratch space.
Measured on the default network, tiles of 64³ to 128³ cells: 1.33 to 1.42."""


def predict(
    model: str | Path | bytes | Emulator,
    sim_path: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    device: Device = "auto",
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    threads: int | None = None,
    format: str | None = None,  # noqa: A002 (the name of the command's flag)
    settings: Mapping[str, str] | None = None,
    force: bool = False,
    resume: bool = False,
    workers: Workers | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Predict the ionised fraction of a simulation into a Zarr store.

    The box is predicted tile by tile, each from a window that is wider by the model's receptive radius, so
    that what is stored is what a prediction of the whole box would give. Interrupted and called again with
    the same model, simulation and place, it goes on with the first tile that is missing; the store appears
    at `out` when it is whole. It never mixes two states of its input: where a file changed on the way, none
    appears.

    Parameters
    ----------
    model
        See `reion.prediction.emulator.Emulator`.
    sim_path, format, settings
        See `reion.readers.open_simulation`.
    out
        Zarr store with `xi` (redshift, x, y, z), float32, that `xarray.open_zarr` opens.
    memory_bytes
        How much memory a process may take on the CPU.
    force
        Replace a store of reion's at `out`.
    resume
        Refuse to begin anew.
    workers
        Who predicts the tiles; this process where it is None.
    progress
        Called with the cells done and the cells there are.

    Returns
    -------
    `output` (path), `cells` (of all snapshots), `seconds` and `cells_per_second` of what this call computed,
    `provider` (of onnxruntime), `peak_memory_bytes` (of the process that took most), `tiles` (a snapshot),
    `tiles_computed` (by this call), `tile_cells`.

    Raises
    ------
    InputError
        If something is at `out` and `force` is not set, or is not a store of reion's; if `out` would be,
        contain or lie in what is read; if the model does not fit the simulation (see `Emulator.predict`), if
        not even the smallest tile fits in memory, if a file changed while it was read.
    """
    started = time.perf_counter()
    sources = [sim_path] if isinstance(sim_path, str | Path) else list(sim_path)
    models = [model] if isinstance(model, str | Path) else []
    out = output_path(out, STORE, sources=[*sources, *models])
    growing = GrowingStore(out, STORE, "predicting", force)
    growing.refuse_existing()
    emulator = model if isinstance(model, Emulator) else Emulator(model, device=device, threads=threads)
    files = SourceFiles.list(source_files(sim_path, format=format, settings=settings))
    sim = open_simulation(sim_path, format=format, settings=settings)
    emulator.check(sim)
    warn_of_inputs(sim, emulator.card.inputs)
    tiling, resident = choose_tiles(emulator, sim.sizes, memory_bytes)
    workers = workers or ThisProcess()
    with growing.alone():
        common = {"model": emulator.sha256, "files or sources": files.digest, **described_conditions(sim)}
        earlier = growing.conditions()
        memory = memory_bytes
        # Where there is less memory now, the tiles may be what did not fit.
        if all(earlier.get(name) == value for name, value in common.items()) and earlier["memory"] <= memory:
            memory = earlier["memory"]
            tiling = Tiling(mesh=tiling.mesh, tile=_shape(earlier["tiles"]), halo_cells=tiling.halo_cells)
        create = functools.partial(create_xi_store, sim=sim, emulator=emulator, tiling=tiling)
        growing.begin({**common, "memory": memory, "tiles": tiling.tile}, create, resume=resume)
        pieces = [] if growing.is_moved_in() else list(np.ndindex(sim.sizes["redshift"], len(tiling)))
        done = growing.done()
        missing = [piece for piece in pieces if piece not in done]
        cells_of = [cells_of_tile(tiling, number) for number in range(len(tiling))]
        total = sim.sizes["redshift"] * sum(cells_of)
        computed = 0
        already = sum(cells_of[number] for _, number in done)
        if missing:
            sim = _with_history(sim, emulator, growing, workers)
        job = PredictTiles(emulator, sim, growing.store, tiling, resident=resident, device=device)
        for _, number in growing.do(workers, job, missing):
            computed += cells_of[number]
            if progress is not None:
                progress(already + computed, total)
        peaks = [peak for piece in missing if (peak := growing.result(piece)) is not None]
        growing.move_in(files)
    seconds = time.perf_counter() - started
    return {
        "output": str(out),
        "cells": total,
        "seconds": seconds,
        "cells_per_second": computed / seconds,
        "provider": emulator.provider,
        "peak_memory_bytes": max(peaks) if peaks else peak_memory_bytes(),
        "tiles": len(tiling),
        "tiles_computed": len(missing),
        "tile_cells": list(tiling.tile),
    }


class PortableEmulator(Portable):
    """An emulator that opens its session once in every process it travels to."""

    def __init__(self, emulator: Emulator, device: Device) -> None:
        self._content, self._device = emulator.content, device
        self.emulator = emulator

    @cached_property
    def emulator(self) -> Emulator:
        """The emulator, with a session of this process."""
        return Emulator(self._content, device=self._device, threads=thread_limit())


class PredictTiles(Job[StorePiece, int | None]):
    """Predicts a tile of a snapshot into the store, none of whose chunks is shared by two tiles.

    What comes of it is the peak of the process's memory in bytes, where the system tells.
    """

    def __init__(
        self,
        emulator: Emulator,
        sim: xr.Dataset,
        store: Path,
        tiling: Tiling,
        *,
        resident: bool,
        device: Device,
    ) -> None:
        self._model = PortableEmulator(emulator, device)
        self._sim, self._store, self._tiling, self._resident = sim, store, tiling, resident

    @cached_property
    def _xi(self) -> Any:
        import zarr

        return zarr.open_array(self._store, path="xi", mode="r+")

    @cached_property
    def _kept(self) -> dict[int, dict[str, Any]]:
        return {}

    def _fields(self, index: int) -> dict[str, Any]:
        """The fields of a snapshot, in memory while its tiles are predicted if there is room for that."""
        fields = {name: self._sim[name][index] for name in self._model.emulator.card.inputs}
        if not self._resident:
            return fields
        if index not in self._kept:
            self._kept.clear()
            self._kept[index] = {name: field.load() for name, field in fields.items()}
        return self._kept[index]

    def __call__(self, piece: StorePiece) -> int | None:
        """Predict one tile."""
        index, wanted = piece
        redshift = float(self._sim["redshift"][index])
        at_redshift = functools.partial(self._model.emulator.predict_window, redshift)
        others = set(range(len(self._tiling))) - {wanted}
        for _, where, xi in predict_tiles(at_redshift, self._fields(index), self._tiling, skip=others):
            self._xi[(index, *where)] = xi
        return peak_memory_bytes()


class PredictedField(Portable, LazyField):
    """xi of every snapshot of a Simulation, predicted where it is asked for, within `DEFAULT_MEMORY_BYTES`.

    Parameters
    ----------
    emulator, sim
        See `Emulator.check`, which the two must have passed.
    device
        Where other processes predict.
    keep
        A folder for the snapshots that were predicted, so that none is predicted twice.
    """

    def __init__(
        self, emulator: Emulator, sim: xr.Dataset, *, device: Device = "auto", keep: Path | None = None
    ) -> None:
        super().__init__(tuple(sim.sizes[dim] for dim in DIMS))
        self._model, self._sim, self._keep = PortableEmulator(emulator, device), sim, keep
        self._tiling, _ = choose_tiles(emulator, sim.sizes, DEFAULT_MEMORY_BYTES)
        derived = "n_ion" in emulator.card.inputs and "n_ion" not in sim.data_vars
        self._emitted = EmittedPhotons(sim) if derived else None

    def snapshot(self, index: int, key: CellKey) -> np.ndarray:
        """The cells `key` of snapshot `index`; all of it is predicted."""
        kept = None if self._keep is None else self._keep / f"{index}.npy"
        if kept is not None and kept.exists():
            return np.asarray(np.load(kept, mmap_mode="r")[key])
        fields: dict[str, Any] = {
            name: np.asarray(self._emitted.at(index), dtype=np.float32)
            if name == "n_ion" and self._emitted is not None
            else self._sim[name][index].values
            for name in self._model.emulator.card.inputs
        }
        redshift = float(self._sim["redshift"][index])
        at_redshift = functools.partial(self._model.emulator.predict_window, redshift)
        xi = np.empty(self.shape[1:], dtype=np.float32)
        for _, where, values in predict_tiles(at_redshift, fields, self._tiling):
            xi[where] = values
        if kept is not None:
            # Whole, because another process may be looking for it; for this run of the command only.
            with whole_file(kept, sync=False) as partial:
                np.save(partial, xi)
        return xi[key]


def choose_tiles(emulator: Emulator, sizes: Mapping[Hashable, int], memory_bytes: int) -> tuple[Tiling, bool]:
    """Choose the tiles, and whether a snapshot's fields are kept in memory while its tiles are predicted.

    `sizes` are those of the axes of the simulation.
    """
    card = emulator.card
    mesh = [sizes[axis] for axis in AXES]
    allowed = memory_bytes - (resident_memory_bytes() or _PROGRAM_BYTES) - _READING_BYTES
    snapshot_bytes = 4 * len(card.inputs) * math.prod(mesh)
    resident = snapshot_bytes <= allowed // 4
    if resident:
        allowed -= snapshot_bytes
    tiling = plan(
        mesh,
        halo_cells=card.receptive_radius_cells,
        stride_cells=card.stride_cells,
        needed_bytes=functools.partial(_tile_bytes, emulator),
        allowed_bytes=allowed,
    )
    return tiling, resident


def expected_peak_bytes(emulator: Emulator, tiling: Tiling, *, resident: bool) -> int:
    """What a process that predicts these tiles will have taken at most, this one's program being its own."""
    mesh, tile = tiling.mesh, tiling.tile
    chunks = min(_READING_BYTES, 12 * math.prod(mesh))
    kept = 4 * len(emulator.card.inputs) * math.prod(mesh) if resident else 0
    program = resident_memory_bytes() or _PROGRAM_BYTES
    return round(program + chunks + kept + _tile_bytes(emulator, tile))


def prediction_bytes(emulator: Emulator, sizes: Mapping[Hashable, int]) -> float:
    """What `PredictedField` takes to predict a simulation of these sizes, the program not counted."""
    tiling, _ = choose_tiles(emulator, sizes, DEFAULT_MEMORY_BYTES)
    return _tile_bytes(emulator, tiling.tile)


def _tile_bytes(emulator: Emulator, tile: Shape) -> float:
    """What predicting a tile of that shape takes."""
    card = emulator.card
    window = math.prod(side + 2 * card.receptive_radius_cells for side in tile)
    alive = card.working_bytes[0] * window + card.working_bytes[1] * math.prod(tile)
    return _SCRATCH * alive + 4 * len(card.inputs) * window


def cells_of_tile(tiling: Tiling, number: int) -> int:
    """Cells of a tile that lie in the box."""
    corner = np.unravel_index(number, tiling.counts)
    return math.prod(
        min(side, n - int(index) * side)
        for index, side, n in zip(corner, tiling.tile, tiling.mesh, strict=True)
    )


def _shape(sides: Sequence[int]) -> Shape:
    x, y, z = sides
    return (x, y, z)


def _with_history(sim: xr.Dataset, emulator: Emulator, growing: GrowingStore, workers: Workers) -> xr.Dataset:
    """Return the simulation with n_ion, if the model wants it, integrated block by block into a store."""
    if "n_ion" not in emulator.card.inputs or "n_ion" in sim.data_vars:
        return sim
    history = GrowingStore(growing.folder / "history.zarr", STORE, "converting")
    if not history.out.exists():
        grow_store(sim[["n_src"]], history, conditions=growing.conditions(), workers=workers)
    return sim.assign(n_ion=open_simulation(history.out.absolute())["n_ion"])


def create_xi_store(path: Path, *, sim: xr.Dataset, emulator: Emulator, tiling: Tiling) -> None:
    """Create the store the tiles go into."""
    group = create_group(sim, path, {})
    xi = group.create_array(
        "xi",
        shape=(sim.sizes["redshift"], *tiling.mesh),
        dtype=np.float32,
        chunks=(1, *tiling.block),
        fill_value=np.nan,
        dimension_names=DIMS,
    )
    xi.attrs.update(plain(emulator.provenance(sim)))
    consolidate(group)
