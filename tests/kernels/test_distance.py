import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt

from reion_kernels import signed_distance
from tests.kernels.strategies import LENGTHS


def twin(inside, sides):
    """Every cell against every other."""
    shape = inside.shape
    cells = np.stack(np.indices(shape), axis=-1).reshape(-1, 3)
    flat = inside.reshape(-1)
    found = np.where(flat, -np.inf, np.inf)
    for number, cell in enumerate(cells):
        others = cells[flat != flat[number]]
        if len(others):
            apart = np.abs(others - cell)
            apart = np.minimum(apart, np.array(shape) - apart) * np.array(sides)
            nearest = np.sqrt((apart**2).sum(axis=1)).min() - min(sides) / 2
            found[number] = -nearest if flat[number] else nearest
    return found.reshape(shape)


@pytest.mark.slow
@given(data=st.data())
@settings(deadline=None, max_examples=80)
def test_it_is_the_distance_to_the_nearest_cell_of_the_other_side(data):
    shape = tuple(data.draw(LENGTHS) for _ in range(3))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    inside = rng.random(shape) < data.draw(st.sampled_from([0.0, 0.01, 0.3, 0.9, 1.0]))
    sides = data.draw(st.sampled_from([(1.0, 1.0, 1.0), (2.0, 2.0, 2.0), (1.0, 1.5, 0.7)]))
    found = signed_distance(inside, sides)
    assert found.dtype == np.float32
    assert np.allclose(found, twin(inside, sides), rtol=1e-5, atol=1e-5)


def test_it_is_scipys_away_from_the_edge():
    rng = np.random.default_rng(0)
    inside = np.zeros((40, 44, 36), dtype=bool)
    inside[15:25, 18:26, 14:22] = rng.random((10, 8, 8)) < 0.5
    ours = signed_distance(inside)
    theirs = distance_transform_edt(~inside)
    close = (theirs > 0) & (theirs < 8)
    assert ours[close] == pytest.approx(theirs[close] - 0.5, rel=1e-6)


def test_threads_and_shifts_change_nothing():
    inside = np.random.default_rng(1).random((20, 21, 22)) < 0.02
    expected = signed_distance(inside, threads=1)
    assert np.array_equal(signed_distance(inside, threads=3), expected)
    shifted = signed_distance(np.roll(inside, (5, -7, 9), (0, 1, 2)))
    assert np.array_equal(shifted, np.roll(expected, (5, -7, 9), (0, 1, 2)))
    assert signed_distance(np.zeros((0, 2, 2), dtype=bool)).shape == (0, 2, 2)


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (TypeError, "expected a numpy array of bool. Received: an array of float64", [np.zeros((2, 2, 2))]),
        (TypeError, "Received: list", [[True]]),
        (ValueError, "three positive lengths", [np.zeros((2, 2), bool)]),
        (ValueError, "three positive lengths", [np.zeros((2, 2, 2), bool), (1.0, 0.0, 1.0)]),
    ],
)
def test_bad_input_is_named(error, message, arguments):
    with pytest.raises(error, match=message):
        signed_distance(*arguments)
