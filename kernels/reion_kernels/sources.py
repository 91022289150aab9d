"""Lists of sources: merged where they share a cell, sorted by place, and with hosts for faint ones."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

NEAR_CELLS = 8
"""Side, in cells, of the cubes whose sources follow each other in the list, because their rays meet the same
gas."""

Integers = NDArray[np.int64]
Reals = NDArray[np.float64]


def check_sources(positions: ArrayLike, rates: ArrayLike, shape: tuple[int, ...]) -> tuple[Integers, Reals]:
    """Return the cells of sources, wrapped into the box, and their rates; raise if they are invalid.

    Raises
    ------
    TypeError
        If positions are not integers.
    ValueError
        If shapes do not fit or a rate is negative or not finite.
    """
    places, strengths = np.asarray(positions), np.asarray(rates, dtype=np.float64)
    if places.size == 0:
        places = np.zeros((0, 3), dtype=np.int64)
    if not np.issubdtype(places.dtype, np.integer):
        message = (
            f"positions: expected integers, the cells of the sources. Received: {places.dtype}. "
            "Use numpy.floor(positions).astype(int) where positions are in cells"
        )
        raise TypeError(message)
    if strengths.ndim != 1 or places.shape != (strengths.size, 3):
        message = (
            "positions, rates: expected shapes (sources, 3) and (sources,). "
            f"Received: {places.shape} and {strengths.shape}"
        )
        raise ValueError(message)
    wrong = np.flatnonzero(~(np.isfinite(strengths) & (strengths >= 0)))
    if wrong.size:
        message = (
            "rates: expected finite numbers of photons a second, zero or more. "
            f"Received: {strengths[wrong[0]]} for source {wrong[0]}"
        )
        raise ValueError(message)
    return places.astype(np.int64) % np.array(shape), strengths


def by_place(places: Integers, strengths: Reals, shape: tuple[int, ...]) -> tuple[Integers, Reals, Integers]:
    """Merge sources in one cell, drop those without photons, and sort neighbours together.

    Returns
    -------
    places, strengths
        (cells with sources, 3) and (cells with sources,).
    member
        (sources,): index of each given source in these lists; -1 for those without photons.
    """
    shining = strengths > 0
    flat = np.ravel_multi_index(tuple(places[shining].T), shape)
    cells, member_of = np.unique(flat, return_inverse=True)
    sums = np.zeros(len(cells))
    np.add.at(sums, member_of, strengths[shining])
    merged = np.stack(np.unravel_index(cells, shape), axis=1).reshape(-1, 3).astype(np.int64)
    block = merged // NEAR_CELLS
    order = np.lexsort((*merged.T[::-1], *block.T[::-1]))
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    member = np.full(len(strengths), -1, dtype=np.int64)
    member[shining] = rank[member_of]
    return merged[order], sums[order], member


def hosts(
    places: Integers, strengths: Reals, shape: tuple[int, ...], share: float, block_cells: int
) -> Integers:
    """Return for each source the index of its host, from which the photons that leave its cell start.

    The faintest sources that together emit no more than `share` of all photons are faint. The host of a faint
    source is the brightest faint source in the same cube of `block_cells` cells a side, counted from the
    first cell of the box. Every other source is its own host.
    """
    order = np.argsort(strengths, kind="stable")
    count = np.count_nonzero(np.cumsum(strengths[order]) <= share * strengths.sum() * (1 + 1e-12))
    faint = order[:count]
    blocks = tuple(math.ceil(n / block_cells) for n in shape)
    block = np.ravel_multi_index(tuple((places[faint] // block_cells).T), blocks)
    # From the brightest on, the first of each block.
    _, first, member = np.unique(block[::-1], return_index=True, return_inverse=True)
    host = np.arange(len(strengths))
    host[faint[::-1]] = faint[::-1][first][member]
    return host
