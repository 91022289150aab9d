"""The 21-cm signal against its derivation from the constants of the hydrogen atom."""

from __future__ import annotations

import numpy as np
import pytest
from astropy import constants, units
from astropy.cosmology import FlatLambdaCDM

from reion import InputError
from reion.metrics import brightness_temperature

PLANCK = FlatLambdaCDM(H0=67.66, Om0=0.30964, Ob0=0.04897)


@pytest.mark.parametrize("redshift", [6.0, 8.397, 12.0])
def test_a_neutral_mean_cell_shines_as_the_hyperfine_line_says(redshift):
    # dT_b = 3 h c^3 A_10 n_HI / (32 pi k nu^2 H(z) (1 + z)), for a helium fraction of 0.24 by mass.
    einstein, frequency = 2.85e-15 / units.s, 1420.40575 * units.MHz
    hydrogen = 0.76 * PLANCK.Ob0 * PLANCK.critical_density0 / constants.m_p * (1 + redshift) ** 3
    expected = 3 * constants.h * constants.c**3 * einstein * hydrogen
    expected /= 32 * np.pi * constants.k_B * frequency**2 * PLANCK.H(redshift) * (1 + redshift)
    found = brightness_temperature(np.zeros((1, 1, 1)), np.zeros((1, 1, 1)), redshift, PLANCK)
    assert found.item() == pytest.approx(expected.to_value("mK"), rel=0.03)


def test_it_is_the_textbook_formula():
    xi, delta = np.array([[[0.0, 0.25, 1.0]]]), np.array([[[0.0, 1.0, 3.0]]])
    h2 = 0.6766**2
    unit = 27 * (0.04897 * h2 / 0.023) * ((0.15 / (0.30964 * h2)) * ((1 + 9) / 10)) ** 0.5
    found = brightness_temperature(xi, delta, 9.0, PLANCK)
    assert found.ravel() == pytest.approx([unit, unit * 0.75 * 2, 0.0])


def test_bad_input_is_refused():
    with pytest.raises(InputError, match=r"at least -1; received -1\.5"):
        brightness_temperature(np.zeros((2, 2, 2)), np.full((2, 2, 2), -1.5), 8.0, PLANCK)
    with pytest.raises(InputError, match="shape"):
        brightness_temperature(np.zeros((2, 2, 2)), np.zeros((2, 2, 3)), 8.0, PLANCK)
