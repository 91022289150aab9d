"""Channels of the network `transport`, which follow the photons in Mpc from their sources up to their reach.

Nothing here is learnt or needs Keras. The same lines compute whole periodic boxes with NumPy, windows in a
Keras graph, or the nodes of an ONNX graph, depending on the `Arithmetic` that they are given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeAlias

import numpy as np

from reion.models.shapes import BoxField
from reion.networks import TransportSettings
from reion.simulation.contract import hydrogen_per_density

REFERENCE_DENSITY = 4.2108e-31
"""Unit of the density channels: g cm-3, about the cosmic mean of n_igm, the same for every simulation."""

REFERENCE_CELL_SIZE_MPC = 2.0
"""Cell size for which a network of this kind is built by default."""

_REFERENCE_REACH_MPC = 20.0

Values: TypeAlias = Any
"""A field of one snapshot or of a batch of snapshots, in the form that an `Arithmetic` works with."""

FLOOR_PER_ATOM = 1e-3
"""Added to photons and atoms, in units of the atoms at mean density, so that logarithms stay finite."""

NEAR_CELLS = 3.0
"""The distance to the edge of the reach is clipped at this number of cells on either side."""


@dataclass(frozen=True)
class BoxFilter:
    """A mean along one axis over the cells from −half to +half; the two outermost have the weight `end`.

    With `half` 0 it is no filter.
    """

    half: int
    end: float

    @classmethod
    def of_variance(cls, variance: float) -> BoxFilter:
        """The narrowest filter whose kernel has this variance, in cells squared."""
        if variance < 1e-6:
            return cls(0, 1.0)
        # A box of 2 h + 1 whole cells has the variance ((2 h + 1)² − 1) / 12.
        half = math.ceil((math.sqrt(12 * variance + 1) - 1) / 2 - 1e-9)
        inner = (half - 1) * half * (2 * half - 1) / 3
        return cls(half, (variance * (2 * half - 1) - inner) / (2 * half**2 - 2 * variance))

    @property
    def weight(self) -> float:
        """Sum of the weights, in cells."""
        return 2 * self.half - 1 + 2 * self.end

    @property
    def variance(self) -> float:
        """Variance of the kernel, in cells squared."""
        if not self.half:
            return 0.0
        inner = (self.half - 1) * self.half * (2 * self.half - 1) / 3
        return (inner + 2 * self.half**2 * self.end) / self.weight


class Arithmetic(Protocol):
    """The operations that `Transport.channels` needs; its values also support `+ - * /`.

    On a periodic box all values keep their shape. On a window, `mean` and `squared_distance` return fewer
    cells on every side, and `crop` removes cells; the caller keeps count.
    """

    def mean(self, values: Values, kernel: BoxFilter) -> Values:
        """The mean under a box filter along each axis; `kernel.half` cells fewer on a side of a window."""

    def squared_distance(self, marked: Values, cells: int) -> Values:
        """Squared distance in cells to the nearest cell where `marked` is above 0, at most `cells` squared.

        `cells` fewer on a side of a window.
        """

    def crop(self, values: Values, cells: int) -> Values:
        """A window without `cells` cells on every side; a periodic box unchanged."""

    def log(self, values: Values) -> Values:
        """The natural logarithm."""

    def sqrt(self, values: Values) -> Values:
        """The square root."""

    def minimum(self, a: Values, b: Values | float) -> Values:
        """The smaller of two values, cell by cell."""

    def maximum(self, a: Values, b: Values | float) -> Values:
        """The larger of two values, cell by cell."""


@dataclass(frozen=True)
class Transport:
    """Compares photons with atoms around every cell, on scales that are given in Mpc.

    - balance: the logarithm of photons over atoms, as in the excursion set (Furlanetto, Zaldarriaga &
      Hernquist 2004, ApJ 613, 1), in the cell and smoothed to the top-hat radii `smoothing_mpc`, by box
      filters one after the other, whose kernels tend to a Gaussian of variance R² / 5 along each axis;
    - at reach: the balance interpolated to the radius `max_mfp`;
    - edge: how far inside the reach of the nearest source a cell lies, in cells, from −3 to 3;
    - diffusion: every cell's photons ionise its own atoms, one each; the photons that are left over spread,
      ionise atoms that are still neutral, and so on, in steps whose top-hat radii are `diffusion_mpc`.
      Photons are conserved, bubbles that touch share them, and gas behind a wall of atoms stays neutral.
      Photons that are farther than `max_mfp` from all sources are lost, and so are those that have spread
      farther than `max_mfp`. Every second step gives two channels: the ionised fraction, and the logarithm of
      the photons left over per atom;
    - lost: the logarithm of the photons lost per atom;
    - density: the logarithm of the cell's atoms.

    The variances of the kernels in Mpc², that of the cell included, do not depend on the cell size. Every
    channel commutes with shifts by whole cells and with the 48 symmetries of the cube.

    Parameters
    ----------
    cell_size_mpc
        Comoving side of a cell.
    smoothing_mpc, diffusion_mpc
        Comoving radii, see above.
    farthest_mpc
        Distances to the nearest source are measured up to this.
    photons_per_source
        Ionising photons, in 1e66, for each unit of the photon field.
    """

    cell_size_mpc: float
    smoothing_mpc: tuple[float, ...]
    diffusion_mpc: tuple[float, ...]
    farthest_mpc: float
    photons_per_source: float = 1.0

    @classmethod
    def of_settings(cls, settings: TransportSettings, cell_size_mpc: float) -> Transport:
        """The transport that the schema describes, for cells of this size."""
        return cls(
            cell_size_mpc=cell_size_mpc,
            smoothing_mpc=settings.smoothing_mpc,
            diffusion_mpc=settings.diffusion_mpc,
            farthest_mpc=settings.farthest_mpc,
            photons_per_source=settings.photons_per_source or 1.0,
        )

    @cached_property
    def smoothing(self) -> tuple[BoxFilter, ...]:
        """The filters from one smoothing to the next."""
        return self._filters([radius**2 / 5 for radius in self.smoothing_mpc])

    @cached_property
    def diffusion(self) -> tuple[BoxFilter, ...]:
        """The filters of the steps of the diffusion."""
        return self._filters(np.cumsum([radius**2 / 5 for radius in self.diffusion_mpc]).tolist())

    @property
    def spread_mpc(self) -> tuple[float, ...]:
        """Top-hat radius over which the photons have spread after each step of the diffusion."""
        return tuple(math.sqrt(total) for total in np.cumsum(np.square(self.diffusion_mpc)).tolist())

    @property
    def farthest_cells(self) -> int:
        """`farthest_mpc` in whole cells."""
        return math.ceil(self.farthest_mpc / self.cell_size_mpc)

    @property
    def output_steps(self) -> tuple[int, ...]:
        """The steps of the diffusion, counted from 1, that give channels."""
        return output_steps(len(self.diffusion_mpc))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the channels, in order."""
        return (
            *(f"balance_{level}" for level in range(len(self.smoothing_mpc) + 1)),
            "balance_at_reach",
            "edge",
            *(f"{what}_{step}" for step in self.output_steps for what in ("ionised", "left")),
            "lost",
            "density",
        )

    @property
    def radius_cells(self) -> int:
        """Cells of a window that are needed on every side of the cells of the output."""
        reach = self.farthest_cells + sum(kernel.half for kernel in self.diffusion)
        return max(sum(kernel.half for kernel in self.smoothing), reach)

    @property
    def cell_size_condition(self) -> float:
        """The condition of the trunk that gives the cell size."""
        return cell_size_condition(self.cell_size_mpc)

    @property
    def widest_cells(self) -> int:
        """The largest distance, in cells, at which a single operation reads a cell."""
        return max(self.farthest_cells, *(kernel.half for kernel in (*self.smoothing, *self.diffusion)))

    def shares(self, max_mfp: float) -> tuple[float, ...]:
        """The weight of each smoothing in the balance at a reach of `max_mfp`, Mpc."""
        do, radii = PeriodicBox(), self.smoothing_mpc
        return tuple(float(_hat(do, max_mfp, radii, level)) for level in range(len(radii)))

    def surviving(self, max_mfp: float) -> tuple[float, ...]:
        """The share of the photons that have spread no farther than `max_mfp` (Mpc), for each step."""
        before = (0.0, *self.spread_mpc[:-1])
        return tuple(
            min(max((max_mfp - start) / (end - start), 0.0), 1.0)
            for start, end in zip(before, self.spread_mpc, strict=True)
        )

    def prepare(self, n_igm: BoxField, photons: BoxField, max_mfp: float) -> np.ndarray:
        """The channels of one whole periodic snapshot (channel, x, y, z), float32, computed in float64.

        This is their definition; `reion_kernels.photon_channels` computes them faster, in float32.
        """
        fields = (n_igm.astype(np.float64), photons.astype(np.float64))
        return np.stack(
            [values.astype(np.float32) for values in self.channels(PeriodicBox(), *fields, max_mfp)]
        )

    def channels(self, do: Any, n_igm: Values, photons: Values, max_mfp: Values) -> list[Values]:
        """The channels as separate values, in the order of `names`.

        Parameters
        ----------
        do
            The `Arithmetic` that computes them.
        n_igm
            Gas density, g cm-3.
        photons
            The photon field, in units of `photons_per_source` photons.
        max_mfp
            Reach of the photons, Mpc: one number, or one for each snapshot of a batch.
        """
        atoms_scale = hydrogen_per_density()
        floor = FLOOR_PER_ATOM * atoms_scale * REFERENCE_DENSITY
        margin = self.radius_cells
        source = photons
        photons = photons * self.photons_per_source
        atoms = n_igm * atoms_scale + floor
        inner_atoms = do.crop(atoms, margin)
        density = do.log(inner_atoms)
        return [
            *self._balances(do, photons + floor, atoms, max_mfp),
            *self._diffuse(do, source, photons, atoms, max_mfp, floor=floor, inner_atoms=inner_atoms),
            density,
        ]

    def _balances(self, do: Arithmetic, photons: Values, atoms: Values, max_mfp: Values) -> list[Values]:
        margin = self.radius_cells
        channels = [do.log(do.crop(photons, margin) / do.crop(atoms, margin))]
        reached_photons = reached_atoms = 0.0
        radii = self.smoothing_mpc
        for level, kernel in enumerate(self.smoothing):
            margin -= kernel.half
            photons, atoms = do.mean(photons, kernel), do.mean(atoms, kernel)
            inner_photons, inner_atoms = do.crop(photons, margin), do.crop(atoms, margin)
            channels.append(do.log(inner_photons / inner_atoms))
            share = _hat(do, max_mfp, radii, level)
            reached_photons = inner_photons * share + reached_photons
            reached_atoms = inner_atoms * share + reached_atoms
        return [*channels, do.log(reached_photons / reached_atoms)]

    def _diffuse(
        self,
        do: Arithmetic,
        source: Values,
        photons: Values,
        atoms: Values,
        max_mfp: Values,
        *,
        floor: float,
        inner_atoms: Values,
    ) -> list[Values]:
        distance = do.sqrt(do.squared_distance(source, self.farthest_cells))
        within = max_mfp * (1.0 / self.cell_size_mpc) - distance
        margin = self.radius_cells - self.farthest_cells
        edge = do.maximum(do.minimum(do.crop(within, margin), NEAR_CELLS), -NEAR_CELLS)
        # Share of a cell that lies within the reach of the nearest source.
        reached = do.maximum(do.minimum(within + 0.5, 1.0), 0.0)
        photons, neutral = do.crop(photons, self.farthest_cells), do.crop(atoms, self.farthest_cells)
        used = do.minimum(photons, neutral)
        left = photons
        lost = None
        channels = []
        before = 0.0
        for step, (kernel, spread) in enumerate(zip(self.diffusion, self.spread_mpc, strict=True), start=1):
            margin -= kernel.half
            left, neutral = do.mean(left - used, kernel), do.crop(neutral - used, kernel.half)
            reached = do.crop(reached, kernel.half)
            surviving = do.maximum(do.minimum((max_mfp - before) * (1.0 / (spread - before)), 1.0), 0.0)
            kept = left * (reached * surviving)
            gone = left - kept
            lost = gone if lost is None else do.crop(lost, kernel.half) + gone
            left, before = kept, spread
            used = do.minimum(left, neutral)
            if step in self.output_steps:
                channels.append(1.0 - do.crop(neutral - used, margin) / inner_atoms)
                channels.append(do.log((do.crop(left - used, margin) + floor) / inner_atoms))
        channels.append(do.log((do.crop(lost, margin) + floor) / inner_atoms))
        return [edge, *channels]

    def _filters(self, variances_mpc2: Sequence[float]) -> tuple[BoxFilter, ...]:
        """Filters that, one after the other, smooth single cells to these total variances."""
        cell = self.cell_size_mpc
        done = cell**2 / 12
        filters = []
        for variance in variances_mpc2:
            kernel = BoxFilter.of_variance((variance - done) / cell**2)
            done += kernel.variance * cell**2
            filters.append(kernel)
        return tuple(filters)


