"""The suite for readers passes good ones and finds what others do wrong; the strategies keep their word."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reion.readers import FORMATS
from reion.simulation.contract import check_simulation
from reion.testing import check_reader, layouts, simulations
from tests.readers.layouts import LAYOUTS

EPFL, WRITE = FORMATS["epfl"], LAYOUTS["epfl"]


def with_boxes(change):
    """The reader of the epfl format, whose snapshots are changed."""

    def scan(paths, told):
        boxes = EPFL.scan(paths, told)
        return [
            dataclasses.replace(box, snapshots=[change(snapshot) for snapshot in box.snapshots])
            for box in boxes
        ]

    return dataclasses.replace(EPFL, scan=scan)


def test_a_good_reader_passes():
    check_reader(EPFL, WRITE, examples=5, damages=20)


def doubled(snapshot):
    return dataclasses.replace(snapshot, read=lambda *key: snapshot.read(*key) * 2)


def careless(snapshot):
    def read(*key):
        try:
            return snapshot.read(*key)
        except ValueError as error:
            raise KeyError("lost") from error

    return dataclasses.replace(snapshot, read=read)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reader", "message"),
    [
        (with_boxes(doubled), "Not equal to tolerance|to 1"),
        (dataclasses.replace(EPFL, claim=list), "which are no data"),
        (dataclasses.replace(EPFL, scan=lambda paths, told: []), "finds 0"),
    ],
)
def test_what_a_reader_does_wrong_is_found(reader, message):
    with pytest.raises((AssertionError, ValueError), match=message):
        check_reader(reader, WRITE, examples=3, damages=0)


def test_a_reader_that_breaks_on_damaged_files_is_found():
    def scan(paths, told):
        for path in paths:
            np.load(path)  # a ValueError, or what NumPy likes
        return EPFL.scan(paths, told)

    with pytest.raises(AssertionError, match="in place of InputError"):
        check_reader(dataclasses.replace(EPFL, scan=scan), WRITE, examples=1, damages=60)


@settings(deadline=None, max_examples=20)
@given(sim=simulations(fields=("n_igm", "n_ion"), shapes=st.just((3, 2, 4)), sizes_mpc=st.just(2.0)))
def test_simulations_are_simulations(sim):
    check_simulation(sim)
    assert set(sim.data_vars) == {"n_igm", "n_ion"}
    assert sim.attrs["box_size"] == [6.0, 4.0, 8.0]


VALUES = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


@settings(deadline=None, max_examples=50)
@given(array=layouts(VALUES))
def test_layouts_hold_the_same_values(array):
    np.testing.assert_array_equal(array, VALUES)
