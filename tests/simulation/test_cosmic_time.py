"""The age of the universe and the constants, compared with astropy's."""

import numpy as np
import pytest
from astropy import constants, units
from astropy.cosmology import FlatLambdaCDM

from reion.simulation.constants import CM_PER_MPC, GRAVITY_CM3_PER_G_S2, PROTON_MASS_G
from reion.simulation.contract import cosmology, make_simulation
from reion.simulation.cosmic_time import age_s, cosmic_age_s

Z = np.array([0.0, 0.5, 3.0, 6.0, 8.397, 12.0, 30.0, 1100.0])


@pytest.mark.parametrize("omega_m", [1e-3, 0.27, 0.30964, 0.99, 1.0, 1.5])
@pytest.mark.parametrize("hubble", [50.0, 67.66, 100.0])
def test_the_age_is_that_of_astropy(omega_m, hubble):
    expected = FlatLambdaCDM(H0=hubble, Om0=omega_m).age(Z).to_value("s")
    np.testing.assert_allclose(age_s(Z, hubble_km_s_mpc=hubble, omega_m=omega_m), expected, rtol=1e-9)


@pytest.mark.parametrize("attributes", [{}, {"H0": 70.0, "Om0": 0.27, "Ob0": 0.045}])
def test_the_age_of_a_simulation_is_that_of_its_cosmology(attributes):
    sim = make_simulation(
        {"xi": np.zeros((2, 3, 3, 3), np.float32)}, redshift=[9.0, 7.0], box_size=6.0
    ).assign_attrs(attributes)
    expected = cosmology(sim).age(sim["redshift"].values).to_value("s")
    np.testing.assert_allclose(cosmic_age_s(sim), expected, rtol=1e-12)


def test_the_constants_are_those_of_astropy():
    # The value of CODATA 2018, which older versions of astropy have, differs by 1.3e-9.
    assert pytest.approx(constants.m_p.to_value("g"), rel=3e-9) == PROTON_MASS_G
    assert pytest.approx(constants.G.cgs.value, rel=1e-12) == GRAVITY_CM3_PER_G_S2
    assert pytest.approx(units.Mpc.to(units.cm), rel=1e-15) == CM_PER_MPC
