"""Arrays of any layout in the form that kernels take, and checks of the user's arrays.

Numba compiles a function anew for every layout of an array, contiguous, Fortran or strided, and for each
combination of layouts of two arrays. Kernels therefore take the flat memory of an array, its line, with the
strides: one compilation serves all layouts. Where the fastest stride is one, the compiler knows that a slice
of the line is contiguous, and vectorises the loop over it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import types
from numpy.typing import NDArray

from reion_kernels._jit import INT, source, target

Real = NDArray[np.floating[Any]]
"""An array of float32 or float64, of any shape and any strides."""


class Strided(NamedTuple):
    """An array: element (i, j, ...) is ``line[first + i * strides[0] + j * strides[1] + ...]``.

    Attributes
    ----------
    line
        (memory,): the memory from the lowest to the highest element.
    first
        Index in `line` of the first element.
    strides
        One for each axis, counted in elements.
    """

    line: Real
    first: int
    strides: tuple[int, ...]


def strided_source(dtype: Any, ndim: int) -> Any:
    """Return the Numba type of a `Strided` that is only read."""
    return types.NamedTuple((source(dtype), INT, types.UniTuple(INT, ndim)), Strided)


def strided_target(dtype: Any, ndim: int) -> Any:
    """Return the Numba type of a `Strided` that is written."""
    return types.NamedTuple((target(dtype), INT, types.UniTuple(INT, ndim)), Strided)


def strided(x: Real, *, writeable: bool = False) -> Strided:
    """Return an array as a `Strided`, without a copy."""
    strides = tuple(s // x.itemsize for s in x.strides)
    if x.size == 0:
        nothing = np.empty(0, dtype=x.dtype)
        nothing.flags.writeable = writeable
        return Strided(nothing, 0, strides)
    reach = [s * (n - 1) for s, n in zip(strides, x.shape, strict=True)]
    lowest = x[tuple(slice(None, None, -1 if s < 0 else 1) for s in strides)]
    line = np.lib.stride_tricks.as_strided(
        lowest, shape=(sum(map(abs, reach)) + 1,), strides=(x.itemsize,), writeable=writeable
    )
    return Strided(line, -sum(r for r in reach if r < 0), strides)


def check_real(x: Any, name: str) -> None:
    """Check that `x` is a native float32 or float64 array that kernels can take.

    Raises
    ------
    TypeError
        If it is anything else.
    ValueError
        If its strides are not multiples of its item size.
    """
    if not isinstance(x, np.ndarray) or x.dtype not in (np.dtype("f4"), np.dtype("f8")):
        received = f"{type(x).__name__} of {x.dtype}" if isinstance(x, np.ndarray) else type(x).__name__
        message = (
            f"{name}: expected a numpy array of float32 or float64 in native byte order. "
            f"Received: {received}. Convert it with numpy.asarray(x, dtype=numpy.float32)"
        )
        raise TypeError(message)
    if not x.flags.aligned or any(s % x.itemsize for s, n in zip(x.strides, x.shape, strict=True) if n > 1):
        message = (
            f"{name}: expected strides that are multiples of the item size {x.itemsize}. "
            f"Received: {x.strides}, a field of a record array perhaps. Copy it with numpy.ascontiguousarray"
        )
        raise ValueError(message)


def check_out(out: Any, x: Real, shape: tuple[int, ...], dtype: Any, *, in_place: bool = False) -> None:
    """Check that a result of `shape` and `dtype` can be written to `out` while `x` is still read.

    With `in_place`, `out` may be `x` itself, but no other part of its memory.

    Raises
    ------
    TypeError
        If `out` is no array of `dtype`.
    ValueError
        If it has another shape, cannot be written, or shares memory with `x`.
    """
    check_real(out, "out")
    if out.shape != shape:
        message = f"out: expected shape {shape}. Received: {out.shape}"
        raise ValueError(message)
    if out.dtype != dtype:
        message = f"out: expected {np.dtype(dtype)}. Received: {out.dtype}"
        raise TypeError(message)
    repeated = out.size > 0 and any(s == 0 and n > 1 for s, n in zip(out.strides, out.shape, strict=True))
    if repeated or not out.flags.writeable:
        message = "out: expected an array that can be written, each element in its own place of memory"
        raise ValueError(message)
    itself = in_place and out.ctypes.data == x.ctypes.data and out.strides == x.strides
    if not itself and np.shares_memory(x, out):
        message = "out: expected memory of its own. Received: memory that overlaps an input"
        raise ValueError(message)


def merged_axes(*arrays: Real) -> tuple[Real, ...]:
    """Return views of arrays of one shape in which elements still correspond, with as few axes as possible.

    Axes are sorted by the strides of the last array, the fastest last; axes with negative strides are
    reversed; axes that follow each other in the memory of every array become one. The views serve elementwise
    work, for which the order of the elements does not matter.
    """
    if arrays[0].size < 2:
        return tuple(a.reshape(-1) for a in arrays)
    leading = arrays[-1].squeeze()
    order = sorted(range(leading.ndim), key=lambda axis: -abs(leading.strides[axis]))
    turned = tuple(slice(None, None, -1 if leading.strides[axis] < 0 else 1) for axis in order)
    views = [a.squeeze().transpose(order)[turned] for a in arrays]
    shape = list(views[0].shape)
    strides = [list(v.strides) for v in views]
    for axis in range(len(shape) - 1, 0, -1):
        if all(s[axis - 1] == s[axis] * shape[axis] for s in strides):
            shape[axis - 1] *= shape.pop(axis)
            for s in strides:
                del s[axis - 1]
    return tuple(
        np.lib.stride_tricks.as_strided(v, shape=shape, strides=s, writeable=v.flags.writeable)
        for v, s in zip(views, strides, strict=True)
    )


def blocks(parts: int, *arrays: Real) -> list[tuple[Real, ...]]:
    """Split arrays of one shape into views of three axes: leading axes apart, the rest cut into `parts`."""
    if arrays[0].ndim > 3:
        return [block for i in range(len(arrays[0])) for block in blocks(parts, *(a[i] for a in arrays))]
    cut = max(range(arrays[0].ndim), key=lambda axis: arrays[0].shape[axis])
    whole = [a[(None,) * (3 - a.ndim)] for a in arrays]
    return list(zip(*(np.array_split(a, parts, axis=cut + 3 - arrays[0].ndim) for a in whole), strict=True))
