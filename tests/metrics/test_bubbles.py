"""Sizes of painted spheres, and openings against scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from reion import InputError
from reion.metrics import bubble_sizes, granulometry
from reion.metrics.bubbles import RAYS


def ball(shape, centre, radius):
    """Cells within `radius` cells of `centre`, periodic."""
    offsets = np.meshgrid(
        *(np.abs(np.arange(n) - c) for n, c in zip(shape, centre, strict=True)), indexing="ij"
    )
    periodic = [np.minimum(offset, n - offset) for offset, n in zip(offsets, shape, strict=True)]
    return np.linalg.norm(periodic, axis=0) <= radius


@pytest.mark.parametrize("centre", [(24, 24, 24), (0, 47, 20)])
def test_rays_in_a_ball_have_their_analytic_lengths(centre):
    # From a random point in a ball in a random direction: p(l) = 3 / (4 R) (1 - l^2 / (4 R^2)), mean 3 R / 4.
    field = ball((48, 48, 48), centre, 16)
    radius_mpc = (3 * field.sum() / (4 * np.pi)) ** (1 / 3) * 2.0
    sizes = bubble_sizes(field.astype(np.float32), 96.0, rays=40_000)
    assert sizes.mean_mpc == pytest.approx(0.75 * radius_mpc, rel=0.02)
    assert sizes.unbounded == 0
    cumulative = np.cumsum(sizes.probability * np.diff(np.log(sizes.edges_mpc)))
    at = np.clip(sizes.edges_mpc / (2 * radius_mpc), 0, 1)
    expected = 1.5 * at - 0.5 * at**3
    assert np.abs(cumulative - (expected[1:] - expected[0])).max() < 0.02


def test_a_sphere_in_flat_cells_is_as_large():
    shape, lengths = (30, 60, 20), np.array([60.0, 60.0, 60.0])
    centres = [(np.arange(n) + 0.5) * (length / n) - 30 for n, length in zip(shape, lengths, strict=True)]
    field = np.linalg.norm(np.meshgrid(*centres, indexing="ij"), axis=0) <= 24
    sizes = bubble_sizes(field, lengths)
    assert sizes.mean_mpc == pytest.approx(0.75 * 24, rel=0.04)


def test_a_slab_bounds_rays_by_its_thickness_over_their_slope():
    # mean of min(t / |mu|, L) for t uniform in (0, d) and mu uniform in (0, 1).
    field = np.zeros((40, 40, 40))
    field[:, :, 10:18] = 1
    found = bubble_sizes(field, 40.0, rays=40_000)
    rng = np.random.default_rng(1)
    expected = np.minimum(8 * rng.random(10**6) / rng.random(10**6), 40.0)
    assert found.mean_mpc == pytest.approx(expected.mean(), rel=0.03)
    assert found.unbounded == pytest.approx(np.mean(expected >= 40), abs=0.01)


def test_the_distribution_is_normalised_and_repeatable():
    rng = np.random.default_rng(0)
    field = ndimage.gaussian_filter(rng.normal(size=(24, 24, 24)), 2, mode="wrap")
    once, again = bubble_sizes(field, 50.0, threshold=0.0), bubble_sizes(field, 50.0, threshold=0.0)
    # What is missing to one is rays shorter than half a cell, about as likely as half a cell over the mean.
    assert 0.7 < np.sum(once.probability * np.diff(np.log(once.edges_mpc))) < 1
    assert np.array_equal(once.probability, again.probability)
    assert once.radius_mpc == pytest.approx(np.sqrt(once.edges_mpc[:-1] * once.edges_mpc[1:]))
    other = bubble_sizes(field, 50.0, threshold=0.0, seed=1)
    assert other.mean_mpc == pytest.approx(once.mean_mpc, rel=6 / np.sqrt(RAYS))


def test_without_a_boundary_there_are_no_sizes():
    assert bubble_sizes(np.zeros((4, 4, 4)), 8.0) is None
    assert bubble_sizes(np.ones((4, 4, 4)), 8.0) is None
    assert granulometry(np.zeros((4, 4, 4)), 8.0) is None
    assert granulometry(np.ones((8, 8, 8)), 8.0)[1].tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(InputError, match="finite"):
        bubble_sizes(np.full((4, 4, 4), np.nan), 8.0)
    with pytest.raises(InputError, match="box size"):
        granulometry(np.ones((4, 4, 4)), -1.0)


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 1000), shape=st.tuples(*[st.integers(12, 17)] * 3))
def test_openings_agree_with_scipy(seed, shape):
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.normal(size=shape), 1.5, mode="wrap") > 0
    radii, fractions = granulometry(field, np.array(shape) * 2.0)
    tiled = np.tile(field, (3, 3, 3))
    middle = tuple(slice(n, 2 * n) for n in shape)
    for radius, fraction in zip(radii, fractions, strict=True):
        reach = int(radius / 2.0)
        grid = np.arange(-reach, reach + 1)
        element = np.linalg.norm(np.meshgrid(grid, grid, grid), axis=0) <= radius / 2.0 * (1 + 1e-9)
        opened = ndimage.binary_opening(tiled, element)[middle]
        assert fraction == pytest.approx(opened.sum() / field.sum())


def test_painted_spheres_are_found_at_their_sizes():
    small, large = ball((64, 64, 64), (12, 12, 12), 4), ball((64, 64, 64), (44, 44, 44), 11.5)
    radii, fractions = granulometry(small | large, 64.0)
    only_large = large.sum() / (large.sum() + small.sum())
    # Balls of cells do not fit into the last corners of a larger ball of cells.
    assert fractions[radii <= 4] == pytest.approx(1.0, abs=0.02)
    between = (radii > 4.5) & (radii <= 11.5)
    assert between.any()
    assert fractions[between] == pytest.approx(only_large, rel=0.07)
    assert fractions[radii > 12].max() == 0
