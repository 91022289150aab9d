"""Where sources are: in dense cells if the axes of both fields agree, and in every part of the box."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reion.inspection.result import Check
from reion.simulation.contract import AXES

_BRIGHTEST = 10_000
"""Number of the brightest sources at which a field is looked up."""

_SIGNIFICANCE = 8.0
"""Smallest gain of the density at sources that is reported, over its scatter at random cells."""

_DENSITY_GAIN = 0.1
"""Smallest gain of the density at sources, in units of the mean density, that is reported."""

_MANY_SOURCES = 100
"""So many cells with sources are spread over the whole box."""

_EMPTY_SHARE = 0.2
"""Smallest share of a side of the box without any of many sources that is reported."""


@dataclass(frozen=True, kw_only=True)
class DensityAtSources:
    """The density at the sources of one snapshot.

    Attributes
    ----------
    by_axis_order
        n_igm over its mean, averaged over the brightest sources weighted by their photons, for each order
        that the axes of n_igm could have (see `mean_at_sources`).
    scatter
        Standard deviation of such an average if the sources were in random cells.
    """

    by_axis_order: Mapping[str, float]
    scatter: float


def mean_at_sources(field: np.ndarray, photons: np.ndarray) -> dict[str, float]:
    """Mean of a field at the brightest sources, for each order that the axes of the field could have.

    Parameters
    ----------
    field, photons
        (x, y, z), one snapshot of each; `photons` is n_src or n_ion.

    Returns
    -------
    dict
        The mean weighted by `photons`, by the order, such as `"zyx"`. Orders that change the shape of the
        field are left out; empty without sources.
    """
    return _means_at(field, *_brightest(photons))


def _means_at(field: np.ndarray, cells: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    """`mean_at_sources` for sources that `_brightest` has found."""
    if cells.size == 0:
        return {}
    positions = np.unravel_index(cells, field.shape)
    return {
        "".join(AXES[axis] for axis in order): float(
            np.average(field.transpose(order)[positions], weights=weights)
        )
        for order in itertools.permutations(range(3))
        if tuple(field.shape[axis] for axis in order) == field.shape
    }


def density_at_sources(n_igm: np.ndarray, photons: np.ndarray) -> DensityAtSources | None:
    """The density at the sources of one snapshot, fields (x, y, z); None without sources or gas."""
    mean = float(n_igm.mean(dtype=np.float64))
    cells, weights = _brightest(photons)
    if weights.size == 0 or mean <= 0:
        return None
    independent = weights.sum() ** 2 / np.square(weights).sum()
    return DensityAtSources(
        by_axis_order={order: value / mean for order, value in _means_at(n_igm, cells, weights).items()},
        scatter=float(n_igm.std(dtype=np.float64)) / mean / float(np.sqrt(independent)),
    )


def dense_sources(found: DensityAtSources) -> Check | None:
    """Check that sources are in denser cells than with the axes in any other order; None if that is unclear.

    Sources are in dense gas: a mean density near the cosmic one at the sources, and a higher one with the
    axes of n_igm in another order, shows that the files have different orders. Sources that are few, or in
    all cells alike, show nothing.
    """
    means = found.by_axis_order
    given = means["xyz"]
    best = max(means, key=lambda order: means[order])
    least = max(_DENSITY_GAIN, _SIGNIFICANCE * found.scatter)
    if means[best] - 1 > max(least, 3 * (given - 1)) and means[best] - given > least:
        return Check(
            "sources in dense gas",
            ok=False,
            message=f"n_igm is {given:.2f} times its mean at the sources, but {means[best]:.2f} times with "
            f"its axes as {best}: are axes swapped between files?",
        )
    if given - 1 > least:
        message = f"n_igm is {given:.2f} times its mean at the sources"
        return Check("sources in dense gas", ok=True, message=message)
    return None


def occupied_planes(photons: np.ndarray) -> dict[str, np.ndarray]:
    """For each axis, whether each plane across it has a source: (n,) bool."""
    shining = photons > 0
    others = {axis: tuple(i for i in range(3) if AXES[i] != axis) for axis in AXES}
    return {axis: np.asarray(shining.any(axis=across)) for axis, across in others.items()}


def spread_sources(occupied: Sequence[Mapping[str, np.ndarray]], counts: Sequence[int]) -> Check | None:
    """Check that no large part of the box lacks sources where there are many; None if there are few.

    Parameters
    ----------
    occupied
        `occupied_planes` of each snapshot.
    counts
        Number of cells with sources of each snapshot. The snapshot with most is examined.
    """
    most = int(np.argmax(counts))
    if counts[most] < _MANY_SOURCES:
        return None
    empty = {axis: _longest_gap(planes) for axis, planes in occupied[most].items()}
    wide = [f"{share:.2f} of the side along {axis}" for axis, share in empty.items() if share >= _EMPTY_SHARE]
    if not wide:
        return Check("spread of sources", ok=True, message="sources are in every part of the box")
    return Check(
        "spread of sources",
        ok=False,
        message=f"{counts[most]} cells have sources, but a part of the box has none: {', '.join(wide)}; is "
        "the unit of their positions, or the size of the box, right?",
    )


def _longest_gap(planes: np.ndarray) -> float:
    """Longest run of planes without sources, across the periodic boundary too, as a share of all planes."""
    places = np.flatnonzero(planes)
    gaps = np.diff(np.append(places, places[0] + planes.size)) - 1
    return float(gaps.max()) / planes.size


def _brightest(photons: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flat indices of the brightest sources and their photons, float64: (n,) each."""
    cells = np.flatnonzero(photons)
    rates = photons.reshape(-1)[cells]
    if cells.size > _BRIGHTEST:
        brightest = np.argpartition(rates, -_BRIGHTEST)[-_BRIGHTEST:]
        cells, rates = cells[brightest], rates[brightest]
    return cells, rates.astype(np.float64)
