"""`reion convert`: writes any simulation that reion can read as a Zarr store or one file."""

from __future__ import annotations

import datetime
import functools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xarray as xr

import reion
from reion.errors import InputError
from reion.jobs.growing import GrowingStore
from reion.jobs.places import output_path, refuse_existing
from reion.jobs.resources import peak_memory_bytes
from reion.jobs.sources import SourceFiles
from reion.jobs.workers import Progress, ThisProcess, Workers
from reion.readers import Source, open_simulation, open_simulations, source_files
from reion.readers.zarr import is_store
from reion.simulation.contract import AXES, DEFAULT_COSMOLOGY, FIELDS, box_size_mpc, check_simulation
from reion.simulation.contract import cell_size_mpc as cell_sides_mpc
from reion.storage.single_file import check_packable, digests_in, kind_of, packing_of
from reion.storage.store import WriteFields, create_store, density_doubts, finish_store, pieces_of


def convert(
    sources: Source,
    out: str | Path,
    *,
    format: str | None = None,  # noqa: A002 (the name of the command's flag)
    settings: Mapping[str, str] | None = None,
    cell_size_mpc: float | None = None,
    force: bool = False,
    resume: bool = False,
    workers: Workers | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Convert one simulation to a Zarr store or a file, or several to one store each in a folder.

    Every value is checked. A store appears at its place when it is whole. An interrupted conversion that is
    called again with the same arguments goes on with the first missing piece. If a source changes during the
    conversion, no store appears.

    Parameters
    ----------
    sources, format, settings
        As for `reion.readers.open_simulation`.
    out
        The store to write, or a file: HDF5 or `.npz`, by its ending (see `reion.storage.single_file`). If it
        is a folder that exists and is no store, or if there are several simulations (its name must then not
        end in `.zarr` or as a file does), `LABEL.zarr` is written into it for each simulation.
    cell_size_mpc
        Regrid to cells of about this comoving size (see `reion.simulation.regridding.regrid`).
    force
        Replace existing outputs that reion wrote.
    resume
        Refuse to begin anew.
    workers
        Who does the pieces, which are blocks of snapshots; this process if None.
    progress
        Called with the numbers of pieces done and of all pieces.

    Returns
    -------
    dict
        `stores`: for each store its `path`, `label`, `shape`, `redshifts`, `fields` (name to units),
        `box_size_mpc`, `cell_size_mpc`, `cosmology` with whether it was `assumed`, `sha256` of each field,
        `doubts`, what looks wrong with the density, one sentence each;
        `seconds` and `peak_memory_bytes` of the process.

    Raises
    ------
    InputError
        As `open_simulation` and `write_simulation` do, as early as possible; if a store would be, contain or
        lie in a source, or replace something that reion did not write; if a source changed while it was read.
    """
    started = time.perf_counter()
    listed = [sources] if isinstance(sources, str | Path) else list(sources)
    files = SourceFiles.list(source_files(sources, format=format, settings=settings))
    sims = open_simulations(sources, format=format, settings=settings)
    growing = _growing_stores(list(sims), Path(out).expanduser(), listed, force=force)
    sims = _to_write(sims, growing, cell_size_mpc)
    workers = workers or ThisProcess()
    stores = []
    for label, sim in sims.items():
        doubts = grow_store(
            sim,
            growing[label],
            conditions={"simulation": label, "files or sources": files.digest, **described_conditions(sim)},
            files=files,
            attrs=_provenance(listed),
            workers=workers,
            resume=resume,
            progress=progress,
        )
        stores.append({**_described(growing[label].out, label), "doubts": doubts})
    return {
        "stores": stores,
        "seconds": time.perf_counter() - started,
        "peak_memory_bytes": peak_memory_bytes(),
    }


def _to_write(
    sims: Mapping[str, xr.Dataset], growing: Mapping[str, GrowingStore], cell_size_mpc: float | None
) -> dict[str, xr.Dataset]:
    """The simulations, regridded if wanted; refused if a unit cannot be stored in the output."""
    if cell_size_mpc is not None:
        from reion.simulation.regridding import regrid

        sims = {label: regrid(sim, cell_size_mpc) for label, sim in sims.items()}
    for label, sim in sims.items():
        units = {name: sim[name].attrs["units"] for name in FIELDS if name in sim.data_vars}
        check_packable(growing[label].out, units)
    return dict(sims)


def grow_store(
    sim: xr.Dataset,
    growing: GrowingStore,
    *,
    conditions: Mapping[str, Any],
    files: SourceFiles | None = None,
    workers: Workers,
    attrs: Mapping[str, Any] | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> list[str]:
    """Write a Simulation as `write_simulation` does, but by `workers`, and go on after an interruption.

    Parameters
    ----------
    conditions
        The conditions under which work goes on (see `GrowingStore.begin`).
    files
        The files that the Simulation is read from. They must not have changed when the store is whole.

    Returns
    -------
    list of str
        What looks wrong with the density (see `reion.storage.store.density_doubts`); empty if an earlier call
        had finished.

    Raises
    ------
    InputError
        As `convert` does.
    """
    check_simulation(sim, values=False)
    doubts: list[str] = []
    with growing.alone():
        growing.begin(conditions, functools.partial(create_store, sim, attrs=attrs or {}), resume=resume)
        if not growing.is_moved_in():
            pieces = pieces_of(sim)
            done = growing.done()
            missing = [piece for piece in pieces if piece not in done]
            job = WriteFields(sim, growing.store)
            for count, _ in enumerate(growing.do(workers, job, missing), start=1):
                if progress is not None:
                    progress(len(done) + count, len(pieces))
            results = list(map(growing.result, pieces))
            finish_store(sim, growing.store, results)
            doubts = density_doubts(sim, pieces, results)
        growing.move_in(files)
    return doubts


def described_conditions(sim: xr.Dataset) -> dict[str, Any]:
    """Everything about a Simulation but its values, for the conditions under which work on it goes on."""
    return {
        "box": {str(key): str(value) for key, value in sim.attrs.items()},
        "mesh": [sim.sizes[axis] for axis in AXES],
        "redshifts": sim["redshift"].values.tolist(),
        "fields": {
            str(name): {str(key): str(value) for key, value in field.attrs.items()}
            for name, field in sim.data_vars.items()
        },
    }


def _growing_stores(
    labels: Sequence[str], out: Path, sources: Sequence[str | Path], *, force: bool
) -> dict[str, GrowingStore]:
    """The growing store of each simulation, by its label; refused where it may not be written."""
    try:
        is_folder = out.is_dir() and not is_store(out)
    except OSError as error:
        raise InputError(f"cannot be written: {error}", file=out) from error
    one_only = out.suffix == ".zarr" or is_store(out) or packing_of(out) is not None
    if len(labels) > 1 and not is_folder and one_only:
        raise InputError(
            f"expected one simulation; received {len(labels)}: {', '.join(labels)}",
            hint=f"give a folder as --out: one store each; or name the files of one of them ('{labels[0]}*')",
        )
    places = (
        {label: out / f"{label}.zarr" for label in labels}
        if is_folder or len(labels) > 1
        else {labels[0]: out}
    )
    stores = {
        label: GrowingStore(
            output_path(place, kind_of(place), sources=sources),
            kind_of(place),
            "converting",
            force,
            packing_of(place),
        )
        for label, place in places.items()
    }
    existing = [label for label, store in stores.items() if store.out.exists() and not store.is_moved_in()]
    if existing and not force and len(existing) < len(stores):
        absent = [label for label in stores if label not in existing]
        hint = f"--force replaces it; not there yet: {', '.join(absent)}"
        first = stores[existing[0]]
        refuse_existing(first.out, first.kind, force=False, hint=hint)
    for store in stores.values():
        store.refuse_existing()
    return stores


def _provenance(sources: Sequence[str | Path]) -> dict[str, Any]:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {
        "converted_by": f"reion {reion.__version__}",
        "converted_at": now,
        "sources": list(map(str, sources)),
    }


def _described(path: Path, label: str) -> dict[str, Any]:
    packed = packing_of(path) is not None
    sim = open_simulation(path) if packed else xr.open_zarr(path, chunks=None)
    present = [name for name in FIELDS if name in sim]
    sha256 = digests_in(path) if packed else {name: sim[name].attrs["sha256"] for name in present}
    return {
        "path": str(path),
        "label": label,
        "shape": [sim.sizes[axis] for axis in ("x", "y", "z")],
        "redshifts": sim["redshift"].values.tolist(),
        "fields": {name: sim[name].attrs["units"] for name in present},
        "box_size_mpc": list(box_size_mpc(sim)),
        "cell_size_mpc": list(cell_sides_mpc(sim)),
        "cosmology": {
            **{key: sim.attrs[key] for key in DEFAULT_COSMOLOGY},
            "assumed": bool(sim.attrs["cosmology_assumed"]),
        },
        "sha256": sha256,
    }
