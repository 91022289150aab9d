"""Unit conversion, transform and normalisation of a field in one pass over memory."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
from numba import types

from reion_kernels._jit import FLOAT, INT, REALS, kernel
from reion_kernels._layout import (
    Real,
    blocks,
    check_out,
    check_real,
    merged_axes,
    strided,
    strided_source,
    strided_target,
)
from reion_kernels._threads import run, thread_count

Transform = Literal["none", "log1p", "asinh"]

TRANSFORMS: tuple[Transform, ...] = ("none", "log1p", "asinh")

NONE, LOG1P, ASINH = range(3)
"""Indices of the transforms in `TRANSFORMS`, which kernels take instead of names."""


class Constants(NamedTuple):
    """Constants of ``t(v * factor) * gain + shift`` for a value v; t by its index in `TRANSFORMS`."""

    transform: int
    factor: float
    gain: float
    shift: float


def affine(
    x: Real,
    *,
    scale: float = 1.0,
    mean: float = 0.0,
    std: float = 1.0,
    transform: Transform = "none",
    out: Real | None = None,
    threads: int | None = None,
) -> Real:
    """Convert, transform and normalise a field: ``(t(x * scale) - mean) / std``.

    Every value is computed in float64 and rounded once, so that no intermediate value of a factor of 1e55 or
    a field of 1e-31 leaves the range of float32.

    Parameters
    ----------
    x
        Field of any shape and any strides, float32 or float64; no copy of it is made.
    scale
        Factor from the units of `x` to those of `mean` and `std`.
    mean, std
        Mean and standard deviation of the transformed field. `std` may not be zero.
    transform
        t: ``"none"``, ``"log1p"`` = log(1 + v), or ``"asinh"``.
    out
        Array of the shape and dtype of `x`, any strides; may be `x` itself. A new array in the memory order
        of `x` if not given.
    threads
        Number of threads; None for every core this process may use. The result does not depend on it.

    Returns
    -------
    ndarray
        `out`, or the new array. NaN and infinities follow the formula.

    Raises
    ------
    TypeError
        If `x` is not a float32 or float64 array, or `out` not one of the dtype of `x`.
    ValueError
        If the constants are not finite, `std` is zero, `transform` is unknown, or `out` has another shape or
        overlaps `x` without being it.
    """
    constants = folded_constants(scale, mean, std, transform)
    check_real(x, "x")
    if out is None:
        out = np.empty_like(x)
    check_out(out, x, x.shape, x.dtype, in_place=True)

    def task(a: Real, b: Real) -> None:
        _apply(strided(a), strided(b, writeable=True), a.shape, constants)

    threads = thread_count(threads, x.size)
    run(task, blocks(threads, *merged_axes(x, out)), threads)
    return out


def folded_constants(scale: float, mean: float, std: float, transform: str) -> Constants:
    """Return the constants of `affine` for its kernel, computed in float64.

    Raises
    ------
    ValueError
        If a constant is not finite, `std` is zero, or `transform` is unknown.
    """
    if transform not in TRANSFORMS:
        message = f"transform: expected one of {', '.join(TRANSFORMS)}. Received: {transform!r}"
        raise ValueError(message)
    scale, mean, std = float(scale), float(mean), float(std)
    if std == 0:
        message = "std: expected a standard deviation other than zero. Received: 0; is the field constant?"
        raise ValueError(message)
    factor, gain = (1.0, scale / std) if transform == "none" else (scale, 1.0 / std)
    shift = -mean / std
    if not all(map(math.isfinite, (scale, mean, std, factor, gain, shift))):
        message = (
            "scale, mean, std: expected finite numbers whose ratios are finite. "
            f"Received: scale {scale}, mean {mean}, std {std}"
        )
        raise ValueError(message)
    return Constants(TRANSFORMS.index(transform), factor, gain, shift)


@kernel(inline=True)
def transformed(value, transform):  # type: ignore[no-untyped-def]
    """Return t(value) of a float64, t by its index in `TRANSFORMS`."""
    if transform == LOG1P:
        return np.log1p(value)
    if transform == ASINH:
        return np.arcsinh(value)
    return value


@kernel(
    *[
        (
            strided_source(real, 3),
            strided_target(real, 3),
            types.UniTuple(INT, 3),
            types.NamedTuple((INT, FLOAT, FLOAT, FLOAT), Constants),
        )
        for real in REALS
    ]
)
def _apply(x, y, shape, constants):  # type: ignore[no-untyped-def]
    for i in range(shape[0]):
        for j in range(shape[1]):
            a = x.first + i * x.strides[0] + j * x.strides[1]
            b = y.first + i * y.strides[0] + j * y.strides[1]
            if constants.transform == NONE and x.strides[2] == 1 and y.strides[2] == 1:
                x_row = x.line[a : a + shape[2]]
                y_row = y.line[b : b + shape[2]]
                for k in range(shape[2]):
                    y_row[k] = np.float64(x_row[k]) * constants.gain + constants.shift
                continue
            for k in range(shape[2]):
                value = np.float64(x.line[a + k * x.strides[2]]) * constants.factor
                value = transformed(value, constants.transform)
                y.line[b + k * y.strides[2]] = value * constants.gain + constants.shift
