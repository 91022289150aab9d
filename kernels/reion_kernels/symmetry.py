"""The symmetries of the cube: 24 rotations and, with reflections, 48, on the last three axes of an array.

The symmetry with index i first permutes the axes, then turns some of them round:
``numpy.flip(numpy.transpose(x, permutation), axes)``. Index 0 is the identity; the first 24 are the proper
rotations.
"""

from __future__ import annotations

import math
from itertools import permutations, product
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import config, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from reion_kernels._jit import INT, INTS, REALS, kernel, source, target
from reion_kernels._layout import Real, check_out, check_real, flat
from reion_kernels._threads import run, thread_count

N_ROTATIONS = 24
N_SYMMETRIES = 48

BLOCK_BYTES = 1 << 20
"""Memory for a block that is turned in the cache: a cube of 64^3 cells in float32."""

RUN = 64
"""Elements of a block along the fastest axes of source and target."""

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

_PERMUTATIONS = np.array([permutation for permutation, _ in _ELEMENTS], dtype=np.int64)
_FLIPS = np.array([flips for _, flips in _ELEMENTS], dtype=np.int64)


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
        if a.size == 0:  # more threads than cubes
            return
        line_a, first_a, strides_a = flat(a)
        line_b, first_b, strides_b = flat(b, writeable=True)
        cubes = np.indices(a.shape[:-3]).reshape(lead, math.prod(a.shape[:-3]))
        starts_a = first_a + strides_a[:-3] @ cubes
        starts_b = first_b + strides_b[:-3] @ cubes
        shape = np.array(a.shape[-3:], dtype=np.int64)
        steps_a, steps_b = strides_a[-3:], strides_b[-3:]
        # An axis of one cell may have any stride, and does not count as the fastest.
        order_a = np.argsort(np.where(shape > 1, -np.abs(steps_a), np.iinfo(np.int64).min), stable=True)
        order_b = np.append(np.argsort(-steps_b[:2], stable=True), 2)
        straight = int(np.all(steps_a > 0) and np.all(order_a == order_b))
        block = _block(shape, x.itemsize)
        _move(line_a, line_b, starts_a, starts_b, shape, steps_a, steps_b, block, order_a, order_b, straight)

    a, b = _ordered(turned, out)
    threads = thread_count(threads, x.size)
    cut = int(np.argmax(a.shape[: lead + 1]))
    run(task, zip(np.array_split(a, threads, cut), np.array_split(b, threads, cut), strict=True), threads)
    return out


def _ordered(a: Real, b: Real) -> tuple[Real, Real]:
    """Sort and turn the last axes of both: the fastest of `b` last, that of `a` before it, `b` forwards."""
    lead = a.ndim - 3
    steps_a, steps_b = (
        [abs(s) if n > 1 else np.inf for s, n in zip(v.strides[lead:], v.shape[lead:], strict=True)]
        for v in (a, b)
    )
    last = int(np.argmin(steps_b))
    rest = sorted((axis for axis in range(3) if axis != last), key=lambda axis: -steps_a[axis])
    order = [*range(lead), *(lead + axis for axis in (*rest, last))]
    a, b = a.transpose(order), b.transpose(order)
    backwards = [axis for axis in (-3, -2, -1) if b.strides[axis] < 0]
    return np.flip(a, tuple(backwards)), np.flip(b, tuple(backwards))


