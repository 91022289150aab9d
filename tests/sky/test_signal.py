"""The 21-cm signal in real space and in redshift space."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

import reion
from reion import InputError, load_sample
from reion.evaluation.field_statistics import Gas, Spectrum
from reion.metrics import brightness_temperature
from reion.metrics.spectra import Modes
from reion.simulation.contract import DIMS, box_size_mpc, cosmology, make_simulation
from reion.sky.signal import displacement_mpc, signal
from reion.storage.store import write_simulation


def with_velocity(sim, axis="z", *, sigma_km_s=150.0):
    """The sample with a smooth random velocity."""
    rng = np.random.default_rng(0)
    fields = [
        ndimage.gaussian_filter(rng.normal(size=sim["xi"].shape[1:]), 3, mode="wrap") for _ in sim["redshift"]
    ]
    scaled = np.stack([sigma_km_s * field / field.std() for field in fields]).astype(np.float32)
    return sim.assign({f"velocity_{axis}": (DIMS, scaled, {"units": "km s-1"})})


@pytest.fixture(scope="module")
def sim():
    return load_sample().held_out.isel(redshift=[3, 5, 7])


def test_without_velocities_it_is_the_formula(sim):
    density = sim["n_igm"][1].values / sim["n_igm"][1].values.mean(dtype=np.float64) - 1
    expected = brightness_temperature(sim["xi"][1].values, density, 8.0, cosmology(sim))
    assert signal(sim, 1) == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("axis", ["x", "y", "z"])
@pytest.mark.parametrize("sigma_km_s", [20.0, 150.0, 1500.0])
def test_distortions_keep_the_mean_of_every_line_of_sight(sim, axis, sigma_km_s):
    moving = with_velocity(sim, axis, sigma_km_s=sigma_km_s)
    still = signal(moving, 1, line_of_sight=axis, distortions=False)
    moved = signal(moving, 1, line_of_sight=axis)
    along = "xyz".index(axis)
    before, after = (field.mean(axis=along, dtype=np.float64) for field in (still, moved))
    assert after == pytest.approx(before, rel=1e-6, abs=1e-6)
    assert moved.mean(dtype=np.float64) == pytest.approx(still.mean(dtype=np.float64), rel=1e-6)
    assert np.abs(moved - still).max() > 1.0


def test_gas_that_recedes_appears_farther_away_by_its_hubble_distance():
    # One bright sheet, moving away at the speed that makes just two cells.
    n_igm = np.full((1, 4, 4, 16), 1e-3)
    n_igm[0, :, :, 5] = 1.0
    flat = {"n_igm": 4e-31 * n_igm, "xi": np.zeros((1, 4, 4, 16)), "velocity_z": np.zeros((1, 4, 4, 16))}
    still = make_simulation(flat, redshift=[8.0], box_size=[8.0, 8.0, 32.0])
    speed = 2 * 2.0 * cosmology(still).H(8.0).value / 9.0
    moving = still.assign(velocity_z=still["velocity_z"] + speed)
    assert displacement_mpc(np.float64(speed), 8.0, cosmology(still)) == pytest.approx(4.0)
    assert signal(moving, 0) == pytest.approx(np.roll(signal(still, 0), 2, axis=2), rel=1e-5)


def test_linear_infall_makes_kaisers_boost():
    # An infalling plane wave: delta_s = delta + f delta with v' (1 + z) / H = -f delta (Kaiser 1987), f = 1.
    n, delta = 64, 1e-3
    phase = 2 * np.pi * (np.arange(n) + 0.5) / n
    density = np.broadcast_to(1 + delta * np.cos(phase), (1, 2, 2, n))
    still = make_simulation(
        {"n_igm": 4e-31 * density, "xi": np.zeros(density.shape)}, redshift=[9.0], box_size=[2.0, 2.0, 64.0]
    )
    displacement = -delta * 64.0 / (2 * np.pi) * np.sin(phase)
    speed = displacement * cosmology(still).H(9.0).value / 10.0
    moving = still.assign(
        velocity_z=(DIMS, np.broadcast_to(speed, density.shape).astype(np.float32), {"units": "km s-1"})
    )
    before, after = (np.fft.rfft(signal(box, 0)[0, 0].astype(np.float64))[1] for box in (still, moving))
    assert abs(after / before) == pytest.approx(2.0, rel=0.01)


def test_a_cold_spin_temperature_is_seen_in_absorption(sim):
    model = cosmology(sim)
    xi, delta = np.zeros((2, 2, 2)), np.zeros((2, 2, 2))
    saturated = brightness_temperature(xi, delta, 9.0, model)
    of_the_cmb = brightness_temperature(xi, delta, 9.0, model, spin_temperature_k=np.full((2, 2, 2), 27.255))
    colder = brightness_temperature(xi, delta, 9.0, model, spin_temperature_k=np.full((2, 2, 2), 27.255 / 2))
    assert of_the_cmb == pytest.approx(0.0, abs=1e-9)
    assert colder == pytest.approx(-saturated)
    with pytest.raises(InputError, match="positive spin temperatures"):
        brightness_temperature(xi, delta, 9.0, model, spin_temperature_k=np.zeros((2, 2, 2)))


def test_each_plane_has_its_own_redshift(sim):
    model, xi, delta = cosmology(sim), np.zeros((2, 2, 3)), np.zeros((2, 2, 3))
    cone = brightness_temperature(xi, delta, np.array([7.0, 8.0, 9.0]), model)
    for plane, redshift in enumerate([7.0, 8.0, 9.0]):
        alone = brightness_temperature(xi, delta, redshift, model)
        assert cone[:, :, plane] == pytest.approx(alone[:, :, plane])


def test_what_is_missing_is_named(sim):
    with pytest.raises(InputError, match="the 21-cm signal needs n_igm"):
        signal(sim.drop_vars("n_igm"), 0)
    with pytest.raises(InputError, match="needs velocity_z"):
        signal(sim, 0, distortions=True)


def warmed(sim, kelvin=50.0):
    """The simulation with one spin temperature everywhere."""
    return sim.assign(t_spin=(DIMS, np.full(sim["xi"].shape, kelvin, np.float32), {"units": "K"}))


def test_the_spin_temperature_of_the_data_enters_the_signal_and_its_spectrum(toy):
    sim = toy((8, 8, 8))
    factor = 1 - 2.7255 * (1 + 8.0) / 50.0
    saturated = signal(sim, 2)
    assert signal(warmed(sim), 2) == pytest.approx(factor * saturated, rel=1e-5)
    assert signal(warmed(sim).drop_vars("t_spin"), 2) == pytest.approx(saturated)
    modes = Modes((8, 8, 8), box_size_mpc(sim))
    xi = sim["xi"][2].values
    before, after = (
        Spectrum.of(xi, modes.transform(xi), Gas.read(box, 2, modes)).brightness_power
        for box in (sim, warmed(sim))
    )
    assert after == pytest.approx(factor**2 * before, rel=1e-5)


def test_a_spin_temperature_is_read_by_its_name_and_by_a_mapping(toy, tmp_path):
    sim = warmed(toy((4, 4, 4), redshift=(8.0,)).drop_vars("n_src"))
    own = reion.open_simulation(write_simulation(sim, tmp_path / "own.zarr"))
    np.testing.assert_array_equal(own["t_spin"].values, sim["t_spin"].values)
    for name, values in {"rho": sim["n_igm"], "x": sim["xi"], "ts_mk": 1e3 * sim["t_spin"]}.items():
        np.save(tmp_path / f"{name}_z8.000.npy", values[0].values)
    (tmp_path / "mapping.toml").write_text(
        '[n_igm]\narray = "rho"\nunit = "g cm-3"\n[xi]\narray = "x"\nunit = "1"\n'
        '[t_spin]\narray = "ts_mk"\nunit = "mK"\n'
    )
    theirs = reion.open_simulation(
        sorted(tmp_path.glob("*.npy")),
        settings={
            "mapping": str(tmp_path / "mapping.toml"),
            "box_size": "8",
            "H0": "70",
            "Om0": "0.3",
            "Ob0": "0.05",
        },
    )
    np.testing.assert_allclose(theirs["t_spin"].values, sim["t_spin"].values, rtol=1e-6)
    assert theirs["t_spin"].attrs["units"] == "K"


@pytest.mark.parametrize("index", [8.0, 50, -4, "8", None])
def test_a_snapshot_that_is_not_there_is_refused_with_those_that_are(sim, index):
    with pytest.raises(InputError, match="number of a snapshot, 0 to 2") as error:
        signal(sim, index)
    assert "1: z = 8" in error.value.hint


def test_the_last_snapshot_may_be_counted_from_the_end(sim):
    assert np.array_equal(signal(sim, np.int64(-1)), signal(sim, 2))


def test_an_axis_that_is_not_there_is_refused(sim):
    with pytest.raises(InputError, match="one of x, y, z; received 'w'"):
        signal(sim, 0, line_of_sight="w")