class PeriodicBox:
    """`Arithmetic` with NumPy on a whole periodic box (x, y, z), float64."""

    def mean(self, values: np.ndarray, kernel: BoxFilter) -> np.ndarray:
        """The mean under a box filter along each axis."""
        from scipy import ndimage  # the import takes a tenth of a second, which prediction saves

        if not kernel.half:
            return values
        inner = 2 * kernel.half - 1
        for axis in range(3):
            middle = ndimage.uniform_filter1d(values, inner, axis=axis, mode="wrap") if inner > 1 else values
            ends = np.roll(values, kernel.half, axis) + np.roll(values, -kernel.half, axis)
            values = (inner * middle + kernel.end * ends) / kernel.weight
        # A running sum may round to slightly below zero.
        positive: np.ndarray = np.maximum(values, 0.0)
        return positive

    def squared_distance(self, marked: np.ndarray, cells: int) -> np.ndarray:
        """Squared distance in cells to the nearest marked cell, at most `cells` squared."""
        # This is exact along an axis: n steps from a marked cell add 1 + 3 + ... = n².
        squares = np.where(marked > 0, 0.0, float(cells**2)).astype(np.float32)
        for axis in range(3):
            index = np.arange(-cells, squares.shape[axis] + cells) % squares.shape[axis]
            wide = np.moveaxis(squares, axis, 0)[index]
            for step in range(1, cells + 1):
                nearer = np.minimum(wide[:-2], wide[2:])
                nearer += 2 * step - 1
                wide = np.minimum(wide[1:-1], nearer, out=nearer)
            squares = np.moveaxis(wide, 0, axis)
        return squares

    def crop(self, values: np.ndarray, cells: int) -> np.ndarray:  # noqa: ARG002
        """The values unchanged: a periodic box has no margin."""
        return values

    log = staticmethod(np.log)
    sqrt = staticmethod(np.sqrt)
    minimum = staticmethod(np.minimum)
    maximum = staticmethod(np.maximum)


