"""Predicted cost of a ray tracing: memory, bytes and time."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from reion.jobs.plan import TERMS, Measurement, Plan, Terms, bytes_below, time_is_up
from reion.ray_tracing.evolve import check_traceable, photo_table, reach_mpc, sources_of
from reion.ray_tracing.settings import TRACED_FIELDS, RayTracing, traced_fields
from reion.simulation.constants import CM_PER_MPC
from reion.simulation.contract import FIELDS, cells_of, cubic_cell_size_mpc, shape_of
from reion_kernels import trace_rays

_MEBIBYTE = 1 << 20
_SIMULATE_BYTES = 260 * _MEBIBYTE
"""Memory of the program with its kernels."""
_SIMULATE_BYTES_A_CELL = 110.0
"""Memory a cell: density, fractions and rates of a time step, most in float64, and the rates of each
thread."""

_ROUNDS_A_STEP = 8
"""Approximate iterations of rays and chemistry in a time step: fewer early on, more when bubbles merge."""

_SAMPLE_SOURCES = 32

_REDSHIFT, _NEUTRAL_CM3 = 8.0, 1e-5
"""The gas of the sample that is timed: hydrogen of the mean density at this redshift, 93 % ionised."""


def plan_simulate(
    sim: xr.Dataset,
    sources: Sequence[Path],
    tracing: RayTracing,
    *,
    rates: bool = False,
    terms: Terms = TERMS,
) -> Plan:
    """Plan a ray tracing. Its unit of work is one cell of the sphere of one source in one iteration.

    The number of iterations is an estimate.

    Parameters
    ----------
    rates
        Whether the photo-ionisation rate is stored too.

    Raises
    ------
    InputError
        If the simulation lacks a field or fact that ray tracing needs (see
        `reion.ray_tracing.evolve.check_traceable`).
    """
    check_traceable(sim, tracing)
    cell_mpc, shape = cubic_cell_size_mpc(sim), shape_of(sim)
    intervals = sim.sizes["redshift"] - 1
    counts = [len(sources_of(sim["n_src"][index].values, cell_mpc)[1]) for index in range(intervals)]
    spheres = [_cells_within(reach_mpc(sim, tracing, index) / cell_mpc, shape) for index in range(intervals)]
    source_cells = sum(count * sphere for count, sphere in zip(counts, spheres, strict=True))

    def measure() -> Measurement:
        middle = intervals // 2
        positions, photon_rates = sources_of(sim["n_src"][middle].values, cell_mpc)
        some = slice(min(len(photon_rates), _SAMPLE_SOURCES))
        neutral = np.full(shape, _NEUTRAL_CM3)
        traced, begin = 0, time.perf_counter()
        while traced == 0 or not time_is_up(begin):
            trace_rays(
                neutral,
                positions[some],
                photon_rates[some],
                cell_cm=cell_mpc * CM_PER_MPC / (1 + _REDSHIFT),
                max_mfp_cells=reach_mpc(sim, tracing, middle) / cell_mpc,
                table=photo_table(tracing),
            )
            traced += max(1, min(len(photon_rates), _SAMPLE_SOURCES)) * spheres[middle]
        return Measurement(cells=traced, seconds=time.perf_counter() - begin)

    given = {name for name in FIELDS if name in sim.data_vars} - set(TRACED_FIELDS)
    written = len(given | {"n_ion"}) + len(traced_fields(rates=rates))
    return Plan(
        command="simulate",
        cells=source_cells * tracing.steps * _ROUNDS_A_STEP,
        pieces=max(1, *counts),
        bytes_read=bytes_below(sources),
        bytes_written=4 * written * sim.sizes["redshift"] * cells_of(sim),
        peak_memory_bytes=round(_SIMULATE_BYTES + _SIMULATE_BYTES_A_CELL * cells_of(sim)),
        speed=terms.speed(measure),
    )


def _cells_within(radius_cells: float, shape: tuple[int, int, int]) -> int:
    """Number of cells of a sphere, or of the box if that is smaller."""
    return max(1, min(round(4 / 3 * math.pi * radius_cells**3), math.prod(shape)))
