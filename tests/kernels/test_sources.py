"""Lists of sources: what becomes one, and that no photon is lost on the way."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reion_kernels import merge_faint
from reion_kernels.sources import by_place, check_sources


@st.composite
def lists(draw):
    shape = tuple(draw(st.integers(1, 9)) for _ in range(3))
    count = draw(st.integers(0, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rates = rng.lognormal(110.0, 2.0, count) * (rng.random(count) < 0.9)
    return rng.integers(-20, 20, (count, 3)), rates, shape


def mesh(places, rates, shape):
    total = np.zeros(shape)
    np.add.at(total, tuple((np.asarray(places) % shape).T), rates)
    return total


@given(sources=lists())
@settings(deadline=None, max_examples=60)
def test_sources_in_one_cell_are_one(sources):
    positions, rates, shape = sources
    places, strengths, member = by_place(*check_sources(positions, rates, shape), shape)
    assert len(np.unique(places, axis=0)) == len(places)
    assert np.allclose(mesh(places, strengths, shape), mesh(positions, rates, shape), rtol=1e-14)
    shining = rates > 0
    assert (member[~shining] == -1).all()
    assert np.array_equal(places[member[shining]], positions[shining] % shape)


@given(sources=lists(), share=st.sampled_from([0.0, 0.3, 0.9, 1.0]), block=st.integers(1, 4))
@settings(deadline=None, max_examples=60)
def test_merging_keeps_every_photon_near_where_it_was(sources, share, block):
    positions, rates, shape = sources
    places, strengths = merge_faint(positions, rates, shape, share=share, block_cells=block)
    assert strengths.sum() == pytest.approx(rates.sum(), rel=1e-13)
    assert (strengths > 0).all()
    # Cube by cube there are as many photons as before, and at most one more source than bright ones.
    before, after = mesh(positions, rates, shape), mesh(places, strengths, shape)
    for corner in np.ndindex(*(-(-n // block) for n in shape)):
        cube = tuple(slice(block * i, block * (i + 1)) for i in corner)
        assert after[cube].sum() == pytest.approx(before[cube].sum(), rel=1e-12)
        if share == 1.0:
            assert np.count_nonzero(after[cube]) <= 1
    if share == 0.0 or block == 1:
        assert np.allclose(after, before, rtol=1e-12)


def test_the_faintest_are_merged_at_their_centre_of_light_and_the_bright_stay():
    positions = [[0, 0, 0], [1, 0, 0], [1, 1, 1], [5, 5, 5]]
    places, rates = merge_faint(positions, [1.0, 3.0, 50.0, 6.0], (8, 8, 8), share=0.2)
    assert dict(zip(map(tuple, places.tolist()), rates.tolist(), strict=True)) == {
        (1, 0, 0): 4.0,
        (1, 1, 1): 50.0,
        (5, 5, 5): 6.0,
    }


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (TypeError, "positions: expected integers", {"positions": np.zeros((2, 3))}),
        (ValueError, "positions, rates: expected shapes", {"rates": np.ones(3)}),
        (ValueError, "rates: expected finite numbers.*Received: inf for source 1", {"rates": [1.0, np.inf]}),
        (ValueError, "rates: expected finite numbers.*Received: -1.0 for source 0", {"rates": [-1.0, 1.0]}),
        (ValueError, "share: expected 0 to 1", {"share": 1.5}),
        (ValueError, "block_cells: expected a positive number", {"block_cells": 0}),
    ],
)
def test_bad_lists_are_named(error, message, change):
    arguments = {"positions": np.zeros((2, 3), int), "rates": [1.0, 2.0], "shape": (4, 4, 4)} | change
    with pytest.raises(error, match=message):
        merge_faint(**arguments)
