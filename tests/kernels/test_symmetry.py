import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from reion_kernels import (
    N_ROTATIONS,
    N_SYMMETRIES,
    inverse,
    permutation_and_flips,
    rotate,
    symmetry,
)
from tests.kernels.strategies import arrays


def matrix(index):
    """The symmetry as a matrix that takes input coordinates, from the cube's centre, to output ones."""
    permutation, flips = permutation_and_flips(index)
    result = np.zeros((3, 3))
    for axis in range(3):
        result[axis, permutation[axis]] = -1 if flips[axis] else 1
    return result


def twin(x, index):
    permutation, flips = permutation_and_flips(index)
    lead = x.ndim - 3
    turned = np.transpose(x, (*range(lead), *(lead + axis for axis in permutation)))
    return np.flip(turned, [lead + axis for axis in range(3) if flips[axis]])


def test_the_rotations_are_those_of_the_octahedral_group():
    ours = {tuple(matrix(i).ravel()) for i in range(N_ROTATIONS)}
    theirs = {tuple(np.round(m).ravel()) for m in Rotation.create_group("O").as_matrix()}
    assert ours == theirs


def test_the_symmetries_are_all_different_and_reflections_come_last():
    matrices = [matrix(i) for i in range(N_SYMMETRIES)]
    assert len({tuple(m.ravel()) for m in matrices}) == N_SYMMETRIES
    determinants = [round(np.linalg.det(m)) for m in matrices]
    assert determinants == [1] * N_ROTATIONS + [-1] * (N_SYMMETRIES - N_ROTATIONS)


@pytest.mark.parametrize("index", range(N_SYMMETRIES))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_symmetry_is_transpose_and_flip(index, dtype):
    x = np.random.default_rng(0).normal(size=(2, 18, 33, 40)).astype(dtype)
    assert np.array_equal(symmetry(x, index), twin(x, index))
    assert np.array_equal(symmetry(symmetry(x, index), inverse(index)), x)


@given(
    x=st.one_of(arrays(ndim=3), arrays(ndim=4), arrays(shape=(2, 3, 1, 2, 3))),
    index=st.integers(0, N_SYMMETRIES - 1),
    threads=st.integers(1, 3),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=200)
def test_symmetry_of_any_layout_into_any_layout(x, index, threads, seed):
    expected = twin(x, index)
    rng = np.random.default_rng(seed)
    order = rng.permutation(x.ndim)
    out = np.empty([expected.shape[axis] for axis in order], dtype=x.dtype).transpose(np.argsort(order))
    out = np.flip(out, tuple(np.flatnonzero(rng.random(x.ndim) < 0.3)))
    assert symmetry(x, index, out=out, threads=threads) is out
    assert np.array_equal(out, expected, equal_nan=True)
    assert np.array_equal(symmetry(x, index), expected, equal_nan=True)


def test_channels_last_batches_turn_too():
    batch = np.random.default_rng(0).normal(size=(2, 16, 16, 16, 3)).astype(np.float32)
    x = np.moveaxis(batch, -1, 1)
    assert np.array_equal(symmetry(x, 7), twin(x, 7))


@pytest.mark.parametrize("index", [0, 5, 13, 21, 47])
def test_all_cores_give_what_one_gives(index):
    x = np.random.default_rng(0).normal(size=(80, 81, 82)).astype(np.float32)
    assert np.array_equal(symmetry(x, index), symmetry(x, index, threads=1))


def test_bad_arguments_are_named():
    x = np.zeros((2, 3, 4))
    with pytest.raises(ValueError, match="index: expected a rotation from 0 to 23"):
        rotate(x, 24)
    with pytest.raises(ValueError, match="index: expected a symmetry from 0 to 47"):
        symmetry(x, 48)
    with pytest.raises(ValueError, match="x: expected an array"):
        symmetry(x[0], 1)
    with pytest.raises(ValueError, match="out: expected shape"):
        rotate(x, 5, out=np.zeros((2, 2, 2)))
    with pytest.raises(TypeError, match="out: expected float64"):
        rotate(x, 0, out=np.zeros((2, 3, 4), dtype=np.float32))
    with pytest.raises(ValueError, match="overlaps an input"):
        rotate(x, 0, out=x)


def test_there_may_be_more_threads_than_cubes():
    x = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    np.testing.assert_array_equal(rotate(x, 7, threads=5), rotate(x, 7, threads=1))
