"""The pass over every value: findings in one block of a snapshot, and findings of all blocks merged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from reion.inspection.checks import boundary_ratio
from reion.inspection.sources import DensityAtSources, density_at_sources, mean_at_sources, occupied_planes
from reion.jobs.resources import thread_limit
from reion.jobs.workers import Job
from reion.simulation.contract import AXES, FIELDS, Shape, shape_of
from reion.simulation.lazy import Region
from reion.storage.store import blocks_of

if TYPE_CHECKING:
    from reion.inspection.pictures import Pictures
    from reion_kernels import Moments

_PARTLY_IONISED = (0.01, 0.9)
"""Range of mean xi in which a snapshot shows whether sources lie in bubbles."""

_WEIGHTS = ("n_igm", "n_ion", "n_src")
"""Fields by which means of xi are weighted."""


class FieldFindings:
    """Findings on one field in some blocks of a snapshot.

    Attributes
    ----------
    moments
        Moments of all values.
    empty_cells
        Number of cells that are exactly zero.
    """

    def __init__(self, shape: Shape) -> None:
        from reion_kernels import Moments

        self._middle = [n // 2 for n in shape]
        self._line_parts: dict[str, dict[int, np.ndarray]] = {axis: {} for axis in AXES}
        self.moments: Moments = Moments.empty()
        self.empty_cells = 0

    @property
    def axis_lines(self) -> dict[str, np.ndarray]:
        """For each axis, the values along the line through the middle cell: (n,) float64."""
        return {
            axis: np.concatenate([part for _, part in sorted(parts.items())])
            for axis, parts in self._line_parts.items()
        }

    def add(self, values: np.ndarray, block: Region) -> None:
        """Add the cells of a block: (x, y, z) float32."""
        from reion_kernels import moments

        of_block = moments(values, threads=thread_limit())
        self.moments = self.moments.merge(of_block)
        if of_block.minimum == 0:
            self.empty_cells += values.size - int(np.count_nonzero(values))
        for number, axis in enumerate(AXES):
            others = [i for i in range(3) if i != number]
            if all(block[i].start <= self._middle[i] < block[i].stop for i in others):
                index: list[int | slice] = [
                    middle - cells.start for middle, cells in zip(self._middle, block, strict=True)
                ]
                index[number] = slice(None)
                self._line_parts[axis][block[number].start] = values[tuple(index)].astype(np.float64)

    def merge(self, other: FieldFindings) -> None:
        """Add the findings in another block of the same snapshot."""
        self.moments = self.moments.merge(other.moments)
        self.empty_cells += other.empty_cells
        for axis, parts in other._line_parts.items():
            self._line_parts[axis] |= parts


@dataclass
class Findings:
    """Findings in some blocks of a snapshot.

    Attributes
    ----------
    fields
        Findings on each field by its name.
    xi_sums
        For each weighting field, the sum over cells of xi times that field.
    boundary_ratio
        See `reion.inspection.checks.boundary_ratio`; None if a block is not the whole snapshot.
    xi_by_axis_order
        See `reion.inspection.sources.mean_at_sources`; empty if a block is not the whole snapshot or xi shows
        no bubbles.
    density_at_sources
        See `reion.inspection.sources.density_at_sources`; None if a block is not the whole snapshot.
    occupied
        For each axis, whether each plane of the box across it has a source in these blocks: (n,) bool; empty
        without n_src.
    pictures
        The parts of the pictures in these blocks; None if no pictures are drawn.
    """

    fields: dict[str, FieldFindings]
    xi_sums: dict[str, float] = field(default_factory=dict)
    boundary_ratio: float | None = None
    xi_by_axis_order: dict[str, float] = field(default_factory=dict)
    density_at_sources: DensityAtSources | None = None
    occupied: dict[str, np.ndarray] = field(default_factory=dict)
    pictures: Pictures | None = None

    def mean_xi(self, weight: str) -> float | None:
        """Mean of xi over cells, weighted by a field; None if the field is missing or zero everywhere."""
        if weight not in self.xi_sums:
            return None
        total = self.fields[weight].moments.mean * self.fields[weight].moments.count
        return float(self.xi_sums[weight] / total) if total > 0 else None


def merged(findings: Iterable[Findings], shape: Shape) -> Findings:
    """The findings in all blocks of a snapshot as one, without the pictures.

    The findings come in the order of the blocks, so that sums round the same way for any number of workers.
    """
    result = Findings({})
    for found in findings:
        for name, of_field in found.fields.items():
            result.fields.setdefault(name, FieldFindings(shape)).merge(of_field)
        for name, total in found.xi_sums.items():
            result.xi_sums[name] = result.xi_sums.get(name, 0.0) + total
        for axis, planes in found.occupied.items():
            result.occupied[axis] = planes | result.occupied.get(axis, False)
        # These exist only for a block that is the whole snapshot, which has no second block to merge.
        result.boundary_ratio = found.boundary_ratio
        result.xi_by_axis_order = found.xi_by_axis_order
        result.density_at_sources = found.density_at_sources
    return result


class InspectBlock(Job[tuple[int, int], Findings]):
    """Inspects one block of one snapshot. A piece is the number of the snapshot and that of the block."""

    def __init__(self, sim: xr.Dataset, pictures: Pictures | None) -> None:
        self._sim = sim
        self._pictures = pictures
        self._blocks = blocks_of(shape_of(sim))

    def __call__(self, piece: tuple[int, int]) -> Findings:
        """Read every field in one block and collect the findings."""
        index, number = piece
        shape, block = shape_of(self._sim), self._blocks[number]
        values: dict[str, np.ndarray] = {}
        findings = Findings({}, pictures=None if self._pictures is None else self._pictures.empty())
        for name in FIELDS:
            if name in self._sim.data_vars:
                values[name] = self._sim[name][(index, *block)].values
                findings.fields[name] = FieldFindings(shape)
                findings.fields[name].add(values[name], block)
                if findings.pictures is not None:
                    findings.pictures.add(name, index, values[name], block)
        findings.xi_sums = _xi_sums(values)
        if "n_src" in values:
            findings.occupied = {axis: np.zeros(n, dtype=bool) for axis, n in zip(AXES, shape, strict=True)}
            for (axis, planes), cells in zip(occupied_planes(values["n_src"]).items(), block, strict=True):
                findings.occupied[axis][cells] = planes
        if len(self._blocks) == 1:
            photons = next((values[name] for name in ("n_src", "n_ion") if name in values), None)
            if "n_igm" in values and photons is not None:
                findings.density_at_sources = density_at_sources(values["n_igm"], photons)
            if "n_igm" in values:
                findings.boundary_ratio = boundary_ratio(values["n_igm"])
            if "n_src" in values and "xi" in values:
                low, high = _PARTLY_IONISED
                if low < findings.fields["xi"].moments.mean < high:
                    findings.xi_by_axis_order = mean_at_sources(values["xi"], values["n_src"])
        return findings


def _xi_sums(values: Mapping[str, np.ndarray]) -> dict[str, float]:
    """For each weighting field, the sum over cells of xi times that field; fields are (x, y, z)."""
    if "xi" not in values:
        return {}
    return {name: _sum_of_products(values["xi"], values[name]) for name in _WEIGHTS if name in values}


def _sum_of_products(x: np.ndarray, y: np.ndarray) -> float:
    """Sum of x times y, both (x, y, z), in float64; plane by plane, so that no large product is in memory."""
    return sum(float(np.multiply(a, b).sum(dtype=np.float64)) for a, b in zip(x, y, strict=True))
