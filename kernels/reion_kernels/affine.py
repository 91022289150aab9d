"""Unit conversion, transform and normalisation of a field in one pass over memory, and the way back."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from reion_kernels._jit import FLOAT, INT, INTS, REALS, kernel, source, target
from reion_kernels._layout import Real, blocks, check_out, check_real, flat, together
from reion_kernels._threads import run, thread_count

Transform = Literal["none", "log1p", "asinh"]

TRANSFORMS: tuple[Transform, ...] = ("none", "log1p", "asinh")

_NONE, _LOG1P, _ASINH, _EXPM1, _SINH = range(5)


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

    Every value is computed in float64 and rounded once, so that neither a factor of 1e55 nor a field of
    1e-31 leaves the range of float32 on the way.

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
        Array of the shape of `x`, float32 or float64, any strides; may be `x` itself. A new array with the
        dtype and memory order of `x` if not given.
    threads
        Number of threads; None for every core this process may use. The result does not depend on it.

    Returns
    -------
    ndarray
        `out`, or the new array. NaN and infinities go through as the formula says.

    Raises
    ------
    TypeError
        If `x` or `out` is not a float32 or float64 array.
    ValueError
        If the constants are not finite, `std` is zero, `transform` is unknown, or `out` has another shape or
        overlaps `x` without being it.
    """
    code, factor, gain, shift = folded(scale, mean, std, transform)
    return _elementwise(x, out, (code, factor, 0.0, gain, shift), threads)


def inverse_affine(
    y: Real,
    *,
    scale: float = 1.0,
    mean: float = 0.0,
    std: float = 1.0,
    transform: Transform = "none",
    out: Real | None = None,
    threads: int | None = None,
) -> Real:
    """Undo `affine` with the same arguments: ``t⁻¹(y * std + mean) / scale``.

    Parameters
    ----------
    y
        Normalised field of any shape and any strides, float32 or float64.
    scale, mean, std, transform
        As given to `affine`. `scale` may not be zero.
    out, threads
        As for `affine`.

    Returns
    -------
    ndarray
        The field in the units it came in.

    Raises
    ------
    TypeError, ValueError
        As for `affine`; ValueError also if `scale` is zero.
    """
    code, _, _, _ = folded(scale, mean, std, transform)
    if scale == 0:
        message = "scale: expected a factor that can be undone. Received: 0"
        raise ValueError(message)
    if code == _NONE:
        constants = (code, 1.0, 0.0, std / scale, mean / scale)
    else:
        constants = (_EXPM1 if code == _LOG1P else _SINH, float(std), float(mean), 1.0 / scale, 0.0)
    _check_finite(scale, mean, std, constants[1:])
    return _elementwise(y, out, constants, threads)


def folded(scale: float, mean: float, std: float, transform: str) -> tuple[int, float, float, float]:
    """Fold the constants of `affine` in float64 into ``code, factor, gain, shift``.

    The result is ``t(x * factor) * gain + shift``.
    """
    if transform not in TRANSFORMS:
        message = f"transform: expected one of {', '.join(TRANSFORMS)}. Received: {transform!r}"
        raise ValueError(message)
    scale, mean, std = float(scale), float(mean), float(std)
    if std == 0:
        message = "std: expected a standard deviation other than zero. Received: 0; is the field constant?"
        raise ValueError(message)
    code = TRANSFORMS.index(transform)
    factor, gain = (1.0, scale / std) if code == _NONE else (scale, 1.0 / std)
    shift = -mean / std
    _check_finite(scale, mean, std, (factor, gain, shift))
    return code, factor, gain, shift


def _check_finite(scale: float, mean: float, std: float, constants: tuple[float, ...]) -> None:
    if not all(map(math.isfinite, (scale, mean, std, *constants))):
        message = (
            "scale, mean, std: expected finite numbers whose ratios are finite. "
            f"Received: scale {scale}, mean {mean}, std {std}"
        )
        raise ValueError(message)


def _elementwise(
    x: Real, out: Real | None, constants: tuple[int, float, float, float, float], threads: int | None
) -> Real:
    check_real(x, "x")
    if out is None:
        out = np.empty_like(x)
    check_out(out, x.shape, x, in_place=True)
    threads = thread_count(threads, x.size)

    def task(a: Real, b: Real) -> None:
        line_a, first_a, strides_a = flat(a)
        line_b, first_b, strides_b = flat(b, writeable=True)
        shape = np.array(a.shape, dtype=np.int64)
        _apply(line_a, line_b, first_a, first_b, shape, strides_a, strides_b, *constants)

    run(task, blocks(threads, *together(x, out)), threads)
    return out


@kernel(
    *[
        (source(a), target(b), INT, INT, INTS, INTS, INTS, INT, FLOAT, FLOAT, FLOAT, FLOAT)
        for a in REALS
        for b in REALS
    ]
)
def _apply(  # type: ignore[no-untyped-def]
    x, y, x_first, y_first, shape, x_strides, y_strides, code, inner_gain, inner_shift, gain, shift
):
    for i in range(shape[0]):
        for j in range(shape[1]):
            a = x_first + i * x_strides[0] + j * x_strides[1]
            b = y_first + i * y_strides[0] + j * y_strides[1]
            if code == _NONE and x_strides[2] == 1 and y_strides[2] == 1:
                x_row = x[a : a + shape[2]]
                y_row = y[b : b + shape[2]]
                for k in range(shape[2]):
                    y_row[k] = np.float64(x_row[k]) * gain + shift
                continue
            for k in range(shape[2]):
                value = np.float64(x[a + k * x_strides[2]])
                if code != _NONE:
                    value = value * inner_gain + inner_shift
                if code == _LOG1P:
                    value = np.log1p(value)
                elif code == _ASINH:
                    value = np.arcsinh(value)
                elif code == _EXPM1:
                    value = np.expm1(value)
                elif code == _SINH:
                    value = np.sinh(value)
                y[b + k * y_strides[2]] = value * gain + shift
