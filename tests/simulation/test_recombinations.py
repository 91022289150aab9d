"""The photons that clumping takes, against SciPy's integration, and wherever photons go into a model."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
import xarray as xr
from astropy import constants, cosmology, units
from scipy.integrate import solve_ivp

from reion.errors import InputError
from reion.physics.excursion_set import photons
from reion.readers import open_simulation
from reion.simulation.contract import make_simulation
from reion.simulation.photons import with_n_ion
from reion.simulation.recombinations import clumping_of, clumping_table, less_recombinations, with_clumping
from reion.storage.store import write_simulation

REDSHIFT = (12.0, 10.0, 9.0, 7.0)
CELLS = (3, 1, 2)


@pytest.fixture
def sim() -> xr.Dataset:
    """Sources that are brighter from snapshot to snapshot, in other cells each time."""
    rng = np.random.default_rng(4)
    n_src = rng.lognormal(1, 1, (len(REDSHIFT), *CELLS)).astype(np.float32)
    n_igm = np.full(n_src.shape, 4.2e-31, dtype=np.float32)
    return make_simulation({"n_igm": n_igm, "n_src": n_src}, redshift=REDSHIFT, box_size=[6.0, 2.0, 4.0])


def integrated(sim: xr.Dataset, clumping) -> np.ndarray:
    """n_ion of the last snapshot: two equations, with astropy's ages and constants, integrated by SciPy."""
    universe = cosmology.FlatLambdaCDM(H0=67.66, Om0=0.30964, Ob0=0.04897)
    ages = universe.age(list(REDSHIFT)).to_value("s")
    grid = np.linspace(12.0, 7.0, 2000)
    age_of = universe.age(grid).to_value("s")
    hydrogen = (universe.Ob0 * universe.critical_density0 / (1.222 * constants.m_p)).to_value(units.cm**-3)
    n_src = sim["n_src"].values.astype(np.float64).reshape(len(REDSHIFT), -1)
    found = []
    for rates in n_src.T:

        def slope(age, state, rates=rates):
            z = np.interp(age, age_of, grid)
            emitted = rates[np.searchsorted(ages, age, side="right").clip(1, len(ages) - 1) - 1] / 1e18
            recombined = 2.59e-13 * hydrogen * (1 + z) ** 3 * state[0]
            return [emitted - clumping(z) * recombined, emitted - (clumping(z) - 1) * recombined]

        done = solve_ivp(
            slope, ages[[0, -1]], [0.0, 0.0], rtol=1e-6, atol=1e-7, max_step=(ages[-1] - ages[0]) / 100
        )
        found.append(done.y[1, -1])
    return np.reshape(found, CELLS)


@pytest.mark.parametrize(
    ("given", "clumping"),
    [(3.0, lambda z: 3.0), ([[12, 1.0], [7, 6.0]], lambda z: np.interp(z, [7, 12], [6.0, 1.0]))],
)
@pytest.mark.parametrize("stored", ["n_src", "n_ion"])
def test_what_is_left_solves_the_equation(sim, given, clumping, stored):
    clumped = with_clumping(sim, given)
    if stored == "n_ion":
        clumped = with_n_ion(clumped).drop_vars("n_src")
    left = less_recombinations(clumped)["n_ion"]
    assert left.attrs["units"] == "1e66 Mpc-3"
    np.testing.assert_allclose(left[-1].values, integrated(sim, clumping), rtol=3e-3)
    # Any part of it is the same, and the first snapshot has no photons yet.
    np.testing.assert_array_equal(left[2, 1:, 0, ::-1].values, left[2].values[1:, 0, ::-1])
    assert not left[0].values.any()


def test_more_clumping_leaves_less_and_none_below_zero(sim):
    emitted = with_n_ion(sim)["n_ion"].values
    left = [less_recombinations(with_clumping(sim, c))["n_ion"].values for c in (1.0001, 2.0, 5.0, 1e4)]
    np.testing.assert_allclose(left[0], emitted, rtol=1e-3)
    for more, fewer in pairwise(left):
        assert (fewer[1:] < more[1:]).all()
    assert (left[-1] >= 0).all()


