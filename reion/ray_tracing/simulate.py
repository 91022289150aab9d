"""`reion simulate`: adds the ionised fraction to a Simulation with density and sources."""

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
from reion.simulation.recombinations import CLUMPING, clumping_table
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
"""Attribute of a ray-traced store: every `TracedSnapshot`, as JSON."""

_TRACED = -1
"""Block number of a piece that is the ionised fraction of a whole snapshot."""

TracingProgress = Callable[[int, int, Mapping[str, float]], None]
"""Called with the finished thousandths of the work, their total number, the redshift and the mean xi."""


@dataclass(frozen=True, kw_only=True)
class TracedSnapshot:
    """A ray-traced snapshot: the state at its redshift, and the ray tracing since the snapshot before.

    Parameters
    ----------
    redshift
        Redshift of the snapshot.
    mean_xi
        Mean ionised fraction over the volume.
    photons
        Count of the photons since the snapshot before.
    sources
        Number of sources whose rays were traced since the snapshot before.
    max_mfp_mpc
        The comoving radius in Mpc that photons reached.
    iterations
        Iterations of rays and chemistry, one number for each time step.
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
    """The result of a ray tracing.

    Parameters
    ----------
    output
        Path of the store.
    snapshots
        Every snapshot except the first, whose ionised fraction is `initial_xi`.
    seconds
        Time of this call; after an interruption, without the time of earlier calls.
    peak_memory_bytes
        Peak memory of this process; None where the system does not give it.
    """

    output: Path
    snapshots: tuple[TracedSnapshot, ...]
    seconds: float
    peak_memory_bytes: int | None

    @property
    def photons(self) -> Photons:
        """Count of all photons."""
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

    The store holds the fields of the simulation, with the computed `xi` and the `max_mfp` of every snapshot.
    It appears at its path when it is complete. After an interruption a call with the same arguments goes on
    after the last finished snapshot, and ends with the same bits as an unbroken one.

    Parameters
    ----------
    sources, format, settings
        As for `reion.readers.open_simulation`: a simulation with `n_igm` and `n_src`.
    out
        The Zarr store to write.
    tracing
        Settings of the ray tracing; by default their defaults, with the simulation's own `max_mfp` and
        clumping factor.
    rates
        Also store the photo-ionisation rate, as `ionisation_rate`.
    force, resume
        Replace a store that exists; refuse to begin anew.
    workers
        Workers that trace the rays; None: this process.

    Raises
    ------
    InputError
        If the simulation lacks a field or fact that ray tracing needs (see
        `reion.ray_tracing.evolve.check_traceable`), or for the reasons of `reion.storage.conversion.convert`.
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
    """Do the work of `simulate` for an open Simulation, which was read from `files`."""
    started = time.perf_counter()
    given, tracing = _with_one_clumping(given, tracing)
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


def _with_one_clumping(sim: xr.Dataset, tracing: RayTracing) -> tuple[xr.Dataset, RayTracing]:
    """The simulation without its clumping factor, which the settings have unless they name another."""
    if CLUMPING not in sim.attrs:
        return sim, tracing
    if "clumping" not in tracing.model_fields_set:
        table = clumping_table(sim.attrs)
        tracing = RayTracing.model_validate({**tracing.model_dump(exclude_unset=True), "clumping": table})
    without = sim.copy()
    del without.attrs[CLUMPING]
    return without, tracing


def _with_results(sim: xr.Dataset, tracing: RayTracing, *, rates: bool) -> xr.Dataset:
    """The simulation with the fields that ray tracing adds, whose values are not computed yet."""
    names = traced_fields(rates=rates)
    nothing = np.broadcast_to(np.float32(0.0), sim["n_igm"].shape)
    fields = {
        name: (DIMS, nothing, {"units": FIELDS[name].units[0], "long_name": FIELDS[name].long_name})
        for name in names
    }
    reaches_mpc = [reach_mpc(sim, tracing, index) for index in range(sim.sizes["redshift"])]
    return check_simulation(with_max_mfp(sim.assign(fields), reaches_mpc), values=False)


def _warn_if_wide(sim: xr.Dataset) -> None:
    """Warn if photons reach round the box."""
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
    """Trace the snapshots that are not traced yet, one after the other; yield the piece of each."""
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
            if state is None:  # continue from the xi that an interrupted call has stored
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
    """The traced snapshots of a simulation that `simulate` made; empty for any other simulation."""
    return tuple(
        TracedSnapshot(
            **{**noted, "photons": Photons(*noted["photons"]), "iterations": tuple(noted["iterations"])}
        )
        for noted in sim.attrs.get(_BUDGET, ())
    )
