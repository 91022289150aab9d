"""A box that was trained on is known again, and what has changed about it is told."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from reion.models.training_boxes import boxes_in, changes, checksum_of, describe, is_training_box
from reion.simulation.contract import with_max_mfp


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda sim: sim.assign_attrs(H0=70.0), ["cosmology of box 2"]),
        (lambda sim: with_max_mfp(sim, [15.0] * 4), ["max_mfp of box 2"]),
        (lambda sim: sim.assign(xi=sim["xi"] * 0.5), ["values of box 2"]),
        (
            lambda sim: sim.assign(n_src=sim["n_src"].assign_attrs(units="Msun Mpc-3")),
            ["units of box 2"],
        ),
        (lambda sim: sim.assign_attrs(box_size=30.0), ["box_size of box 2"]),
    ],
)
def test_whatever_changes_the_inputs_of_a_network_is_told(toy, change, told):
    first, second = toy(), toy(shape=(10, 10, 10), seed=1)
    before = [describe(first), describe(second)]
    assert changes(before, [describe(first), describe(second)]) == []
    assert changes(before, [describe(first), describe(change(second))]) == told
    assert changes(before, before[:1]) == ["2 of them instead of 1"]


def test_a_training_box_is_known_again_and_read_only_if_it_may_be_one(toy, monkeypatch):
    trained, other = toy(), toy(shape=(8, 8, 8), seed=1)
    boxes = [asdict(describe(trained))]
    checksums = [checksum_of(trained)]
    assert is_training_box(trained, checksums, boxes)
    assert is_training_box(trained.assign_attrs(source_code="copy"), checksums, boxes)
    assert not is_training_box(toy(seed=5), checksums, boxes)
    # A network that it started from has seen a box that provenance does not describe.
    assert is_training_box(other, [*checksums, checksum_of(other)], boxes)
    assert not is_training_box(trained, [], boxes)
    monkeypatch.setattr("reion.models.training_boxes.checksum_of", None)
    assert not is_training_box(other, checksums, boxes)


def test_provenance_tells_the_boxes_of_a_training_and_of_those_before(toy):
    box = asdict(describe(toy()))
    parent = {"name": "older", "weights_sha256": "w", "training_data": ["before"]}
    assert boxes_in({"data": [box], "parent": parent}) == ([box["sha256"], "before"], [box])
    assert boxes_in({"data": [box], "parent": None}) == ([box["sha256"]], [box])
    for damaged in (None, [], "text", {"data": 3, "parent": 4}, {"data": ["text"], "parent": {}}):
        assert boxes_in(damaged) == ([], [])
