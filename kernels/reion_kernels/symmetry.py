"""The symmetries of the cube: 24 rotations and, with reflections, 48, on the last three axes of an array.

The symmetry with index i first permutes the axes, then reverses some of them:
``numpy.flip(numpy.transpose(x, permutation), axes)``. Index 0 is the identity; the first 24 are the proper
rotations.
"""

from __future__ import annotations

import math
from itertools import permutations, product
from typing import NamedTuple

import numpy as np
from numba import types
from numpy.typing import NDArray

from reion_kernels._jit import INT, INTS, REALS, kernel, source, target
from reion_kernels._layout import Real, check_out, check_real, strided
from reion_kernels._threads import run, thread_count

N_ROTATIONS = 24
N_SYMMETRIES = 48

_TILE_J, _TILE_K = 64, 64
"""Cells of a tile: enough along both axes to read and write memory in long runs, and few enough for the
nearest cache."""

_PADDING = 4
"""Unused cells between the rows of a tile; without them the cells of a column would evict each other from the
cache."""

Permutation = tuple[int, int, int]
Flips = tuple[bool, bool, bool]


class _Cubes(NamedTuple):
    """Boxes in one line of memory: cell (i, j, k) of box c is ``line[first[c] + (i, j, k) · steps]``."""

    line: Real
    first: NDArray[np.int64]
    steps: tuple[int, ...]


def _is_rotation(element: tuple[Permutation, Flips]) -> bool:
    permutation, flips = element
    swaps = sum(permutation[i] > permutation[j] for i in range(3) for j in range(i + 1, 3))
    return (swaps + sum(flips)) % 2 == 0


_ELEMENTS: tuple[tuple[Permutation, Flips], ...] = tuple(
    sorted(
        product(permutations(range(3)), product((False, True), repeat=3)),  # type: ignore[arg-type]
        key=lambda element: not _is_rotation(element),
    )
)

_PERMUTATIONS = np.array([permutation for permutation, _ in _ELEMENTS], dtype=np.int64)
_FLIPS = np.array([flips for _, flips in _ELEMENTS], dtype=np.int64)


def permutation_and_flips(index: int) -> tuple[Permutation, Flips]:
    """Return the permutation of the axes, and which axes are reversed after it.

    Parameters
    ----------
    index
        0 to 47.

    Returns
    -------
    permutation
        Axis a of the result is axis ``permutation[a]`` of the input.
    flips
        Whether axis a of the result is reversed.

    Raises
    ------
    ValueError
        If there is no such symmetry.
    """
    if not 0 <= index < N_SYMMETRIES:
        message = f"index: expected a symmetry from 0 to {N_SYMMETRIES - 1}. Received: {index}"
        raise ValueError(message)
    return _ELEMENTS[index]


