"""Tables of the photons of a spectrum that pass an optical depth of hydrogen."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CROSS_SECTION_CM2 = 6.3e-18
"""Photo-ionisation cross-section of hydrogen at the threshold of 1 Ry."""
CROSS_SECTION_SLOPE = 2.8
"""The cross-section falls with frequency to this power."""
RYDBERG_K = 157887.5
"""One Rydberg in kelvin."""

NODES = 400
"""Nodes of the Gauss-Legendre quadrature in the logarithm of the frequency."""

# The kernels find a place in the table from the bits of a float32: its exponent and the upper seven bits of
# its mantissa number the interval, the lower sixteen are the place within it. So the intervals are equal
# within an octave and double from one octave to the next, and no logarithm is needed.
OFFSET = 0.125
"""Added to an optical depth before it is looked up; without it the first octaves of the table would hold
optical depths too small to matter."""
FRACTION_BITS = 16
FIRST_INTERVAL = int(np.float32(0.0625).view(np.int32)) >> FRACTION_BITS
LAST = 8191.0
"""Largest optical depth of the table, with `OFFSET` added."""
UNABSORBED = 1e-8
"""Share of the photons that is neglected: a source is not followed where less than it is left."""


class PhotoTable(NamedTuple):
    """The photons of a spectrum that are left behind hydrogen, by optical depth at the threshold of 1 Ry.

    Attributes
    ----------
    left
        (intervals + 1,), float32: share of the ionising photons left at the bounds of the intervals of
        optical depth; linear between them.
    opaque
        Optical depth behind which less than `UNABSORBED` of the photons are left.
    cross_section_cm2
        Cross-section at the threshold.
    """

    left: NDArray[np.float32]
    opaque: float
    cross_section_cm2: float


def black_body_table(
    temperature_k: float = 5e4,
    *,
    highest_ry: float = 10.0,
    cross_section_cm2: float = CROSS_SECTION_CM2,
    slope: float = CROSS_SECTION_SLOPE,
) -> PhotoTable:
    """Make the table of a black body that shines from 1 Ry to `highest_ry`.

    Parameters
    ----------
    temperature_k
        Effective temperature in kelvin, 1e3 to 1e7.
    highest_ry
        Highest photon energy in Rydberg, above 1.
    cross_section_cm2
        Cross-section at 1 Ry.
    slope
        The cross-section is proportional to the frequency to the power of minus this, 0 (grey) to 5.

    Returns
    -------
    PhotoTable
        Normalised to one photon.

    Raises
    ------
    ValueError
        If a number is out of range.
    """
    _check_range("temperature_k", temperature_k, 1e3, 1e7)
    _check_range("highest_ry", highest_ry, 1.001, 1e4)
    energy, width = _energies(highest_ry)
    x = energy * RYDBERG_K / temperature_k
    # Photons, not energy; scaled so that a cool star does not underflow.
    photons = energy**2 * width * np.exp(x[0] - x) / -np.expm1(-x)
    return _tabulate(energy, photons, cross_section_cm2, slope)


def power_law_table(
    index: float,
    *,
    highest_ry: float = 10.0,
    cross_section_cm2: float = CROSS_SECTION_CM2,
    slope: float = CROSS_SECTION_SLOPE,
) -> PhotoTable:
    """Make the table of a power law, L_nu proportional to nu^-index, from 1 Ry to `highest_ry`.

    Parameters
    ----------
    index
        Spectral index of the energy, -10 to 10; the index of the number of photons is larger by one.
    highest_ry, cross_section_cm2, slope
        As in `black_body_table`.

    Returns
    -------
    PhotoTable
        Normalised to one photon.

    Raises
    ------
    ValueError
        If a number is out of range.
    """
    _check_range("index", index, -10.0, 10.0)
    _check_range("highest_ry", highest_ry, 1.001, 1e4)
    energy, width = _energies(highest_ry)
    return _tabulate(energy, energy ** (-index - 1.0) * width, cross_section_cm2, slope)


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        message = f"{name}: expected {low:g} to {high:g}. Received: {value}"
        raise ValueError(message)


def _energies(highest_ry: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes and weights of an integral over photon energies, in Rydberg."""
    nodes, weights = _nodes_and_weights()
    energy = np.exp(math.log(highest_ry) * (nodes + 1.0) / 2.0)
    return energy, energy * weights


@functools.cache
def _nodes_and_weights() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gauss-Legendre nodes and weights from -1 to 1; cached, because they are eigenvalues of a matrix."""
    return np.polynomial.legendre.leggauss(NODES)


def _tabulate(
    energy: NDArray[np.float64], photons: NDArray[np.float64], cross_section_cm2: float, slope: float
) -> PhotoTable:
    if not 0.0 < cross_section_cm2 < 1.0:
        message = (
            f"cross_section_cm2: expected a positive area of an atom in cm2. Received: {cross_section_cm2}"
        )
        raise ValueError(message)
    _check_range("slope", slope, 0.0, 5.0)
    photons = photons / photons.sum()
    cross_section = energy**-slope
    last = int(np.float32(LAST).view(np.int32)) >> FRACTION_BITS
    bits = np.arange(FIRST_INTERVAL, last + 3, dtype=np.int32) << FRACTION_BITS
    tau = bits.view(np.float32).astype(np.float64) - OFFSET
    # In pieces, because the whole outer product takes several MB.
    left = np.concatenate(
        [np.exp(-np.multiply.outer(t, cross_section)) @ photons for t in np.array_split(tau, 32)]
    )
    opaque = float(tau[min(int(np.count_nonzero(left >= UNABSORBED)), len(tau) - 4)])
    return PhotoTable(left.astype(np.float32), opaque, cross_section_cm2)
