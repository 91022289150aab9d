"""Sizes of ionised regions: lengths of rays (mean free path), and balls that fit inside (granulometry)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reion.jobs.resources import fft_threads
from reion.metrics.fields import Curve, Field, checked_box_size, checked_field
from reion.simulation.periodic import squared_distance

IONISED = 0.5
"""A cell at or above this ionised fraction counts as ionised."""

RAYS = 10_000
"""Number of rays that are followed through each field for its size distribution."""

SIZE_BINS = 24
"""Number of bins of the size distribution."""


@dataclass(frozen=True)
class BubbleSizes:
    """Lengths of rays from random ionised points to the first neutral cell.

    Attributes
    ----------
    edges_mpc
        Bin edges, shape (bins + 1,).
    probability
        dP / d ln R in each bin, shape (bins,); rays shorter than the first edge (half a cell) and unbounded
        rays are in no bin.
    unbounded
        Fraction of rays that meet no neutral cell within one side of the box.
    mean_mpc
        Mean length of all rays; unbounded rays count with the side of the box.
    """

    edges_mpc: Curve
    probability: Curve
    mean_mpc: float
    unbounded: float

    @property
    def radius_mpc(self) -> Curve:
        """Centres of the bins (see `geometric_centres`)."""
        return geometric_centres(self.edges_mpc)


def size_edges_mpc(shape: Sequence[int], box_size_mpc: float | Sequence[float]) -> Curve:
    """Bin edges of `BubbleSizes`: half the smallest cell side to the longest box side, equal in ln R."""
    lengths = np.array(checked_box_size(box_size_mpc))
    return np.geomspace(0.5 * (lengths / np.array(shape)).min(), lengths.max(), SIZE_BINS + 1)


def geometric_centres(edges: Curve) -> Curve:
    """Centres of bins that are equal in the logarithm, shape (bins,), of edges of shape (bins + 1,)."""
    centres: Curve = np.sqrt(edges[1:] * edges[:-1])
    return centres


def bubble_sizes(
    xi: Field,
    box_size_mpc: float | Sequence[float],
    *,
    threshold: float = IONISED,
    rays: int = RAYS,
    seed: int = 0,
) -> BubbleSizes | None:
    """Size distribution of ionised regions by the mean free path.

    Rays start at random points of the ionised volume, in random directions, and end at the first neutral cell
    (Mesinger & Furlanetto 2007, ApJ 669, 663). They are followed exactly, from cell to cell, through the
    periodic box.

    Parameters
    ----------
    xi
        Ionised fraction, shape (x, y, z).
    box_size_mpc
        Comoving side of the box, one length or three.
    threshold
        Cells with at least this xi count as ionised.
    rays
        Number of rays; the relative error of the mean is about one over its square root.
    seed
        Seed of points and directions: the same field gives the same result.

    Returns
    -------
    BubbleSizes or None
        None if no cell is ionised, or every cell is.

    Raises
    ------
    InputError
        If a value is not finite or the box size is invalid.
    """
    xi = checked_field(xi, "xi")
    lengths = np.array(checked_box_size(box_size_mpc))
    ionised = xi >= threshold
    inside = np.flatnonzero(ionised)
    if inside.size in (0, xi.size):
        return None
    rng = np.random.default_rng(seed)
    start = rng.choice(inside, size=rays)
    free = _free_paths(ionised, start, lengths, rng)
    edges = size_edges_mpc(xi.shape, box_size_mpc)
    counts, _ = np.histogram(free[free < lengths.max()], edges)
    return BubbleSizes(
        edges_mpc=edges,
        probability=counts / rays / np.diff(np.log(edges)),
        mean_mpc=float(free.mean()),
        unbounded=float(np.mean(free >= lengths.max())),
    )


def _free_paths(
    ionised: Field, start: np.ndarray, lengths: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Lengths in Mpc, shape (rays,), of rays from a random point in each cell of `start` to neutral gas.

    `start` holds flat indices, shape (rays,); `lengths` the sides of the box in Mpc, shape (3,).
    """
    shape = np.array(ionised.shape)
    cell_mpc = lengths / shape
    cell = np.stack(np.unravel_index(start, ionised.shape), axis=1)
    direction = rng.normal(size=cell.shape)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    # A ray along an axis never crosses the walls of the other two axes, which would divide by zero. With a
    # tiny slope it crosses them too late to matter.
    direction[np.abs(direction) < 1e-12] = 1e-12
    step = np.where(direction > 0, 1, -1)
    between = cell_mpc / np.abs(direction)
    offset = rng.random(cell.shape)
    crossing = np.where(direction > 0, 1 - offset, offset) * between
    farthest = float(lengths.max())
    free = np.full(start.size, farthest)
    ray = np.arange(start.size)
    while ray.size:
        row = np.arange(ray.size)
        axis = crossing.argmin(axis=1)
        travelled = crossing[row, axis]
        cell[row, axis] = (cell[row, axis] + step[row, axis]) % shape[axis]
        crossing[row, axis] += between[row, axis]
        neutral = ~ionised[cell[:, 0], cell[:, 1], cell[:, 2]]
        ended = neutral | (travelled >= farthest)
        free[ray[ended]] = np.minimum(travelled[ended], farthest)
        on = ~ended
        ray, cell, step = ray[on], cell[on], step[on]
        between, crossing = between[on], crossing[on]
    return free


