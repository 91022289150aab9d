"""Coverage: the range of each quantity in the training of a model, and whether a snapshot lies within it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reion.models.shapes import BoxField
from reion.models.transport import REFERENCE_DENSITY
from reion.simulation.contract import FIELDS, PHOTON_UNITS, hydrogen_per_density

TOLERANCE = 1.25
"""A quantity up to this factor outside its range still counts as covered."""


@dataclass(frozen=True)
class _Quantity:
    """How a message names a quantity of a snapshot, its unit, and what to do if it lies outside its range."""

    label: str
    unit: str
    remedy: str


QUANTITIES: Mapping[str, _Quantity] = {
    "cell_size": _Quantity(
        "the cell size", " Mpc", "bring the box to cells that the training had: `reion convert --cell-size`"
    ),
    "max_mfp": _Quantity(
        "max_mfp, how far photons reach,",
        " Mpc",
        "is it a comoving length in Mpc? --set max_mfp gives another",
    ),
    "mean_density": _Quantity(
        "the mean of n_igm",
        f" times {REFERENCE_DENSITY:g} g cm-3",
        "is it the comoving baryon density in g cm-3? `reion inspect` checks its unit",
    ),
    "density_spread": _Quantity(
        "the spread of n_igm over its mean",
        "",
        "the box is smoother or clumpier than those of the training: is n_igm on the mesh of its own cells?",
    ),
    "photons_per_atom": _Quantity(
        "the number of photons emitted so far for each hydrogen atom",
        "",
        "are the sources in the unit that the model takes? reionisation this early or late was not learnt",
    ),
    "sources_per_volume": _Quantity(
        "the number of cells with sources", " Mpc-3", "the model has not learnt from so few, or so many"
    ),
    "clumping": _Quantity(
        "the clumping factor, by which recombinations are faster than by the density of the cells,",
        "",
        "a model that takes n_ion allows for it if the series starts at z = 11 or before, and only then",
    ),
    "bubble_radius": _Quantity(
        "the radius of the gas at mean density that the photons of a typical source ionise",
        " Mpc",
        "the sources are brighter, or fainter, than those of the training",
    ),
}
"""The quantities, in the order in which messages list them."""


@dataclass(frozen=True)
class Outside:
    """A quantity of a snapshot whose `value` lies outside the range of the training at that redshift."""

    quantity: str
    redshift: float
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        known = QUANTITIES[self.quantity]
        span = f"{self.low:.3g}" if self.low == self.high else f"{self.low:.3g} to {self.high:.3g}"
        return (
            f"{known.label} is {self.value:.3g}{known.unit} at z = {self.redshift:g}; the training had "
            f"{span}: {known.remedy}"
        )

    @property
    def factor(self) -> float:
        """The factor by which the value lies outside the range."""
        return max(self.low / self.value if self.value > 0 else math.inf, self.value / self.high)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {**vars(self), "message": str(self)}


@dataclass(frozen=True)
class Coverage:
    """The coverage of a training.

    `ranges` has, by name of the quantity, rows of redshift, lowest and highest value, ordered by redshift.
    """

    ranges: Mapping[str, Sequence[tuple[float, float, float]]]

    @classmethod
    def of(cls, snapshots: Iterable[tuple[float, Mapping[str, float]]]) -> Coverage:
        """Collect the ranges of the quantities of snapshots, each given with its redshift."""
        found: dict[str, dict[float, tuple[float, float]]] = {}
        for redshift, numbers in snapshots:
            place = round(4 * redshift) / 4
            for name, value in numbers.items():
                low, high = found.setdefault(name, {}).get(place, (math.inf, -math.inf))
                found[name][place] = (min(low, value), max(high, value))
        return cls(
            {
                name: [(z, *rows[z]) for z in sorted(rows)]
                for name, rows in sorted(found.items(), key=lambda item: list(QUANTITIES).index(item[0]))
            }
        )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Coverage:
        """Inverse of `to_json`."""
        return cls(
            {
                name: [(float(z), float(low), float(high)) for z, low, high in rows]
                for name, rows in values.items()
                if name in QUANTITIES
            }
        )

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values, to four digits."""
        return {
            name: [[float(f"{number:.4g}") for number in row] for row in rows]
            for name, rows in self.ranges.items()
        }

    def with_others(self, other: Coverage) -> Coverage:
        """The coverage of both trainings together."""
        ends = [
            (z, {name: value})
            for coverage in (self, other)
            for name, rows in coverage.ranges.items()
            for z, low, high in rows
            for value in (low, high)
        ]
        return Coverage.of(ends)

    def range_of(self, name: str) -> tuple[float, float] | None:
        """Lowest and highest value of a quantity at any redshift; None if it is not known."""
        rows = self.ranges.get(name)
        return (min(row[1] for row in rows), max(row[2] for row in rows)) if rows else None

    def outside(self, redshift: float, numbers: Mapping[str, float]) -> list[Outside]:
        """The quantities of a snapshot that the training did not cover.

        If the redshift itself was not covered, only quantities that hardly depend on it are compared.
        """
        missed = []
        for name, rows in self._with_clumping().items():
            redshifts = [row[0] for row in rows]
            covered = min(redshifts) - 0.25 <= redshift <= max(redshifts) + 0.25
            if name not in numbers or not (covered or name in ("cell_size", "max_mfp", "mean_density")):
                continue
            low, high = (
                float(np.interp(redshift, redshifts, [row[side] for row in rows])) for side in (1, 2)
            )
            known = math.isfinite(numbers[name])  # other values are refused where they are read
            if known and not low / TOLERANCE <= numbers[name] <= high * TOLERANCE:
                missed.append(Outside(name, redshift, numbers[name], low, high))
        return missed

    def _with_clumping(self) -> Mapping[str, Sequence[tuple[float, float, float]]]:
        """The ranges; a training whose boxes had no clumping factor counts as one with 1."""
        if not self.ranges:
            return {}
        redshifts = [row[0] for row in next(iter(self.ranges.values()))]
        return {"clumping": [(redshift, 1.0, 1.0) for redshift in redshifts], **self.ranges}

    def furthest_outside(self, snapshots: Iterable[tuple[float, Mapping[str, float]]]) -> list[Outside]:
        """The quantities that `outside` finds in any of the snapshots, each where it is furthest outside."""
        worst: dict[str, Outside] = {}
        for redshift, numbers in snapshots:
            for item in self.outside(redshift, numbers):
                if item.quantity not in worst or item.factor > worst[item.quantity].factor:
                    worst[item.quantity] = item
        return list(worst.values())


