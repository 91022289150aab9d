import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reion_kernels import affine
from tests.kernels.strategies import arrays, laid_out

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # without JIT, NumPy comments on NaN

FORWARD = {"none": lambda v: v, "log1p": np.log1p, "asinh": np.arcsinh}
CONSTANTS = st.tuples(
    st.sampled_from([1.0, -2.5, 1e-3, 2.93799895e55]),
    st.sampled_from([0.0, 0.7, -3.0]),
    st.sampled_from([1.0, 0.25, -4.0]),
    st.sampled_from(["none", "log1p", "asinh"]),
)


def twin(x, scale, mean, std, transform):
    return (FORWARD[transform](x.astype(np.float64) * scale) - mean) / std


def close(result, expected, size, dtype):
    """Equal but for roundings in float64 of numbers of that size, and one in the dtype of the result."""
    finite = np.isfinite(expected) & (np.abs(expected) < np.finfo(dtype).max)
    tolerance = np.finfo(dtype).eps * np.abs(expected) + 8 * np.finfo(float).eps * size
    tolerance += np.finfo(dtype).smallest_subnormal
    assert np.all(np.abs(result - expected)[finite] <= tolerance[finite])
    assert np.array_equal(np.isnan(result), np.isnan(expected))
    infinite = np.isinf(expected)
    assert np.array_equal(result[infinite], expected[infinite])


@given(x=arrays(), constants=CONSTANTS, threads=st.integers(1, 3))
@settings(deadline=None, max_examples=150)
def test_affine_is_its_formula_on_any_layout(x, constants, threads):
    scale, mean, std, transform = constants
    before = x.copy()
    y = affine(x, scale=scale, mean=mean, std=std, transform=transform, threads=threads)
    expected = twin(before, *constants)
    assert y.dtype == x.dtype
    assert y.shape == x.shape
    size = np.abs(expected) + abs(mean / std)
    close(y, expected, size, y.dtype)
    assert np.array_equal(x, before, equal_nan=True)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_in_place_and_into_out_are_the_same(dtype):
    x = np.random.default_rng(0).normal(size=(7, 6, 5)).astype(dtype).transpose(2, 0, 1)
    expected = affine(x, scale=2.0, mean=1.0, std=3.0)
    out = np.full(x.shape, np.nan, dtype=dtype)
    assert affine(x, scale=2.0, mean=1.0, std=3.0, out=out) is out
    assert np.array_equal(out, expected)
    assert affine(x, scale=2.0, mean=1.0, std=3.0, out=x) is x
    assert np.array_equal(x, expected)


def test_a_new_array_keeps_the_order_of_memory():
    x = np.asfortranarray(np.ones((4, 5, 6), dtype=np.float32))
    assert affine(x).strides == x.strides


def test_many_axes_and_none():
    x = np.random.default_rng(0).normal(size=(3, 4, 3, 4, 3, 4))[::2, ::3, ::2, ::3, ::2, ::3]
    assert np.allclose(affine(x, mean=1.0, std=2.0), (x - 1.0) / 2.0)
    assert affine(np.array(3.0), mean=1.0, std=2.0) == 1.0


def test_factors_beyond_float32_do_not_overflow():
    x = np.full((2, 2, 2), 3.9e-31, dtype=np.float32)
    y = affine(x, scale=2.93799895e55, mean=1.1e25, std=5e24)
    assert np.allclose(y, (3.9e-31 * 2.93799895e55 - 1.1e25) / 5e24, rtol=1e-6)


def test_all_cores_give_the_bits_of_one():
    x = np.random.default_rng(0).normal(size=(64, 128, 128)).astype(np.float32)
    assert np.array_equal(affine(x, std=3.0), affine(x, std=3.0, threads=1))


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"std": 0.0}, "std: expected a standard deviation other than zero"),
        ({"std": np.nan}, "expected finite numbers"),
        ({"scale": np.inf}, "expected finite numbers"),
        ({"std": 1e-320, "scale": 1e10}, "ratios are finite"),
        ({"transform": "sqrt"}, "transform: expected one of none, log1p, asinh. Received: 'sqrt'"),
        ({"threads": 0}, "threads: expected a positive number"),
        ({"out": np.zeros((2, 3))}, "out: expected shape"),
        ({"out": np.broadcast_to(np.zeros(1), (2, 2, 2))}, "out: expected an array that can be written"),
    ],
)
def test_bad_arguments_are_named(keywords, message):
    with pytest.raises(ValueError, match=message):
        affine(np.zeros((2, 2, 2)), **keywords)


@pytest.mark.parametrize("x", [[1.0], np.zeros(3, dtype=int), np.zeros(3, dtype=">f4")])
def test_other_types_are_refused(x):
    with pytest.raises(TypeError, match="expected a numpy array of float32 or float64"):
        affine(x)


def test_fields_of_records_are_refused():
    records = np.zeros(4, dtype=[("flag", "i4"), ("value", "f8")])
    with pytest.raises(ValueError, match="multiples of the item size"):
        affine(records["value"])


def test_memory_that_overlaps_is_refused():
    x = np.zeros(10)
    with pytest.raises(ValueError, match="overlaps an input"):
        affine(x[1:], out=x[:-1])
    batch = np.zeros((4, 2))
    assert affine(batch[:, 0], mean=1.0, out=batch[:, 1]).tolist() == [-1.0] * 4


@pytest.mark.parametrize("order", "CF")
def test_strides_in_only_one_of_the_two(order):
    values = np.random.default_rng(0).normal(size=(5, 6, 7))
    x = laid_out(values, order, 5, True, False)
    out = np.empty((7, 6, 5)).transpose(2, 1, 0)
    assert np.allclose(affine(x, std=2.0, out=out), values / 2.0)