def granulometry_radii_mpc(shape: Sequence[int], box_size_mpc: float | Sequence[float]) -> Curve:
    """Radii of `granulometry` in Mpc: from one cell, by factors of √2, to a quarter of the box."""
    lengths = np.array(checked_box_size(box_size_mpc))
    cell = float((lengths / np.array(shape)).min())
    steps = max(0, int(np.floor(2 * np.log2(lengths.min() / 4 / cell) + 1e-9)))
    radii: Curve = cell * 2 ** (0.5 * np.arange(steps + 1))
    return radii


def granulometry(
    xi: Field, box_size_mpc: float | Sequence[float], *, threshold: float = IONISED
) -> tuple[Curve, Curve] | None:
    """Fraction of the ionised volume that is covered by balls of radius R without neutral cells.

    This is the morphological opening with balls of growing radius in the periodic box (Kakiichi et al. 2017,
    MNRAS 471, 1936); its decrease with R is the distribution of sizes. A ball is all cells whose centre is at
    most R away.

    Parameters
    ----------
    xi
        Ionised fraction, shape (x, y, z).
    box_size_mpc
        Comoving side of the box, one length or three.
    threshold
        Cells with at least this xi count as ionised.

    Returns
    -------
    tuple of numpy.ndarray or None
        Radii (Mpc; see `granulometry_radii_mpc`) and fractions, both float64 of shape (radii,); None if no
        cell is ionised.

    Raises
    ------
    InputError
        If a value is not finite or the box size is invalid.
    """
    xi = checked_field(xi, "xi")
    lengths = np.array(checked_box_size(box_size_mpc))
    ionised = xi >= threshold
    volume = int(ionised.sum())
    if volume == 0:
        return None
    radii = granulometry_radii_mpc(xi.shape, box_size_mpc)
    if volume == xi.size:
        return radii, np.ones(radii.size)
    fractions = np.zeros(radii.size)
    distance = squared_distance(xi.shape, (lengths / xi.shape).tolist())
    import scipy.fft  # the import would take a quarter of the start-up time of a prediction

    transform = scipy.fft.rfftn(ionised.astype(np.float64), workers=fft_threads())
    for index, radius in enumerate(radii):
        within = distance <= radius**2 * (1 + 1e-9)
        # A ball equals its mirror image, so its transform is real and the two convolutions need no flip.
        ball = scipy.fft.rfftn(within.astype(np.float64), workers=fft_threads()).real
        covered = scipy.fft.irfftn(transform * ball, xi.shape, workers=fft_threads())
        fits = covered > within.sum() - 0.5
        if not fits.any():
            break
        spread = scipy.fft.rfftn(fits.astype(np.float64), workers=fft_threads())
        reached = scipy.fft.irfftn(spread * ball, xi.shape, workers=fft_threads()) > 0.5
        fractions[index] = reached.sum() / volume
    return radii, fractions
