"""Copies of a periodic box, one behind the other, rotated and shifted so that no structure repeats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reion.metrics.fields import Field
from reion.simulation.contract import AXES, CUBIC_TOLERANCE
from reion_kernels import N_ROTATIONS, permutation_and_flips, rotate


@dataclass(frozen=True)
class Copy:
    """Orientation and shift of one copy of the box in the line of sight.

    Parameters
    ----------
    rotation
        One of the 24 rotations of `reion_kernels.rotate`; the last axis of the rotated box is the line of
        sight.
    shift
        Cells by which the rotated box is rolled backwards along its three axes.
    """

    rotation: int
    shift: tuple[int, int, int]

    @property
    def axis(self) -> int:
        """The axis of the box that lies along the line of sight: 0, 1 or 2."""
        return permutation_and_flips(self.rotation)[0][2]

    @property
    def direction(self) -> int:
        """1 if that axis points away from the observer, -1 if it points towards the observer."""
        return -1 if permutation_and_flips(self.rotation)[1][2] else 1

    def planes(self, box: Field, numbers: np.ndarray, *, threads: int | None = None) -> Field:
        """Planes of this copy of a box, across the line of sight.

        Parameters
        ----------
        box
            Shape (x, y, z).
        numbers
                        Indices of the planes, counted from the side nearer to the observer; in any order.

        Returns
        -------
        numpy.ndarray
            Shape (across, across, planes), float32 or the float64 of `box`.
        """
        n = box.shape[self.axis]
        places = (numbers + self.shift[2]) % n
        if self.direction < 0:
            # The kernel reverses the order of the planes; reversing it here too restores the order.
            places = (n - 1 - places)[::-1]
        taken = np.take(box, places, axis=self.axis)
        if taken.dtype != np.float64:
            taken = taken.astype(np.float32, copy=False)
        turned = rotate(taken, self.rotation, threads=threads)
        return np.roll(turned, (-self.shift[0], -self.shift[1]), axis=(0, 1))


def copies(
    shape: Sequence[int],
    cell_mpc: Sequence[float],
    count: int,
    *,
    line_of_sight: int,
    axes: Sequence[int] = (0, 1, 2),
    turns: bool = True,
    seed: int = 0,
) -> list[Copy]:
    """Copies of a box for a line of sight; the first one shows the box as it is.

    With `turns` all other copies are rotated by a rotation of the cube and shifted in all directions, both at
    random, and two neighbouring copies show different axes of the box along the line of sight where that is
    possible. Without `turns` all copies are like the first, and structure repeats with the length of the box.

    Parameters
    ----------
    shape, cell_mpc
        Cells, and sides of a cell, along x, y and z. Only rotations that keep both as in the first copy are
        used.
    count
        Number of copies.
    line_of_sight
        The axis of the box along which the first copy is seen: 0, 1 or 2.
    axes
        Axes along which copies may be seen.
    seed
        Seed of the rotations and shifts.
    """
    # Axes in cyclic order, which makes a rotation and not a reflection.
    order = tuple((line_of_sight + 1 + axis) % 3 for axis in range(3))
    first = next(i for i in range(N_ROTATIONS) if permutation_and_flips(i) == (order, (False,) * 3))
    found = [Copy(first, (0, 0, 0))]
    if not turns:
        return found * count
    fitting = [
        index
        for index in range(N_ROTATIONS)
        for permutation in [permutation_and_flips(index)[0]]
        if permutation[2] in axes
        and all(shape[a] == shape[b] for a, b in zip(permutation, order, strict=True))
        and all(
            abs(cell_mpc[a] - cell_mpc[b]) <= CUBIC_TOLERANCE * cell_mpc[b]
            for a, b in zip(permutation, order, strict=True)
        )
    ]
    rng = np.random.default_rng(seed)
    for _ in range(count - 1):
        others = [index for index in fitting if permutation_and_flips(index)[0][2] != found[-1].axis]
        x, y, z = (int(rng.integers(shape[axis])) for axis in order)
        found.append(Copy(int(rng.choice(others or fitting)), (x, y, z)))
    return found


def axis_names(copy: Copy) -> tuple[str, str, str]:
    """Names of the axes of the box that a copy shows across (two) and along (one) the line of sight."""
    a, b, c = permutation_and_flips(copy.rotation)[0]
    return AXES[a], AXES[b], AXES[c]