def test_photons_from_before_the_first_snapshot_recombine_too(sim):
    early = with_n_ion(sim).drop_vars("n_src")
    early["n_ion"] = early["n_ion"] + np.float32(10.0)
    without, with_them = (
        less_recombinations(with_clumping(some, 4.0))["n_ion"].values
        for some in (with_n_ion(sim).drop_vars("n_src"), early)
    )
    shares = (with_them - without) / 10.0
    np.testing.assert_allclose(shares[0], 1.0, rtol=1e-6)
    assert (np.diff(shares[:, 0, 0, 0]) < 0).all()
    assert 0.2 < shares[-1].min() < shares[-1].max() < 0.6


def test_without_clumping_a_simulation_stays_as_it_is(sim):
    assert less_recombinations(sim) is sim
    assert less_recombinations(with_clumping(sim, 1.0)).attrs == with_clumping(sim, 1.0).attrs
    once = less_recombinations(with_clumping(sim, 2.0))
    assert less_recombinations(once) is once
    assert clumping_of(once.attrs, 8.0) == 1.0
    # From below z = 11 on, nobody knows when its photons were emitted: the model then warns.
    late = with_clumping(with_n_ion(sim), 2.0).isel(redshift=slice(2, None))
    assert less_recombinations(late) is late
    assert clumping_of(late.attrs, 8.0) == 2.0


def test_the_clumping_factor_is_that_of_the_simulation_or_of_the_ray_tracing(sim):
    def traced(clumping: object) -> dict[str, str]:
        return {"ray_tracing": json.dumps({"clumping": clumping, "max_mfp": 30.0})}

    assert clumping_of({}, 8.0) is None
    assert clumping_table({}) == []
    assert clumping_of(traced(2.0), 8.0) == 2.0
    # Pairs of redshift and factor, straight lines between, constant beyond.
    assert clumping_of(traced([[6.0, 3.0], [10.0, 1.0]]), 8.0) == pytest.approx(2.0)
    assert clumping_of(traced([[6.0, 3.0], [10.0, 1.0]]), 15.0) == pytest.approx(1.0)
    assert clumping_of(traced(2.0) | with_clumping(sim, 4.0).attrs, 8.0) == 4.0


@pytest.mark.parametrize(
    "wrong", [0.5, float("nan"), "much", [], [[6, 0.5]], [6, 2.0], [[6, 2.0, 1.0]], None, {}]
)
def test_what_is_no_clumping_factor_is_refused(sim, wrong):
    with pytest.raises(InputError, match="clumping: expected a number of 1 or more, or pairs of redshift"):
        with_clumping(sim, wrong)


@pytest.fixture
def box(toy) -> xr.Dataset:
    return toy(shape=(12, 12, 12), redshift=REDSHIFT)


def test_the_excursion_set_gets_the_same_photons(box):
    clumped = with_clumping(box, 3.0)
    left = less_recombinations(clumped)["n_ion"].values
    for received, expected in zip(photons(clumped, "history"), left, strict=True):
        np.testing.assert_array_equal(received, expected)


def test_a_store_keeps_the_factor_and_a_setting_replaces_it(box, tmp_path, command):
    write_simulation(box, tmp_path / "box.zarr")
    code, _, _ = command(
        *(
            "convert",
            tmp_path / "box.zarr",
            "--out",
            tmp_path / "clumped.zarr",
            "--set",
            "clumping=[[12,1],[6,3]]",
        )
    )
    assert code == 0
    assert clumping_of(open_simulation(tmp_path / "clumped.zarr").attrs, 9.0) == 2.0
    other = open_simulation(tmp_path / "clumped.zarr", settings={"clumping": "5"})
    assert clumping_of(other.attrs, 9.0) == 5.0
    code, _, said = command("inspect", tmp_path / "box.zarr", "--set", "clumping=0.9")
    assert code == 2
    assert "clumping: expected a number of 1 or more" in said
