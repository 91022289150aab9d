"""Predict a simulation of any size from file to file, in bounded memory; interrupted, it goes on."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import xarray as xr

from reion.emulator import Device, Emulator
from reion.errors import InputError
from reion.memory import peak_memory_bytes, resident_memory_bytes
from reion.readers import open_simulation
from reion.simulation import AXES, DIMS
from reion.storage import write_simulation
from reion.tiles import Shape, Tiling, plan, predict_tiles

DEFAULT_MEMORY_BYTES = 2 << 30

Progress = Callable[[int, int], None]
"""Called with the cells done and the cells there are."""

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
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Predict the ionised fraction of a simulation into a Zarr store.

    The box is predicted tile by tile, each from a window that is wider by the model's receptive radius, so
    that what is stored is what a prediction of the whole box would give. Interrupted and called again with
    the same model, simulation and place, it goes on with the first tile that is missing; the store appears
    at `out` when it is whole.

    Parameters
    ----------
    model
        See `reion.emulator.Emulator`.
    sim_path, format, settings
        See `reion.readers.open_simulation`.
    out
        Zarr store with `xi` (redshift, x, y, z), float32, that `xarray.open_zarr` opens.
    memory_bytes
        How much memory the whole process may take on the CPU.
    force
        Replace what is at `out`.

    Returns
    -------
    `output` (path), `cells` (of all snapshots), `seconds` and `cells_per_second` of what this call computed,
    `provider` (of onnxruntime), `peak_memory_bytes` (of this process), `tiles` (a snapshot), `tile_cells`.

    Raises
    ------
    InputError
        If something is at `out` and `force` is not set, if the model does not fit the simulation (see
        `Emulator.predict`), if not even the smallest tile fits in memory.
    """
    begin = time.perf_counter()
    out = Path(out)
    if out.exists() and not force:
        raise InputError("exists already", file=out, hint="--force replaces it")
    emulator = model if isinstance(model, Emulator) else Emulator(model, device=device, threads=threads)
    sim = open_simulation(sim_path, format=format, settings=settings)
    emulator.check(sim)
    tiling, resident = _plan(emulator, sim, memory_bytes)
    work = _Work.open(out, _fingerprint(emulator, sim, sim_path), memory_bytes)
    sim = work.with_history(sim, emulator)
    tiling = work.tiling(tiling)
    store = work.store(sim, emulator, tiling)
    mesh_cells = math.prod(tiling.mesh)
    snapshots = sim.sizes["redshift"]
    done = work.done()
    already = sum(_cells(tiling, number) for _, number in done)
    computed = 0
    for index, redshift in enumerate(sim["redshift"].values):
        skip = {number for snapshot, number in done if snapshot == index}
        if len(skip) == len(tiling):
            continue
        fields = {name: sim[name][index] for name in emulator.card.inputs}
        if resident:
            fields = {name: field.load() for name, field in fields.items()}
        at_redshift = functools.partial(emulator.predict_window, redshift)
        for number, where, xi in predict_tiles(at_redshift, fields, tiling, skip=skip):
            store[(index, *where)] = xi
            work.note(index, number)
            computed += xi.size
            if progress is not None:
                progress(already + computed, snapshots * mesh_cells)
    work.finish(force=force)
    seconds = time.perf_counter() - begin
    return {
        "output": str(out),
        "cells": snapshots * mesh_cells,
        "seconds": seconds,
        "cells_per_second": computed / seconds,
        "provider": emulator.provider,
        "peak_memory_bytes": peak_memory_bytes(),
        "tiles": len(tiling),
        "tile_cells": list(tiling.tile),
    }


def _plan(emulator: Emulator, sim: xr.Dataset, memory_bytes: int) -> tuple[Tiling, bool]:
    """Choose the tiles, and whether a snapshot's fields are kept in memory while its tiles are predicted."""
    card = emulator.card
    mesh = [sim.sizes[axis] for axis in AXES]
    radius = card.receptive_radius_cells
    fields = len(card.inputs)
    allowed = memory_bytes - (resident_memory_bytes() or _PROGRAM_BYTES) - _READING_BYTES
    snapshot_bytes = 4 * fields * math.prod(mesh)
    resident = snapshot_bytes <= allowed // 4
    if resident:
        allowed -= snapshot_bytes

    def needed_bytes(tile: Shape) -> float:
        window = math.prod(side + 2 * radius for side in tile)
        alive = card.working_bytes[0] * window + card.working_bytes[1] * math.prod(tile)
        return _SCRATCH * alive + 4 * fields * window

    tiling = plan(
        mesh,
        halo_cells=radius,
        stride_cells=card.stride_cells,
        needed_bytes=needed_bytes,
        allowed_bytes=allowed,
    )
    return tiling, resident


