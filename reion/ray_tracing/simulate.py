"""`reion simulate`: a Simulation with density and sources in, the same with the ionised fraction out."""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import reion
from reion.jobs.growing import GrowingStore, StorePiece
from reion.jobs.places import output_path
from reion.jobs.resources import peak_memory_bytes, thread_limit
from reion.jobs.sources import SourceFiles
from reion.jobs.workers import ThisProcess, Workers
from reion.ray_tracing.evolve import Interval, check_traceable, evolve, reach_mpc
from reion.ray_tracing.settings import TRACED_FIELDS, RayTracing, traced_fields
from reion.ray_tracing.tracers import SharedTracing
from reion.readers import Source, open_simulation, source_files
from reion.simulation.contract import (
    DIMS,
    FIELDS,
    MAX_MFP,
    box_size_mpc,
    check_simulation,
    shape_of,
    with_max_mfp,
)
from reion.storage.conversion import described_conditions
from reion.storage.store import (
    STORE,
    WriteFields,
    blocks_of,
    create_store,
    finish_store,
    pieces_of,
    write_block,
)
from reion_kernels import Photons

_BUDGET = "traced_snapshots"
"""Attribute of a store that was ray-traced: every `TracedSnapshot`, as JSON."""

_TRACED = -1
"""In place of the number of a block: the ionised fraction of a whole snapshot."""

TracingProgress = Callable[[int, int, Mapping[str, float]], None]
"""Called with the thousandths of the work that are done, their number, the redshift and the mean xi."""


@dataclass(frozen=True, kw_only=True)
class TracedSnapshot:
    """What happened until a snapshot.

    Parameters
    ----------
    redshift
        Of the snapshot.
    mean_xi
        Mean ionised fraction over the volume.
    photons
        What became of the photons since the snapshot before.
    sources
        Number of sources whose rays were traced since the snapshot before.
    max_mfp_mpc
        The comoving radius in Mpc that they reached.
    iterations
        Rounds of rays and chemistry, one number a time step.
    converged
        Whether every time step converged.
    """

    redshift: float
    mean_xi: float
    photons: Photons
    sources: int
    max_mfp_mpc: float
    iterations: tuple[int, ...]
    converged: bool


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """What a ray tracing has made.

    Parameters
    ----------
    output
        The store.
    snapshots
        Every snapshot but the first, whose ionised fraction is `initial_xi`.
    seconds
        What this call took; of an interrupted ray tracing, without what was done before.
    peak_memory_bytes
        Of this process; None where the system does not tell.
    """

    output: Path
    snapshots: tuple[TracedSnapshot, ...]
    seconds: float
    peak_memory_bytes: int | None

    @property
    def photons(self) -> Photons:
        """What became of all photons."""
        totals = zip(*(snapshot.photons for snapshot in self.snapshots), strict=True)
        return Photons(*(float(sum(numbers)) for numbers in totals))

    def to_json(self) -> dict[str, Any]:
        """The result as JSON."""
        return {
            "output": str(self.output),
            "snapshots": [
                {**asdict(snapshot), "photons": snapshot.photons._asdict()} for snapshot in self.snapshots
            ],
            "photons": self.photons._asdict(),
            "converged": all(snapshot.converged for snapshot in self.snapshots),
            "seconds": self.seconds,
            "peak_memory_bytes": self.peak_memory_bytes,
        }


def simulate(
    sources: Source,
    out: str | Path,
    tracing: RayTracing | None = None,
    *,
    format: str | None = None,  # noqa: A002 (the name of the command's flag)
    settings: Mapping[str, str] | None = None,
    rates: bool = False,
    force: bool = False,
    resume: bool = False,
    workers: Workers | None = None,
    progress: TracingProgress | None = None,
) -> Simulated:
    """Trace the rays of a simulation's sources through its gas, snapshot after snapshot, into a store.

    The store holds what the simulation does, with `xi` and `max_mfp` as they come out. It appears at its
    place when it is whole. Interrupted and called again with the same arguments, the ray tracing goes on
    after the last snapshot that was finished, and ends with the same numbers to the last bit.

    Parameters
    ----------
    sources, format, settings
        As for `reion.readers.open_simulation`: a simulation with `n_igm` and `n_src`.
    out
        The Zarr store to write.
    tracing
        The schema; by default its defaults, with the simulation's own `max_mfp`.
    rates
        Store the rate of photo-ionisations too, as `ionisation_rate`.
    force, resume
        Replace a store that exists; refuse to begin anew.
    workers
        Who traces the rays; this process where it is None.

    Raises
    ------
    InputError
        If the simulation lacks what ray tracing needs (see `reion.ray_tracing.evolve.check_traceable`); as
        `reion.storage.conversion.convert` does.
    """
    listed = [sources] if isinstance(sources, str | Path) else list(sources)
    files = SourceFiles.list(source_files(sources, format=format, settings=settings))
    return trace_simulation(
        open_simulation(sources, format=format, settings=settings),
        output_path(out, STORE, sources=listed),
        tracing or RayTracing(),
        files=files,
        rates=rates,
        force=force,
        resume=resume,
        workers=workers or ThisProcess(),
        progress=progress,
    )


