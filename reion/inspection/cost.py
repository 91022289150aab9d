"""What a look at every value costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import xarray as xr

from reion.inspection.look import Look
from reion.jobs.plan import TERMS, Measurement, Plan, Terms, bytes_below, spread_evenly, time_pieces
from reion.readers.zarr import is_store
from reion.simulation.contract import AXES, FIELDS, shape_of
from reion.storage.store import blocks_of, volume

_MEBIBYTE = 1 << 20
_INSPECT_BYTES = 229 * _MEBIBYTE

_INSPECT_LEAST_BYTES = 281 * _MEBIBYTE

_INSPECT_DECODING_BYTES = 88 * _MEBIBYTE

_INSPECT_DECODING_BYTES_A_CELL = 4.6
"""What a look takes beside four bytes for every field of a block: the program with its kernels; it while they
are loaded; and what decodes the chunks of a store."""


def plan_inspect(sim: xr.Dataset, sources: Sequence[Path], *, terms: Terms = TERMS) -> Plan:
    """Plan a look at every value."""
    names = [name for name in FIELDS if name in sim.data_vars]
    values = math.prod(sim.sizes[dim] for dim in ("redshift", *AXES))
    blocks = blocks_of(shape_of(sim))
    pieces = [(index, block) for index in range(sim.sizes["redshift"]) for block in range(len(blocks))]

    def measure() -> Measurement:
        chosen = spread_evenly(pieces)
        done, seconds = time_pieces(Look(sim, None), chosen)
        return Measurement(
            cells=len(names) * sum(volume(blocks[block]) for _, block in chosen[:done]), seconds=seconds
        )

    largest = max(map(volume, blocks))
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
        speed=terms.speed(measure),
    )
