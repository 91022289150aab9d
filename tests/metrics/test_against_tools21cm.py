"""The field's own package as the oracle, where it has the function (run when tools21cm is installed)."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from astropy.cosmology import FlatLambdaCDM
from scipy import ndimage

from reion.metrics import (
    betti_numbers,
    brightness_temperature,
    bubble_sizes,
    cross_coefficient,
    euler_characteristic,
    optical_depth,
    power_spectrum,
)

pytestmark = pytest.mark.filterwarnings("ignore")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    t2c = pytest.importorskip("tools21cm", exc_type=ImportError)

BOX_MPC = 64.0


@pytest.fixture(scope="module")
def field():
    rng = np.random.default_rng(0)
    return ndimage.gaussian_filter(rng.normal(size=(32, 32, 32)), 2.0, mode="wrap") * 10 + 0.5


@pytest.fixture(scope="module")
def cosmology():
    t2c.set_hubble_h(0.7)
    t2c.set_omega_matter(0.27)
    t2c.set_omega_lambda(0.73)
    t2c.set_omega_baryon(0.044)
    return FlatLambdaCDM(H0=70.0, Om0=0.27, Ob0=0.044)


def shells(field):
    """Edges of our shells of k (`reion.metrics.spectra.SHELL_WIDTH`)."""
    lowest, nyquist = 2 * np.pi / BOX_MPC, np.pi * field.shape[0] / BOX_MPC
    edges = [0.5 * lowest]
    while edges[-1] < nyquist:
        edges.append(min(max(edges[-1] + lowest, edges[-1] * 1.25), nyquist * (1 + 1e-9)))
    return np.array(edges)


def test_power_spectrum(field):
    theirs, _ = t2c.power_spectrum_1d(field - field.mean(), kbins=shells(field), box_dims=BOX_MPC)
    assert power_spectrum(field, BOX_MPC).power == pytest.approx(theirs, rel=1e-6)


def test_cross_coefficient(field):
    rng = np.random.default_rng(1)
    other = field + 2 * ndimage.gaussian_filter(rng.normal(size=field.shape), 1.0, mode="wrap")
    edges = shells(field)
    cross, _ = t2c.cross_power_spectrum_1d(field, other, kbins=edges, box_dims=BOX_MPC)
    a, _ = t2c.power_spectrum_1d(field, kbins=edges, box_dims=BOX_MPC)
    b, _ = t2c.power_spectrum_1d(other, kbins=edges, box_dims=BOX_MPC)
    assert cross_coefficient(field, other, BOX_MPC)[1] == pytest.approx(cross / np.sqrt(a * b), abs=1e-6)


def test_mean_free_path(field):
    ours = bubble_sizes(field, BOX_MPC, rays=50_000)
    radius, probability = t2c.mfp(field, xth=0.5, boxsize=BOX_MPC, iterations=50_000, verbose=False)
    use = radius <= BOX_MPC
    mean = np.average(radius[use], weights=(probability / np.where(radius > 0, radius, 1))[use])
    # Its rays start at cell corners and take steps of a cell: good to about half a cell.
    assert ours.mean_mpc == pytest.approx(mean, abs=0.6 * BOX_MPC / 32)


def test_topology_of_regions_away_from_the_edge(field):
    inside = np.zeros(field.shape)
    inside[2:-2, 2:-2, 2:-2] = field[2:-2, 2:-2, 2:-2] > 0.8
    chi = t2c.EulerCharacteristic(inside, thres=0.5, neighbors=6, speed_up="numpy", verbose=False)
    assert betti_numbers(inside)[0] == t2c.betti0(inside, thres=0.5, neighbors=6)
    # Its Euler characteristic takes cells as points (its vertices), which is face-connectivity, as ours.
    assert abs(euler_characteristic(inside)) == abs(chi)


def test_brightness_temperature(cosmology):
    rng = np.random.default_rng(2)
    xi, delta = rng.random((8, 8, 8)), rng.lognormal(0, 0.4, (8, 8, 8)) - 1
    density = (1 + delta) * t2c.const.rho_crit_0 * t2c.const.OmegaB
    theirs = t2c.calc_dt(xi, density, z=8.0)
    ours = brightness_temperature(xi, delta, 8.0, cosmology)
    # It writes H(z) with dark energy and a slightly different constant: 2 % at most.
    assert ours == pytest.approx(theirs, rel=0.03)


def test_optical_depth(cosmology):
    z = np.linspace(6, 12, 400)
    x = 1 / (1 + np.exp(2 * (z - 8)))
    theirs, _ = t2c.tau(x, z, num_points=2000)
    # Helium by mass that goes with its 0.074 by number of all atoms; it ionises helium only once.
    helium = 4 * 0.074 / (4 * 0.074 + 1 - 0.074)
    twice = optical_depth([3.0], [1.0], cosmology, helium_mass_fraction=helium) / (1 + 1 / 0.16)
    ours = optical_depth(z, x, cosmology, helium_mass_fraction=helium) - twice
    assert ours == pytest.approx(theirs[-1], rel=0.03)
