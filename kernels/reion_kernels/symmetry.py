"""The symmetries of the cube: 24 rotations and, with reflections, 48, on the last three axes of an array.

The symmetry with index i first permutes the axes, then turns some of them round:
``numpy.flip(numpy.transpose(x, permutation), axes)``. Index 0 is the identity; the first 24 are the proper
rotations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import permutations, product
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import config, types
from numba.extending import intrinsic

from reion_kernels._jit import INTS, REALS, kernel, source, target
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
    turned = np.flip(turned, tuple(lead + axis for axis in range(3) if flips[axis]))
    if out is None:
        out = np.empty(turned.shape, dtype=x.dtype)
    check_out(out, turned.shape, x)
    if out.dtype != x.dtype:
        message = f"out: expected the dtype of x, {x.dtype}. Received: {out.dtype}"
        raise TypeError(message)
    if x.size == 0:
        return out

    def task(a: Real, b: Real) -> None:
        line_a, first_a, strides_a = flat(a)
        line_b, first_b, strides_b = flat(b, writeable=True)
        cubes = np.indices(a.shape[:-3]).reshape(lead, math.prod(a.shape[:-3]))
        starts_a = first_a + strides_a[:-3] @ cubes
        starts_b = first_b + strides_b[:-3] @ cubes
        shape = np.array(a.shape[-3:], dtype=np.int64)
        _move(line_a, line_b, starts_a, starts_b, shape, strides_a[-3:], strides_b[-3:])

    a, b = _ordered(turned, out)
    threads = thread_count(threads, x.size)
    cut = int(np.argmax(a.shape[: lead + 1]))
    run(task, zip(np.array_split(a, threads, cut), np.array_split(b, threads, cut), strict=True), threads)
    return out


def _ordered(a: Real, b: Real) -> tuple[Real, Real]:
    """Sort and turn the last three axes of both alike: the fastest of `b` last, that of `a` before it."""
    lead = a.ndim - 3
    steps_a, steps_b = (
        [abs(s) if n > 1 else np.inf for s, n in zip(v.strides[lead:], v.shape[lead:], strict=True)]
        for v in (a, b)
    )
    last = int(np.argmin(steps_b))
    rest = sorted((axis for axis in range(3) if axis != last), key=lambda axis: -steps_a[axis])
    order = [*range(lead), *(lead + axis for axis in (*rest, last))]
    a, b = a.transpose(order), b.transpose(order)
    backwards = [axis for axis, v in ((-2, a), (-1, b)) if v.strides[axis] < 0]
    return np.flip(a, tuple(backwards)), np.flip(b, tuple(backwards))


def _plain_tile(x: Real, a: int, step_a: int, y: Real, b: int, step_b: int) -> None:
    """Transpose a square tile, 64 bytes wide: what `_vector_tile` does where nothing is compiled."""
    width = 64 // x.itemsize
    for i in range(width):
        for j in range(width):
            y[b + i * step_b + j] = x[a + j * step_a + i]


@intrinsic
def _vector_tile(_, x, a, step_a, y, b, step_b):  # type: ignore[no-untyped-def]
    # Whole cache lines in registers, shuffled in as many rounds as the width has bits: each round interleaves
    # row i with row i + width / 2. LLVM does not find this in a loop.
    size = x.dtype.bitwidth // 8
    width = 64 // size

    def generate(target_context: Any, builder: Any, _: Any, values: Any) -> Any:
        row = ir.VectorType(target_context.get_data_type(x.dtype), width)

        def places(array_type: Any, array: Any, start: Any, step: Any) -> Iterator[Any]:
            line = target_context.make_array(array_type)(target_context, builder, array).data
            for i in range(width):
                offset = builder.add(start, builder.mul(step, ir.Constant(ir.IntType(64), i)))
                yield builder.bitcast(builder.gep(line, [offset]), row.as_pointer())

        source_rows = [builder.load(place, align=size) for place in places(x, *values[:3])]
        halves = [
            ir.Constant(
                ir.VectorType(ir.IntType(32), width), [half + i // 2 + i % 2 * width for i in range(width)]
            )
            for half in (0, width // 2)
        ]
        for _ in range(width.bit_length() - 1):
            source_rows = [
                builder.shuffle_vector(source_rows[i // 2], source_rows[i // 2 + width // 2], halves[i % 2])
                for i in range(width)
            ]
        for turned, place in zip(source_rows, places(y, *values[3:]), strict=True):
            builder.store(turned, place, align=size)
        return target_context.get_dummy_value()

    return types.void(x, a, step_a, y, b, step_b), generate


_tile: Any = _plain_tile if config.DISABLE_JIT else _vector_tile  # type: ignore[attr-defined]


@kernel(*[(source(r), target(r), *(INTS,) * 5) for r in REALS])
def _move(x, y, x_starts, y_starts, shape, x_strides, y_strides):  # type: ignore[no-untyped-def]
    n_i, n_j, n_k = shape[0], shape[1], shape[2]
    width = 64 // x.itemsize
    whole_j = whole_k = 0
    if x_strides[1] == 1 and y_strides[2] == 1:
        whole_j = n_j - n_j % width
        whole_k = n_k - n_k % width
    for cube in range(len(x_starts)):
        for i in range(n_i):
            x_plane = x_starts[cube] + i * x_strides[0]
            y_plane = y_starts[cube] + i * y_strides[0]
            for j in range(0, whole_j, width):
                for k in range(0, whole_k, width):
                    a = x_plane + j + k * x_strides[2]
                    _tile(x, a, x_strides[2], y, y_plane + j * y_strides[1] + k, y_strides[1])
            for j in range(n_j):
                start = whole_k if j < whole_j else 0
                n = n_k - start
                if n == 0:
                    continue
                a = x_plane + j * x_strides[1] + start * x_strides[2]
                b = y_plane + j * y_strides[1] + start * y_strides[2]
                if x_strides[2] == 1 and y_strides[2] == 1:
                    x_row = x[a : a + n]
                    y_row = y[b : b + n]
                    for k in range(n):
                        y_row[k] = x_row[k]
                elif x_strides[2] == -1 and y_strides[2] == 1:
                    x_row = x[a - n + 1 : a + 1]
                    y_row = y[b : b + n]
                    for k in range(n):
                        y_row[k] = x_row[np.uintp(n - 1 - k)]
                else:
                    for k in range(n):
                        y[b + k * y_strides[2]] = x[a + k * x_strides[2]]