def permutations_and_flips(indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return `permutation_and_flips` of many symmetries: two arrays (n, 3).

    Raises
    ------
    ValueError
        If there is no such symmetry.
    """
    if indices.size:
        for index in (indices.min(), indices.max()):
            permutation_and_flips(int(index))
    return _PERMUTATIONS[indices], _FLIPS[indices]


def inverse(i: int) -> int:
    """Return the symmetry that undoes `i`.

    Raises
    ------
    ValueError
        If `i` is not from 0 to 47.
    """
    permutation, flips = permutation_and_flips(i)
    back = (permutation.index(0), permutation.index(1), permutation.index(2))
    return _ELEMENTS.index((back, (flips[back[0]], flips[back[1]], flips[back[2]])))


def rotate(x: Real, index: int, *, out: Real | None = None, threads: int | None = None) -> Real:
    """Rotate arrays by one of the 24 proper rotations of the cube.

    Parameters
    ----------
    x
        Array (..., x, y, z), float32 or float64, any strides; the axes may differ in length.
    index
        0 to 23; 0 is the identity.
    out
        Array for the result, of the shape of the result and the dtype of `x`, any strides, that shares no
        memory with `x`. A new C-ordered array if not given.
    threads
        Number of threads; None for every core this process may use.

    Returns
    -------
    ndarray
        (..., x', y', z'), the lengths permuted like the axes. Every bit is kept, also of NaN.

    Raises
    ------
    TypeError
        If `x` or `out` is not a float32 or float64 array.
    ValueError
        If `index` is not 0 to 23, `x` has fewer than three axes, or `out` does not fit.
    """
    if not 0 <= index < N_ROTATIONS:
        message = (
            f"index: expected a rotation from 0 to {N_ROTATIONS - 1}. Received: {index}. "
            "Reflections are done by reion_kernels.symmetry"
        )
        raise ValueError(message)
    return symmetry(x, index, out=out, threads=threads)


def symmetry(x: Real, index: int, *, out: Real | None = None, threads: int | None = None) -> Real:
    """Transform arrays by one of the 48 symmetries of the cube: rotations (0 to 23), reflections (24 to 47).

    Parameters, result and errors are those of `rotate`, with `index` from 0 to 47.
    """
    check_real(x, "x")
    if x.ndim < 3:
        message = f"x: expected an array (..., x, y, z). Received: {x.ndim} axes, shape {x.shape}"
        raise ValueError(message)
    permutation, flips = permutation_and_flips(index)
    lead = x.ndim - 3
    turned = x.transpose(*range(lead), *(lead + axis for axis in permutation))
    turned = np.flip(turned, tuple(lead + axis for axis in range(3) if flips[axis]))
    if out is None:
        out = np.empty(turned.shape, dtype=x.dtype)
    check_out(out, x, turned.shape, x.dtype)
    if x.size == 0:
        return out

    def task(a: Real, b: Real) -> None:
        if a.size:  # there may be more threads than cubes
            _turn(_cubes(a), _cubes(b, writeable=True), *a.shape[lead:])

    a, b = _ordered(turned, out)
    threads = thread_count(threads, x.size)
    longest = int(np.argmax(a.shape[: lead + 1]))
    pieces = zip(np.array_split(a, threads, longest), np.array_split(b, threads, longest), strict=True)
    run(task, pieces, threads)
    return out


def _ordered(a: Real, b: Real) -> tuple[Real, Real]:
    """Sort the last three axes of both: the fastest of `b` last, before it that of `a` if it differs.

    The two axes before the last are reversed where `a` has a negative stride, because reading memory from
    front to back is faster.
    """
    lead = a.ndim - 3
    steps_a, steps_b = (
        [abs(s) if n > 1 else np.inf for s, n in zip(v.strides[lead:], v.shape[lead:], strict=True)]
        for v in (a, b)
    )
    last = int(np.argmin(steps_b))
    rest = sorted((axis for axis in range(3) if axis != last), key=lambda axis: -steps_a[axis])
    order = [*range(lead), *(lead + axis for axis in (*rest, last))]
    a, b = a.transpose(order), b.transpose(order)
    backwards = tuple(axis for axis in (-3, -2) if a.strides[axis] < 0)
    return np.flip(a, backwards), np.flip(b, backwards)


def _cubes(x: Real, *, writeable: bool = False) -> _Cubes:
    """Return `x`, of shape (..., i, j, k), in the form of the kernel."""
    line, first, strides = strided(x, writeable=writeable)
    lead = x.ndim - 3
    cubes = np.indices(x.shape[:lead]).reshape(lead, math.prod(x.shape[:lead]))
    corners = first + np.array(strides[:lead], dtype=np.int64) @ cubes
    return _Cubes(line, corners, strides[lead:])


@kernel(inline=True)
def _copy_plane(x, a, y, b, n_j, n_k):  # type: ignore[no-untyped-def]
    for j in range(n_j):
        a_j = a + j * x.steps[1]
        b_j = b + j * y.steps[1]
        for k in range(n_k):
            y.line[np.uintp(b_j + k * y.steps[2])] = x.line[np.uintp(a_j + k * x.steps[2])]


@kernel(inline=True)
def _transpose_plane(x, a, y, b, n_j, n_k, tile):  # type: ignore[no-untyped-def]
    # The fastest axis of x is j and that of y is k: each tile is read along j and written along k.
    for first_k in range(0, n_k, _TILE_K):
        width = min(_TILE_K, n_k - first_k)
        for first_j in range(0, n_j, _TILE_J):
            height = min(_TILE_J, n_j - first_j)
            for k in range(width):
                start = a + (first_k + k) * x.steps[2] + first_j
                row = x.line[start : start + height]
                for j in range(height):
                    tile[k, j] = row[j]
            for j in range(height):
                start = b + (first_j + j) * y.steps[1] + first_k
                goal = y.line[start : start + width]
                for k in range(width):
                    goal[k] = tile[k, j]


_STEPS = types.UniTuple(INT, 3)


@kernel(
    *[
        (
            types.NamedTuple((source(real), INTS, _STEPS), _Cubes),
            types.NamedTuple((target(real), INTS, _STEPS), _Cubes),
            INT,
            INT,
            INT,
        )
        for real in REALS
    ]
)
def _turn(x, y, n_i, n_j, n_k):  # type: ignore[no-untyped-def]
    # Copy cell (i, j, k) of each cube of x to cell (i, j, k) of the same cube of y.
    transposes = x.steps[1] == 1 and y.steps[2] == 1
    tile = np.empty((_TILE_K, _TILE_J + _PADDING), dtype=x.line.dtype)
    for cube in range(len(x.first)):
        for i in range(n_i):
            a = x.first[cube] + i * x.steps[0]
            b = y.first[cube] + i * y.steps[0]
            if transposes:
                _transpose_plane(x, a, y, b, n_j, n_k, tile)
            else:
                _copy_plane(x, a, y, b, n_j, n_k)
