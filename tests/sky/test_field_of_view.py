"""Cones of angles: planes keep their mean, and a structure of fixed size looks smaller far away."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from reion import InputError
from reion.sky.field_of_view import check_field_of_view, on_the_sky
from reion.sky.light_cone import Settings, light_cone
from reion.sky.strip import strip


def test_the_width_of_the_box_leaves_planes_as_they_are():
    planes = np.random.default_rng(0).random((8, 6, 2)).astype(np.float32)
    distance = np.array([1000.0, 1000.0])
    degrees = float(np.degrees(16.0 / 1000.0))
    assert on_the_sky(planes, (16.0, 16.0), distance, degrees) == pytest.approx(planes, abs=1e-6)
    # Three boxes side by side: every pixel of a third of a plane holds three cells.
    wide = on_the_sky(planes, (16.0, 16.0), 3 * distance, degrees)
    assert wide.mean(axis=(0, 1)) == pytest.approx(planes.mean(axis=(0, 1)), rel=1e-5)


def test_a_pixel_is_the_mean_of_fine_samples():
    rng = np.random.default_rng(1)
    plane = rng.random((8, 8))
    degrees, distance, side = 0.7, 1300.0, 16.0
    found = on_the_sky(plane[..., None], (side, side), np.array([distance]), degrees)[..., 0]
    fine = (np.arange(8 * 500) + 0.5) / (8 * 500) - 0.5
    cell = np.floor((0.5 + fine * np.radians(degrees) * distance / side) * 8).astype(int) % 8
    sampled = plane[np.ix_(cell, cell)].reshape(8, 500, 8, 500).mean(axis=(1, 3))
    assert found == pytest.approx(sampled, abs=5e-3)


def test_a_cone_with_a_field_of_view_has_angles(toy, tmp_path):
    sim = toy((8, 8, 8)).isel(redshift=slice(1, None)).drop_vars("n_src")
    still = xr.open_zarr(light_cone(sim, tmp_path / "still.zarr").output)
    angle = float(np.degrees(16.0 / still["distance"].values[-1]))
    seen = light_cone(sim, tmp_path / "cone.zarr", Settings(field_of_view_degrees=angle))
    cone = xr.open_zarr(seen.output)
    assert cone["xi"].dims == ("theta_x", "theta_y", "distance")
    assert cone["xi"].shape == still["xi"].shape
    assert cone["theta_x"].values[[0, -1]] == pytest.approx([-angle * 7 / 16, angle * 7 / 16])
    np.testing.assert_allclose(cone["xi"][..., -1], still["xi"][..., -1], atol=1e-5)
    near = on_the_sky(still["xi"].values, (16.0, 16.0), still["distance"].values, angle)
    np.testing.assert_allclose(cone["xi"].values, near, atol=1e-6)
    assert strip(cone).axes
    with pytest.raises(InputError, match="above 0 and up to 30 degrees"):
        light_cone(sim, tmp_path / "no.zarr", Settings(field_of_view_degrees=-1.0))


@pytest.mark.parametrize("redshift", [(0.05, 40.0), (5.0, 5.2), (6.0, 80.0), (7.0, 7.0)])
def test_the_picture_of_any_cone_has_a_few_marks(redshift):
    redshift = np.linspace(*redshift, 30 if redshift[0] < redshift[1] else 1)
    planes = redshift.size
    cone = xr.Dataset(
        {"xi": (("x", "y", "distance"), np.random.default_rng(0).random((4, 4, planes)))},
        coords={"y": np.arange(4) + 0.5, "distance": np.arange(planes) + 9e3}
        | {"redshift": ("distance", redshift)},
    )
    figure = strip(cone)
    below = figure.axes[0].get_xticks()
    assert len(below) <= 13
    if planes > 1:
        assert len(below) >= 3


def test_a_field_wider_than_the_box_is_said():
    check_field_of_view(1.0, 900.0, (16.0, 16.0))
    with pytest.warns(UserWarning, match="structure repeats across"):
        check_field_of_view(1.0, 1000.0, (16.0, 16.0))
