"""Where sources should be: in dense gas, in the right order of axes, and in all of the box."""

import numpy as np
import pytest

from reion.inspection import checks
from reion.inspection.look import inspect
from reion.sample import load_sample
from reion.simulation.contract import make_simulation
from reion.simulation.photons import with_n_ion
from reion.storage import store

ORDERS = {"xzy": (0, 2, 1), "yxz": (1, 0, 2), "zyx": (2, 1, 0), "zxy": (1, 2, 0), "yzx": (2, 0, 1)}
"""Transposing a field by the tuple is undone by taking its axes in the order of the key."""


def messages(sim):
    return {check.name: check for check in inspect(sim).checks}


@pytest.fixture(scope="module")
def sample():
    return load_sample().held_out[["n_igm", "n_src"]].sel(redshift=[9.0, 8.0]).load()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("photons", ["n_src", "n_ion"])
def test_another_order_of_axes_is_named_without_xi(sample, order, photons):
    sim = sample
    if photons == "n_ion":
        sim = with_n_ion(load_sample().held_out)[["n_igm", "n_ion"]].sel(redshift=[9.0, 8.0]).load()
    assert messages(sim)["sources in dense gas"].ok
    turned = sim["n_igm"].values.transpose(0, *(1 + axis for axis in ORDERS[order]))
    found = messages(sim.assign(n_igm=(sim["n_igm"].dims, turned.copy(), sim["n_igm"].attrs)))
    assert not found["sources in dense gas"].ok
    assert f"times with its axes as {order}" in found["sources in dense gas"].message


@pytest.mark.parametrize("sources", [1, 5, 200, 32**3])
def test_sources_anywhere_say_nothing_of_the_axes(sources):
    """Few sources, or sources that do not follow the gas, as in a toy: no order is better."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        n_igm = 4.2e-31 * rng.lognormal(-0.1, 0.4, (1, 32, 32, 32))
        n_src = np.zeros(n_igm.shape)
        n_src.flat[rng.choice(n_src.size, sources, replace=False)] = rng.lognormal(3, 1, sources)
        fields = {"n_igm": n_igm.astype(np.float32), "n_src": n_src.astype(np.float32)}
        found = messages(make_simulation(fields, redshift=[8.0], box_size=64.0))
        assert "sources in dense gas" not in found


def squeezed(sample, share):
    """The sample with its sources moved into the lower part of the box, as by a wrong unit."""
    n_src = sample["n_src"].values
    moved = np.zeros_like(n_src)
    places = np.argwhere(n_src)
    target = np.column_stack([places[:, 0], (share * places[:, 1:]).astype(int)])
    moved[tuple(target.T)] = n_src[tuple(places.T)]
    return sample.assign(n_src=(sample["n_src"].dims, moved, sample["n_src"].attrs))


def test_an_empty_part_of_the_box_is_noticed(sample, monkeypatch):
    assert messages(sample)["spread of sources"].ok
    found = messages(squeezed(sample, 0.68))["spread of sources"]
    assert not found.ok
    assert all(f"of the side along {axis}" in found.message for axis in "xyz")
    assert messages(squeezed(sample, 0.9))["spread of sources"].ok
    monkeypatch.setattr(store, "_CHUNK_BYTES", 4 * 5000)
    monkeypatch.setattr(store, "_BLOCK_BYTES", 4 * 20000)
    assert messages(squeezed(sample, 0.68))["spread of sources"] == found


def test_a_gap_that_wraps_around_is_as_long_as_another(sample):
    rolled = squeezed(sample, 0.68)
    rolled = rolled.assign(n_src=rolled["n_src"].roll(x=20, y=20, z=20))
    assert messages(rolled)["spread of sources"] == messages(squeezed(sample, 0.68))["spread of sources"]


def test_neutral_fractions_are_not_taken_for_swapped_axes():
    sim = load_sample().held_out[["n_src", "xi"]].sel(redshift=[9.0, 8.0, 7.0]).load()
    neutral = sim.assign(xi=(sim["xi"].dims, 1 - sim["xi"].values, sim["xi"].attrs))
    found = messages(neutral)
    assert "neutral fractions" in found["growth"].message
    assert "ionised sources" not in found
    (swapped,) = checks._swapped_axes({"xyz": 0.05, "zxy": 0.79})
    assert "axes as zxy" in swapped.message
