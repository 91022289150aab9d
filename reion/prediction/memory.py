"""The memory that a prediction takes, and the tiles that fit in a given memory."""

from __future__ import annotations

import functools
import math
import sys
from dataclasses import dataclass

from reion.jobs.resources import memory_limit_bytes, resident_memory_bytes
from reion.prediction.emulator import Emulator
from reion.prediction.stages import stage_bytes
from reion.prediction.tiles import Tiling, cheapest_tiles
from reion.simulation.contract import Shape

_DEFAULT_MEMORY_BYTES = 2 << 30

_PART_OF_LIMIT = 0.8
"""Share of the machine's memory that a process takes by default: its need is known to a quarter only."""

_PROGRAM_BYTES = 256 << 20
"""Memory of the program itself, if the system does not report it."""

_READING_BYTES = 96 << 20
"""Memory for the chunks of the store that are being read, of at most 32 MiB each."""

_SCRATCH = 1.6
"""Memory that onnxruntime takes, divided by that of the values that the graph holds at once; the rest is
scratch space and gaps. Measured on the default network, tiles of 64³ to 128³ cells: 1.33 to 1.42."""


_FEW_MORE = 1.05
"""Factor by which more cells may be computed, if the fields of a snapshot are then read only once."""


@dataclass(frozen=True)
class FittedTiles:
    """Tiles whose prediction fits in a given memory.

    Parameters
    ----------
    tiling
        The tiles.
    keep_fields
        Whether all fields of a snapshot fit in memory too, while its tiles are predicted.
    """

    tiling: Tiling
    keep_fields: bool


def default_memory_bytes() -> int:
    """Memory that a process may take by default: 2 GiB, or four fifths of the machine's if that is less."""
    limit = memory_limit_bytes()
    return min(_DEFAULT_MEMORY_BYTES, sys.maxsize if limit is None else int(_PART_OF_LIMIT * limit))


def fit_tiles(emulator: Emulator, mesh: Shape, memory_bytes: int) -> FittedTiles:
    """Choose the cheapest tiles of a box with which a process takes no more than `memory_bytes`.

    Raises
    ------
    InputError
        If not even the smallest tile fits; the message gives the memory that it takes.
    """
    card = emulator.card
    allowed = memory_bytes - (resident_memory_bytes() or _PROGRAM_BYTES) - _READING_BYTES
    fit = functools.partial(
        cheapest_tiles,
        mesh,
        halo_cells=card.receptive_radius_cells,
        stride_cells=card.stride_cells,
        needed_bytes=functools.partial(_tile_bytes, emulator, mesh),
    )
    tiling = fit(allowed_bytes=allowed)
    snapshot_bytes = 4 * len(card.inputs) * math.prod(mesh)
    if snapshot_bytes > allowed // 4:
        return FittedTiles(tiling, keep_fields=False)
    beside_fields = fit(allowed_bytes=allowed - snapshot_bytes)
    # Reading a cell again costs little compared with computing it.
    keep_fields = beside_fields.cells_computed <= _FEW_MORE * tiling.cells_computed
    return FittedTiles(beside_fields if keep_fields else tiling, keep_fields)


def expected_peak_bytes(emulator: Emulator, tiles: FittedTiles) -> int:
    """Peak memory of a process that predicts these tiles, if its program takes as much as this process."""
    cells = math.prod(tiles.tiling.mesh)
    chunks = min(_READING_BYTES, 12 * cells)
    fields = 4 * len(emulator.card.inputs) * cells if tiles.keep_fields else 0
    program = resident_memory_bytes() or _PROGRAM_BYTES
    return round(program + chunks + fields + _tile_bytes(emulator, tiles.tiling.mesh, tiles.tiling.tile))


def prediction_bytes(emulator: Emulator, mesh: Shape) -> float:
    """Memory that `PredictedField` takes to predict a box of this mesh, without the program itself."""
    return _tile_bytes(emulator, mesh, fit_tiles(emulator, mesh, default_memory_bytes()).tiling.tile)


def _tile_bytes(emulator: Emulator, mesh: Shape, tile: Shape) -> float:
    """Bytes that the prediction of a tile of this shape takes.

    Along an axis where the tile is the whole box, a file with a separate stem wraps the box for each filter
    and for the trunk, and needs no halo.
    """
    card = emulator.card
    whole_halo = card.receptive_radius_cells if card.trunk_radius_cells is None else card.trunk_radius_cells
    window = math.prod(
        side + 2 * (whole_halo if side >= n else card.receptive_radius_cells)
        for side, n in zip(tile, mesh, strict=True)
    )
    if emulator.stages is not None:
        x, y, z = (
            n if side >= n else side + 2 * card.receptive_radius_cells
            for side, n in zip(tile, mesh, strict=True)
        )
        whole = (x, y, z)
        held = stage_bytes(emulator.stages, whole, tile, _SCRATCH * card.working_bytes[1])
        return held + 4 * len(card.inputs) * math.prod(whole)
    alive = card.working_bytes[0] * window + card.working_bytes[1] * math.prod(tile)
    return _SCRATCH * alive + 4 * len(card.inputs) * window
