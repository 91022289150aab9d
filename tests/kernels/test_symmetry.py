import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from reion_kernels import (
    N_ROTATIONS,
    N_SYMMETRIES,
    compose,
    inverse,
    permutation_and_flips,
    rotate,
    symmetry,
)


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


def test_the_group_table_is_that_of_the_matrices():
    for i in range(N_SYMMETRIES):
        for j in range(N_SYMMETRIES):
            assert np.array_equal(matrix(compose(i, j)), matrix(i) @ matrix(j))
        assert compose(i, inverse(i)) == compose(inverse(i), i) == 0


@pytest.mark.parametrize("index", range(N_SYMMETRIES))
def test_symmetry_is_transpose_and_flip(index):
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    assert np.array_equal(symmetry(x, index), twin(x, index))
    assert np.array_equal(symmetry(symmetry(x, index), inverse(index)), x)


def test_rotate_refuses_reflections():
    with pytest.raises(ValueError, match="expected a rotation from 0 to 23"):
        rotate(np.zeros((2, 2, 2)), 24)
