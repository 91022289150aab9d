"""`reion convert`: any readable simulation to a Zarr store of ours."""

from __future__ import annotations

import datetime
import functools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xarray as xr

import reion
from reion.errors import InputError
from reion.jobs.growing import Work, fingerprint
from reion.jobs.resources import peak_memory_bytes
from reion.jobs.workers import ThisProcess, Workers
from reion.readers import Source, open_simulations
from reion.readers.zarr import is_store
from reion.simulation.contract import DEFAULT_COSMOLOGY, FIELDS, box_size_mpc, check_simulation
from reion.simulation.contract import cell_size_mpc as cell_sides_mpc
from reion.storage.store import Progress, WriteFields, create_store, finish_store, pieces_of


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
    """Convert one simulation to a Zarr store, or several to one store each in a folder.

    Every value is checked on its way. A store appears at its place when it is whole. Interrupted and called
    again with the same arguments, the conversion goes on with the first piece that is missing; where the
    input is at fault, nothing is left.

    Parameters
    ----------
    sources, format, settings
        As for `reion.readers.open_simulation`.
    out
        The store to write. A folder (one that exists and is no store, or any name that does not end in
        `.zarr` where there are several simulations) receives `LABEL.zarr` for each simulation.
    cell_size_mpc
        Regrid, conservatively, to cells of about this comoving size (see
        `reion.simulation.regridding.regrid`).
    force
        Replace stores that exist.
    resume
        Refuse to begin anew.
    workers
        Who does the pieces, snapshots and blocks of them; this process where it is None.
    progress
        Called with the pieces done and the pieces there are.

    Returns
    -------
    dict
        `stores`: for each its `path`, `label`, `shape`, `redshifts`, `fields` (name to units),
        `box_size_mpc`, `cell_size_mpc`, `cosmology` with whether it was `assumed`, `sha256` of each field;
        `seconds` and `peak_memory_bytes` of the process.

    Raises
    ------
    InputError
        As `open_simulation` and `write_simulation` do; before anything is written if it can be known.
    """
    started = time.perf_counter()
    sims = open_simulations(sources, format=format, settings=settings)
    try:
        paths = _places(list(sims), Path(out))
        existing = [path for path in paths.values() if path.exists()]
    except OSError as error:
        raise InputError(f"cannot be written: {error}", file=out) from error
    if existing and not force:
        absent = [label for label, path in paths.items() if path not in existing]
        hint = f"--force replaces it; not there yet: {', '.join(absent)}" if absent else "--force replaces it"
        raise InputError("exists already", file=existing[0], hint=hint)
    if cell_size_mpc is not None:
        from reion.simulation.regridding import regrid

        sims = {label: regrid(sim, cell_size_mpc) for label, sim in sims.items()}
    workers = workers or ThisProcess()
    stores = []
    for label, sim in sims.items():
        grow_store(
            sim,
            paths[label],
            known=fingerprint(sim, _listed(sources), label=label),
            attrs=_provenance(sources),
            workers=workers,
            resume=resume,
            force=force,
            progress=progress,
        )
        stores.append(_described(paths[label], label))
    return {
        "stores": stores,
        "seconds": time.perf_counter() - started,
        "peak_memory_bytes": peak_memory_bytes(),
    }


def grow_store(
    sim: xr.Dataset,
    path: Path,
    *,
    known: str,
    workers: Workers,
    attrs: Mapping[str, Any] | None = None,
    resume: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write a Simulation as `write_simulation` of the store does, by `workers`; interrupted, it goes on.

    Parameters
    ----------
    known
        What interrupted work must have in common with this (see `reion.jobs.growing.fingerprint`).
    """
    check_simulation(sim, values=False)
    work = Work.beside(path, "converting")
    with work.growing():
        if work.plan().get("fingerprint") != known:
            create = functools.partial(create_store, sim, attrs=attrs or {})
            work.begin({"fingerprint": known}, create, resume=resume)
        pieces = pieces_of(sim)
        done = work.done()
        missing = [piece for piece in pieces if piece not in done]
        for count, _ in enumerate(work.do(workers, WriteFields(sim, work.store), missing), start=1):
            if progress is not None:
                progress(len(done) + count, len(pieces))
        finish_store(sim, work.store, map(work.result, pieces))
        work.finish(force=force)


def _places(labels: list[str], out: Path) -> dict[str, Path]:
    """Where each simulation goes."""
    is_folder = out.is_dir() and not is_store(out)
    if len(labels) == 1 and not is_folder:
        return {labels[0]: out}
    if out.suffix == ".zarr" or is_store(out):
        raise InputError(
            f"expected one simulation; received {len(labels)}: {', '.join(labels)}",
            hint=f"give a folder as --out: one store each; or name the files of one of them ('{labels[0]}*')",
        )
    return {label: out / f"{label}.zarr" for label in labels}


def _listed(sources: Source) -> list[str | Path]:
    return [sources] if isinstance(sources, str | Path) else list(sources)


def _provenance(sources: Source) -> dict[str, Any]:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {
        "converted_by": f"reion {reion.__version__}",
        "converted_at": now,
        "sources": list(map(str, _listed(sources))),
    }


def _described(path: Path, label: str) -> dict[str, Any]:
    sim = xr.open_zarr(path, chunks=None)
    present = [name for name in FIELDS if name in sim]
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
        "sha256": {name: sim[name].attrs["sha256"] for name in present},
    }