def _fingerprint(emulator: Emulator, sim: xr.Dataset, sim_path: str | Path | Sequence[str | Path]) -> str:
    """What an interrupted prediction must have in common with the one that goes on with it."""
    paths = [sim_path] if isinstance(sim_path, str | Path) else list(sim_path)
    known = {
        "model": emulator.sha256,
        "sources": [str(Path(path).resolve()) for path in paths],
        "changed": [Path(path).stat().st_mtime_ns for path in paths if Path(path).exists()],
        "box": {str(key): str(value) for key, value in sim.attrs.items()},
        "sizes": {str(key): value for key, value in sim.sizes.items()},
        "redshift": sim["redshift"].values.tolist(),
        "fields": {
            str(name): {str(key): str(value) for key, value in field.attrs.items()}
            for name, field in sim.data_vars.items()
        },
    }
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def _cells(tiling: Tiling, number: int) -> int:
    corner = np.unravel_index(number, tiling.counts)
    return math.prod(
        min(side, n - int(index) * side)
        for index, side, n in zip(corner, tiling.tile, tiling.mesh, strict=True)
    )


@dataclass(frozen=True)
class _Work:
    """The folder beside the output in which a prediction grows: the store, and a note of every tile in it.

    `plan.json` says of what prediction and in which tiles; `tiles.txt` has a line for each tile, written when
    the tile is in the store. A line cut short by the end of a process is no line.
    """

    out: Path
    folder: Path

    @classmethod
    def open(cls, out: Path, fingerprint: str, memory_bytes: int) -> Self:
        """Go on in the folder of the same prediction, or begin a new one in place of any other.

        Anew also where there is less memory now: the tiles may be what did not fit.
        """
        work = cls(out, out.with_name(f".{out.name}.predicting"))
        known = work._read_plan()
        if known.get("fingerprint") != fingerprint or known["memory_bytes"] > memory_bytes:
            shutil.rmtree(work.folder, ignore_errors=True)
            try:
                work.folder.mkdir(parents=True)
            except OSError as error:
                raise InputError(f"cannot be written: {error}", file=out) from error
            work._write_plan({"fingerprint": fingerprint, "memory_bytes": memory_bytes})
        return work

    def tiling(self, tiling: Tiling) -> Tiling:
        """Return the tiles this prediction was begun with, which are `tiling` if it was not."""
        known = self._read_plan()
        if "tile" not in known:
            self._write_plan({**known, "tile": tiling.tile})
            return tiling
        x, y, z = known["tile"]
        return Tiling(mesh=tiling.mesh, tile=(x, y, z), halo_cells=tiling.halo_cells)

    def with_history(self, sim: xr.Dataset, emulator: Emulator) -> xr.Dataset:
        """Return the simulation with n_ion, if the model wants it, integrated slab by slab into a file."""
        if "n_ion" not in emulator.card.inputs or "n_ion" in sim.data_vars:
            return sim
        history = self.folder / "history.zarr"
        if not history.exists():
            write_simulation(sim[["n_src"]], history)
        return sim.assign(n_ion=open_simulation(history)["n_ion"])

    def store(self, sim: xr.Dataset, emulator: Emulator, tiling: Tiling) -> Any:
        """Open the array the tiles go into."""
        import zarr

        path = self.folder / "store.zarr"
        if not (self.folder / "tiles.txt").exists():
            shutil.rmtree(path, ignore_errors=True)
            group = zarr.open_group(path, mode="w", zarr_format=3)
            group.attrs.update(_plain(sim.attrs))
            for dim in DIMS:
                values = sim[dim].values
                axis = group.create_array(
                    dim, shape=values.shape, dtype=values.dtype, chunks=values.shape, dimension_names=(dim,)
                )
                axis[...] = values
                axis.attrs.update(_plain(sim[dim].attrs))
            xi = group.create_array(
                "xi",
                shape=(sim.sizes["redshift"], *tiling.mesh),
                dtype=np.float32,
                chunks=(1, *tiling.block),
                fill_value=np.nan,
                dimension_names=DIMS,
            )
            xi.attrs.update(_plain(emulator.provenance(sim)))
            with warnings.catch_warnings():
                # xarray.open_zarr warns where this is missing, zarr where it is written.
                warnings.filterwarnings("ignore", message="Consolidated metadata", category=UserWarning)
                zarr.consolidate_metadata(group.store)
            (self.folder / "tiles.txt").touch()
        return zarr.open_array(path, path="xi", mode="r+")

    def done(self) -> set[tuple[int, int]]:
        """Snapshot and number of every tile that is in the store."""
        lines = (self.folder / "tiles.txt").read_text().split("\n")[:-1]
        return {(int(snapshot), int(number)) for snapshot, number in (line.split() for line in lines)}

    def note(self, snapshot: int, number: int) -> None:
        """Note that a tile is in the store."""
        with (self.folder / "tiles.txt").open("a") as file:
            file.write(f"{snapshot} {number}\n")

    def finish(self, *, force: bool) -> None:
        """Move the store to its place."""
        if self.out.exists():
            if not force:
                raise InputError("appeared while it was being predicted", file=self.out)
            old = self.folder / "old"
            self.out.rename(old)
        (self.folder / "store.zarr").rename(self.out)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read_plan(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError):
            known = json.loads((self.folder / "plan.json").read_text())
            if isinstance(known, dict):
                return known
        return {}

    def _write_plan(self, known: Mapping[str, Any]) -> None:
        beside = self.folder / "plan.json.new"
        beside.write_text(json.dumps(known))
        beside.replace(self.folder / "plan.json")


def _plain(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Attributes as JSON has them."""
    return {str(key): value.tolist() if hasattr(value, "tolist") else value for key, value in attrs.items()}