def trace_simulation(
    given: xr.Dataset,
    out: Path,
    tracing: RayTracing,
    *,
    files: SourceFiles,
    rates: bool = False,
    force: bool = False,
    resume: bool = False,
    workers: Workers,
    progress: TracingProgress | None = None,
) -> Simulated:
    """Do what `simulate` does for a Simulation that is open, which was read from `files`."""
    started = time.perf_counter()
    check_traceable(given, tracing)
    if "xi" in given.data_vars:
        warnings.warn("the ionised fraction that the simulation holds is not used", stacklevel=3)
    given = given.drop_vars([name for name in TRACED_FIELDS if name in given.data_vars])
    whole = _with_results(given, tracing, rates=rates)
    _warn_if_wide(whole)
    growing = GrowingStore(out, STORE, "simulating", force)
    growing.refuse_existing()
    conditions = {
        "files or sources": files.digest,
        "ray tracing": tracing.model_dump(mode="json"),
        **described_conditions(whole),
    }
    attrs = {
        "source_code": f"reion {reion.__version__}, density and sources from {given.attrs['source_code']}",
        "ray_tracing": tracing.model_dump_json(),
    }
    with growing.alone():
        growing.begin(conditions, functools.partial(create_store, whole, attrs=attrs), resume=resume)
        if not growing.is_moved_in():
            copied = pieces_of(given)
            missing = [piece for piece in copied if piece not in growing.done()]
            for _ in growing.do(workers, WriteFields(given, growing.store), missing):
                pass
            traced = list(_trace_snapshots(whole, growing, tracing, workers, progress))
            results = [growing.result(piece) for piece in [*copied, *traced]]
            budget = [result["traced"] for result in results if result.get("traced")]
            finish_store(whole, growing.store, results, attrs={_BUDGET: budget})
        growing.move_in(files)
    return Simulated(
        output=growing.out,
        snapshots=traced_snapshots(xr.open_zarr(growing.out, chunks=None)),
        seconds=time.perf_counter() - started,
        peak_memory_bytes=peak_memory_bytes(),
    )


def _with_results(sim: xr.Dataset, tracing: RayTracing, *, rates: bool) -> xr.Dataset:
    """The simulation with the fields that ray tracing adds, still without their values."""
    names = traced_fields(rates=rates)
    nothing = np.broadcast_to(np.float32(0.0), sim["n_igm"].shape)
    fields = {
        name: (DIMS, nothing, {"units": FIELDS[name].units[0], "long_name": FIELDS[name].long_name})
        for name in names
    }
    reaches_mpc = [reach_mpc(sim, tracing, index) for index in range(sim.sizes["redshift"])]
    return check_simulation(with_max_mfp(sim.assign(fields), reaches_mpc), values=False)


def _warn_if_wide(sim: xr.Dataset) -> None:
    """Say that photons reach round the box, where they do."""
    farthest_mpc, shortest_mpc = float(sim[MAX_MFP].max()), min(box_size_mpc(sim))
    if farthest_mpc > shortest_mpc / 2:
        warnings.warn(
            f"photons reach {farthest_mpc:g} Mpc, more than half the box of {shortest_mpc:g} Mpc: every cell "
            "gets each source once, through its nearest image",
            stacklevel=4,
        )


def _trace_snapshots(
    sim: xr.Dataset,
    growing: GrowingStore,
    tracing: RayTracing,
    workers: Workers,
    progress: TracingProgress | None,
) -> Iterator[StorePiece]:
    """Trace what is not traced yet, one snapshot after the other; yield the piece of each."""
    import zarr

    arrays: Any = zarr.open_group(growing.store, mode="r+")
    names = [name for name in TRACED_FIELDS if name in sim.data_vars]
    intervals = sim.sizes["redshift"] - 1
    done = growing.done()
    trace = SharedTracing(workers, growing.folder)
    state: np.ndarray | None = None
    for index in range(sim.sizes["redshift"]):
        piece = (index, _TRACED)
        if piece in done:
            yield piece
            continue
        interval: Interval | None = None
        if index == 0:
            state = np.full(shape_of(sim), tracing.initial_xi, dtype=np.float32)
        else:
            if state is None:  # what an interrupted call has left
                state = np.asarray(arrays["xi"][index - 1])

            def report(share: float, mean_xi: float, index: int = index) -> None:
                if progress is not None:
                    redshift = float(sim["redshift"][index])
                    done_share = round(1000 * (index - 1 + share))
                    progress(done_share, 1000 * intervals, {"z": redshift, "mean xi": mean_xi})

            interval = evolve(
                sim, index - 1, state, tracing, trace=trace, threads=thread_limit(), progress=report
            )
            state = interval.xi
        values = {
            "xi": state,
            "ionisation_rate": np.zeros_like(state) if interval is None else interval.gamma,
        }
        digests: dict[str, dict[str, str]] = {name: {} for name in names}
        for name in names:
            for block in blocks_of(shape_of(sim)):
                digests[name] |= write_block(arrays[name], values[name][block], index, block)
        traced = None if interval is None else asdict(_traced(sim, index, interval))
        growing.note(piece, {"digests": digests, "shining": False, "traced": traced})
        yield piece


def _traced(sim: xr.Dataset, index: int, interval: Interval) -> TracedSnapshot:
    return TracedSnapshot(
        redshift=float(sim["redshift"][index]),
        mean_xi=float(interval.xi.mean(dtype=np.float64)),
        photons=interval.photons,
        sources=interval.sources,
        max_mfp_mpc=interval.max_mfp_mpc,
        iterations=interval.iterations,
        converged=interval.converged,
    )


def traced_snapshots(sim: xr.Dataset) -> tuple[TracedSnapshot, ...]:
    """What happened until every snapshot of a simulation that `simulate` made; of any other, nothing."""
    return tuple(
        TracedSnapshot(
            **{**noted, "photons": Photons(*noted["photons"]), "iterations": tuple(noted["iterations"])}
        )
        for noted in sim.attrs.get(_BUDGET, ())
    )
