"""The ionised fraction after a step, against the differential equation and against itself."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from reion_kernels import ionise
from reion_kernels.chemistry import BLOCK_CELLS, COLLISION_CM3_S, THRESHOLD_K

ALPHA = 2.59e-13
SECONDS = 3e14


@st.composite
def gas(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = tuple(draw(st.integers(1, 4)) for _ in range(3))
    n_h = 10.0 ** rng.uniform(-6, -1, shape) * (rng.random(shape) < 0.9)
    gamma = 10.0 ** rng.uniform(-20, -8, shape) * (rng.random(shape) < 0.8)
    xi = rng.choice([0.0, 1.0, 2e-4, 0.3, 1 - 1e-9], shape)
    return n_h, xi, gamma


@given(gas=gas(), clumping=st.sampled_from([0.0, 1.0, 7.5]), seconds=st.sampled_from([1e9, SECONDS, 1e17]))
@settings(deadline=None, max_examples=60)
def test_atoms_are_counted_and_fractions_stay_fractions(gas, clumping, seconds):
    n_h, xi, gamma = gas
    after = ionise(n_h, xi, gamma, seconds, clumping=clumping, threads=1)
    for fraction in (after.xi, after.xi_mean):
        assert ((fraction >= 0) & (fraction <= 1 + 1e-12)).all()
    net = after.photo_ionisations + after.collisional_ionisations - after.recombinations
    largest = after.photo_ionisations + after.recombinations + 1e-6 * n_h.sum()
    assert net == pytest.approx((n_h * (after.xi - xi)).sum(), abs=3e-5 * largest)
    low, high = np.minimum(xi, after.xi), np.maximum(xi, after.xi)
    assert ((after.xi_mean >= low - 1e-9) & (after.xi_mean <= high + 1e-9)).all()


def test_short_steps_follow_the_differential_equation():
    n_h, gamma = 1e-3, 2e-15
    collision = COLLISION_CM3_S * 100 * np.exp(-THRESHOLD_K / 1e4)

    def slope(_, x):
        electrons = n_h * (x + 7.1e-7)
        return (gamma + collision * electrons) * (1 - x) - ALPHA * electrons * x

    exact = solve_ivp(slope, (0, 20 * SECONDS), [2e-4], rtol=1e-9).y[0, -1]
    xi = np.full((1, 1, 1), 2e-4)
    for _ in range(200):
        xi = ionise(np.full((1, 1, 1), n_h), xi, np.full((1, 1, 1), gamma), SECONDS / 10).xi
    assert xi[0, 0, 0] == pytest.approx(exact, rel=2e-3)


def test_after_a_long_time_recombinations_balance_photo_ionisations():
    n_h, gamma = np.full((2, 1, 1), 1e-3), np.array([1e-16, 1e-12]).reshape(2, 1, 1)
    after = ionise(n_h, np.zeros((2, 1, 1)), gamma, 1e21, clumping=np.array([1.0, 3.0]).reshape(2, 1, 1))
    x = after.xi
    down = ALPHA * np.array([1.0, 3.0]).reshape(2, 1, 1) * 1e-3 * x**2
    assert np.allclose(gamma * (1 - x), down, rtol=1e-3)


def test_neutral_fractions_far_below_rounding_of_one_keep_their_digits():
    after = ionise(np.full((1, 1, 1), 1e-4), np.ones((1, 1, 1)), np.full((1, 1, 1), 1e-8), 1e15)
    assert 1 - after.xi[0, 0, 0] == pytest.approx(ALPHA * 1e-4 / 1e-8, rel=1e-3)


def test_cold_gas_recombines_faster_and_hot_gas_ionises_itself():
    one, none = np.full((1, 1, 1), 1e-3), np.zeros((1, 1, 1))
    cold, warm = (ionise(one, one * 1e3, none, 1e15, temperature_k=t).xi[0, 0, 0] for t in (1e3, 1e4))
    assert cold < warm
    assert ionise(one, none, none, 1e17, temperature_k=1e5).xi[0, 0, 0] > 0.9


def test_empty_cells_keep_their_fraction():
    xi = np.array([0.0, 0.5, 1.0]).reshape(3, 1, 1)
    after = ionise(np.zeros((3, 1, 1)), xi, np.zeros((3, 1, 1)), SECONDS)
    assert np.array_equal(after.xi, xi)


def test_threads_change_no_bit(monkeypatch):
    monkeypatch.setattr("reion_kernels.chemistry.BLOCK_CELLS", 7)
    rng = np.random.default_rng(0)
    n_h, xi, gamma = rng.random((3, 4, 5)) * 1e-3, rng.random((3, 4, 5)), 1e-14 * rng.random((3, 4, 5))
    one, *more = (ionise(n_h, xi, gamma, SECONDS, threads=threads) for threads in (1, 2, 3))
    for other in more:
        assert np.array_equal(one.xi, other.xi)
        assert one[2:] == other[2:]
    assert BLOCK_CELLS > 7
    assert ionise(n_h, xi, gamma, SECONDS, xi_guess=one.xi_mean).unsettled == 0
    assert one.unsettled > 0


@pytest.mark.parametrize(
    ("message", "change"),
    [
        ("xi: expected the shape of n_h", {"xi": np.zeros((1, 1, 2))}),
        ("xi: expected ionised fractions of 0 to 1. Received: 1.5", {"xi": np.full((1, 1, 1), 1.5)}),
        (
            "gamma: expected finite numbers, zero or more. Received: nan",
            {"gamma": np.full((1, 1, 1), np.nan)},
        ),
        ("n_h: expected finite numbers", {"n_h": np.full((1, 1, 1), -1.0)}),
        ("clumping: expected finite numbers", {"clumping": -1.0}),
        ("seconds: expected a positive time", {"seconds": 0.0}),
        ("temperature_k: expected 1 to 1e6 K", {"temperature_k": 0.0}),
    ],
)
def test_impossible_gas_is_named(message, change):
    one = np.full((1, 1, 1), 1e-3)
    arguments = {"n_h": one, "xi": one, "gamma": one, "seconds": SECONDS} | change
    with pytest.raises(ValueError, match=message):
        ionise(**arguments)
