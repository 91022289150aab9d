"""The field's own package as the oracle (run when tools21cm is installed)."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import xarray as xr
from astropy.cosmology import FlatLambdaCDM
from scipy import ndimage

from reion.simulation.contract import make_simulation
from reion.sky.light_cone import Settings, light_cone
from reion.sky.signal import distorted

pytestmark = pytest.mark.filterwarnings("ignore")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    t2c = pytest.importorskip("tools21cm", exc_type=ImportError)


@pytest.fixture(scope="module")
def cosmology():
    t2c.set_hubble_h(0.7)
    t2c.set_omega_matter(0.27)
    t2c.set_omega_lambda(0.73)
    t2c.set_omega_baryon(0.044)
    return FlatLambdaCDM(H0=70.0, Om0=0.27, Ob0=0.044)


def smooth(seed, cells, sigma=2.0):
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(cells,) * 3), sigma, mode="wrap")
    return field / field.std()


def test_redshift_space(cosmology):
    cells, box_mpc, redshift = 48, 96.0, 8.0
    still = 20 * np.exp(0.3 * smooth(0, cells))
    velocity = 150 * smooth(1, cells)
    kms = np.stack([np.zeros_like(velocity), np.zeros_like(velocity), velocity])
    # 200 particles a cell, so that its sampling is finer than the comparison.
    theirs = t2c.get_distorted_dt(
        still, kms, redshift, los_axis=2, velocity_axis=2, num_particles=200, boxsize=box_mpc
    )
    ours = distorted(still, velocity, redshift, cosmology, box_mpc / cells)
    # It stretches the velocities of n cells over n - 1, which is right in the middle of the box only: that is
    # compared. And it takes the redshift of the moved cell.
    middle = slice(cells // 2 - 3, cells // 2 + 3)
    difference, change = (ours - theirs)[..., middle], (ours - still)[..., middle]
    assert np.sqrt(np.mean(difference**2)) < 0.1 * np.sqrt(np.mean(change**2))
    alike = np.corrcoef(ours[..., middle].ravel(), theirs[..., middle].ravel())[0, 1]
    assert alike > 0.998


def test_light_cone(cosmology, tmp_path):
    redshift = [8.6, 8.3, 8.0]
    cubes = [np.clip(0.5 + 0.2 * smooth(0, 32) + 0.1 * i * smooth(1, 32), 0, 1) for i in range(3)]
    sim = make_simulation(
        {"xi": np.array(cubes)},
        redshift=redshift,
        box_size=48.0,
        cosmology={"H0": 70.0, "Om0": 0.27, "Ob0": 0.044},
    )
    theirs, z = t2c.make_lightcone(
        dict(zip(redshift, cubes, strict=True)), 8.0, 8.6, los_axis=2, box_length_mpc=48.0
    )
    light_cone(sim, tmp_path / "cone.zarr", Settings(turns=False, interpolation="linear"))
    ours = xr.open_zarr(tmp_path / "cone.zarr").load()
    planes = min(theirs.shape[2], ours.sizes["distance"])
    # It names each plane by the redshift of its nearer face, and interpolates in redshift instead of time.
    assert np.abs(z[:planes] - ours["redshift"].values[:planes]).max() < 0.6 * np.diff(z).max() + 1e-3
    assert ours["xi"].values[..., :planes] == pytest.approx(theirs[..., :planes], abs=0.01)
