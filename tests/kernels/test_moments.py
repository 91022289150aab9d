import dataclasses
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

from reion_kernels import Moments, moments
from tests.kernels.strategies import arrays

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # without JIT, NumPy comments on NaN

BLOCK = sys.modules["reion_kernels.moments"].BLOCK


def reference(x):
    """Two passes in the widest float there is, from the first value on: mean, variance, skewness."""
    x = np.asarray(x, dtype=np.longdouble).ravel()
    first = x[0]
    x = x - first
    mean = x.mean()
    variance = ((x - mean) ** 2).mean()
    return first + mean, variance, ((x - mean) ** 3).mean() / variance**1.5


def assert_exact(m, x):
    mean, variance, skewness = reference(x)
    assert abs(m.mean - mean) <= 1e-12 * np.abs(x).mean(dtype=np.float64)
    assert abs(m.variance - variance) <= 1e-12 * variance
    assert m.std == pytest.approx(float(variance) ** 0.5, rel=1e-12)
    assert abs(m.skewness - skewness) <= 1e-12


def in_chunks(x, cuts):
    merged = Moments.empty()
    for chunk in np.split(x, cuts):
        merged = merged.merge(moments(chunk))
    return merged


DISTRIBUTIONS = {
    "normal": lambda rng, n: rng.normal(1.0, 0.3, n),
    "lognormal": lambda rng, n: rng.lognormal(0.0, 0.6, n),
    "far from zero": lambda rng, n: rng.normal(1e7, 1.0, n),
    "rising": lambda rng, n: np.linspace(0.0, 1.0, n) ** 3 + 1.0,
    "a few values far away": lambda rng, n: (
        np.where(np.arange(n) % 256 == 0, 1e3, 1.0) * rng.normal(1.0, 0.1, n)
    ),
    "first values unlike the rest": lambda rng, n: (
        np.where(np.arange(n) % BLOCK < 1500, 1e3, 1.0) * rng.normal(1.0, 0.1, n)
    ),
    "binary": lambda rng, n: (rng.random(n) < 0.3).astype(float),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize(
    ("dtype", "magnitude"),
    [(np.float32, 1.0), (np.float32, 1e-31), (np.float64, 1.0), (np.float64, 1e-31), (np.float64, 1e55)],
)
def test_moments_are_exact_whatever_the_magnitude_and_the_chunks(name, magnitude, dtype):
    rng = np.random.default_rng(1)
    n = 2 * BLOCK + 123
    x = (DISTRIBUTIONS[name](rng, n) * magnitude).astype(dtype)
    assert_exact(moments(x), x)
    for cuts in ([1], [7, 8, 9, BLOCK], sorted(rng.integers(0, n, 40))):
        assert_exact(in_chunks(x, cuts), x)


def test_many_small_chunks():
    x = np.random.default_rng(2).lognormal(size=3000)
    assert_exact(in_chunks(x, range(1, 3000)), x)


@given(x=arrays(), threads=st.integers(1, 3))
@settings(deadline=None, max_examples=150)
def test_moments_of_any_array(x, threads):
    m = moments(x, threads=threads)
    values = x[np.isfinite(x)].astype(np.float64)
    assert m.count == values.size
    assert m.nonfinite == x.size - values.size
    if values.size == 0:
        assert (m.minimum, m.maximum) == (np.inf, -np.inf)
        assert np.isnan([m.mean, m.variance, m.std, m.skewness]).all()
        return
    assert (m.minimum, m.maximum) == (values.min(), values.max())
    assert m.mean == pytest.approx(values.mean(), rel=1e-12, abs=1e-12 * np.abs(values).mean())
    assert m.variance == pytest.approx(values.var(), rel=1e-10, abs=1e-28 * np.abs(values).max() ** 2)
    if np.all(values == values[0]):
        assert m.m2 == m.m3 == 0.0
        assert np.isnan(m.skewness)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("spoilt", [False, True])
def test_threads_do_not_change_a_bit(dtype, spoilt):
    rng = np.random.default_rng(4)
    x = rng.lognormal(size=(17, 31, 53)).astype(dtype)
    if spoilt:
        x[rng.random(x.shape) < 1e-4] = np.nan
    for view in (x, x[:, ::2], x.T, x[::-1, :, 3:]):
        one = moments(view, threads=1)
        assert all(moments(view, threads=n) == one for n in (2, 3, 8))


def test_the_default_uses_threads_and_gives_the_same_bits():
    x = np.random.default_rng(5).normal(size=600_001).astype(np.float32)
    assert moments(x) == moments(x, threads=1)


def test_layout_does_not_matter():
    x = np.random.default_rng(6).lognormal(size=(31, 32, 33))
    m = moments(x)
    assert moments(np.asfortranarray(x)).m2 == pytest.approx(m.m2, rel=1e-13)
    assert moments(x[::-1, ::-1]) == m
    assert_exact(moments(x[::2, 1:-1, ::3]), x[::2, 1:-1, ::3])


def test_merging_is_what_scikit_learn_does():
    rng = np.random.default_rng(7)
    scaler = StandardScaler()
    merged = Moments.empty()
    for _ in range(5):
        chunk = rng.normal(3.0, 2.0, rng.integers(1, 5000))
        scaler.partial_fit(chunk[:, None])
        merged = merged.merge(moments(chunk))
    assert merged.mean == pytest.approx(scaler.mean_[0], rel=1e-12)
    assert merged.variance == pytest.approx(scaler.var_[0], rel=1e-12)


def test_empty_is_neutral():
    m = moments(np.array([1.0, 2.0, 4.0, np.nan]))
    assert m.merge(Moments.empty()) == m
    assert Moments.empty().merge(m) == m
    assert dataclasses.asdict(moments(np.empty((0, 3)))) == pytest.approx(
        dataclasses.asdict(Moments.empty()), nan_ok=True
    )


def test_the_range_is_right_even_where_sums_overflow():
    m = moments(np.array([1e308, -1e308, 1e308]))
    assert (m.minimum, m.maximum, m.count, m.nonfinite) == (-1e308, 1e308, 3, 0)
