"""The table of the photons left, against integrals over the spectrum."""

import numpy as np
import pytest
from scipy.constants import Boltzmann, Rydberg, c, h
from scipy.integrate import quad

from reion_kernels import black_body_table, power_law_table
from reion_kernels.photo_table import FIRST_INTERVAL, FRACTION_BITS, OFFSET, UNABSORBED


def read(table, tau):
    """Read the table as anybody would who is given its bounds."""
    bits = np.arange(FIRST_INTERVAL, FIRST_INTERVAL + len(table.left), dtype=np.int32) << FRACTION_BITS
    return np.interp(tau, bits.view(np.float32).astype(float) - OFFSET, table.left)


def black_body(temperature):
    kelvin = h * c * Rydberg / Boltzmann
    return lambda e: e**2 / np.expm1(e * kelvin / temperature)


@pytest.mark.parametrize(
    ("table", "photons"),
    [
        (black_body_table(), black_body(5e4)),
        (black_body_table(1e5), black_body(1e5)),
        (power_law_table(1.5), lambda e: e**-2.5),
    ],
)
def test_what_is_left_is_the_integral_over_the_spectrum(table, photons):
    total, _ = quad(photons, 1, 10)
    for tau in (0.0, 1e-3, 0.1, 1.0, 3.7, 20.0, 300.0):
        left, _ = quad(lambda e, tau=tau: photons(e) * np.exp(-tau * e**-2.8), 1, 10, epsabs=0, limit=200)
        assert read(table, tau) == pytest.approx(left / total, rel=2e-4, abs=1e-5 * np.exp(-tau))
    assert np.all(np.diff(table.left) <= 0)


def test_a_grey_cross_section_leaves_an_exponential():
    table = black_body_table(slope=0.0)
    tau = np.geomspace(1e-3, 15, 50)
    # Read linearly over 1/16, the widest interval below 16, an exponential is (1/16)^2 / 8 too large.
    assert np.allclose(read(table, tau), np.exp(-tau), rtol=(1 / 16) ** 2 / 8 * 1.01, atol=2e-6)
    assert table.opaque == pytest.approx(-np.log(UNABSORBED), rel=0.02)


def test_hard_photons_get_farther():
    assert power_law_table(1.0).opaque > black_body_table().opaque > black_body_table(2e4).opaque


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: black_body_table(10.0), "temperature_k: expected 1000 to 1e\\+07. Received: 10.0"),
        (lambda: black_body_table(highest_ry=1.0), "highest_ry: expected"),
        (lambda: black_body_table(cross_section_cm2=0.0), "cross_section_cm2: expected a positive area"),
        (lambda: black_body_table(slope=-1.0), "slope: expected 0 to 5"),
        (lambda: power_law_table(np.nan), "index: expected -10 to 10. Received: nan"),
        (lambda: power_law_table(1.0, highest_ry=np.inf), "highest_ry: expected"),
    ],
)
def test_impossible_spectra_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
