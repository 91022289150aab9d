"""The line of sight of a light cone: planes at equal comoving distances, their redshifts and frequencies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reion.errors import InputError
from reion.metrics.fields import Curve
from reion.metrics.twenty_one_cm import LINE_MHZ

if TYPE_CHECKING:
    from astropy.cosmology import FlatLambdaCDM

_TABLE = 20_001
"""Number of redshifts at which the comoving distance is computed; between them its relative error is 1e-7."""

_SLACK = 1e-6
"""Fraction of a cell by which a range may fall short of whole cells, so that rounding loses no plane."""


@dataclass(frozen=True)
class LineOfSight:
    """Planes of a light cone, the nearest first.

    Parameters
    ----------
    near_mpc
        Comoving distance at which the first plane begins.
    cell_mpc
        Thickness of a plane, comoving.
    redshift
        Redshift of the middle of each plane, shape (planes,), ascending.
    """

    near_mpc: float
    cell_mpc: float
    redshift: Curve

    @classmethod
    def between(
        cls, low: float, high: float, cell_mpc: float, cosmology: FlatLambdaCDM, *, parts: int = 1
    ) -> LineOfSight:
        """Make as many whole planes as fit between two redshifts, starting at the lower one.

        Parameters
        ----------
        low, high
            The redshifts.
        cell_mpc
            Thickness of a plane, comoving.
        parts
                        Number of thinner planes into which each of these planes is cut.

        Raises
        ------
        InputError
            If the range is empty, or not one plane fits.
        """
        if not (0 <= low < high and np.isfinite(high)):
            raise InputError(f"expected two redshifts, the lower one first; received {low:g} and {high:g}")
        if not (cell_mpc > 0 and np.isfinite(cell_mpc)):
            raise InputError(f"expected a cell size in Mpc; received {cell_mpc:g}")
        table = np.linspace(low, high, _TABLE)
        distance = cosmology.comoving_distance(table).to_value("Mpc")
        planes = int((distance[-1] - distance[0]) / cell_mpc + _SLACK)
        if planes < 1:
            raise InputError(
                f"from z = {low:g} to {high:g} it is {distance[-1] - distance[0]:.1f} Mpc; expected at least "
                f"one cell of {cell_mpc:g} Mpc"
            )
        middles = distance[0] + (np.arange(planes * parts) + 0.5) * cell_mpc / parts
        return cls(float(distance[0]), cell_mpc / parts, np.interp(middles, distance, table))

    @property
    def planes(self) -> int:
        """Number of planes."""
        return int(self.redshift.size)

    @property
    def distance_mpc(self) -> Curve:
        """Comoving distance of the middle of each plane, shape (planes,)."""
        distance: Curve = self.near_mpc + (np.arange(self.planes) + 0.5) * self.cell_mpc
        return distance

    @property
    def frequency_mhz(self) -> Curve:
        """Observed frequency in MHz of the 21-cm line of each plane, shape (planes,), descending."""
        return frequency_mhz(self.redshift)


def frequency_mhz(redshift: Curve) -> Curve:
    """Observed frequency in MHz of the 21-cm line at a redshift."""
    frequency: Curve = LINE_MHZ / (1 + redshift)
    return frequency


def redshift_of(frequency_mhz: float) -> float:
    """Redshift whose 21-cm line is observed at a frequency in MHz.

    Raises
    ------
    InputError
        If the frequency is not between 0 and that of the line at rest.
    """
    if not 0 < frequency_mhz <= LINE_MHZ:
        raise InputError(
            f"expected a frequency in MHz from 0 to {LINE_MHZ:.1f}, where the 21-cm line is at rest; "
            f"received {frequency_mhz:g}"
        )
    return LINE_MHZ / frequency_mhz - 1
