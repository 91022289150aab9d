"""The symmetries of the cube: 24 rotations and, with reflections, 48, on the last three axes of an array.

The symmetry with index i first permutes the axes, then turns some of them round:
``numpy.flip(numpy.transpose(x, permutation), axes)``. Index 0 is the identity; the first 24 are the proper
rotations.
"""

from __future__ import annotations

from itertools import permutations, product

import numpy as np

from reion_kernels._jit import INT, INTS, REALS, kernel, source, target
from reion_kernels._layout import Real, check_out, check_real, flat
from reion_kernels._threads import run, thread_count

N_ROTATIONS = 24
N_SYMMETRIES = 48

Permutation = tuple[int, int, int]
Flips = tuple[bool, bool, bool]


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


def permutation_and_flips(index: int) -> tuple[Permutation, Flips]:
    """Return the axes permutation and which axes are turned round afterwards.

    Parameters
    ----------
    index
        0 to 47.

    Returns
    -------
    permutation
        Axis a of the result is axis ``permutation[a]`` of the input.
    flips
        Whether axis a of the result runs backwards.

    Raises
    ------
    ValueError
        If there is no such symmetry.
    """
    if not 0 <= index < N_SYMMETRIES:
        message = f"index: expected a symmetry from 0 to {N_SYMMETRIES - 1}. Received: {index}"
        raise ValueError(message)
    return _ELEMENTS[index]


def compose(i: int, j: int) -> int:
    """Return the symmetry that does what `j` and then `i` do: ``symmetry(symmetry(x, j), i)``.

    Raises
    ------
    ValueError
        If `i` or `j` is not from 0 to 47.
    """
    (p_i, f_i), (p_j, f_j) = permutation_and_flips(i), permutation_and_flips(j)
    permutation = (p_j[p_i[0]], p_j[p_i[1]], p_j[p_i[2]])
    flips = (f_i[0] ^ f_j[p_i[0]], f_i[1] ^ f_j[p_i[1]], f_i[2] ^ f_j[p_i[2]])
    return _ELEMENTS.index((permutation, flips))


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
        Array for the result, of its shape and the dtype of `x`, any strides, with memory of its own. A new
        C-ordered array if not given.
    threads
        Number of threads; None for every core this process may use.

    Returns
    -------
    ndarray
        (..., x', y', z'), the lengths permuted as the axes are. Every bit is kept, NaN included.

    Raises
    ------
    TypeError
        If `x` or `out` is not a float32 or float64 array.
    ValueError
        If `index` is no rotation, `x` has fewer than three axes, or `out` does not fit.
    """
    if not 0 <= index < N_ROTATIONS:
        message = (
            f"index: expected a rotation from 0 to {N_ROTATIONS - 1}. Received: {index}. "
            "Reflections are done by reion_kernels.symmetry"
        )
        raise ValueError(message)
    return symmetry(x, index, out=out, threads=threads)


def symmetry(x: Real, index: int, *, out: Real | None = None, threads: int | None = None) -> Real:
    """Turn arrays by one of the 48 symmetries of the cube, rotations (0 to 23) and reflections (24 to 47).

    Parameters, result and errors are those of `rotate`, with `index` from 0 to 47.
    """
    check_real(x, "x")
    if x.ndim < 3:
        message = f"x: expected an array (..., x, y, z). Received: {x.ndim} axes, shape {x.shape}"
        raise ValueError(message)
    permutation, flips = permutation_and_flips(index)
    lead = x.ndim - 3
    turned = x.transpose(*range(lead), *(lead + axis for axis in permutation))
    turned = np.flip(turned, [lead + axis for axis in range(3) if flips[axis]])
    if out is None:
        out = np.empty(turned.shape, dtype=x.dtype)
    check_out(out, turned.shape, x)
    if out.dtype != x.dtype:
        message = f"out: expected the dtype of x, {x.dtype}. Received: {out.dtype}"
        raise ValueError(message)

    def task(a: Real, b: Real) -> None:
        line_a, first_a, strides_a = flat(a)
        line_b, first_b, strides_b = flat(b, writeable=True)
        _move(line_a, line_b, first_a, first_b, np.array(a.shape), strides_a, strides_b)

    threads = thread_count(threads, x.size)
    cubes = [(turned[i], out[i]) for i in np.ndindex(x.shape[:lead])]
    if len(cubes) < threads:
        cubes = [
            piece
            for a, b in cubes
            for piece in zip(np.array_split(a, threads), np.array_split(b, threads), strict=True)
        ]
    run(task, cubes, threads)
    return out


@kernel(*[(source(r), target(r), INT, INT, INTS, INTS, INTS) for r in REALS])
def _move(x, y, x_first, y_first, shape, x_strides, y_strides):  # type: ignore[no-untyped-def]
    for i in range(shape[0]):
        for j in range(shape[1]):
            a = x_first + i * x_strides[0] + j * x_strides[1]
            b = y_first + i * y_strides[0] + j * y_strides[1]
            for k in range(shape[2]):
                y[b + k * y_strides[2]] = x[a + k * x_strides[2]]
