"""Topology of the ionised regions in the periodic box: clusters, tunnels, neutral islands.

Ionised cells are connected through faces; neutral cells also through edges and corners, so that every closed
surface separates. All numbers are those of the periodic box (a 3-torus): its faces are no edges.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np

from reion.metrics.bubbles import IONISED
from reion.metrics.fields import Field, checked_field


def largest_cluster_fraction(xi: Field, *, threshold: float = IONISED) -> float | None:
    """Volume of the largest connected ionised region over all ionised volume; its jump is percolation.

    Parameters
    ----------
    xi
        Ionised fraction, shape (x, y, z).
    threshold
        Cells with at least this xi count as ionised.

    Returns
    -------
    float or None
        None if no cell is ionised.

    Raises
    ------
    InputError
        If a value is not finite.
    """
    ionised = checked_field(xi, "xi") >= threshold
    if not ionised.any():
        return None
    labels, clusters = _clusters(ionised, faces_only=True)
    volumes = np.bincount(clusters.numbers[labels.reshape(-1)])[1:]
    return float(volumes.max() / volumes.sum())


def euler_characteristic(xi: Field, *, threshold: float = IONISED) -> int:
    """Euler characteristic of the ionised region: clusters - tunnels + enclosed neutral islands.

    Parameters and errors are as in `largest_cluster_fraction`. It is counted as vertices - edges + faces -
    cubes of the closed neutral region, which in a 3-torus has the Euler characteristic of the ionised region.
    """
    return _euler_of_closed(checked_field(xi, "xi") < threshold)


def betti_numbers(xi: Field, *, threshold: float = IONISED) -> tuple[int, int, int]:
    """Betti numbers of the ionised region: clusters, tunnels, enclosed neutral islands.

    Parameters and errors are as in `largest_cluster_fraction`. In a periodic box a region that reaches around
    the box closes a tunnel, and a region that divides the box counts as a cavity: a slab has the numbers
    1, 2, 1. A fully ionised box has those of the 3-torus, 1, 3, 3. By Alexander duality the third number
    follows from the clusters of the neutral region and the directions in which they reach around the box; the
    second follows from the Euler characteristic.
    """
    ionised = checked_field(xi, "xi") >= threshold
    if ionised.all():
        return 1, 3, 3
    if not ionised.any():
        return 0, 0, 0
    _, regions = _clusters(ionised, faces_only=True)
    _, islands = _clusters(~ionised, faces_only=False)
    cavities = islands.count - 1 + 3 - islands.directions
    return regions.count, regions.count + cavities - _euler_of_closed(~ionised), cavities


def _euler_of_closed(cells: Field) -> int:
    """Euler characteristic of the union of closed cubes in the periodic box."""
    axes = range(3)
    total = 0
    for spread in product((False, True), repeat=3):
        # Along a spread axis count the walls between cells; a wall exists if either of its cells does.
        pieces = cells
        for axis in axes:
            if spread[axis]:
                pieces = pieces | np.roll(pieces, 1, axis)
        total += (-1) ** (3 - sum(spread)) * int(pieces.sum())
    return total


class _Clusters:
    """Labels of clusters, joined across the periodic boundary by union-find with windings.

    Each label stores how many times around the box its parent is away. A loop that returns to its start then
    shows the direction in which its cluster reaches around the box.
    """

    def __init__(self, labels: int) -> None:
        self._parent = list(range(labels + 1))
        self._offset = [(0, 0, 0)] * (labels + 1)
        self._loops: list[tuple[int, int, int]] = []

    def _find(self, label: int) -> tuple[int, tuple[int, int, int]]:
        """The root of a label, and how many times around the box it is away; shortens the path to it."""
        path = []
        while self._parent[label] != label:
            path.append(label)
            label = self._parent[label]
        offset = (0, 0, 0)
        for node in reversed(path):
            offset = _plus(offset, self._offset[node])
            self._parent[node], self._offset[node] = label, offset
        return label, offset

    def join(self, a: int, b: int, winding: tuple[int, int, int]) -> None:
        """Join the clusters of `a` and `b`; `b` is reached from `a` after `winding` turns around the box."""
        (root_a, from_a), (root_b, from_b) = self._find(a), self._find(b)
        away = _plus(from_a, winding, from_b, sign=-1)
        if root_a == root_b:
            if any(away):
                self._loops.append(away)
            return
        self._parent[root_b], self._offset[root_b] = root_a, away

    def finish(self) -> None:
        """Number the clusters.

        Sets `numbers`, the cluster of each label; `count`, the number of clusters; and `directions`, the
        number of independent directions in which they reach around the box.
        """
        roots = [self._find(label)[0] for label in range(len(self._parent))]
        distinct, self.numbers = np.unique(roots, return_inverse=True)
        self.count = distinct.size - 1
        self.directions = int(np.linalg.matrix_rank(np.array(self._loops))) if self._loops else 0


def _plus(
    a: tuple[int, int, int], b: tuple[int, int, int], c: tuple[int, int, int] = (0, 0, 0), sign: int = 1
) -> tuple[int, int, int]:
    return a[0] + b[0] + sign * c[0], a[1] + b[1] + sign * c[1], a[2] + b[2] + sign * c[2]


def _clusters(cells: Field, *, faces_only: bool) -> tuple[Field, _Clusters]:
    """Label of every cell, 0 outside `cells`, and the clusters of the periodic box that the labels form."""
    from scipy import ndimage  # see `reion.metrics.bubbles`

    structure = ndimage.generate_binary_structure(3, 1 if faces_only else 3)
    labels, count = ndimage.label(cells, structure)
    clusters = _Clusters(count)
    for a, b, winding in _meetings(labels, faces_only=faces_only):
        clusters.join(a, b, winding)
    clusters.finish()
    return labels, clusters


def _meetings(labels: Field, *, faces_only: bool) -> Iterator[tuple[int, int, tuple[int, int, int]]]:
    """Pairs of labels that touch across the periodic boundary, and the winding of that step."""
    for axis in range(3):
        others = [other for other in range(3) if other != axis]
        last = np.take(labels, -1, axis)
        first = np.take(labels, 0, axis)
        steps = [(0, 0)] if faces_only else list(product((-1, 0, 1), repeat=2))
        for step in steps:
            met = np.roll(first, (-step[0], -step[1]), (0, 1))
            # Direction of those moves along the face that also go around the box.
            around = np.zeros((3, *first.shape), dtype=np.int64)
            around[axis] = 1
            for other, move, side in zip(others, step, (0, 1), strict=True):
                edge = np.arange(first.shape[side]) == (first.shape[side] - 1 if move > 0 else 0)
                around[other] = np.expand_dims(edge * move, 1 - side)
            touch = (last > 0) & (met > 0)
            rows = np.stack([last[touch], met[touch], *(part[touch] for part in around)], axis=1)
            for a, b, wx, wy, wz in np.unique(rows, axis=0).tolist():
                yield a, b, (wx, wy, wz)
