"""Plans the cost of a conversion."""

from __future__ import annotations

import dataclasses
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import xarray as xr

from reion.jobs.plan import TERMS, Measurement, Plan, Terms, bytes_below, few_of, spread_evenly, time_is_up
from reion.readers import open_simulations
from reion.readers.zarr import is_store
from reion.simulation.contract import AXES, FIELDS, Shape, cells_of, shape_of
from reion.simulation.regridding import regrid
from reion.storage.store import HISTORY, WriteFields, blocks_of, create_store, pieces_of, volume

_CONVERT_BYTES = 190 << 20
"""Memory of the program without fields, on Linux, x86-64."""

_FIELD_BYTES_A_CELL = 21.0
"""Memory for each cell of a block: the stored field, decoded, assembled and encoded again."""

_HISTORY_BYTES_A_CELL = 30.0
"""The same where n_ion is summed up in double precision: measured on 48³, 144³ and 200³ cells."""


def plan_each(
    sources: Sequence[Path],
    format: str | None,  # noqa: A002 (the name of the command's flag)
    settings: Mapping[str, str],
    cell_size_mpc: float | None,
) -> list[Plan]:
    """Plan the conversion of each simulation in `sources`, regridded to `cell_size_mpc` if it is given."""
    sims = open_simulations(sources, format=format, settings=settings)
    if cell_size_mpc is not None:
        sims = {label: regrid(sim, cell_size_mpc) for label, sim in sims.items()}
    # `plan_convert` counts all files for every simulation.
    plans = [plan_convert(sim, sources) for sim in sims.values()]
    return [dataclasses.replace(plan, bytes_read=plan.bytes_read // len(plans)) for plan in plans]


def plan_convert(sim: xr.Dataset, sources: Sequence[Path], *, terms: Terms = TERMS) -> Plan:
    """Plan the conversion of one simulation, which is read from `sources`."""
    written = [name for name in FIELDS if name in sim.data_vars]
    if "n_src" in written and "n_ion" not in written:
        written.append("n_ion")
    values = math.prod(sim.sizes[dim] for dim in ("redshift", *AXES))
    compression = 1.0

    def measure() -> Measurement:
        nonlocal compression
        few = sim.isel(redshift=few_of(sim.sizes["redshift"]))
        with tempfile.TemporaryDirectory() as name:
            store = Path(name) / "sim.zarr"
            create_store(few, store, {})
            pieces = pieces_of(few)
            blocks = blocks_of(shape_of(few))
            # Every field of a block is written, so that all count alike in the rate.
            chosen = spread_evenly(range(len(blocks)))
            job, cells, begin = WriteFields(few, store), 0, time.perf_counter()
            for number in chosen:
                for piece in pieces:
                    if piece[1] == number:
                        job(piece)
                cells += len(written) * few.sizes["redshift"] * volume(blocks[number])
                if time_is_up(begin):
                    break
            seconds = time.perf_counter() - begin
            stored = bytes_below([store / name / "c" for name in written])
            compression = stored / (4 * cells)
            return Measurement(cells=cells, seconds=seconds)

    speed = terms.speed(measure)
    largest = max(map(volume, blocks_of(shape_of(sim))))
    if "regridded_from_cells" in sim.attrs:
        # A block is computed from all the old cells that share volume with it.
        largest = max(largest, round(largest * math.prod(sim.attrs["regridded_from_cells"]) / cells_of(sim)))
    bytes_a_cell = _HISTORY_BYTES_A_CELL if (HISTORY, 0) in pieces_of(sim) else _FIELD_BYTES_A_CELL
    return Plan(
        command="convert",
        cells=values * len(written),
        pieces=len(pieces_of(sim)),
        bytes_read=bytes_below(sources),
        bytes_written=round(4 * values * len(written) * compression),
        compression=compression,
        peak_memory_bytes=round(_CONVERT_BYTES + bytes_a_cell * largest),
        speed=speed,
    )


def stored_share(name: str, mesh: Shape, snapshots: int, sources: Sequence[Path]) -> float:
    """Bytes on disk divided by bytes of the values of a field, from the files of a store; 1 without one."""
    for source in sources:
        if is_store(source) and (source / name).is_dir():
            return bytes_below([source / name]) / (4 * snapshots * math.prod(mesh))
    return 1.0


def field_bytes(name: str, sim: xr.Dataset, sources: Sequence[Path]) -> float:
    """Bytes on disk of a field: its chunks in stores, and an even share of all other files."""
    stores = [source for source in sources if is_store(source)]
    fields = sum(field in sim.data_vars for field in FIELDS)
    files = bytes_below(source for source in sources if source not in stores)
    return bytes_below(store / name / "c" for store in stores) + files / fields
