"""z_reion: the redshift at which xi of a cell first reaches one half."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reion.errors import InputError
from reion.metrics.bubbles import IONISED
from reion.metrics.fields import Field

if TYPE_CHECKING:
    from astropy.cosmology import FlatLambdaCDM

BACKWARDS = 0.01
"""A cell whose xi falls by more than this from one snapshot to the next goes backwards."""

MANY = 0.01
"""If a larger share of the cells falls below one half again, by recombination, a warning is given."""

ATTRS = {"units": "1", "long_name": "redshift at which xi first reaches 0.5; NaN: it never does"}
"""Attributes of z_reion in a store."""

_STEPS = 1024
"""Points between two snapshots at which the cosmic age is computed; redshifts are then exact to 1e-6."""


@dataclass(frozen=True, kw_only=True)
class Oddities:
    """Numbers of cells whose history is not a simple rise through one half; the sum of two adds the numbers.

    Parameters
    ----------
    cells
        All cells that were examined.
    never
        xi stays below one half in every snapshot: z_reion is NaN.
    at_the_start
        xi is one half or more in the first snapshot, whose redshift is then taken although the true one is
        higher.
    backwards
        xi falls by more than `BACKWARDS` between two snapshots.
    recombined
        xi falls below one half again: z_reion is the redshift of the first crossing.
    """

    cells: int = 0
    never: int = 0
    at_the_start: int = 0
    backwards: int = 0
    recombined: int = 0

    def __add__(self, other: Oddities) -> Oddities:
        return Oddities(**{name: value + vars(other)[name] for name, value in vars(self).items()})

    def complaints(self, first_redshift: float) -> list[str]:
        """The warnings of histories that make z_reion doubtful, one sentence each.

        There is one if more than `MANY` of the cells fall below one half again, and one if some are ionised
        before the first snapshot, the redshift of which is `first_redshift`.
        """
        found = []
        if self.recombined > MANY * self.cells:
            found.append(
                f"{self.recombined} of {self.cells} cells ({self.recombined / self.cells:.2%}) fall below "
                "xi = 0.5 again: their z_reion is that of the first crossing; are the snapshots in order, "
                "and of one box?"
            )
        if self.at_the_start:
            found.append(
                f"{self.at_the_start} of {self.cells} cells ({self.at_the_start / self.cells:.2%}) are "
                f"ionised in the first snapshot already: their z_reion is its redshift, {first_redshift:g}, "
                "and was higher"
            )
        return found

    def warn(self, first_redshift: float) -> None:
        """Give the warnings of `complaints`.

        Warns
        -----
        UserWarning
            If there are any.
        """
        for text in self.complaints(first_redshift):
            warnings.warn(text, stacklevel=3)


class Crossings:
    """z_reion of a box, or of a part of it, computed from one snapshot after the other.

    Parameters
    ----------
    redshift
        Redshifts of the snapshots that will be added, descending.
    cosmology
        An astropy cosmology; between two snapshots xi is linear in its cosmic time.

    Attributes
    ----------
    z_reion
        float32 (x, y, z), NaN where xi has not reached one half so far; None before the first snapshot.
    """

    def __init__(self, redshift: np.ndarray, cosmology: FlatLambdaCDM) -> None:
        self._redshift = np.asarray(redshift, dtype=np.float64)
        self._cosmology = cosmology
        self._index = 0
        self._last: Field | None = None
        self._at_the_start = 0
        self.z_reion: Field | None = None

    def add(self, xi: Field) -> None:
        """Add the next snapshot, shape (x, y, z)."""
        if self._last is None or self.z_reion is None:
            self.z_reion = np.where(xi >= IONISED, np.float32(self._redshift[0]), np.float32(np.nan))
            self._at_the_start = int(np.count_nonzero(xi >= IONISED))
            self._backwards, self._recombined = np.zeros((2, *xi.shape), dtype=bool)
        else:
            self._backwards |= xi < self._last - BACKWARDS
            self._recombined |= (xi < IONISED) & (self._last >= IONISED)
            new = np.isnan(self.z_reion) & (xi >= IONISED)
            before, after = self._last[new].astype(np.float64), xi[new].astype(np.float64)
            self.z_reion[new] = self._redshift_after((IONISED - before) / (after - before))
        self._last = xi
        self._index += 1

    @property
    def oddities(self) -> Oddities:
        """Numbers of cells with odd histories, after the last snapshot."""
        if self.z_reion is None:
            return Oddities()
        return Oddities(
            cells=self.z_reion.size,
            never=int(np.count_nonzero(np.isnan(self.z_reion))),
            at_the_start=self._at_the_start,
            backwards=int(np.count_nonzero(self._backwards)),
            recombined=int(np.count_nonzero(self._recombined)),
        )

    def _redshift_after(self, part: np.ndarray) -> np.ndarray:
        """Redshift after the share `part` of the time between the last snapshot and the next."""
        high, low = self._redshift[self._index - 1 : self._index + 1]
        redshift = np.linspace(high, low, _STEPS + 1)
        age = self._cosmology.age(redshift).to_value("Gyr")
        found: np.ndarray = np.interp(age[0] + part * (age[-1] - age[0]), age, redshift)
        return found


def z_reion(xi: np.ndarray, redshift: np.ndarray, cosmology: FlatLambdaCDM) -> tuple[Field, Oddities]:
    """Redshift at which each cell is ionised, and the numbers of cells with odd histories.

    It is the redshift at which xi first reaches one half; between snapshots xi is linear in cosmic time. If
    xi is one half or more in the first snapshot, it is the redshift of that snapshot; if xi never reaches one
    half, it is NaN.

    Parameters
    ----------
    xi
        Ionised fraction, shape (redshift, x, y, z).
    redshift
        Redshifts, shape (redshift,), descending.
    cosmology
        An astropy cosmology.

    Returns
    -------
    tuple of numpy.ndarray and Oddities
        z_reion, float32 (x, y, z), and the numbers of odd cells.

    Raises
    ------
    InputError
        If the shapes do not fit, the redshifts do not descend or a value is not finite.
    """
    redshift = np.asarray(redshift, dtype=np.float64)
    if xi.ndim != 4 or redshift.shape != xi.shape[:1] or xi.size == 0:
        raise InputError(
            f"expected xi of shape (redshift, x, y, z) and one redshift a snapshot; received {xi.shape} and "
            f"{redshift.shape}"
        )
    if np.any(np.diff(redshift) >= 0):
        raise InputError(f"expected descending redshifts; received {redshift.tolist()}")
    if not np.isfinite(xi).all():
        raise InputError("xi: expected finite numbers; received some that are not")
    crossings = Crossings(redshift, cosmology)
    for snapshot in xi:
        crossings.add(snapshot)
    assert crossings.z_reion is not None  # noqa: S101 (there is a snapshot)
    return crossings.z_reion, crossings.oddities
