"""The history of reionisation, one mean xi per snapshot, and the optical depth that follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from reion.errors import InputError
from reion.metrics.fields import Curve, Field, checked_field, checked_pair

if TYPE_CHECKING:
    from astropy.cosmology import FlatLambdaCDM

HELIUM_MASS_FRACTION = 0.2454
"""Primordial helium by mass (Planck 2018 results VI, A&A 641, A6, table 2)."""

HELIUM_REIONISATION = 3.0
"""Redshift below which helium is ionised twice; above it is ionised once wherever hydrogen is ionised."""


def volume_mean(xi: Field) -> float:
    """Mean ionised fraction by volume, summed in float64.

    Raises
    ------
    InputError
        If a value is not finite.
    """
    return float(checked_field(xi, "xi").mean(dtype=np.float64))


def mass_mean(xi: Field, density: Field) -> float | None:
    """Mean ionised fraction by mass: each cell of xi (x, y, z) is weighted with its density, in any unit.

    None if the density is zero everywhere.

    Raises
    ------
    InputError
        If the shapes differ, a value is not finite or a density is negative.
    """
    xi, density = checked_pair(xi, density)
    if density.min() < 0:
        raise InputError("expected densities that are not negative")
    mass = float(density.sum(dtype=np.float64))
    if mass == 0:
        return None
    return float(np.einsum("xyz,xyz->", xi, density, dtype=np.float64) / mass)


def optical_depth(
    redshift: Sequence[float] | Curve,
    mean_xi: Sequence[float] | Curve,
    cosmology: FlatLambdaCDM,
    *,
    helium_mass_fraction: float = HELIUM_MASS_FRACTION,
) -> float:
    r"""Thomson optical depth of a history: \int c sigma_T n_e dt.

    n_e = x n_H (1 + n_He / n_H) (1 + z)^3: helium is ionised once with hydrogen and twice below z = 3. The
    mean ionised fraction (for an exact result, by mass) is linear in redshift between snapshots, 1 below the
    last and 0 above the first: electrons from before the first snapshot are missing.

    Parameters
    ----------
    redshift, mean_xi
        One number per snapshot, in any order; redshifts distinct and not negative.
    cosmology
        An astropy cosmology with a baryon density.
    helium_mass_fraction
        Helium as a share of the mass of the baryons.

    Raises
    ------
    InputError
        If the two differ in length, are empty, or hold a value that is not finite or out of range.
    """
    from astropy import constants

    z = np.asarray(redshift, dtype=np.float64)
    x = np.asarray(mean_xi, dtype=np.float64)
    if z.ndim != 1 or z.shape != x.shape or z.size == 0:
        raise InputError(f"expected one mean xi for each redshift; received shapes {z.shape} and {x.shape}")
    if not (np.all(np.isfinite(z)) and np.all(z >= 0) and np.unique(z).size == z.size):
        raise InputError(f"expected distinct redshifts of at least 0; received {z.tolist()}")
    if not (np.all(np.isfinite(x)) and np.all((x >= 0) & (x <= 1))):
        raise InputError(f"expected mean ionised fractions from 0 to 1; received {x.tolist()}")
    order = np.argsort(z)
    z, x = z[order], x[order]
    hydrogen = (
        (1 - helium_mass_fraction)
        * cosmology.Ob0
        * cosmology.critical_density0.to_value("kg m-3")
        / constants.m_p.to_value("kg")
    )
    helium = helium_mass_fraction / (4 * (1 - helium_mass_fraction))
    nodes, weights = np.polynomial.legendre.leggauss(32)
    breaks = np.unique(np.concatenate([[0.0, min(HELIUM_REIONISATION, z[-1])], z]))
    electrons = 0.0
    # Between the breaks the integrand is smooth, so that 32 points are exact to rounding.
    for low, high in pairwise(breaks):
        at = low + (high - low) * (nodes + 1) / 2
        per_hydrogen = 1 + helium * (2 if high <= HELIUM_REIONISATION else 1)
        ionised = 1.0 if high <= z[0] else np.interp(at, z, x)
        rate = ionised * per_hydrogen * (1 + at) ** 2 / cosmology.H(at).to_value("s-1")
        electrons += float(weights @ rate) * (high - low) / 2
    speed = constants.c.to_value("m s-1") * constants.sigma_T.to_value("m2")
    return float(speed * hydrogen * electrons)
