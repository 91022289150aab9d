"""Distance of every cell of a periodic box from the surface of a region."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import float32
from numpy.typing import NDArray

from reion_kernels._jit import FLOAT, kernel, target
from reion_kernels._threads import run, thread_count


def signed_distance(
    inside: NDArray[np.bool_], sides: Sequence[float] = (1.0, 1.0, 1.0), *, threads: int | None = None
) -> NDArray[np.float32]:
    """Distance of every cell from the surface of a region: positive outside, negative inside.

    It is the distance between the centres of a cell and of the nearest cell on the other side of the surface,
    in the periodic box, less half of the shortest side of a cell, because the surface lies between the two.
    The squared distance is computed one axis after the other, in a time that does not depend on the distance
    (Felzenszwalb & Huttenlocher 2012, Theory of Computing 8, 415).

    Parameters
    ----------
    inside
        Which cells are in the region, bool (x, y, z).
    sides
        Sides of a cell along x, y and z, in any unit of length; the distance is in this unit.
    threads
        Number of threads; None for every core this process may use.

    Returns
    -------
    ndarray
        float32 (x, y, z); inf everywhere if the region is empty, -inf if it is the whole box.

    Raises
    ------
    TypeError
        If `inside` is not a bool array.
    ValueError
        If `inside` does not have three axes, or `sides` are not three positive numbers.
    """
    if not isinstance(inside, np.ndarray) or inside.dtype != np.bool_:
        received = f"an array of {inside.dtype}" if isinstance(inside, np.ndarray) else type(inside).__name__
        message = f"inside: expected a numpy array of bool. Received: {received}"
        raise TypeError(message)
    lengths = [float(side) for side in sides]
    if inside.ndim != 3 or len(lengths) != 3 or not all(0 < side < np.inf for side in lengths):
        message = (
            "inside, sides: expected an array (x, y, z) and three positive lengths. "
            f"Received: shape {inside.shape} and {tuple(lengths)}"
        )
        raise ValueError(message)
    threads = thread_count(threads, inside.size)
    # One signed number a cell holds the distances of both sides: a cell inside has distance zero from the
    # inside, so its number, which is its distance from the outside, is never needed by cells outside.
    distance = np.where(inside, np.float32(-np.inf), np.float32(np.inf))
    for axis in (2, 1, 0):
        # Lines along the axis are independent, so the threads divide one of the other axes.
        shared = 1 if axis == 0 else 0
        pieces = [(part, axis, lengths[axis]) for part in np.array_split(distance, threads, shared)]
        run(_along, pieces, threads)
    half = np.float32(min(lengths) / 2)
    for plane in distance:
        np.copysign(np.sqrt(np.abs(plane)) - half, plane, out=plane)
    return distance


def _along(part: NDArray[np.float32], axis: int, side: float) -> None:
    """Update distances along one axis of a part of the box, plane by plane, copied unless it is the last."""
    if axis == 2:
        _nearest(part, side)
        return
    for plane in part if axis == 1 else np.moveaxis(part, 1, 0):
        turned = np.ascontiguousarray(plane.T)[np.newaxis]
        _nearest(turned, side)
        plane[...] = turned[0].T


@kernel((target(float32, 3), FLOAT))
def _nearest(squared, side):  # type: ignore[no-untyped-def]
    # Squared distances from the other side of the surface, positive outside and negative inside. Along each
    # line, for the cells of either sign, the new value is the smallest sum of the value of another cell (zero
    # if that cell has the other sign) and the squared distance to it: the lower envelope of one parabola for
    # each cell. A line is extended by half of its periodic image on either side.
    n = squared.shape[2]
    half = n // 2
    area = side * side
    images = np.empty(n + 2 * half, dtype=np.float64)
    lowest = np.empty(n + 2 * half, dtype=np.int64)
    start = np.empty(n + 2 * half, dtype=np.float64)
    for i in range(squared.shape[0]):
        for j in range(squared.shape[1]):
            line = squared[i, j]
            for sign in (1.0, -1.0):
                wanted = 0
                for k in range(n):
                    own = sign * line[k]
                    images[half + k] = max(own, 0.0)
                    wanted += own > 0
                if wanted == 0:
                    continue
                for k in range(half):
                    images[k] = images[n + k]
                    images[half + n + k] = images[half + k]
                count = 0
                for q in range(len(images)):
                    value = images[q]
                    if value == np.inf:
                        continue
                    meeting = -np.inf
                    while count > 0:
                        p = lowest[count - 1]
                        meeting = 0.5 * ((value - images[p]) / (area * (q - p)) + (q + p))
                        if meeting > start[count - 1]:
                            break
                        count -= 1
                        meeting = -np.inf
                    lowest[count] = q
                    start[count] = meeting
                    count += 1
                if count == 0:
                    continue
                current = 0
                for k in range(n):
                    while current + 1 < count and start[current + 1] < k + half:
                        current += 1
                    if sign * line[k] > 0:
                        p = lowest[current]
                        line[k] = sign * (area * (k + half - p) * (k + half - p) + images[p])
