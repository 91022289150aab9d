"""The ionised fraction between two snapshots, with moving fronts instead of shells that fade in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reion.metrics.bubbles import IONISED
from reion.metrics.fields import Field
from reion_kernels import signed_distance


@dataclass(frozen=True)
class FrontSnapshot:
    """A snapshot of xi, shape (x, y, z), and the distance of each cell from the front, in cells.

    The distance is positive in neutral cells and negative in ionised ones. It is float16, which is exact to a
    thousandth and saves memory; None if fronts are not wanted or the snapshot has none.
    """

    xi: Field
    distance: Field | None

    @classmethod
    def of(
        cls, xi: Field, cell_mpc: Sequence[float], *, fronts: bool = True, threads: int | None = None
    ) -> FrontSnapshot:
        """Measure the distances in a snapshot, in units of the shortest side of a cell."""
        ionised = xi >= IONISED
        if not fronts or ionised.all() or not ionised.any():
            return cls(xi, None)
        sides = [side / min(cell_mpc) for side in cell_mpc]
        return cls(xi, signed_distance(ionised, sides, threads=threads).astype(np.float16))


def between(before: FrontSnapshot, after: FrontSnapshot, part: np.ndarray | float) -> Field:
    """The ionised fraction when `part` of the time from one snapshot to the next has passed.

    A front moves with constant speed from its place in the first snapshot to that in the second. The distance
    of a cell from the front is measured in both snapshots and is linear in time: the front reaches the cell
    when this distance is zero, and ionises it while it crosses the cell. (Shape-based interpolation: Raya &
    Udupa 1990, IEEE Trans. Med. Imaging 9, 32.) Cells that no front reaches in this time change linearly, and
    so do all cells if one of the snapshots has no front. For `part` 0 and 1 the result is the snapshot
    itself.

    Parameters
    ----------
    before, after
        The earlier and the later snapshot, shape (x, y, z).
    part
        0 to 1: one number, or one for each plane, shape (z,).

    Returns
    -------
    numpy.ndarray
        Shape and dtype of the snapshots.
    """
    share = np.asarray(part, dtype=before.xi.dtype)
    change = after.xi - before.xi
    if before.distance is None or after.distance is None:
        faded: Field = before.xi + share * change
        return faded
    reached = (before.xi < IONISED) & (after.xi >= IONISED)
    distance = before.distance.astype(np.float32)
    distance += share * (after.distance - distance)
    crossed = np.clip(0.5 - distance, 0, 1)
    moved: Field = before.xi + np.where(reached, crossed, share) * change
    return moved
