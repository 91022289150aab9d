"""Steps of rows in vectors against NumPy in float64."""

import numpy as np
import pytest
from numba import njit

from reion_kernels._vectors import logarithm, logistic, silu


@njit
def take_logarithm(values):
    """As kernels call it."""
    logarithm(values)


@njit
def activate(first, second):
    """As kernels call them, all rows of either."""
    silu(first, first.shape[0], first.shape[1])
    logistic(second, second.shape[0], second.shape[1])


@pytest.mark.parametrize("cells", [0, 1, 7, 8, 9, 2001])
def test_logarithms_of_a_line_of_any_length(cells):
    rng = np.random.default_rng(cells)
    exponents = np.where(
        rng.random(cells) < 0.5, rng.uniform(-87, 87, cells), rng.uniform(-0.01, 0.01, cells)
    )
    values = np.exp(exponents).astype(np.float32)
    line = np.concatenate([values, np.full(3, 5, np.float32)])
    take_logarithm(line[:cells])
    expected = np.log(values.astype(np.float64))
    np.testing.assert_allclose(line[:cells], expected, rtol=1.2e-7, atol=1e-9)
    assert (line[cells:] == 5).all()


def test_logarithms_of_what_is_below_every_normal_number():
    line = np.array([0, 1e-42, 1.2e-38], dtype=np.float32)
    take_logarithm(line)
    np.testing.assert_allclose(line, np.log(np.finfo(np.float32).tiny), rtol=1e-3)


def test_logistic_functions_of_all_that_a_float_may_be():
    row = np.concatenate([np.linspace(-30, 30, 4001), [-1e30, -1e4, 1e4, 1e30, np.nan]])
    row = np.pad(row, (0, -len(row) % 8)).astype(np.float32)[None]
    first, second = row.copy(), row.copy()
    activate(first, second)
    with np.errstate(over="ignore"):
        expected = 1 / (1 + np.exp(-row.astype(np.float64)))
    np.testing.assert_allclose(second, expected, rtol=0, atol=1.2e-7)
    np.testing.assert_allclose(first, row * expected, rtol=4e-7, atol=1e-6)
