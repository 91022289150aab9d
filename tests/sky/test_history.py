"""When cells are ionised: analytic fronts, odd histories, and the store that holds them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr
from astropy.cosmology import FlatLambdaCDM, z_at_value
from scipy.interpolate import interp1d

from reion import InputError, load_sample
from reion.metrics import mass_mean, optical_depth, power_spectrum
from reion.metrics.crossings import z_reion
from reion.simulation.contract import cosmology, make_simulation
from reion.simulation.joining import with_xi
from reion.sky.history import history
from reion.storage.store import write_simulation

PLANCK = FlatLambdaCDM(H0=67.66, Om0=0.30964, Ob0=0.04897)


def column(*values):
    """xi of one cell in several snapshots."""
    return np.array(values, dtype=np.float32).reshape(-1, 1, 1, 1)


def test_a_cell_that_ionises_evenly_in_time_does_so_at_the_middle_of_the_time():
    found, _ = z_reion(column(0.0, 1.0), np.array([9.0, 7.0]), PLANCK)
    middle = (PLANCK.age(9.0) + PLANCK.age(7.0)) / 2
    assert found.item() == pytest.approx(z_at_value(PLANCK.age, middle).value, abs=1e-5)


def test_every_cell_of_the_sample_crosses_where_its_own_line_in_time_does():
    sim = load_sample().held_out
    xi, redshift = sim["xi"].values, sim["redshift"].values
    found, _ = z_reion(xi, redshift, cosmology(sim))
    rng = np.random.default_rng(0)
    age = cosmology(sim).age(redshift).value
    fine = np.linspace(age[0], age[-1], 40_001)
    for x, y, z in rng.integers(0, 64, (40, 3)):
        line = interp1d(age, xi[:, x, y, z])(fine)
        if line.max() < 0.5:
            assert np.isnan(found[x, y, z])
        else:
            first = fine[np.argmax(line >= 0.5)]
            assert cosmology(sim).age(float(found[x, y, z])).value == pytest.approx(first, abs=3e-5)


def test_odd_histories_are_counted():
    xi = np.concatenate(
        [
            column(0.0, 0.2, 0.4),  # never
            column(0.9, 1.0, 1.0),  # at the start
            column(0.0, 0.7, 0.6),  # backwards, still ionised
            column(0.0, 0.7, 0.3),  # backwards and neutral again
            column(0.0, 0.495, 0.7),
        ],
        axis=1,
    )
    found, oddities = z_reion(xi, np.array([9.0, 8.0, 7.0]), PLANCK)
    assert vars(oddities) == {"cells": 5, "never": 1, "at_the_start": 1, "backwards": 2, "recombined": 1}
    assert np.isnan(found[0]).all()
    assert found[1].item() == 9.0
    assert found[2].item() == found[3].item()  # the first crossing stands
    assert 7.0 < found[4].item() < 8.0


def test_bad_series_are_refused():
    with pytest.raises(InputError, match="one redshift a snapshot"):
        z_reion(column(0.0, 1.0), np.array([9.0]), PLANCK)
    with pytest.raises(InputError, match="descending"):
        z_reion(column(0.0, 1.0), np.array([7.0, 9.0]), PLANCK)
    with pytest.raises(InputError, match="finite"):
        z_reion(column(0.0, np.nan), np.array([9.0, 7.0]), PLANCK)


def test_the_store_holds_what_the_functions_say(tmp_path):
    sim = load_sample().held_out
    found = history(sim, tmp_path / "z_reion.zarr")
    stored = xr.open_zarr(tmp_path / "z_reion.zarr")
    expected, oddities = z_reion(sim["xi"].values, sim["redshift"].values, cosmology(sim))
    assert np.array_equal(stored["z_reion"].values, expected, equal_nan=True)
    assert found.oddities == oddities
    masses = [mass_mean(sim["xi"][i].values, sim["n_igm"][i].values) for i in range(10)]
    assert stored["mass_weighted_xi"].values == pytest.approx(masses, rel=1e-6)
    assert found.optical_depth == pytest.approx(optical_depth(found.redshift, masses, cosmology(sim)))
    filled = np.where(np.isnan(expected), 6.0, expected)
    spectrum = power_spectrum((1 + filled) / (1 + filled).mean() - 1, 128.0)
    assert stored["z_reion_power"].values == pytest.approx(spectrum.dimensionless, rel=1e-4)


@pytest.mark.filterwarnings("ignore:.*in the first snapshot already")
def test_blocks_give_what_the_whole_gives(toy, tmp_path, monkeypatch):
    whole = history(toy(), tmp_path / "whole.zarr")
    monkeypatch.setattr("reion.storage.store._BLOCK_BYTES", 400)
    monkeypatch.setattr("reion.storage.store._CHUNK_BYTES", 400)
    parts = history(toy(), tmp_path / "parts.zarr")
    assert parts.oddities == whole.oddities
    assert parts.mean_xi == pytest.approx(whole.mean_xi, rel=1e-12)
    stores = (xr.open_zarr(tmp_path / name)["z_reion"] for name in ("whole.zarr", "parts.zarr"))
    assert np.array_equal(*stores, equal_nan=True)


def test_a_history_that_goes_backwards_is_said(tmp_path):
    # A plane of 4 x 4 cells is ionised; all but one row of it recombine.
    xi = np.zeros((3, 4, 4, 4), dtype=np.float32)
    xi[1, 0], xi[2, 0, 0] = 0.8, 0.9
    sim = make_simulation({"xi": xi}, redshift=[9.0, 8.0, 7.0], box_size=8.0)
    with pytest.warns(UserWarning, match=r"12 of 64 cells \(18\.75%\) fall below xi = 0\.5 again"):
        history(sim, tmp_path / "out.zarr")


@pytest.mark.filterwarnings("ignore:.*in the first snapshot already")
def test_command_joins_xi_with_its_gas(command, toy, tmp_path):
    sim = toy()
    write_simulation(sim.drop_vars("xi"), tmp_path / "sim.zarr")
    # A prediction of fewer snapshots than the simulation has.
    write_simulation(sim[["xi"]].isel(redshift=[1, 2, 3]), tmp_path / "xi.zarr")
    out = tmp_path / "z_reion.zarr"
    code, printed, _ = command("history", tmp_path / "xi.zarr", tmp_path / "sim.zarr", "--out", out, "--json")
    assert code == 0
    result = json.loads(printed)
    assert result["redshifts"] == [10.0, 8.0, 7.0]
    expected = [mass_mean(sim["xi"][i].values, sim["n_igm"][i].values) for i in (1, 2, 3)]
    assert result["mass_weighted_xi"] == pytest.approx(expected, rel=1e-6)
    code, printed, _ = command("history", tmp_path / "xi.zarr", "--out", out, "--force")
    assert code == 0
    assert "optical depth" in printed
    assert "of the mass" not in printed
    code, _, said = command("history", tmp_path / "sim.zarr", "--out", tmp_path / "other.zarr")
    assert code == 2
    assert "needs xi" in said


def test_xi_of_another_box_is_refused(toy):
    sim = toy()
    with pytest.raises(InputError, match="expected the simulation's box"):
        with_xi(sim, toy(cell_mpc=2.1), file="xi.zarr")
    with pytest.raises(InputError, match="expected the simulation's mesh"):
        with_xi(sim, toy(shape=(8, 8, 8)), file="xi.zarr")
    with pytest.raises(InputError, match="share; received 11, 9"):
        with_xi(sim, toy(redshift=(11.0, 9.0)), file="xi.zarr")


def test_joining_reads_nothing_and_keeps_the_right_snapshots(toy):
    sim = toy()
    other = toy(seed=1).isel(redshift=[3, 1]).isel(redshift=[1, 0])
    joined = with_xi(sim, other)
    assert joined["redshift"].values.tolist() == [10.0, 7.0]
    assert np.array_equal(joined["xi"][1], other["xi"][1])
    assert np.array_equal(joined["n_igm"][0], sim["n_igm"][1])
