"""Constants that are needed without loading astropy, which takes half a second.

A test compares the values with those of `astropy.constants` and `astropy.units`.
"""

PROTON_MASS_G = 1.67262192595e-24
"""The mass of a proton in g: CODATA 2022."""

CM_PER_MPC = 3.0856775814913673e24
"""A megaparsec in cm: IAU 2015, resolution B2."""

CM_PER_KM = 1e5
"""A kilometre in cm."""

GRAVITY_CM3_PER_G_S2 = 6.6743e-8
"""The constant of gravitation: CODATA 2018 and 2022."""