def _block(shape: NDArray[np.int64], itemsize: int) -> NDArray[np.int64]:
    """Return the lengths of the pieces that are turned at once: with short runs of memory on neither side."""
    near = np.minimum(shape[1:], RUN)
    return np.array([min(shape[0], BLOCK_BYTES // itemsize // near.prod()), *near], dtype=np.int64)


def _plain_line(x: Real, a: int, step: int, y: Real, b: int) -> None:
    """Copy 64 bytes, backwards if `step` is -1: what `_vector_line` does where nothing is compiled."""
    for i in range(64 // x.itemsize):
        y[b + i] = x[a + i * step]


def _plain_tile(x: Real, a: int, step_a: int, y: Real, b: int, step_b: int) -> None:
    """Transpose a square tile, 64 bytes wide: what `_vector_tile` does where nothing is compiled."""
    width = 64 // x.itemsize
    for i in range(width):
        for j in range(width):
            y[b + i * step_b + j] = x[a + j * step_a + i]


class _Lines:
    """Whole cache lines of an array as vectors, in the code that is being generated."""

    def __init__(self, context: Any, builder: Any, array_type: Any, array: Any) -> None:
        self._builder = builder
        self._size = array_type.dtype.bitwidth // 8
        self.width = 64 // self._size
        self._type = ir.VectorType(context.get_data_type(array_type.dtype), self.width)
        self._data = context.make_array(array_type)(context, builder, array).data

    def _place(self, start: Any) -> Any:
        return self._builder.bitcast(self._builder.gep(self._data, [start]), self._type.as_pointer())

    def load(self, start: Any) -> Any:
        return self._builder.load(self._place(start), align=self._size)

    def store(self, line: Any, start: Any) -> None:
        self._builder.store(line, self._place(start), align=self._size)

    def shuffle(self, one: Any, other: Any, order: list[int]) -> Any:
        order_type = ir.VectorType(ir.IntType(32), self.width)
        return self._builder.shuffle_vector(one, other, ir.Constant(order_type, order))


@intrinsic
def _vector_line(_, x, a, step, y, b):  # type: ignore[no-untyped-def]
    # A loop over elements would spend more time on finding out how to copy a short row than on copying it.
    def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
        source_lines = _Lines(context, builder, x, values[0])
        width = source_lines.width
        forwards = builder.icmp_signed(">", values[2], ir.Constant(ir.IntType(64), 0))
        end = builder.sub(values[1], ir.Constant(ir.IntType(64), width - 1))
        line = source_lines.load(builder.select(forwards, values[1], end))
        turned = source_lines.shuffle(line, line, list(range(width))[::-1])
        line = builder.select(forwards, line, turned)
        _Lines(context, builder, y, values[3]).store(line, values[4])
        return context.get_dummy_value()

    return types.void(x, a, step, y, b), generate


@intrinsic
def _vector_tile(_, x, a, step_a, y, b, step_b):  # type: ignore[no-untyped-def]
    # Whole cache lines in registers, shuffled in as many rounds as the width has bits: each round interleaves
    # row i with row i + width / 2. LLVM does not find this in a loop.
    def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
        source_lines = _Lines(context, builder, x, values[0])
        width = source_lines.width

        def starts(first: Any, step: Any) -> list[Any]:
            return [
                builder.add(first, builder.mul(step, ir.Constant(ir.IntType(64), i))) for i in range(width)
            ]

        rows = [source_lines.load(start) for start in starts(*values[1:3])]
        halves = [[half + i // 2 + i % 2 * width for i in range(width)] for half in (0, width // 2)]
        for _ in range(width.bit_length() - 1):
            rows = [
                source_lines.shuffle(rows[i // 2], rows[i // 2 + width // 2], halves[i % 2])
                for i in range(width)
            ]
        target_lines = _Lines(context, builder, y, values[3])
        for row, start in zip(rows, starts(*values[4:]), strict=True):
            target_lines.store(row, start)
        return context.get_dummy_value()

    return types.void(x, a, step_a, y, b, step_b), generate


_line: Any = _plain_line if config.DISABLE_JIT else _vector_line  # type: ignore[attr-defined]
_tile: Any = _plain_tile if config.DISABLE_JIT else _vector_tile  # type: ignore[attr-defined]


@kernel()
def _turn(x, a, x_steps, y, b, y_steps, n):  # type: ignore[no-untyped-def]
    # One block, in the order of its axes. No function is called for less than a block: Numba counts the
    # references to every array it passes on, which takes longer than copying a row.
    width = 64 // x.itemsize
    across = x_steps[2] != 1 and x_steps[1] == 1 and y_steps[2] == 1
    along = abs(x_steps[2]) == 1 and y_steps[2] == 1
    whole_j = n[1] - n[1] % width if across else 0
    whole_k = n[2] - n[2] % width if across or along else 0
    for i in range(n[0]):
        a_i = a + i * x_steps[0]
        b_i = b + i * y_steps[0]
        for k in range(0, whole_k, width):
            for j in range(0, whole_j, width):
                from_tile = a_i + j + k * x_steps[2]
                _tile(x, from_tile, x_steps[2], y, b_i + j * y_steps[1] + k, y_steps[1])
        for j in range(n[1]):
            a_j = a_i + j * x_steps[1]
            b_j = b_i + j * y_steps[1]
            rest = whole_k if j < whole_j or along else 0
            if along:
                for k in range(0, whole_k, width):
                    _line(x, a_j + k * x_steps[2], x_steps[2], y, b_j + k)
            for k in range(rest, n[2]):
                y[b_j + k * y_steps[2]] = x[a_j + k * x_steps[2]]


@kernel(*[(source(r), target(r), *(INTS,) * 8, INT) for r in REALS])
def _move(  # type: ignore[no-untyped-def]
    x, y, x_starts, y_starts, shape, x_steps, y_steps, block, x_order, y_order, straight
):
    # Memory is fast where it is read and written from front to back, in long runs on one side at a time: the
    # hardware then fetches what comes next. So a block is read in the order of the source, turned in buffers
    # that the cache holds, and written in the order of the target.
    size = 0 if straight else block.prod()
    near = np.empty(size, dtype=x.dtype)
    turned = np.empty(size, dtype=x.dtype)
    n = np.empty(3, dtype=np.int64)
    near_steps = np.empty(3, dtype=np.int64)
    forwards = np.abs(x_steps)
    for cube in range(len(x_starts)):
        for i in range(0, shape[0], block[0]):
            for j in range(0, shape[1], block[1]):
                for k in range(0, shape[2], block[2]):
                    a = x_starts[cube] + i * x_steps[0] + j * x_steps[1] + k * x_steps[2]
                    b = y_starts[cube] + i * y_steps[0] + j * y_steps[1] + k * y_steps[2]
                    n[0] = min(block[0], shape[0] - i)
                    n[1] = min(block[1], shape[1] - j)
                    n[2] = min(block[2], shape[2] - k)
                    if straight:
                        _turn(x, a, x_steps, y, b, y_steps, n)
                        continue
                    step = 1
                    for axis in x_order[::-1]:
                        near_steps[axis] = step
                        step *= n[axis]
                        if x_steps[axis] < 0:
                            a += (n[axis] - 1) * x_steps[axis]
                    _turn(x, a, forwards[x_order], near, 0, near_steps[x_order], n[x_order])
                    first = 0
                    for axis in range(3):
                        if x_steps[axis] < 0:
                            first += (n[axis] - 1) * near_steps[axis]
                            near_steps[axis] = -near_steps[axis]
                    if x_order[2] == 2:
                        _turn(near, first, near_steps[y_order], y, b, y_steps[y_order], n[y_order])
                        continue
                    turned_steps = np.array([n[1] * n[2], n[2], 1])
                    last = 0
                    if near_steps[1] < 0:  # tiles are read forwards
                        first -= n[1] - 1
                        last = (n[1] - 1) * n[2]
                        near_steps[1] = 1
                        turned_steps[1] = -n[2]
                    _turn(near, first, near_steps, turned, last, turned_steps, n)
                    turned_steps[1] = n[2]
                    _turn(turned, 0, turned_steps[y_order], y, b, y_steps[y_order], n[y_order])
