"""The 21-cm signal of neutral hydrogen against the CMB."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from reion.errors import InputError
from reion.metrics.fields import Curve, Field, checked_field, checked_pair

if TYPE_CHECKING:
    from astropy.cosmology import FlatLambdaCDM

CMB_TEMPERATURE_K = 2.7255
"""Temperature of the CMB today (Fixsen 2009, ApJ 707, 916)."""

LINE_MHZ = 1420.405751768
"""Rest frequency of the 21-cm line."""


def brightness_temperature(
    xi: Field,
    overdensity: Field,
    redshift: float | Curve,
    cosmology: FlatLambdaCDM,
    *,
    spin_temperature_k: Field | None = None,
) -> Field:
    """Differential 21-cm brightness temperature in mK, without peculiar velocities.

    dT_b = 27 mK (1 - xi) (1 + delta) (Omega_b h^2 / 0.023) sqrt(0.15 / (Omega_m h^2) (1 + z) / 10)
    (1 - T_CMB / T_S), with T_CMB = 2.7255 K (1 + z)
    (Furlanetto, Oh & Briggs 2006, Phys. Rep. 433, 181; Mesinger, Furlanetto & Cen 2011, equation 1). The last
    factor is negative, and the line seen in absorption, where the gas is colder than the CMB.

    Parameters
    ----------
    xi
        Ionised fraction, shape (x, y, z).
    overdensity
        delta = density / mean - 1, same shape, -1 or more.
    redshift
        One redshift for all cells, or one for each plane across z, shape (z,), as in a light cone.
    cosmology
        An astropy cosmology with a baryon density.
    spin_temperature_k
        Spin temperature in K, same shape, positive. None means that it far exceeds the temperature of the CMB
        (saturation): the last factor is then 1.

    Returns
    -------
    numpy.ndarray
        float64, shape (x, y, z), in mK.

    Raises
    ------
    InputError
        If the shapes differ, a value is not finite, an overdensity is below -1 or a spin temperature is not
        positive.
    """
    xi, overdensity = checked_pair(xi, overdensity)
    if overdensity.min() < -1 - 1e-6:
        raise InputError(f"expected overdensities of at least -1; received {overdensity.min():g}")
    above = 1 + np.asarray(redshift, dtype=np.float64)
    h2 = (cosmology.H0.to_value("km s-1 Mpc-1") / 100) ** 2
    unit_mk = 27 * (cosmology.Ob0 * h2 / 0.023) * np.sqrt(0.15 / (cosmology.Om0 * h2) * above / 10)
    temperature: Field = unit_mk * (1 - xi.astype(np.float64)) * (1 + overdensity)
    if spin_temperature_k is not None:
        spin = checked_field(spin_temperature_k, "spin temperature")
        if spin.shape != xi.shape or spin.min() <= 0:
            raise InputError(
                f"expected positive spin temperatures of shape {xi.shape}; received shape {spin.shape}, the "
                f"lowest {spin.min():g} K"
            )
        temperature *= 1 - CMB_TEMPERATURE_K * above / spin
    return temperature
