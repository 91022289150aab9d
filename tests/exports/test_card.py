"""The card survives the way through the file, and says when it cannot be one."""

import dataclasses
import math

import pytest

from reion_exports import CardError, ModelCard

CARD = ModelCard(
    name="n",
    version="1.2",
    inputs={"n_igm": "g cm-3", "n_src": "1e48 s-1 Mpc-3"},
    cell_size_mpc=2.0,
    redshift_range=(6.0, 12.0),
    receptive_radius_cells=35,
    stride_cells=4,
    normalizer={"mean": [1.0, 2.5e-31], "channels": ["σ", "b"]},
    training_data=("a" * 64, "b" * 64),
    scores={"pooled": {"r2": 0.97}, "undefined": None},
    excursion_set_threshold=1.5,
    symmetric=True,
    licence="MIT",
    provenance={"seed": 0},
    working_bytes=(26.5, 390.0),
)


def test_it_comes_back_as_it_was():
    metadata = CARD.to_metadata()
    assert all(key.startswith("reion.") for key in metadata)
    assert ModelCard.from_metadata(metadata) == CARD
    assert list(ModelCard.from_metadata(metadata).inputs) == list(CARD.inputs)


@pytest.mark.parametrize("key", sorted(CARD.to_metadata()))
def test_no_key_may_lack(key):
    metadata = CARD.to_metadata()
    del metadata[key]
    with pytest.raises(CardError, match=f"missing {key}"):
        ModelCard.from_metadata(metadata)


@pytest.mark.parametrize(
    "key",
    sorted(
        set(CARD.to_metadata())
        - {"reion.excursion_set_threshold", "reion.trunk_radius_cells", "reion.mean_error_share"}
    ),
)
@pytest.mark.parametrize("text", ["null", "{", "[[[]]]", '{"a": {}}', "-1e999"])
def test_no_key_may_hold_anything(key, text):
    metadata = {**CARD.to_metadata(), key: text}
    mappings = ("reion.coverage", "reion.normalizer", "reion.scores", "reion.provenance")
    if key in mappings and text.startswith('{"'):
        assert ModelCard.from_metadata(metadata)
        return
    with pytest.raises(CardError):
        ModelCard.from_metadata(metadata)


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""},
        {"inputs": {}},
        {"inputs": {"redshift": "1"}},
        {"cell_size_mpc": 0.0},
        {"cell_size_mpc": math.nan},
        {"redshift_range": (12.0, 6.0)},
        {"redshift_range": (6.0,)},
        {"receptive_radius_cells": -1},
        {"receptive_radius_cells": True},
        {"receptive_radius_cells": 10**400},
        {"stride_cells": 0},
        {"receptive_radius_cells": 2001},
        {"stride_cells": 65},
        {"cell_size_mpc": 10**400},
        {"name": "n" * 10**6},
        {"excursion_set_threshold": -1.0},
        {"symmetric": 1},
        {"training_data": (1,)},
        {"working_bytes": (1.0, -1.0)},
        {"working_bytes": (1e300, 1.0)},
    ],
)
def test_values_that_cannot_be_are_refused(change):
    with pytest.raises(CardError, match=f"expected {next(iter(change))}"):
        dataclasses.replace(CARD, **change)


def test_values_that_json_lacks_are_refused():
    with pytest.raises(CardError, match="JSON can hold"):
        dataclasses.replace(CARD, scores={"r2": math.nan}).to_metadata()