def output_steps(steps: int) -> tuple[int, ...]:
    """The steps of a diffusion, counted from 1, that give channels: every second step, and the last."""
    return tuple(step for step in range(1, steps + 1) if step % 2 == 0 or step == steps)


def _hat(do: Arithmetic, value: Values, places: Sequence[float], index: int) -> Values:
    """The weight of `places[index]` in a linear interpolation to `value`, constant outside of `places`."""
    if len(places) == 1:
        return 1.0
    weight: Values = None
    if index > 0:
        rise = (value - places[index - 1]) * (1.0 / (places[index] - places[index - 1]))
        weight = do.maximum(do.minimum(rise, 1.0), 0.0)
    if index < len(places) - 1:
        fall = (value - places[index + 1]) * (-1.0 / (places[index + 1] - places[index]))
        fall = do.maximum(do.minimum(fall, 1.0), 0.0)
        weight = fall if weight is None else do.minimum(weight, fall)
    return weight


def reach_condition(max_mfp: Any, log: Callable[[Any], Any] = np.log) -> Any:
    """The condition of the trunk that gives the reach: the logarithm of `max_mfp`, Mpc, over a reference."""
    return log(max_mfp * (1.0 / _REFERENCE_REACH_MPC))


def cell_size_condition(cell_size_mpc: float) -> float:
    """The condition of the trunk that gives the cell size: its logarithm over the reference cell size."""
    return math.log(cell_size_mpc / REFERENCE_CELL_SIZE_MPC)
