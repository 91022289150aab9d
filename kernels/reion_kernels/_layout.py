"""Arrays of any layout as kernels see them: one flat line of memory, an offset and strides in elements."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Real = NDArray[np.floating[Any]]


def check_real(x: Any, name: str) -> Real:
    """Return `x` if it is a native, aligned float32 or float64 array; raise otherwise."""
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
    return x


def check_out(out: Real, shape: tuple[int, ...], *inputs: Real, in_place: bool = False) -> Real:
    """Return `out` if results of `shape` can be written to it without destroying an input first.

    With `in_place`, `out` may be exactly one of the inputs.
    """
    check_real(out, "out")
    if out.shape != shape:
        message = f"out: expected shape {shape}. Received: {out.shape}"
        raise ValueError(message)
    shared = out.size > 0 and any(s == 0 and n > 1 for s, n in zip(out.strides, out.shape, strict=True))
    if shared or not out.flags.writeable:
        message = "out: expected an array that can be written, each element in its own place of memory"
        raise ValueError(message)
    for x in inputs:
        if in_place and _same_elements(x, out):
            continue
        if np.shares_memory(x, out):
            message = "out: expected memory of its own. Received: memory that overlaps an input"
            raise ValueError(message)
    return out


def _same_elements(x: Real, out: Real) -> bool:
    return (
        x.ctypes.data == out.ctypes.data
        and x.strides == out.strides
        and x.shape == out.shape
        and x.dtype == out.dtype
    )


def flat(x: Real, *, writeable: bool = False) -> tuple[Real, int, NDArray[np.int64]]:
    """Return the line of memory that `x` lives in, where its first element lies, and its strides in elements.

    No copy is made: ``line[first + sum(i * strides)]`` is ``x[i]``.
    """
    strides = np.array(x.strides, dtype=np.int64) // x.itemsize
    if x.size == 0:
        nothing = np.empty(0, dtype=x.dtype)
        nothing.flags.writeable = writeable
        return nothing, 0, strides
    reach = strides * (np.array(x.shape, dtype=np.int64) - 1)
    lowest = x[tuple(slice(None, None, -1 if s < 0 else 1) for s in strides)]
    line = np.lib.stride_tricks.as_strided(
        lowest, shape=(int(np.abs(reach).sum()) + 1,), strides=(x.itemsize,), writeable=writeable
    )
    return line, -int(reach[reach < 0].sum()), strides


def together(*arrays: Real) -> tuple[Real, ...]:
    """Return views of arrays of one shape with the same elements side by side, in as few axes as possible.

    Axes are sorted by the strides of the last array, the fastest last; axes with negative strides are turned
    round; axes that follow each other in the memory of every array become one. For elementwise work, which
    does not mind where an element stands.
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
    """Split arrays of one shape into views of three axes: whole leading axes apart, the rest into `parts`."""
    if arrays[0].ndim > 3:
        return [block for i in range(len(arrays[0])) for block in blocks(parts, *(a[i] for a in arrays))]
    cut = max(range(arrays[0].ndim), key=lambda axis: arrays[0].shape[axis])
    whole = [a[(None,) * (3 - a.ndim)] for a in arrays]
    return list(zip(*(np.array_split(a, parts, axis=cut + 3 - arrays[0].ndim) for a in whole), strict=True))
