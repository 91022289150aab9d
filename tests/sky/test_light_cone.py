"""Light cones: where planes lie, how fronts move, and that no structure repeats."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
import xarray as xr
from astropy.cosmology import FlatLambdaCDM, z_at_value
from scipy import ndimage

from reion import InputError, load_sample
from reion.metrics import brightness_temperature, r2
from reion.simulation.contract import DIMS, cosmology, make_simulation
from reion.sky.copies import copies
from reion.sky.fronts import FrontSnapshot, between
from reion.sky.geometry import LineOfSight, redshift_of
from reion.sky.light_cone import Settings, light_cone
from reion.sky.strip import strip
from reion.storage.store import write_simulation
from reion_kernels import N_ROTATIONS, permutation_and_flips

PLANCK = FlatLambdaCDM(H0=67.66, Om0=0.30964, Ob0=0.04897)


def opened(path):
    return xr.open_zarr(path).load()


def static(field, redshift=(9.0, 6.0), box_size=64.0, **more):
    """The same field in every snapshot."""
    series = {name: np.stack([values] * len(redshift)) for name, values in {"n_igm": field, **more}.items()}
    return make_simulation(
        series, redshift=redshift, box_size=box_size, cosmology={"H0": 67.66, "Om0": 0.30964, "Ob0": 0.04897}
    )


def clumpy(cells=64, seed=0):
    """A density without structure beyond a few cells."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(cells,) * 3), 1.5, mode="wrap")
    return 4e-31 * np.exp(field / field.std())


def test_planes_lie_at_equal_comoving_distances():
    line = LineOfSight.between(6.0, 9.0, 2.0, PLANCK)
    assert np.diff(line.distance_mpc) == pytest.approx(2.0)
    assert line.near_mpc == pytest.approx(PLANCK.comoving_distance(6.0).value)
    for plane in (0, 100, line.planes - 1):
        exact = z_at_value(
            PLANCK.comoving_distance, line.distance_mpc[plane] * PLANCK.comoving_distance(1).unit
        )
        assert line.redshift[plane] == pytest.approx(exact.value, abs=1e-6)
    assert line.distance_mpc[-1] + 1.0 <= PLANCK.comoving_distance(9.0).value
    assert redshift_of(line.frequency_mhz[5]) == pytest.approx(line.redshift[5])


