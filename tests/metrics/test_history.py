"""Mean ionised fractions and the optical depth, against analytic answers."""

from __future__ import annotations

import numpy as np
import pytest
from astropy import constants, units
from astropy.cosmology import FlatLambdaCDM

from reion import InputError
from reion.metrics import mass_mean, optical_depth, volume_mean
from reion.metrics.history import HELIUM_MASS_FRACTION

PLANCK = FlatLambdaCDM(H0=67.66, Om0=0.30964, Ob0=0.04897)


def fully_ionised_to(z, electrons_per_hydrogen):
    """Optical depth to redshift z of a flat LCDM universe: the integral in closed form."""
    model = PLANCK
    hydrogen = (1 - HELIUM_MASS_FRACTION) * model.Ob0 * model.critical_density0 / constants.m_p
    unit = 2 * constants.c * constants.sigma_T * hydrogen / (3 * model.H0 * model.Om0)
    growth = np.sqrt(model.Om0 * (1 + z) ** 3 + 1 - model.Om0) - 1
    return electrons_per_hydrogen * unit.to_value(units.dimensionless_unscaled) * growth


HELIUM = HELIUM_MASS_FRACTION / (4 * (1 - HELIUM_MASS_FRACTION))


@pytest.mark.parametrize("z_step", [5.0, 8.0, 12.0])
def test_a_step_history_has_its_analytic_optical_depth(z_step):
    late = fully_ionised_to(3.0, HELIUM)
    expected = fully_ionised_to(z_step, 1 + HELIUM) + late
    found = optical_depth([z_step + 1e-9, z_step], [0.0, 1.0], PLANCK)
    assert found == pytest.approx(expected, rel=1e-8)


def test_without_helium_and_with_snapshots_in_between():
    found = optical_depth([2.0, 9.0 + 1e-9, 6.0, 9.0], [1.0, 0.0, 1.0, 1.0], PLANCK, helium_mass_fraction=0.0)
    assert found == pytest.approx(fully_ionised_to(9.0, 1.0) / (1 - HELIUM_MASS_FRACTION), rel=1e-8)


def test_a_linear_history_is_integrated_as_linear():
    z = np.linspace(6, 10, 200_001)
    fine = optical_depth(z[::100], np.interp(z[::100], [6, 10], [1, 0]), PLANCK)
    assert optical_depth([10.0, 6.0], [0.0, 1.0], PLANCK) == pytest.approx(fine, rel=1e-12)


def test_the_planck_history_gives_the_planck_optical_depth():
    # Planck 2018 VI (A&A 641, A6): tau = 0.0544 for a midpoint of reionisation at z = 7.68.
    z = np.linspace(3.5, 15, 200)
    y, y_mid = (1 + z) ** 1.5, (1 + 7.68) ** 1.5
    x = 0.5 * (1 + np.tanh((y_mid - y) / (1.5 * (1 + 7.68) ** 0.5 * 0.5)))
    assert optical_depth(z, x, PLANCK) == pytest.approx(0.0544, rel=0.01)


def test_mass_and_volume_means():
    rng = np.random.default_rng(0)
    xi, density = rng.random((3, 4, 5)).astype(np.float32), rng.random((3, 4, 5)) * 1e-31
    assert volume_mean(xi) == pytest.approx(xi.astype(np.float64).mean())
    assert mass_mean(xi, density) == pytest.approx(np.average(xi.astype(np.float64), weights=density))
    assert mass_mean(xi, np.full(xi.shape, 4e-31, dtype=np.float32)) == pytest.approx(volume_mean(xi))
    assert mass_mean(xi, np.zeros(xi.shape)) is None


def test_bad_histories_are_refused():
    with pytest.raises(InputError, match="one mean xi for each"):
        optical_depth([8.0, 7.0], [0.5], PLANCK)
    with pytest.raises(InputError, match="from 0 to 1"):
        optical_depth([8.0], [1.2], PLANCK)
    with pytest.raises(InputError, match="distinct redshifts"):
        optical_depth([8.0, 8.0], [1.0, 1.0], PLANCK)
    with pytest.raises(InputError, match="not negative"):
        mass_mean(np.ones((2, 2, 2)), -np.ones((2, 2, 2)))
