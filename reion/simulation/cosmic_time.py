"""The age of the universe in a simulation's cosmology, in closed form.

`reion.simulation.contract.cosmology` gives the same through astropy, whose cosmology takes longer to load
than everything else that a prediction needs. A test compares the two.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from reion.simulation.constants import CM_PER_KM, CM_PER_MPC
from reion.simulation.contract import cosmological_parameters


def cosmic_age_s(sim: xr.Dataset) -> np.ndarray:
    """Return the age of the universe at every snapshot of a simulation, (redshift,), in seconds, float64."""
    known = cosmological_parameters(sim)
    return age_s(sim["redshift"].values, hubble_km_s_mpc=known["H0"], omega_m=known["Om0"])


def age_s(redshift: np.ndarray, *, hubble_km_s_mpc: float, omega_m: float) -> np.ndarray:
    """Return the age of a flat universe of matter and a cosmological constant, in seconds, float64.

    Parameters
    ----------
    redshift
        An array of any shape, which is also the shape of the result.
    hubble_km_s_mpc
        The Hubble constant H0.
    omega_m
        The density parameter of matter today, Om. The cosmological constant has 1 - Om.

    Notes
    -----
    The integral of da / (a H) from 0 to 1 / (1 + z) with H² = H0² (Om a^-3 + 1 - Om): e.g. Weinberg,
    Cosmology (2008), section 1.5. The sine hyperbolic becomes a sine where the constant is negative.
    """
    growth = (1.0 + np.asarray(redshift, dtype=np.float64)) ** -1.5
    hubble_time_s = CM_PER_MPC / (hubble_km_s_mpc * CM_PER_KM)
    constant = 1.0 - omega_m
    if constant == 0.0:
        return np.asarray(2.0 / 3.0 * hubble_time_s * growth)
    inverse = np.arcsinh if constant > 0 else np.arcsin
    root = np.sqrt(abs(constant))
    return np.asarray(2.0 / (3.0 * root) * hubble_time_s * inverse(root / np.sqrt(omega_m) * growth))