def quantities(
    n_igm: BoxField,
    photons: BoxField,
    *,
    photon_units: str,
    photons_per_source: float | None = None,
    cell_size_mpc: float,
    max_mfp: float | None = None,
    clumping: float | None = None,
) -> dict[str, float]:
    """The quantities of one snapshot, from a whole box or a large part of it.

    Parameters
    ----------
    n_igm
        Gas density (x, y, z), g cm-3.
    photons
        n_ion or n_src, (x, y, z). n_src is a rate: it gives the number of sources but not of photons.
    photon_units
        Unit of `photons`.
    photons_per_source
        Photons, in 1e66, for each unit of an n_ion that is not in photons; None if unknown.
    cell_size_mpc
        Comoving side of a cell.
    max_mfp
        Reach of the photons, Mpc; None if unknown.
    clumping
        Clumping factor of the recombinations that are not yet subtracted from `photons` (see
        `reion.simulation.recombinations`); None if unknown.
    """
    mean = float(n_igm.mean(dtype=np.float64))
    numbers = {
        "cell_size": cell_size_mpc,
        "mean_density": mean / REFERENCE_DENSITY,
        "density_spread": float(n_igm.std(dtype=np.float64)) / mean,
    }
    if max_mfp is not None:
        numbers["max_mfp"] = max_mfp
    if clumping is not None:
        numbers["clumping"] = clumping
    total = float(photons.sum(dtype=np.float64))
    if total > 0:
        count = np.count_nonzero(photons)
        numbers["sources_per_volume"] = count / (photons.size * cell_size_mpc**3)
        each = 1.0 if photon_units == PHOTON_UNITS else photons_per_source
        if photon_units in FIELDS["n_ion"].units and each is not None:
            atoms = mean * hydrogen_per_density()
            typical = float(np.square(photons, dtype=np.float64).sum()) / total * each
            numbers["photons_per_atom"] = total * each / photons.size / atoms
            volume = typical * cell_size_mpc**3 / atoms
            numbers["bubble_radius"] = (3 * volume / (4 * math.pi)) ** (1 / 3)
    return numbers
