"""The stem of reion's networks in fused kernels: photons compared with atoms around every cell of a box.

`reion.models.transport` and `reion.models.stems` explain the channels, and compute the same with NumPy and in
the graph of a network. Here every field is read and written as few times as the filters allow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reion_kernels._threads import run, thread_count
from reion_kernels.box_means import Reach, mean_along_x
from reion_kernels.photon_planes import (
    Place,
    compare,
    diffuse_planes,
    distance_along_x,
    prepare,
    reached_planes,
    smooth_planes,
)

NO_CHANNEL = -1
_BANDS_A_THREAD = 4
"""Bands for each thread, so that a delayed thread does not delay the others."""

_FEWEST_CELLS = 1 << 17
"""Bands have at least so many cells, unless threads would have none: beginning a call takes time as well."""


class BoxMean(NamedTuple):
    """A mean along each axis over the cells from -half to half, the two outermost with weight `end`."""

    half: int
    end: float


@dataclass(frozen=True, kw_only=True)
class PhotonReach:
    """The reach of photons.

    Attributes
    ----------
    cells
        Reach: the largest distance of a photon from its source, in cells.
    farthest_cells
        Distance to the nearest source beyond which distances are not told apart, in cells.
    near_cells
        Distance from the edge of the reach, on either side, beyond which distances are not told apart, in
        cells.
    shares
        Weight of each smoothing in the balance at the reach; at most two are not zero.
    surviving
        Share of photons that is left after each step of the diffusion.
    """

    cells: float
    farthest_cells: int
    near_cells: float
    shares: tuple[float, ...]
    surviving: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class PhotonPlan:
    """The channels to compute, and their constants.

    Attributes
    ----------
    atoms_per_density, photons_per_unit
        Atoms in one unit of `n_igm` and photons in one unit of the photon field.
    floor
        Small number added to both photons and atoms.
    smoothing, diffusion
        The filters, applied one after the other.
    output_steps
        The steps of the diffusion, from 1, whose results are channels.
    times
        Factors of the photons; the diffusion is computed for each.
    reach
        None: photons have no largest distance.
    """

    atoms_per_density: float
    photons_per_unit: float
    floor: float
    smoothing: tuple[BoxMean, ...]
    diffusion: tuple[BoxMean, ...]
    output_steps: tuple[int, ...]
    times: tuple[float, ...] = (1.0,)
    reach: PhotonReach | None = None

    @property
    def channels(self) -> int:
        """Number of channels, in the order of `photon_channels`."""
        with_reach = 0 if self.reach is None else 3
        return 2 + len(self.smoothing) + 2 * len(self.times) * len(self.output_steps) + with_reach

    @property
    def radius_cells(self) -> int:
        """Cells that a window needs on every side of the computed cells."""
        start = 0 if self.reach is None else self.reach.farthest_cells
        return max(
            sum(mean.half for mean in self.smoothing), start + sum(mean.half for mean in self.diffusion)
        )


def photon_channels(
    n_igm: NDArray[np.float32],
    photons: NDArray[np.float32],
    plan: PhotonPlan,
    *,
    scale: Sequence[float] | NDArray[Any] | None = None,
    shift: Sequence[float] | NDArray[Any] | None = None,
    periodic: Sequence[int] = (1, 1, 1),
    threads: int | None = None,
    memory: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Compute the channels of a box, or of a window of one.

    Parameters
    ----------
    n_igm, photons
        (x, y, z) float32: gas density, and photons. Along an axis that is not periodic they have
        `plan.radius_cells` more cells on both sides than the result.
    scale, shift
        One number for each channel: the result is channel * scale + shift. None: 1 and 0.
    periodic
        For each axis, 1 if the box is periodic along it, else 0.
    threads
        Number of threads; None for every core this process may use. It does not change the result.
    memory
        (n,) float32, contiguous: the result is written here if there is room. The system takes a while to
        give a process new memory.

    Returns
    -------
    ndarray
        (x, channel, y, z) float32. In order: the logarithm of photons over atoms in the cell and after each
        smoothing; with a reach, this logarithm at the reach, and how far inside the reach a cell lies; for
        each of the times and output steps, the ionised fraction and the logarithm of the photons left over
        per atom; with a reach, the logarithm of the photons lost per atom; the logarithm of the atoms.

    Raises
    ------
    TypeError
        If a field, or `memory`, is not a numpy array of float32.
    ValueError
        If the fields do not have the same shape (x, y, z), the window is too small, `scale` or `shift` has a
        wrong length, or `memory` has several axes or is not contiguous.
    """
    fields = [_checked(n_igm, "n_igm"), _checked(photons, "photons")]
    if fields[0].shape != fields[1].shape:
        message = f"n_igm, photons: expected one shape. Received: {n_igm.shape} and {photons.shape}"
        raise ValueError(message)
    wraps = [bool(whole) for whole in periodic]
    lost = 2 * plan.radius_cells
    cells = [n - (0 if whole else lost) for n, whole in zip(n_igm.shape, wraps, strict=True)]
    if min(cells) < 1:
        message = f"n_igm: expected more than {lost} cells along an axis. Received: {n_igm.shape}"
        raise ValueError(message)
    factors = [
        np.full(plan.channels, default) if given is None else np.asarray(given, dtype=np.float64)
        for given, default in ((scale, 1.0), (shift, 0.0))
    ]
    if any(factor.shape != (plan.channels,) for factor in factors):
        message = f"scale, shift: expected {plan.channels} numbers. Received: {scale} and {shift}"
        raise ValueError(message)
    count = thread_count(threads, n_igm.size)
    x, y, z = cells
    size = x * plan.channels * y * z
    if memory is not None and (memory.ndim != 1 or not memory.flags.c_contiguous):
        message = f"memory: expected a contiguous array (n,). Received: {memory.shape}"
        raise ValueError(message)
    if memory is not None and memory.dtype != np.float32:
        message = f"memory: expected float32. Received: {memory.dtype}"
        raise TypeError(message)
    if memory is None or memory.size < size:
        memory = np.empty(size, dtype=np.float32)
    out = memory[:size].reshape(x, plan.channels, y, z)
    first = [0 if whole else plan.radius_cells for whole in wraps]
    place = Place(tuple(first), tuple(f + n for f, n in zip(first, cells, strict=True)), *factors)
    # Balances and diffusion take about as long, and neither needs the other. Threads that each have one of
    # them wait less for each other than threads that share every step, but both need their memory at once,
    # which a window of a large box has not.
    halves = 2 if count % 2 == 0 and all(wraps) else 1

    def compute(*steps: Callable[[_Work], None]) -> None:
        share = count // halves
        with nullcontext() if share == 1 else ThreadPoolExecutor(share) as pool:
            work = _Work(pool, share, fields, plan, wraps, place, out)
            for step in steps:
                step(work)

    both = (_Work.balances, _Work.diffusions)
    run(compute, [both] if halves == 1 else [(step,) for step in both], halves)
    return out


