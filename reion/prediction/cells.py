"""Fit a model file to other cells: the stem is written anew, the trunk stays the same."""

from __future__ import annotations

import dataclasses

from pydantic import ValidationError

from reion.errors import InputError
from reion.models.photon_plan import stem_settings
from reion.models.transport import Transport
from reion.networks import TransportSettings
from reion_exports.card import ModelCard


def at_cell_size(content: bytes, card: ModelCard, cell_size_mpc: float) -> bytes:
    """The bytes of a model file, fitted to cells of another comoving side.

    Raises
    ------
    InputError
        If the model serves one cell size only, or its card does not hold the settings of its stem.
    """
    stem = transport_of(card, cell_size_mpc)
    if "pooled" in card.scores and cell_size_mpc != card.cell_size_mpc:
        # Nobody has measured the scores with the new cells, so they say with which cells they were measured.
        card = dataclasses.replace(card, scores={"cell_size_mpc": card.cell_size_mpc, **card.scores})
    import onnx

    from reion_exports.stem import with_stem

    model = onnx.load_from_string(content)
    whole = with_stem(model, stem, card, trunk_radius_cells=card.trunk_radius_cells or 0)
    fitted: bytes = whole.SerializeToString()
    return fitted


def transport_of(card: ModelCard, cell_size_mpc: float) -> Transport:
    """The stem of the model, for cells of this size.

    Raises
    ------
    InputError
        If the model serves one cell size only, or its card does not hold the settings of its stem.
    """
    if card.trunk_radius_cells is None:
        raise InputError(
            f"the model {card.name} serves the cells that it was trained on, of {card.cell_size_mpc:g} Mpc; "
            f"received cells of {cell_size_mpc:g} Mpc",
            hint="`reion models` lists those that serve any",
        )
    try:
        settings = stem_settings(TransportSettings, card.provenance["config"]["model"])
    except (KeyError, TypeError, ValidationError) as error:
        raise InputError(
            f"the model {card.name} does not say how its stem (the fixed filters) is made, and cannot be "
            f"fitted to cells of {cell_size_mpc:g} Mpc",
            hint=f"it is for cells of {card.cell_size_mpc:g} Mpc",
        ) from error
    return Transport.of_settings(settings, cell_size_mpc)
