import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reion_kernels import move_cells
from tests.kernels.strategies import arrays

LENGTHS = st.sampled_from([1, 2, 3, 8, 17])


def twin(x, displacement, *, periodic, parts):
    """Every cell in so many slices, each in the cell that its own place between the moved faces is in."""
    n = x.shape[2]
    out = np.zeros(x.shape)
    for line in np.ndindex(x.shape[:2]):
        u = displacement[line].astype(np.float64)
        padded = np.concatenate([u[-1:], u, u[:1]] if periodic else [u[:1], u, u[-1:]])
        faces = np.arange(n + 1) + 0.5 * (padded[1:] + padded[:-1])
        for k in range(n):
            low, high = sorted(faces[k : k + 2])
            middles = low + (np.arange(parts) + 0.5) / parts * (high - low)
            cells = np.floor(middles).astype(int)
            if periodic:
                cells %= n
            inside = (cells >= 0) & (cells < n)
            np.add.at(out[line], cells[inside], x[line][k] / parts)
    return out


@given(data=st.data(), periodic=st.booleans())
@settings(deadline=None, max_examples=60)
def test_cells_land_where_their_slices_do(data, periodic):
    shape = tuple(data.draw(LENGTHS) for _ in range(3))
    x = data.draw(arrays(shape=shape, finite=True, magnitudes=(1.0, 30.0)))
    seed = data.draw(st.integers(0, 99))
    displacement = np.random.default_rng(seed).normal(0, 0.7, shape).clip(-shape[2], shape[2]).astype(x.dtype)
    found = move_cells(x, displacement, periodic=periodic)
    assert found.dtype == x.dtype
    # A slice is whole or not at all in a cell: good to one slice of every cell that reaches there.
    slack = 1e-5 + 8 * np.abs(x).max() * shape[2] / 400
    assert np.allclose(found, twin(x, displacement, periodic=periodic, parts=400), rtol=0, atol=slack)


def test_without_overtaking_it_is_the_cumulative_sum_at_the_moved_faces():
    rng = np.random.default_rng(1)
    x, n = rng.lognormal(size=(3, 4, 50)), 50
    displacement = 2.0 * np.sin(2 * np.pi * np.arange(n) / n + rng.random((3, 4, 1)))
    found = move_cells(x, displacement)
    for line in np.ndindex(3, 4):
        u = displacement[line]
        faces = np.arange(n) + 0.5 * (u + np.roll(u, 1))
        # Three boxes in a row, of which the middle one is looked at.
        places = np.concatenate([faces - n, faces, faces + n])
        cumulative = np.concatenate([[0], np.cumsum(np.tile(x[line], 3))[:-1]])
        expected = np.diff(np.interp(np.arange(n + 1), places, cumulative))
        assert found[line] == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_sum_is_kept_however_cells_overtake_each_other(dtype):
    rng = np.random.default_rng(2)
    x = rng.lognormal(size=(6, 5, 64)).astype(dtype)
    displacement = rng.normal(0, 5, x.shape).astype(dtype)
    found = move_cells(x, displacement)
    assert found.sum(dtype=np.float64) == pytest.approx(x.sum(dtype=np.float64), rel=1e-6)
    assert not np.allclose(found, x, atol=0.1)


def test_moving_all_by_whole_cells_rolls_the_box_and_open_ends_lose_it():
    x = np.random.default_rng(3).normal(size=(2, 3, 7))
    assert np.allclose(move_cells(x, np.full(x.shape, 2.0)), np.roll(x, 2, axis=2))
    lost = move_cells(x, np.full(x.shape, -2.0), periodic=False)
    assert np.allclose(lost[..., :5], x[..., 2:])
    assert not lost[..., 5:].any()


def test_a_small_wave_is_kaisers():
    # In redshift space the density of a uniform medium is 1 - du/dx to first order (Kaiser 1987).
    n, amplitude = 128, 1e-3
    phase = 2 * np.pi * 3 * (np.arange(n) + 0.5) / n
    displacement = np.broadcast_to(amplitude * np.sin(phase), (2, 2, n)).copy()
    found = move_cells(np.ones((2, 2, n)), displacement)
    expected = 1 - amplitude * 2 * np.pi * 3 / n * np.cos(phase)
    assert np.abs(found - expected).max() < 0.01 * (expected.max() - 1)


def test_any_strides_and_threads_give_the_same():
    rng = np.random.default_rng(4)
    x, u = rng.normal(size=(2, 9, 8, 11)).astype(np.float32)
    expected = move_cells(x, u, threads=1)
    assert np.array_equal(move_cells(x, u, threads=3), expected)
    turned = move_cells(np.asfortranarray(x)[::-1], np.ascontiguousarray(u[::-1]))
    assert np.array_equal(turned[::-1], expected)
    out = np.empty((11, 8, 9), dtype=np.float32).transpose(2, 1, 0)
    assert move_cells(x, u, out=out) is out
    assert np.array_equal(out, expected)
    empty = np.empty((0, 3, 4), dtype=np.float32)
    assert move_cells(empty, empty).shape == (0, 3, 4)


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (TypeError, "displacement: expected the dtype of x", {"displacement": np.zeros((2, 2, 3), "f4")}),
        (TypeError, "x: expected a numpy array", {"x": np.zeros((2, 2, 3), int)}),
        (ValueError, "one shape", {"displacement": np.zeros((2, 3, 3))}),
        (ValueError, "at most the 3 cells", {"displacement": np.full((2, 2, 3), 3.5)}),
        (ValueError, "finite", {"displacement": np.full((2, 2, 3), np.nan)}),
    ],
)
def test_bad_input_is_named(error, message, change):
    arguments = {"x": np.zeros((2, 2, 3)), "displacement": np.zeros((2, 2, 3))} | change
    with pytest.raises(error, match=message):
        move_cells(**arguments)
