"""Check that a graph has the receptive radius and the stride that its card states."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from reion.errors import InputError
from reion.prediction.model_file import UNCHANGED
from reion_exports.parity import realistic_fields

if TYPE_CHECKING:
    from reion.prediction.emulator import Emulator

_TOLERANCE = 0.01
"""Largest difference between a window and the whole box, as a share of the range of xi. Rounding makes 1e-5,
a wrong stride a tenth or more."""

_LEAST_RANGE = 1e-4
"""Smallest range of xi that the tolerance is multiplied with: xi of an untrained network hardly varies."""

_BOX = ((5, 5), (3, 1), (2, 1))
"""For each side of the box, the least number of cells and of blocks (of the stride). Five blocks are no
multiple of blocks that are two, three or four times as long."""

_MAX_MFP_MPC = 30.0


def probe(emulator: Emulator) -> None:
    """Compare a tiny periodic box with a window of it that begins one block further and includes its halo.

    Both agree if the card's receptive radius and stride are those of the graph. Tiles are cut by these two;
    wrong values would make wrong cells at the edges of tiles, without any error.

    Raises
    ------
    InputError
        If the graph fails on such a window, or its values differ from those of the box.
    """
    card = emulator.card
    radius, stride = card.receptive_radius_cells, card.stride_cells
    cells = tuple(-(-max(least, blocks * stride) // stride) * stride for least, blocks in _BOX)
    fields = realistic_fields(card, cells)
    further = {name: np.roll(values, -stride, axis=(0, 1, 2)) for name, values in fields.items()}
    halo = [(radius, radius), (0, 0), (0, 0)]
    windows = {name: np.pad(values, halo, mode="wrap") for name, values in further.items()}
    conditions = dict.fromkeys(card.conditions, _MAX_MFP_MPC)
    redshift = sum(card.redshift_range) / 2
    promise = (
        f"the model's metadata promise that it looks {radius} cells far and works on blocks of {stride} cells"
    )
    try:
        whole = emulator.predict_window(redshift, fields, periodic=(1, 1, 1), conditions=conditions)
        window = emulator.predict_window(redshift, windows, periodic=(0, 1, 1), conditions=conditions)
    except InputError as error:
        raise InputError(
            f"{promise}; asked accordingly, it fails: {error.message}", file=emulator.file, hint=error.hint
        ) from error
    expected = np.roll(whole, -stride, axis=(0, 1, 2))
    difference = float(np.max(np.abs(window - expected)))
    if difference > _TOLERANCE * max(float(np.ptp(whole)), _LEAST_RANGE):
        raise InputError(
            f"{promise}; a window cut accordingly differs from the whole box by {difference:.2g} in xi",
            file=emulator.file,
            hint=UNCHANGED,
        )
