"""The 21-cm signal of the field, where the spin temperature far exceeds that of the CMB."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from reion.errors import InputError
from reion.metrics.fields import Field, checked_pair

if TYPE_CHECKING:
    from astropy.cosmology import FlatLambdaCDM


def brightness_temperature(xi: Field, overdensity: Field, redshift: float, cosmology: FlatLambdaCDM) -> Field:
    """Differential 21-cm brightness temperature in mK, saturated, without peculiar velocities.

    dT_b = 27 mK (1 - xi) (1 + delta) (Omega_b h^2 / 0.023) sqrt(0.15 / (Omega_m h^2) (1 + z) / 10)
    (Furlanetto, Oh & Briggs 2006, Phys. Rep. 433, 181; Mesinger, Furlanetto & Cen 2011, equation 1).

    Parameters
    ----------
    xi
        Ionised fraction, shape (x, y, z).
    overdensity
        delta = density / mean - 1, same shape, -1 or more.

    Returns
    -------
    numpy.ndarray
        float64, shape (x, y, z), in mK.

    Raises
    ------
    InputError
        If the shapes differ, a value is not finite or an overdensity is below -1.
    """
    xi, overdensity = checked_pair(xi, overdensity)
    if overdensity.min() < -1 - 1e-6:
        raise InputError(f"expected overdensities of at least -1; received {overdensity.min():g}")
    h2 = (cosmology.H0.to_value("km s-1 Mpc-1") / 100) ** 2
    unit_mk = 27 * (cosmology.Ob0 * h2 / 0.023) * np.sqrt(0.15 / (cosmology.Om0 * h2) * (1 + redshift) / 10)
    temperature: Field = np.float64(unit_mk) * (1 - xi.astype(np.float64)) * (1 + overdensity)
    return temperature
