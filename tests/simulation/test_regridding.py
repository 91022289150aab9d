"""Regridding keeps what is there: mass, photons, ionised volume."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reion.errors import InputError
from reion.readers import open_simulation
from reion.simulation.contract import cell_size_mpc, make_simulation, with_max_mfp
from reion.simulation.regridding import regrid, shared_fractions
from reion.storage.conversion import convert
from reion.storage.store import write_simulation


@settings(deadline=None, max_examples=40)
@given(
    shape=st.tuples(*[st.integers(1, 12)] * 3),
    cell=st.floats(0.7, 9.0),
    seed=st.integers(0, 2**32 - 1),
)
def test_means_stay_the_same(shape, cell, seed):
    values = np.random.default_rng(seed).random((2, *shape)).astype(np.float32)
    sim = make_simulation({"xi": values}, redshift=[9, 8], box_size=[2.0 * n + 8 for n in shape])
    new = regrid(sim, cell)
    np.testing.assert_allclose(
        new["xi"].values.mean(axis=(1, 2, 3), dtype=np.float64),
        values.mean(axis=(1, 2, 3), dtype=np.float64),
        rtol=1e-6,
    )
    assert new.attrs["box_size"] == sim.attrs["box_size"]
    sizes = np.array([new.sizes[axis] for axis in "xyz"])
    assert np.all(np.abs(np.array(cell_size_mpc(new)) - cell) <= cell / (2 * sizes) * 1.0001)


@settings(deadline=None, max_examples=40)
@given(old=st.integers(1, 40), new=st.integers(1, 40))
def test_shared_fractions_are_overlaps_of_intervals(old, new):
    expected = np.zeros((new, old))
    for i in range(new):
        for j in range(old):
            shared = min((i + 1) / new, (j + 1) / old) - max(i / new, j / old)
            expected[i, j] = max(shared, 0.0) * new
    np.testing.assert_allclose(shared_fractions(old, new).toarray(), expected, atol=1e-12)


def test_twice_the_cell_is_the_mean_of_eight(simulation):
    new = regrid(simulation, 4.0)
    values = simulation["n_igm"].values.astype(np.float64)
    expected = values.reshape(4, 6, 2, 5, 2, 4, 2).mean(axis=(2, 4, 6))
    np.testing.assert_allclose(new["n_igm"].values, expected, rtol=1e-6)


def test_half_the_cell_repeats_it(simulation):
    new = regrid(simulation, 1.0)
    expected = np.repeat(np.repeat(np.repeat(simulation["xi"].values, 2, 1), 2, 2), 2, 3)
    np.testing.assert_allclose(new["xi"].values, expected, rtol=1e-6)


def test_a_part_is_a_part_of_the_whole(simulation):
    new = regrid(simulation, 2.7)
    whole = new["n_src"].values
    for key in [(1, 2, 3, 4), (slice(1, 3), 2, slice(4, 1, -2), slice(None)), (0, slice(0, 0), 1, 2)]:
        np.testing.assert_array_equal(new["n_src"][key].values, whole[key])


def test_convert_regrids(simulation, tmp_path):
    write_simulation(simulation, tmp_path / "fine.zarr")
    result = convert(tmp_path / "fine.zarr", tmp_path / "coarse.zarr", cell_size_mpc=4.0)
    assert result["stores"][0]["cell_size_mpc"] == [4.0, 4.0, 4.0]
    coarse = open_simulation(tmp_path / "coarse.zarr")
    np.testing.assert_array_equal(coarse["n_igm"].values, regrid(simulation, 4.0)["n_igm"].values)
    assert coarse.attrs["regridded_from_cells"] == [12, 10, 8]


def test_what_has_no_cells_is_kept(simulation, tmp_path):
    reaches = np.linspace(20.0, 30.0, simulation.sizes["redshift"])
    sim = with_max_mfp(simulation, reaches)
    np.testing.assert_array_equal(regrid(sim, 4.0)["max_mfp"].values, reaches)
    store = write_simulation(sim, tmp_path / "sim.zarr")
    convert(store, tmp_path / "coarse.zarr", cell_size_mpc=4.0)
    np.testing.assert_array_equal(open_simulation(tmp_path / "coarse.zarr")["max_mfp"].values, reaches)


def test_what_has_some_axes_only_is_not_dropped_without_a_word(simulation):
    with pytest.raises(InputError, match="projected: expected dimensions"):
        regrid(simulation.assign(projected=simulation["xi"].mean("z")), 1.0)


@pytest.mark.parametrize("cell", [0.0, -1.0, np.nan, np.inf, 1e-4, 1e4])
def test_impossible_cells_are_refused(simulation, cell):
    with pytest.raises(InputError, match="--cell-size"):
        regrid(simulation, cell)