class _Window:
    """The cells along each axis with valid values; filters shrink it along axes that are not periodic."""

    def __init__(self, shape: Sequence[int], periodic: Sequence[bool]) -> None:
        self._periodic = periodic
        self.low, self.high = [0, 0, 0], list(shape)

    def reach(self, axis: int, half: int) -> Reach:
        """Return the cells that the next filter along an axis reads, and shrink the window to its result."""
        low, high = self.low[axis], self.high[axis]
        cells = np.arange(low - half, high + half) % high if self._periodic[axis] else np.arange(low, high)
        if not self._periodic[axis]:
            self.low[axis], self.high[axis] = low + half, high - half
        return Reach(np.ascontiguousarray(cells, dtype=np.int64), self.low[axis], self._periodic[axis])


class _Work:
    """The steps of `photon_channels`, each divided among the threads."""

    def __init__(
        self,
        pool: ThreadPoolExecutor | None,
        threads: int,
        fields: Sequence[NDArray[np.float32]],
        plan: PhotonPlan,
        periodic: Sequence[bool],
        place: Place,
        out: NDArray[np.float32],
    ) -> None:
        wanted = min(_BANDS_A_THREAD * threads, fields[0].size // _FEWEST_CELLS)
        self._pool, self._bands = pool, 1 if threads == 1 else max(threads, wanted)
        self._n_igm, self._photons = fields
        self._plan, self._periodic, self._place, self._out = plan, periodic, place, out

    def balances(self) -> None:
        """Write the logarithm of photons over atoms, in the cell and after each smoothing."""
        plan = self._plan
        photons, atoms = self._prepared(1.0, plan.floor)
        shares = plan.reach.shares if plan.reach else (0.0,) * len(plan.smoothing)
        used = [level for level, share in enumerate(shares) if share]
        parts = np.empty((2, *self._inner_cells()) if len(used) > 1 else (2, 0, 0, 0), dtype=np.float32)
        window = _Window(atoms.shape, self._periodic)
        at_reach = len(plan.smoothing) + 1
        for channel, mean in enumerate((BoxMean(0, 1.0), *plan.smoothing)):
            level = channel - 1
            if mean.half:
                self._along_x([(photons, photons), (atoms, atoms)], False, window, mean)
            reaches = window.reach(1, mean.half), window.reach(2, mean.half)
            is_used = level in used
            share = (shares[level], is_used and level == used[0], is_used and level == used[-1])
            where = (self._place, self._out, channel, at_reach)
            self._share(
                window.low[0],
                window.high[0],
                smooth_planes,
                [(photons, atoms)],
                (*reaches, *mean, *where, *share, *parts),
            )

    def diffusions(self) -> None:
        """Write the channels of the diffusion for each time, then those of lost photons and of atoms."""
        plan = self._plan
        channel = 1 + len(plan.smoothing) + (plan.reach is not None)
        reached = lost = np.empty((0, 0, 0), dtype=np.float32)
        whole = np.empty(self._n_igm.shape[:2], dtype=np.bool_)
        if plan.reach:
            reached, lost = self._reached(plan.reach, channel, whole), np.zeros_like(self._n_igm)
            channel += 1
        surviving = plan.reach.surviving if plan.reach else (1.0,) * len(plan.diffusion)
        for time in plan.times:
            left, neutral = self._prepared(time, 0.0)
            window = self._after_reach()
            is_spent = False
            for step, (mean, survive) in enumerate(zip(plan.diffusion, surviving, strict=True), start=1):
                is_output = step in plan.output_steps
                if is_spent:  # no photon is left, so that nothing changes any more
                    for axis in range(3):
                        window.reach(axis, mean.half)
                    if not is_output:
                        continue
                    mean = BoxMean(0, 1.0)
                else:
                    self._along_x([(left, neutral)], True, window, mean)
                is_spent = survive == 0.0
                reaches = window.reach(1, mean.half), window.reach(2, mean.half)
                where = (self._place, self._out, channel if is_output else NO_CHANNEL)
                self._share(
                    window.low[0],
                    window.high[0],
                    diffuse_planes,
                    [(left, neutral, reached, whole, lost, self._n_igm)],
                    (*reaches, *mean, survive, *self._atoms, *where),
                )
                channel += 2 * is_output
        self._share(
            self._place.low[0],
            self._place.high[0],
            compare,
            [(lost, self._n_igm)],
            (*self._atoms, self._place, self._out, channel),
        )

    @property
    def _atoms(self) -> tuple[float, float]:
        return self._plan.atoms_per_density, self._plan.floor

    def _prepared(self, time: float, floor: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the photons, with `floor` added, and the atoms."""
        photons, atoms = np.empty_like(self._photons), np.empty_like(self._n_igm)
        factors = (self._plan.photons_per_unit * time, floor, *self._atoms)
        self._share(0, len(atoms), prepare, [(self._photons, self._n_igm)], (*factors, photons, atoms))
        return photons, atoms

    def _reached(self, reach: PhotonReach, channel: int, whole: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Write how far inside the reach a cell lies; return the share of every cell that photons reach.

        `whole` then says of which rows (x, y) they reach every cell.
        """
        # Cells farther outside than distances are told apart need no exact distance.
        cells = min(reach.farthest_cells, int(np.ceil(reach.cells + reach.near_cells)) + 1)
        reached = np.empty_like(self._n_igm)
        window = _Window(reached.shape, self._periodic)
        x, y, z = (window.reach(axis, cells) for axis in range(3))
        self._share(0, reached.shape[1], distance_along_x, [(self._photons, x)], (cells, reached))
        where = (self._place, self._out, channel)
        self._share(
            window.low[0],
            window.high[0],
            reached_planes,
            [(reached, whole)],
            (y, z, cells, reach.cells, reach.near_cells, *where),
        )
        return reached

    def _after_reach(self) -> _Window:
        window = _Window(self._n_igm.shape, self._periodic)
        for axis in range(3):
            window.reach(axis, self._plan.reach.farthest_cells if self._plan.reach else 0)
        return window

    def _along_x(
        self,
        fields: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]],
        sinking: bool,
        window: _Window,
        mean: BoxMean,
    ) -> None:
        """Filter fields along x, each given with its sinks, or with itself if it has none."""
        reach = window.reach(0, mean.half)
        after = (window.low[2], window.high[2], *mean)
        y = window.low[1], window.high[1]
        before = [(values, sinks, sinking, reach) for values, sinks in fields]
        self._share(*y, mean_along_x, before, after)

    def _inner_cells(self) -> tuple[int, ...]:
        return tuple(high - low for low, high in zip(self._place.low, self._place.high, strict=True))

    def _share(
        self,
        low: int,
        high: int,
        task: Callable[..., Any],
        before: Sequence[tuple[Any, ...]],
        after: tuple[Any, ...],
    ) -> None:
        """Call ``task(*some, first, last, *after)`` for all of `before` and every band of planes or rows."""
        bands = min(self._bands, high - low)
        edges = [low + (high - low) * band // bands for band in range(bands + 1)]
        calls = [(*some, first, last, *after) for some in before for first, last in pairwise(edges)]
        if self._pool is None:
            for call in calls:
                task(*call)
            return
        for future in [self._pool.submit(task, *call) for call in calls]:
            future.result()


def _checked(field: Any, name: str) -> NDArray[np.float32]:
    """Return a field as a contiguous, read-only array for the kernels."""
    if not isinstance(field, np.ndarray) or field.dtype != np.float32 or field.ndim != 3:
        received = f"{field.dtype} {field.shape}" if isinstance(field, np.ndarray) else type(field).__name__
        message = f"{name}: expected a numpy array of float32, (x, y, z). Received: {received}"
        raise (ValueError if isinstance(field, np.ndarray) and field.dtype == np.float32 else TypeError)(
            message
        )
    view = np.ascontiguousarray(field).view()
    view.flags.writeable = False
    return view
