"""The result of `reion inspect`, and its JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from reion.simulation.units import grams_per_cubic_parsec

if TYPE_CHECKING:
    from reion_kernels import Moments


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Statistics of the values of a field, in its unit, over the cells of one snapshot or of all.

    Attributes
    ----------
    mean, std, minimum, maximum
        Mean, standard deviation, smallest and largest value.
    skewness
        Skewness; None if all values are the same.
    empty_fraction
        Share of cells that are exactly zero.
    normalised_minimum, normalised_maximum
        Smallest and largest value after subtracting the mean and dividing by σ; None if all values are the
        same.
    """

    mean: float
    std: float
    minimum: float
    maximum: float
    skewness: float | None
    empty_fraction: float
    normalised_minimum: float | None
    normalised_maximum: float | None

    @classmethod
    def from_moments(cls, moments: Moments, empty_cells: int) -> Statistics:
        """Statistics from the moments of the values, and the number of cells that are exactly zero."""
        std = float(moments.std)
        varies = std > 0
        return cls(
            mean=float(moments.mean),
            std=std,
            minimum=float(moments.minimum),
            maximum=float(moments.maximum),
            skewness=float(moments.skewness) if varies else None,
            empty_fraction=empty_cells / moments.count,
            normalised_minimum=float((moments.minimum - moments.mean) / std) if varies else None,
            normalised_maximum=float((moments.maximum - moments.mean) / std) if varies else None,
        )

    def to_json(self) -> dict[str, Any]:
        """The statistics as JSON."""
        return {
            "mean": self.mean,
            "std": self.std,
            "min": self.minimum,
            "max": self.maximum,
            "skewness": self.skewness,
            "empty_fraction": self.empty_fraction,
            "normalised": {"min": self.normalised_minimum, "max": self.normalised_maximum},
        }


@dataclass(frozen=True, kw_only=True)
class FieldSnapshot:
    """One field at one redshift.

    Attributes
    ----------
    redshift
        The redshift.
    statistics
        Statistics of all cells.
    axis_lines
        For each axis, the values along the line through the middle of the box (index n // 2 on the two other
        axes): (n,) float64.
    """

    redshift: float
    statistics: Statistics
    axis_lines: Mapping[str, np.ndarray]

    @property
    def axis_means(self) -> dict[str, float]:
        """Mean along each of `axis_lines`."""
        return {axis: float(line.mean()) for axis, line in self.axis_lines.items()}

    def to_json(self) -> dict[str, Any]:
        """The snapshot as JSON, with the means of `axis_lines` instead of the lines."""
        return {"redshift": self.redshift, **self.statistics.to_json(), "axis_means": self.axis_means}


@dataclass(frozen=True, kw_only=True)
class FieldInspection:
    """One field at all redshifts.

    Attributes
    ----------
    name, units
        Name and unit of the field.
    snapshots
        One for each redshift, in the order of the simulation.
    pooled
        Statistics of all cells of all snapshots.
    """

    name: str
    units: str
    snapshots: Sequence[FieldSnapshot]
    pooled: Statistics

    def to_json(self) -> dict[str, Any]:
        """The field as JSON; the pooled mean density also in g pc-3, the unit of the original project."""
        pooled = self.pooled.to_json()
        if self.name == "n_igm":
            pooled["mean_g_pc3"] = float(grams_per_cubic_parsec(np.asarray(self.pooled.mean)))
        return {
            "units": self.units,
            "snapshots": [snapshot.to_json() for snapshot in self.snapshots],
            "pooled": pooled,
        }


@dataclass(frozen=True, kw_only=True)
class HistoryPoint:
    """Reionisation at one redshift; a quantity is None where the fields it needs are missing.

    Attributes
    ----------
    redshift, age_myr
        The redshift, and the age of the universe then.
    mean_xi, mean_xi_mass, mean_xi_at_sources
        Mean ionised fraction weighted by volume, by mass, and by emitted photons: by `n_ion`, or by `n_src`
        if `n_ion` is missing or zero.
    photons_per_hydrogen
        Ionising photons emitted so far for each hydrogen atom.
    """

    redshift: float
    age_myr: float
    mean_xi: float | None
    mean_xi_mass: float | None
    mean_xi_at_sources: float | None
    photons_per_hydrogen: float | None


@dataclass(frozen=True)
class Check:
    """The result of one check of a simulation.

    Attributes
    ----------
    name
        Name of the check.
    ok
        Whether the simulation is plausible in this respect.
    message
        The result in words.
    """

    name: str
    ok: bool
    message: str


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """The result of `reion inspect` for a simulation.

    Attributes
    ----------
    shape
        Cells along x, y and z.
    box_size_mpc, cell_size_mpc
        Comoving lengths along x, y and z.
    redshifts
        Redshifts of the snapshots, from the first to the last.
    source_code
        The code that made the simulation, if the files give it.
    cosmology
        H0, Om0 and Ob0 by name.
    cosmology_assumed
        Whether the cosmology is the default, because the files give none.
    fields
        Each field of the simulation by its name.
    history
        One point for each redshift.
    checks
        Results of the checks (see `reion.inspection.checks.plausibility`).
    plots
        Paths of the pictures that were written.
    peak_memory_bytes
        Largest memory of this process so far; None where the system does not tell.
    """

    shape: tuple[int, int, int]
    box_size_mpc: Sequence[float]
    cell_size_mpc: Sequence[float]
    redshifts: Sequence[float]
    source_code: str | None
    cosmology: Mapping[str, float]
    cosmology_assumed: bool
    fields: Mapping[str, FieldInspection]
    history: Sequence[HistoryPoint]
    checks: Sequence[Check]
    plots: Sequence[str] = ()
    peak_memory_bytes: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The inspection as JSON; an undefined quantity is None."""
        return {
            "shape": list(self.shape),
            "box_size_mpc": list(self.box_size_mpc),
            "cell_size_mpc": list(self.cell_size_mpc),
            "redshifts": list(self.redshifts),
            "source_code": self.source_code,
            "cosmology": {**self.cosmology, "assumed": self.cosmology_assumed},
            "fields": {name: field.to_json() for name, field in self.fields.items()},
            "history": [dataclasses.asdict(point) for point in self.history],
            "checks": [dataclasses.asdict(check) for check in self.checks],
            "plots": list(self.plots),
            "peak_memory_bytes": self.peak_memory_bytes,
        }
