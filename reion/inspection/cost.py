"""Plans the cost of an inspection."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import xarray as xr

from reion.inspection.blocks import InspectBlock
from reion.jobs.plan import TERMS, Measurement, Plan, Terms, bytes_below, spread_evenly, time_pieces
from reion.readers.zarr import is_store
from reion.simulation.contract import AXES, FIELDS, shape_of
from reion.storage.store import blocks_of, volume

_MEBIBYTE = 1 << 20
_LOADING_BYTES = 281 * _MEBIBYTE
"""Memory of a process while it loads the kernels, part of which is freed afterwards."""

_PROGRAM_BYTES = 229 * _MEBIBYTE
"""Memory of a process with its kernels, without the values of a block (four bytes each)."""

_DECODING_BYTES = 88 * _MEBIBYTE
_DECODING_BYTES_A_CELL = 4.6
"""Memory to decode the chunks of a Zarr store: a constant, and bytes for each cell of a block."""


def plan_inspect(sim: xr.Dataset, sources: Sequence[Path], *, terms: Terms = TERMS) -> Plan:
    """Plan an inspection of `sim`, which was opened from `sources`."""
    names = [name for name in FIELDS if name in sim.data_vars]
    values = math.prod(sim.sizes[dim] for dim in ("redshift", *AXES))
    blocks = blocks_of(shape_of(sim))
    pieces = [(index, block) for index in range(sim.sizes["redshift"]) for block in range(len(blocks))]

    def measure() -> Measurement:
        chosen = spread_evenly(pieces)
        done, seconds = time_pieces(InspectBlock(sim, None), chosen)
        return Measurement(
            cells=len(names) * sum(volume(blocks[block]) for _, block in chosen[:done]), seconds=seconds
        )

    largest = max(map(volume, blocks))
    peak = max(_LOADING_BYTES, _PROGRAM_BYTES + 4 * len(names) * largest)
    if any(map(is_store, sources)):
        peak += round(_DECODING_BYTES + _DECODING_BYTES_A_CELL * largest)
    return Plan(
        command="inspect",
        cells=values * len(names),
        pieces=len(pieces),
        bytes_read=bytes_below(sources),
        bytes_written=0,
        peak_memory_bytes=peak,
        speed=terms.speed(measure),
    )
