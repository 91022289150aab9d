"""Shapes whose topology is known, in a periodic box, and random fields against scikit-image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import measure

from reion import InputError
from reion.metrics import betti_numbers, euler_characteristic, largest_cluster_fraction

N = 20
X, Y, Z = np.meshgrid(*[np.arange(N) - N / 2 + 0.5] * 3, indexing="ij")
R = np.sqrt(X**2 + Y**2 + Z**2)
BALL = R < 6
SHELL = (R < 8) & (R > 4)
RING = (np.hypot(X, Y) - 6) ** 2 + Z**2 < 6
ROD = np.hypot(X, Y) < 3
SLAB = np.abs(Z) < 3

KNOWN = {
    "ball": (BALL, (1, 0, 0)),
    "torus": (RING, (1, 1, 0)),
    "shell": (SHELL, (1, 0, 1)),
    "rod around the box": (ROD, (1, 1, 0)),
    "slab around the box": (SLAB, (1, 2, 1)),
    "all but a ball": (~BALL, (1, 3, 3)),
    "all but a rod": (~ROD, (1, 3, 2)),
    "all but a slab": (~SLAB, (1, 2, 1)),
    "nothing": (np.zeros((N, N, N), dtype=bool), (0, 0, 0)),
}


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("shift", [(0, 0, 0), (10, 0, 0), (10, 10, 10), (3, 8, 13)])
def test_known_shapes_wherever_they_lie(name, shift):
    shape, betti = KNOWN[name]
    field = np.roll(shape, shift, (0, 1, 2)).astype(np.float32)
    assert betti_numbers(field) == betti
    assert euler_characteristic(field) == betti[0] - betti[1] + betti[2]


def test_the_whole_box_is_a_three_torus():
    assert betti_numbers(np.ones((4, 5, 6))) == (1, 3, 3)
    assert euler_characteristic(np.ones((4, 5, 6))) == 0


def test_faces_connect_ionised_cells_and_corners_do_not():
    field = np.zeros((6, 6, 6))
    field[2, 2, 2] = field[3, 3, 2] = 1
    assert betti_numbers(field) == (2, 0, 0)
    # Two neutral cells that touch at a corner are one island.
    assert betti_numbers(1 - field) == (1, 3, 3)
    field[3, 3, 2], field[2, 2, 3] = 0, 1
    assert betti_numbers(field) == (1, 0, 0)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10_000), filled=st.floats(0.05, 0.95), shape=st.tuples(*[st.integers(3, 8)] * 3))
def test_random_cells_away_from_the_edge_agree_with_scikit_image(seed, filled, shape):
    rng = np.random.default_rng(seed)
    cells = np.zeros(tuple(n + 2 for n in shape), dtype=bool)
    cells[1:-1, 1:-1, 1:-1] = rng.random(shape) < filled
    clusters, tunnels, cavities = betti_numbers(cells)
    assert euler_characteristic(cells) == measure.euler_number(cells, connectivity=1)
    assert clusters == measure.label(cells, connectivity=1).max()
    assert cavities == (measure.label(~cells, connectivity=3).max() - 1 if cells.any() else 0)
    assert clusters - tunnels + cavities == euler_characteristic(cells)


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 10_000),
    filled=st.floats(0.05, 0.95),
    shape=st.tuples(*[st.integers(3, 7)] * 3),
    shift=st.tuples(*[st.integers(0, 6)] * 3),
    axes=st.permutations([0, 1, 2]),
)
def test_the_periodic_box_has_no_edge_and_no_preferred_axis(seed, filled, shape, shift, axes):
    cells = np.random.default_rng(seed).random(shape) < filled
    moved = np.roll(cells, shift, (0, 1, 2)).transpose(axes)[::-1]
    assert betti_numbers(moved) == betti_numbers(cells)
    assert euler_characteristic(moved) == euler_characteristic(cells)
    assert largest_cluster_fraction(moved) == largest_cluster_fraction(cells)
    clusters, tunnels, cavities = betti_numbers(cells)
    assert min(clusters, tunnels, cavities) >= 0
    if not cells.all():
        assert clusters - tunnels + cavities == euler_characteristic(cells)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10_000), filled=st.floats(0.1, 0.7))
def test_clusters_of_a_periodic_box_are_those_of_its_tiles(seed, filled):
    cells = np.random.default_rng(seed).random((5, 5, 5)) < filled
    # Joined by a walk over neighbours, cell by cell.
    left, sizes = {tuple(cell) for cell in np.argwhere(cells).tolist()}, []
    while left:
        front, size = [left.pop()], 1
        while front:
            cell = front.pop()
            for axis in range(3):
                for step in (-1, 1):
                    near = tuple((c + step * (axis == i)) % 5 for i, c in enumerate(cell))
                    if near in left:
                        left.remove(near)
                        front.append(near)
                        size += 1
        sizes.append(size)
    assert betti_numbers(cells)[0] == len(sizes) or cells.all()
    expected = max(sizes) / sum(sizes) if sizes else None
    assert largest_cluster_fraction(cells) == (expected and pytest.approx(expected))


def test_thresholds_and_bad_values():
    field = np.full((4, 4, 4), 0.4)
    assert largest_cluster_fraction(field) is None
    assert largest_cluster_fraction(field, threshold=0.4) == 1.0
    field[0, 0, 0] = np.nan
    with pytest.raises(InputError, match="finite"):
        betti_numbers(field)
