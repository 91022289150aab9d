"""Lists of sources: what becomes one, and that no photon is lost on the way."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reion_kernels.sources import by_place, check_sources, hosts


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
def test_hosts_are_the_brightest_faint_sources_of_their_cube(sources, share, block):
    positions, rates, shape = sources
    places, strengths, _ = by_place(*check_sources(positions, rates, shape), shape)
    host = hosts(places, strengths, shape, share, block)
    assert np.array_equal(host[host], host)
    assert np.array_equal(places[host] // block, places // block)
    assert (strengths[host] >= strengths).all()
    guests = host != np.arange(len(host))
    assert strengths[guests].sum() <= share * strengths.sum() * (1 + 1e-9)
    if share == 0.0 or block == 1:
        assert not guests.any()
    if share == 1.0:
        assert len(np.unique(host)) == len(np.unique(places // block, axis=0))


def test_the_bright_stay_alone():
    places = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 1], [5, 5, 5]])
    assert hosts(places, np.array([1.0, 3.0, 50.0, 6.0]), (8, 8, 8), 0.2, 2).tolist() == [1, 1, 2, 3]


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (TypeError, "positions: expected integers", {"positions": np.zeros((2, 3))}),
        (ValueError, "positions, rates: expected shapes", {"rates": np.ones(3)}),
        (ValueError, "rates: expected finite numbers.*Received: inf for source 1", {"rates": [1.0, np.inf]}),
        (ValueError, "rates: expected finite numbers.*Received: -1.0 for source 0", {"rates": [-1.0, 1.0]}),
    ],
)
def test_bad_lists_are_named(error, message, change):
    arguments = {"positions": np.zeros((2, 3), int), "rates": [1.0, 2.0], "shape": (4, 4, 4)} | change
    with pytest.raises(error, match=message):
        check_sources(**arguments)
