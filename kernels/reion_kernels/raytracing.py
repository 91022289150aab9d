"""Photo-ionisation rates from many sources: short characteristics within a sphere around each.

The method is that of C2-Ray (Mellema, Iliev, Alvarez & Shapiro 2006). The optical depth of the gas in front
of a cell is interpolated from the up to four cells through which the ray comes, with weights 1 / max(0.6,
tau), so that an opaque cell stops its own share of the light and not that of its neighbours. A cell absorbs
the photons that enter it less those that leave it.

The geometry is the same for every source, so `LANES` sources are followed at a time in the vector registers
of the processor. The rates are summed as integers, whose sum does not depend on the order, so the answer has
the same bits for any number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reion_kernels._layout import Real, check_real
from reion_kernels._threads import thread_count
from reion_kernels.characteristics import LANES, THIN, follow
from reion_kernels.photo_table import FIRST_INTERVAL, FRACTION_BITS, LAST, OFFSET, PhotoTable
from reion_kernels.sources import by_place, check_sources, hosts
from reion_kernels.sphere import Sphere, sphere

GROUPS_A_TASK = 4
"""Least number of groups of `LANES` sources in a task, which has an array of rates of its own."""
FULL = 2.0**60
"""Integer that stands for the rates of all sources together; an eighth of the range of int64."""
MOST_CORRECTION = 2.0
"""Largest factor, and inverse of the smallest, by which the photons of a source are corrected."""


class Rays(NamedTuple):
    """Photo-ionisation rates of all sources together, and the count of their photons.

    Attributes
    ----------
    gamma
        (X, Y, Z), float64: photo-ionisations a second of each neutral atom.
    emitted, absorbed, lost
        Photons a second of all sources: emitted, absorbed by the gas within the spheres, and gone beyond
        them.
    escaped
        (sources,), float64: the share of each source's photons that is lost.
    created
        (sources,), float64: absorbed and lost photons for each emitted photon, before the correction that
        conserves photons divides the rates by this number. It differs from 1 because of interpolation.
    """

    gamma: NDArray[np.float64]
    emitted: float
    absorbed: float
    lost: float
    escaped: NDArray[np.float64]
    created: NDArray[np.float64]


def trace_rays(
    n_hi: Real,
    positions: ArrayLike,
    rates: ArrayLike,
    *,
    cell_cm: float,
    max_mfp_cells: float,
    table: PhotoTable,
    conserve: bool = True,
    faint_share: float = 0.0,
    faint_block_cells: int = 2,
    share: tuple[int, int] = (0, 1),
    threads: int | None = None,
) -> Rays:
    """Follow the photons of every source through neutral hydrogen on a periodic mesh.

    A cell whose middle is farther than `max_mfp_cells` from the source gets none of its photons and costs no
    time, so the work depends on the volume of the spheres and not on the size of the box. A reach of more
    than half the box is allowed. Each cell then sees the nearest image of each source, or several that are
    equally near, so that no ray goes round the box twice.

    Parameters
    ----------
    n_hi
        (X, Y, Z), float32 or float64, any strides: neutral hydrogen in cm-3, proper.
    positions
        (sources, 3) integers: the cell of each source; the box is periodic. Sources in one cell are merged.
    rates
        (sources,): ionising photons a second.
    cell_cm
        Side of a cell in cm, proper.
    max_mfp_cells
        Reach of photons, in cells.
    table
        The spectrum, from `black_body_table` or `power_law_table`.
    conserve
        True: scale each source's rates so that its absorbed and lost photons are the emitted ones, and divide
        the solid angles of the cells by their sum over each layer around the source. False: do neither, as
        C2-Ray; the first layer then catches 94 % of the photons, and interpolation in front of an ionisation
        front creates up to 10 % too many.
    faint_share, faint_block_cells
        For boxes in which every cell emits. The faintest sources that together emit no more than
        `faint_share` of all photons share rays: each ionises its own cell with the photons that this cell
        absorbs, and its other photons start from the brightest of them in the same cube of
        `faint_block_cells` cells a side. 0: every source has rays of its own.
    share
        (index, count): trace only share `index`, from 0, of `count` shares of the sources, so that several
        processes can trace one share each. Rates and sums of all shares add up to the whole.
    threads
        Number of threads; None for every core this process may use. The result does not depend on it.

    Returns
    -------
    Rays
        Rates are in steps of 1e-18 of the largest rate that all sources together could make. Photons behind
        an optical depth of ``table.opaque`` (a share below 1e-8) are neglected. Optical depths are kept in
        float32. Besides its input the function takes, for each thread, 12 bytes a cell within reach and 64
        bytes a cell of a sphere.

    Raises
    ------
    TypeError
        If `n_hi` is not float32 or float64 or positions are not integers.
    ValueError
        If shapes do not fit, or a density, rate, length or number of threads is out of range.
    """
    check_real(n_hi, "n_hi")
    if n_hi.ndim != 3 or n_hi.size == 0:
        message = f"n_hi: expected three axes with cells. Received: shape {n_hi.shape}"
        raise ValueError(message)
    if not (n_hi.min() >= 0 and n_hi.max() < np.inf):
        cell = tuple(int(i) for i in np.argwhere(~(np.isfinite(n_hi) & (n_hi >= 0)))[0])
        message = f"n_hi: expected finite densities, zero or more. Received: {n_hi[cell]} in cell {cell}"
        raise ValueError(message)
    for name, value in (("cell_cm", cell_cm), ("max_mfp_cells", max_mfp_cells)):
        if not (math.isfinite(value) and value > 0):
            message = f"{name}: expected a positive length. Received: {value}"
            raise ValueError(message)
    if not 0.0 <= faint_share <= 1.0:
        message = f"faint_share: expected 0 to 1, of all photons. Received: {faint_share}"
        raise ValueError(message)
    if faint_block_cells < 1:
        message = f"faint_block_cells: expected a positive number. Received: {faint_block_cells}"
        raise ValueError(message)
    if not 0 <= share[0] < share[1]:
        message = f"share: expected a number from 0 and a larger count of shares. Received: {share}"
        raise ValueError(message)
    places, strengths, member = by_place(*check_sources(positions, rates, n_hi.shape), n_hi.shape)
    geometry = sphere(max_mfp_cells, n_hi.shape, conserve=conserve)
    tau = np.ascontiguousarray(n_hi * np.float64(table.cross_section_cm2 * cell_cm), dtype=np.float32)
    host = hosts(places, strengths, n_hi.shape, faint_share, faint_block_cells)
    places, strengths, host, member = _in_share(places, strengths, host, member, share)
    emitted = float(strengths.sum())
    leads, follows = np.unique(host, return_inverse=True)
    guest = leads[follows] != np.arange(len(host))
    # A host with guests is treated like its guests: the photons that leave their cells start as one source.
    guest |= np.bincount(follows, minlength=len(leads))[follows] > 1
    own = tuple(places[guest].T)
    sent = np.ones(len(places))
    sent[guest], at_home = _own_cell(tau[own], strengths[guest], table)
    started = np.zeros(len(leads))
    np.add.at(started, follows, sent * strengths)
    total, (absorbed, left, created) = _all_sources(
        tau, places[leads], started, geometry, table, conserve, threads
    )
    unit = table.cross_section_cm2 / cell_cm / cell_cm
    escaped = np.append(sent * left[follows], 0.0)
    gamma: NDArray[np.float64] = np.multiply(total, started.sum() / FULL * unit)
    gamma[own] += at_home * unit
    return Rays(
        gamma=gamma,
        emitted=emitted,
        absorbed=float(absorbed @ started + (1.0 - sent) @ strengths),
        lost=float(left @ started),
        # Sources without photons have the index -1.
        escaped=escaped[member],
        created=np.append(created[follows], 1.0)[member],
    )


def _in_share(
    places: NDArray[np.int64],
    strengths: NDArray[np.float64],
    host: NDArray[np.int64],
    member: NDArray[np.int64],
    share: tuple[int, int],
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Sources whose hosts belong to a share, with the indices of hosts and members within this share."""
    number, count = share
    if count == 1:
        return places, strengths, host, member
    first, last = (len(host) * bound // count for bound in (number, number + 1))
    kept = (host >= first) & (host < last)
    anew = np.append(np.where(kept, np.cumsum(kept) - 1, -1), -1)
    return places[kept], strengths[kept], anew[host[kept]], anew[member]


def _own_cell(
    tau: NDArray[np.float32], strengths: NDArray[np.float64], table: PhotoTable
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Share of the photons that leave the source's own cell, and the rate of the others in this cell."""
    bounds = (np.arange(len(table.left), dtype=np.int32) + FIRST_INTERVAL) << FRACTION_BITS
    across = 0.5 * tau.astype(np.float64)
    thick = np.maximum(across, THIN)
    middle = 0.5 * across + OFFSET
    behind, enter, leave = (
        np.interp(np.minimum(x, LAST), bounds.view(np.float32), table.left)
        for x in (across + OFFSET, middle - 0.5 * thick, middle + 0.5 * thick)
    )
    rate = 0.5 * (enter - leave) / thick
    # Where the cell is thin, the share that leaves is computed from the absorbed share, which avoids
    # rounding.
    sent = np.where(across > THIN, behind, 1.0 - rate * tau)
    return sent, strengths * rate


def _all_sources(
    tau: NDArray[np.float32],
    places: NDArray[np.int64],
    strengths: NDArray[np.float64],
    geometry: Sphere,
    table: PhotoTable,
    conserve: bool,
    threads: int | None,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Rates as integers, and each source's shares: absorbed, lost, and their sum before the correction."""
    total = np.zeros(tau.shape, dtype=np.int64)
    shares = np.zeros((3, len(places)))
    groups = -(-len(places) // LANES)
    threads = min(thread_count(threads, len(places) * len(geometry.path)), max(groups, 1))
    tasks = 1 if threads == 1 else 2 * threads
    size = LANES * max(GROUPS_A_TASK, math.ceil(groups / tasks))
    strength = strengths / max(strengths.sum(), 1e-300) * FULL

    def trace(part: slice) -> tuple[slice, int, NDArray[np.int64], NDArray[np.float64]]:
        return part, *_some_sources(tau, places[part], strength[part], geometry, table, conserve)

    parts = [slice(first, first + size) for first in range(0, len(places), size)]
    for part, first, rates, of_each in _in_turn(trace, parts, threads):
        # The planes that these sources reach, from `first` on, wrapped at the end of the box.
        ahead = min(len(rates), len(total) - first)
        total[first : first + ahead] += rates[:ahead]
        total[: len(rates) - ahead] += rates[ahead:]
        shares[:, part] = of_each
    return total, shares


def _in_turn(trace, parts: list[slice], threads: int) -> Iterator[tuple]:  # type: ignore[no-untyped-def, type-arg]
    """Results of ``trace(part)`` as they finish; at most one for each thread and one more wait."""
    if threads == 1:
        yield from map(trace, parts)
        return
    pending: set[Future] = set()  # type: ignore[type-arg]
    with ThreadPoolExecutor(threads) as pool:
        for part in parts:
            pending.add(pool.submit(trace, part))
            if len(pending) > threads:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        yield from (future.result() for future in pending)


def _some_sources(
    tau: NDArray[np.float32],
    places: NDArray[np.int64],
    strength: NDArray[np.float64],
    geometry: Sphere,
    table: PhotoTable,
    conserve: bool,
) -> tuple[int, NDArray[np.int64], NDArray[np.float64]]:
    """First plane of the mesh that these sources reach, rates from there on, and each source's shares."""
    nx, ny, nz = tau.shape
    reach = geometry.offsets.max(axis=0)
    first = int(places[:, 0].min() - reach[0])
    n_planes = min(nx, int(places[:, 0].max() + reach[0]) + 1 - first)
    if n_planes == nx:
        first, gas = 0, tau.reshape(-1)
    else:
        gas = tau[(first + np.arange(n_planes)) % nx].reshape(-1)
    rates = np.zeros(gas.size, dtype=np.int64)
    cells, widest = len(geometry.path), int(np.diff(geometry.layers).max())
    tau_behind = np.zeros((2, widest * LANES), dtype=np.float32)
    weight = np.zeros_like(tau_behind)
    dark = np.zeros((2, widest), dtype=np.uint8)
    given = np.zeros(cells * LANES, dtype=np.float32)
    reached = np.zeros(cells, dtype=np.uint8)
    shares = np.zeros((3, len(places)))
    z = np.arange(-reach[2], reach[2] + 1)
    for start in range(0, len(places), LANES):
        group = places[start : start + LANES]
        # Empty lanes repeat the first source of the group, with no photons.
        group = np.concatenate([group, np.repeat(group[:1], LANES - len(group), axis=0)])
        own = np.zeros(LANES, dtype=np.float32)
        own[: len(strength[start : start + LANES])] = strength[start : start + LANES]
        x = (group[:, 0] - first + geometry.columns[:, :1]) % nx
        y = (group[:, 1] + geometry.columns[:, 1:]) % ny
        of_each = np.zeros((3, LANES))
        follow(
            gas,
            rates,
            ((x * ny + y) * nz).astype(np.int64).reshape(-1),
            ((group[:, 2] + z[:, None]) % nz).astype(np.int64).reshape(-1),
            geometry.layers,
            geometry.upstream,
            geometry.weights,
            geometry.path,
            geometry.spread,
            geometry.leaving,
            geometry.column,
            geometry.height,
            table.left,
            own,
            np.float32(table.opaque),
            tau_behind,
            weight,
            dark,
            given,
            reached,
            of_each,
            np.float64(MOST_CORRECTION if conserve else 1.0),
        )
        shares[:, start : start + LANES] = of_each[:, : len(places) - start]
    return first % nx, rates.reshape(-1, ny, nz), shares