def test_without_turns_the_cone_is_the_box_again_and_again(tmp_path):
    field = clumpy(16)
    light_cone(static(field, box_size=32.0), tmp_path / "cone.zarr", Settings(turns=False))
    cone = opened(tmp_path / "cone.zarr")
    expected = field / field.mean() - 1
    for copy in range(cone.sizes["distance"] // 16):
        part = cone["overdensity"][..., 16 * copy : 16 * (copy + 1)].values
        assert part == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_turned_copies_are_the_box_turned_by_numpy(axis):
    box = np.random.default_rng(0).normal(size=(6, 6, 6)).astype(np.float32)
    for copy in copies(box.shape, (1.0,) * 3, 12, line_of_sight=axis, seed=3):
        permutation, flips = permutation_and_flips(copy.rotation)
        turned = np.transpose(box, permutation)
        turned = np.flip(turned, [a for a in range(3) if flips[a]])
        turned = np.roll(turned, [-s for s in copy.shift], axis=(0, 1, 2))
        numbers = np.array([0, 1, 1, 4, 5])
        assert np.array_equal(copy.planes(box, numbers), turned[..., numbers])


def test_neighbouring_copies_look_along_different_axes_where_the_box_allows_it():
    cube = copies((8, 8, 8), (1.0,) * 3, 30, line_of_sight=2, seed=1)
    assert all(a.axis != b.axis for a, b in pairwise(cube))
    assert {copy.rotation for copy in cube} <= set(range(N_ROTATIONS))
    # A long box can be seen along its long axis only, turned round it.
    long = copies((8, 8, 32), (1.0,) * 3, 100, line_of_sight=2, seed=1)
    assert {copy.axis for copy in long} == {2}
    assert len({copy.rotation for copy in long}) == 8


def peak_at_the_box(cone, cells):
    """Power along the line of sight at the box's wavenumber over that of its neighbours."""
    field = cone["overdensity"].values
    # Every line of sight minus the box's mean; waves that fit the box are every copies-th.
    power = (np.abs(np.fft.rfft(field - field.mean(), axis=2)) ** 2).mean(axis=(0, 1))
    copy_count = field.shape[2] // cells
    on = power[copy_count : 6 * copy_count + 1 : copy_count]
    beside = np.concatenate([power[copy_count + step : 6 * copy_count + 1 : copy_count] for step in (1, 2)])
    return on.mean() / beside.mean()


def test_turns_take_the_peak_at_the_length_of_the_box_away(tmp_path):
    # 64 cells, five times.
    near = PLANCK.comoving_distance(6.0)
    high = z_at_value(PLANCK.comoving_distance, near + 5 * 64.05 * near.unit).value
    sim = static(clumpy(), redshift=(9.0, 6.0), box_size=64.0)
    ratio = {}
    for turns in (True, False):
        out = tmp_path / f"{turns}.zarr"
        found = light_cone(sim, out, Settings(redshift=(6.0, high), turns=turns, seed=2))
        assert found.shape == (64, 64, 320)
        assert found.copies == 5 + (found.shape[2] % 64 > 0)
        ratio[turns] = peak_at_the_box(opened(out), 64)
    assert ratio[False] > 100
    assert 0.5 < ratio[True] < 2.0


def plane_front(redshift, cells=64, cell_mpc=2.0):
    """A slab that is ionised up to a front which moves with constant speed in cosmic time."""
    age = PLANCK.age(redshift).value
    front = 24.0 + 14.0 * (age - age[0]) / (age[-1] - age[0])
    middle = np.arange(cells) + 0.5
    xi = np.clip(front[:, None] - middle + 0.5, 0, 1)
    # The other surface of the slab, at the edge of the box, stands still.
    xi[:, 0] = 1.0
    xi = np.broadcast_to(xi[:, None, :, None], (redshift.size, 4, cells, 4))
    sim = make_simulation(
        {"xi": xi},
        redshift=redshift,
        box_size=[4 * cell_mpc, cells * cell_mpc, 4 * cell_mpc],
        cosmology={"H0": 67.66, "Om0": 0.30964, "Ob0": 0.04897},
    )
    return sim, lambda z: np.interp(PLANCK.age(z).value, age, front)


def test_a_plane_front_is_at_the_right_place_in_every_plane_of_the_cone(tmp_path):
    sim, front = plane_front(np.array([9.0, 8.3, 7.6, 7.0]))
    light_cone(sim, tmp_path / "cone.zarr", Settings(line_of_sight="z", turns=False))
    cone = opened(tmp_path / "cone.zarr")
    # Seen along z, the front runs along y: as many cells are ionised as it has come.
    place = cone["xi"].values[0].sum(axis=0)
    expected = front(cone["redshift"].values)
    assert np.abs(place - expected).max() < 0.5
    assert place[0] - place[-1] > 12


def test_where_the_front_crosses_half_is_the_right_redshift(tmp_path):
    sim, front = plane_front(np.array([9.0, 7.0]))
    light_cone(sim, tmp_path / "cone.zarr", Settings(line_of_sight="z", turns=False))
    cone = opened(tmp_path / "cone.zarr")
    for cell in range(25, 37):
        column = cone["xi"].values[0, cell]
        # The farthest plane, that is the earliest time, at which the cell is ionised.
        plane = np.flatnonzero(column >= 0.5).max()
        assert abs(front(cone["redshift"].values[plane]) - (cell + 0.5)) < 0.5


@pytest.mark.slow
def test_snapshots_are_kept_and_fronts_beat_fading_on_real_radiative_transfer():
    sim = load_sample().held_out
    age = cosmology(sim).age(sim["redshift"].values).value
    cell = (2.0,) * 3
    for middle in (4, 5, 7):
        before, true, after = (sim["xi"][i].values for i in (middle - 1, middle, middle + 1))
        part = (age[middle] - age[middle - 1]) / (age[middle + 1] - age[middle - 1])
        fronts = [FrontSnapshot.of(xi, cell) for xi in (before, after)]
        faded = [FrontSnapshot.of(xi, cell, fronts=False) for xi in (before, after)]
        assert np.array_equal(between(*fronts, 0.0), before)
        assert between(*fronts, 1.0) == pytest.approx(after, abs=1e-6)
        # The snapshot in the middle was left out.
        assert r2(between(*fronts, part), true) > r2(between(*faded, part), true) + 0.08
        assert r2(between(*fronts, part), true) > 0.9


def test_before_the_first_light_cells_fade_in():
    dark = np.full((4, 4, 4), 1e-3, dtype=np.float32)
    light = dark.copy()
    light[:2] = 1.0
    halfway = between(FrontSnapshot.of(dark, (1.0,) * 3), FrontSnapshot.of(light, (1.0,) * 3), 0.5)
    assert halfway == pytest.approx((dark + light) / 2)


def moving_sample(axes="xyz"):
    sim = load_sample().held_out.isel(redshift=slice(4, 7))
    rng = np.random.default_rng(0)
    for axis in axes:
        field = ndimage.gaussian_filter(rng.normal(size=(64, 64, 64)), 3, mode="wrap")
        field = np.stack([200 * field / field.std()] * 3).astype(np.float32)
        sim = sim.assign({f"velocity_{axis}": (DIMS, field, {"units": "km s-1"})})
    return sim


@pytest.mark.slow
def test_the_signal_of_the_cone_is_that_of_its_fields_and_distortions_keep_it(tmp_path, monkeypatch):
    # Several chunks, so that signal moves from one into the next.
    monkeypatch.setattr("reion.sky.light_cone._CHUNK_BYTES", 64 * 64 * 4 * 50)
    sim = moving_sample()
    light_cone(sim, tmp_path / "still.zarr", Settings(distortions=False))
    light_cone(sim, tmp_path / "moved.zarr")
    still, moved = opened(tmp_path / "still.zarr"), opened(tmp_path / "moved.zarr")
    expected = brightness_temperature(
        still["xi"].values, still["overdensity"].values, still["redshift"].values, cosmology(sim)
    )
    assert still["brightness_temperature"].values == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert "velocity" not in still
    assert moved.attrs["redshift_space"] == 1
    signal, distorted = (cone["brightness_temperature"].values.astype(np.float64) for cone in (still, moved))
    assert np.abs(distorted - signal).max() > 1.0
    # What leaves at the two ends, a few cells of hundreds, is all that is missing.
    inner = slice(8, -8)
    lost = np.abs(signal.sum(axis=2) - distorted.sum(axis=2)).max()
    assert lost < np.abs(signal[..., :8]).sum(axis=2).max() + np.abs(signal[..., -8:]).sum(axis=2).max()
    assert distorted[..., inner].mean() == pytest.approx(signal[..., inner].mean(), rel=0.01)
    whole = tmp_path / "whole.zarr"
    monkeypatch.undo()
    light_cone(sim, whole)
    assert opened(whole)["brightness_temperature"].values == pytest.approx(distorted, abs=1e-4)


def test_copies_keep_to_axes_that_have_a_velocity(tmp_path):
    light_cone(moving_sample("z"), tmp_path / "cone.zarr")
    cone = opened(tmp_path / "cone.zarr")
    seen = {permutation_and_flips(copy["rotation"])[0][2] for copy in cone.attrs["copies"]}
    assert seen == {2}
    assert "velocity" in cone


@pytest.mark.parametrize("cell_mpc", [1.0, 4.0, 5.0])
def test_thicker_and_thinner_planes_hold_the_same_gas(tmp_path, cell_mpc):
    field = clumpy(16)
    sim = static(field, box_size=32.0)
    light_cone(sim, tmp_path / "cone.zarr", Settings(turns=False, cell_mpc=cell_mpc))
    cone = opened(tmp_path / "cone.zarr")
    expected = field / field.mean() - 1
    boxes = np.concatenate([expected] * (int(cone.sizes["distance"] * cell_mpc / 32.0) + 2), axis=2)
    fine = np.repeat(boxes, 20, axis=2)[..., : cone.sizes["distance"] * int(10 * cell_mpc)]
    thick = fine.reshape(16, 16, -1, int(10 * cell_mpc)).mean(axis=3)
    tolerance = 0.25 if cell_mpc == 5.0 else 1e-3  # five Mpc are two cells and a half: three samples
    assert np.sqrt(np.mean((cone["overdensity"].values - thick) ** 2)) < tolerance * thick.std()


def test_the_signal_of_thick_planes_is_the_mean_of_that_of_their_cells(tmp_path):
    """Dense gas is ionised first: the product of the means is not the mean of the product."""
    field = clumpy(16)
    xi = (field > np.median(field)).astype(np.float64)
    sim = static(field, box_size=32.0, xi=xi)
    light_cone(sim, tmp_path / "cone.zarr", Settings(turns=False, cell_mpc=8.0))
    cone = opened(tmp_path / "cone.zarr")
    cells = 4 * cone.sizes["distance"]
    middles = cone["distance"].values[0] - 3.0 + 2.0 * np.arange(cells)
    redshift = np.interp(middles, PLANCK.comoving_distance(z := np.linspace(5.9, 9.1, 4000)).value, z)
    seen = [np.take(values, np.arange(cells) % 16, axis=2) for values in (xi, field / field.mean() - 1)]
    expected = brightness_temperature(*seen, redshift, PLANCK).reshape(16, 16, -1, 4).mean(axis=3)
    np.testing.assert_allclose(cone["brightness_temperature"].values, expected, rtol=1e-4, atol=1e-4)
    means = brightness_temperature(
        cone["xi"].values, cone["overdensity"].values, cone["redshift"].values, PLANCK
    )
    assert np.abs(means - expected).max() > 1.0


def test_every_part_of_a_thick_plane_has_its_own_time(tmp_path):
    field = clumpy(8)
    sim = static(field, box_size=16.0, xi=np.zeros_like(field))
    sim["xi"][1] = 1.0
    settings = Settings(turns=False, cell_mpc=200.0, interpolation="linear")
    light_cone(sim, tmp_path / "cone.zarr", settings)
    xi = opened(tmp_path / "cone.zarr")["xi"].values
    z = np.linspace(6.0, 9.0, 20_000)
    depth, age = PLANCK.comoving_distance(z).value, PLANCK.age(z).value
    depth -= depth[0]
    passed = (age - age[-1]) / (age[0] - age[-1])
    for plane in range(xi.shape[2]):
        inside = np.linspace(200.0 * plane, 200.0 * (plane + 1), 2_000)
        assert xi[..., plane] == pytest.approx(np.interp(inside, depth, passed).mean(), abs=1e-4)


def test_bad_wishes_are_refused(tmp_path, toy):
    sim = toy()
    out = tmp_path / "cone.zarr"
    with pytest.raises(InputError, match="between those of the snapshots, 7 and 12; received 5 to 9"):
        light_cone(sim, out, Settings(redshift=(5.0, 9.0)))
    with pytest.raises(InputError, match="at least two snapshots"):
        light_cone(sim.isel(redshift=[1]), out)
    with pytest.raises(InputError, match="needs xi or n_igm"):
        light_cone(sim[["n_src"]], out)
    with pytest.raises(InputError, match="need xi, n_igm and velocity_z"):
        light_cone(sim, out, Settings(distortions=True))
    with pytest.raises(InputError, match="received a limit of 1 MiB"):
        light_cone(sim, out, memory_bytes=1 << 20)
    with pytest.raises(InputError, match="frequency"):
        redshift_of(1500.0)
    assert not out.exists()


@pytest.mark.slow
def test_command_makes_a_cone_of_a_prediction_and_a_picture(command, toy, tmp_path):
    write_simulation(toy(shape=(8, 8, 8)).drop_vars("xi"), tmp_path / "sim.zarr")
    write_simulation(toy(shape=(8, 8, 8))[["xi"]], tmp_path / "xi.zarr")
    out, picture = tmp_path / "cone.zarr", tmp_path / "new" / "folder" / "cone.png"
    code, printed, said = command(
        "lightcone", tmp_path / "sim.zarr", tmp_path / "xi.zarr", "--out", out, "--redshift", 7, 10,
        "--axis", "x", "--picture", picture, "--json",
    )  # fmt: skip
    assert code == 0, said
    result = json.loads(printed)
    assert result["fields"] == ["xi", "overdensity", "brightness_temperature"]
    cone = opened(out)
    assert cone["xi"].dims == ("x", "y", "distance")
    assert cone.attrs["line_of_sight"] == "x"
    assert 7.0 < cone["redshift"].values.min() < 7.02
    assert cone["frequency"].values.max() == pytest.approx(result["frequency_mhz"][0])
    assert picture.read_bytes().startswith(b"\x89PNG")
    rows = [axes for axes in strip(cone).axes if axes.get_images()]
    assert {axes.get_ylabel() for axes in rows} == {"Mpc (comoving)"}
    assert {axes.get_ylim() for axes in rows} == {(0.0, 16.0)}  # 8 cells of 2 Mpc, like every plane
    code, printed, _ = command(
        "lightcone", tmp_path / "sim.zarr", "--out", out, "--frequency", 140, 170, "--no-turns", "--force"
    )
    assert code == 0
    assert "overdensity" in printed
    code, _, said = command(
        "lightcone", tmp_path / "sim.zarr", "--out", out, "--force", "--frequency", 140, 90
    )
    assert code == 2
    code, _, said = command("lightcone", tmp_path / "sim.zarr", "--out", tmp_path / "b.zarr", "--picture",
                            tmp_path / "b.zarr" / "b.png")  # fmt: skip
    assert code == 2
    assert "lies in" in said
    assert not (tmp_path / "b.zarr").exists()


def test_the_spin_temperature_of_the_data_enters_the_cone(toy, tmp_path):
    sim = toy((8, 8, 8)).isel(redshift=slice(1, None))
    warm = sim.assign(t_spin=(DIMS, np.full(sim["xi"].shape, 50.0, np.float32), {"units": "K"}))
    saturated = xr.open_zarr(light_cone(sim, tmp_path / "saturated.zarr").output)
    cone = xr.open_zarr(light_cone(warm, tmp_path / "cone.zarr").output)
    assert cone["spin_temperature"].values == pytest.approx(50.0)
    factor = 1 - 2.7255 * (1 + cone["redshift"].values) / 50.0
    expected = factor * saturated["brightness_temperature"].values
    np.testing.assert_allclose(cone["brightness_temperature"].values, expected, rtol=2e-5, atol=1e-5)
