import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reion_kernels import deposit
from tests.kernels.strategies import LENGTHS, arrays

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # without JIT, NumPy comments on NaN


def twin(positions, rates, shape, scheme):
    mesh = np.zeros(shape)
    for position, rate in zip(positions.astype(np.float64), rates.astype(np.float64), strict=True):
        if scheme == "nearest":
            mesh[tuple(int(np.floor(p) % n) for p, n in zip(position, shape, strict=True))] += rate
            continue
        low = np.floor(position - 0.5)
        upper = position - 0.5 - low
        for corner in itertools.product((0, 1), repeat=3):
            weight = rate
            for share, c in zip(upper, corner, strict=True):
                weight *= share if c else 1.0 - share
            mesh[tuple((int(a % n) + c) % n for a, n, c in zip(low, shape, corner, strict=True))] += weight
    return mesh


@given(data=st.data())
@settings(deadline=None, max_examples=150)
def test_sources_go_where_the_twin_puts_them(data):
    shape = tuple(data.draw(LENGTHS) for _ in range(3))
    count = data.draw(st.sampled_from([0, 1, 5, 40]))
    positions = data.draw(arrays(shape=(count, 3), finite=True, magnitudes=(1.0, 30.0, -300.0, 1e30)))
    rates = data.draw(arrays(shape=(count,)))
    scheme = data.draw(st.sampled_from(["nearest", "cloud_in_cell"]))
    expected = twin(positions, rates, shape, scheme)
    largest = np.abs(rates[np.isfinite(rates)]).max(initial=0.0)
    result = deposit(positions, rates, shape, scheme=scheme)
    assert result.dtype == np.float64
    assert np.allclose(result, expected, rtol=1e-12, atol=1e-12 * float(largest), equal_nan=True)


@pytest.mark.parametrize("scheme", ["nearest", "cloud_in_cell"])
def test_no_photon_is_lost_and_shifting_the_sources_shifts_the_mesh(scheme):
    rng = np.random.default_rng(0)
    positions, rates = rng.uniform(-20, 20, (500, 3)), rng.lognormal(size=500)
    mesh = deposit(positions, rates, (6, 7, 8), scheme=scheme)
    assert mesh.sum() == pytest.approx(rates.sum(), rel=1e-12)
    shifted = deposit(positions + np.array([1, 2, -3]), rates, (6, 7, 8), scheme=scheme)
    assert np.allclose(shifted, np.roll(mesh, (1, 2, -3), (0, 1, 2)))


def test_a_source_in_the_middle_of_a_cell_stays_there():
    positions = np.array([[1.5, 2.5, 0.5]])
    for scheme in ("nearest", "cloud_in_cell"):
        mesh = deposit(positions, np.array([3.0]), (4, 4, 4), scheme=scheme)
        assert mesh[1, 2, 0] == mesh.sum() == 3.0


def test_a_source_just_below_zero_is_in_the_last_cell():
    mesh = deposit(np.array([[-1e-20, 0.0, 0.0]]), np.array([1.0]), (5, 5, 5))
    assert mesh[4, 0, 0] == 1.0


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (ValueError, "scheme: expected nearest or cloud_in_cell. Received: 'tsc'", {"scheme": "tsc"}),
        (ValueError, "positions, rates: expected shapes", {"rates": np.zeros(3)}),
        (ValueError, "shape: expected three positive numbers", {"shape": (4, 0, 4)}),
        (
            ValueError,
            "positions: expected finite numbers",
            {"positions": np.array([[0, 0, 0], [0, np.nan, 0]])},
        ),
        (TypeError, "positions: expected a numpy array", {"positions": np.zeros((2, 3), int)}),
    ],
)
def test_bad_sources_are_named(error, message, change):
    arguments = {"positions": np.zeros((2, 3)), "rates": np.zeros(2), "shape": (4, 4, 4)} | change
    with pytest.raises(error, match=message):
        deposit(**arguments)
