"""Write and read the metadata of a model file: its card, texts for viewers, and a checksum over all."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from reion_exports.anatomy import CHECKSUM, Anatomy, HostileFileError, checksum, dissect
from reion_exports.card import PREFIX, ModelCard

if TYPE_CHECKING:
    import onnx

MEANINGS: Mapping[str, str] = {
    "n_igm": "baryon density, comoving",
    "n_src": "ionising photon rate of the sources that switch on at this snapshot, comoving",
    "n_ion": "ionising photons emitted up to this snapshot, comoving",
    "propagation_mask": "mean of n_src over the ball that its photons can reach",
    "redshift": "redshift of the snapshot",
    "max_mfp": "comoving radius that ionising photons reach",
    "periodic": "for each axis 1 where the box wraps around, 0 where it carries a halo of the receptive "
    "radius on both sides, without which the answer is; 1, 1, 1 unless it is given",
    "xi": "ionised fraction of hydrogen",
    "xi_std": "standard deviation of the error of xi, learnt with it",
}
"""Meanings of the inputs and outputs of a file."""

MEANINGS_KEY = PREFIX + "meanings"
"""Key of the metadata under which the meanings of a file's own inputs and outputs are, as JSON."""

_TOLD = {"max_mfp": "max_mfp", "redshift": ""}
"""Inputs whose range in the training is described, and the quantity of the card's coverage that holds it."""


def stamp(model: onnx.ModelProto, card: ModelCard) -> None:
    """Write a card and a description of graph, inputs and outputs into a model, then a checksum over it all.

    `read_card` refuses a model that is changed afterwards.
    """
    import onnx

    model.producer_name, model.producer_version = "reion", card.version
    model.doc_string = model.graph.doc_string = _description(card)
    model.graph.name = card.name
    values = (*model.graph.input, *model.graph.output)
    meanings = {value.name: _meaning(value.name, card) for value in values}
    for value in values:
        value.doc_string = meanings[value.name]
    del model.metadata_props[:]
    # The meanings again, because onnxruntime shows its users the metadata and no doc_string.
    onnx.helper.set_model_props(model, {**card.to_metadata(), MEANINGS_KEY: json.dumps(meanings)})
    digest = checksum(model.SerializeToString())
    model.metadata_props.add(key=CHECKSUM, value=json.dumps(digest))


def read_card(content: bytes) -> tuple[ModelCard, Anatomy]:
    """Read the card of a model file and its parts, without running anything.

    Raises
    ------
    HostileFileError
        As `dissect` does; if the file does not match its checksum.
    CardError
        As `ModelCard.from_metadata` does.
    """
    anatomy = dissect(content)
    card = ModelCard.from_metadata(anatomy.metadata)
    stored = anatomy.metadata.get(CHECKSUM)
    if stored != json.dumps(anatomy.checksum):
        raise HostileFileError(
            "its content is not what its checksum was made of: the file is damaged, or was changed after it "
            f"was written (stored {str(stored)[:20]}…, found {anatomy.checksum[:16]}…)"
        )
    return card, anatomy


def meanings_of(anatomy: Anatomy) -> dict[str, str]:
    """Meaning, unit and range of each input and output of a file; empty for a file that does not say them."""
    try:
        found = json.loads(anatomy.metadata.get(MEANINGS_KEY, "{}"))
    except (ValueError, RecursionError):
        return {}
    return {str(name): str(text) for name, text in found.items()} if isinstance(found, dict) else {}


def restamp(content: bytes, **changes: Any) -> bytes:
    """Return a model file with other values in its card and a new checksum; the graph stays the same.

    Parameters
    ----------
    content
        The bytes of a valid model file.
    changes
        New values of the card, by name.

    Raises
    ------
    HostileFileError, CardError
        As `read_card` does; if a new value is invalid.
    """
    import onnx

    card, _ = read_card(content)
    model = onnx.load_from_string(content)
    stamp(model, dataclasses.replace(card, **changes))
    changed: bytes = model.SerializeToString()
    return changed


def _description(card: ModelCard) -> str:
    low, high = card.redshift_range
    cells = f"cells of {card.cell_size_mpc:g} comoving Mpc"
    r2 = card.scores.get("pooled", {}).get("r2") if isinstance(card.scores.get("pooled"), Mapping) else None
    measured = card.scores.get("cell_size_mpc")
    where = f", with cells of {measured:g} Mpc" if isinstance(measured, float | int) else ""
    score = f" R2 on a box kept out of training{where}: {r2:.4f}." if isinstance(r2, float) else ""
    return (
        f"{card.name} {card.version}: the ionised fraction of hydrogen, as radiative transfer gives it, from "
        f"{', '.join(card.inputs)}. Raw physical fields of a periodic box in, for {cells} and redshifts from "
        f"{low:g} to {high:g}; units, normalisation and wrapping are inside. The answer in a cell depends on "
        f"{card.receptive_radius_cells} cells to either side along each axis.{score} Licence of the weights: "
        f"{card.licence}. The rest of the card: the metadata under reion."
    )


def _meaning(name: str, card: ModelCard) -> str:
    """Meaning, unit and range of an input or output."""
    text = MEANINGS.get(name, name)
    if name in card.inputs:
        return f"{text}; unit {card.inputs[name]}; not negative"
    if name == "redshift":
        low, high = card.redshift_range
        return f"{text}; one number a box; the training had {low:g} to {high:g}"
    if name in card.conditions:
        rows = card.coverage.get(name) or []
        span = (
            f"; the training had {min(r[1] for r in rows):g} to {max(r[2] for r in rows):g}" if rows else ""
        )
        return f"{text}; unit Mpc; one number a box{span}"
    if name == "xi":
        return f"{text}; no unit; from 0 (neutral) to 1 (ionised)"
    if name == "xi_std":
        return f"{text}; no unit; from 0 on"
    return text
