"""Cells moved along one axis with their contents, from real space to redshift space."""

from __future__ import annotations

import numpy as np
from numba import types

from reion_kernels._jit import INT, REALS, kernel
from reion_kernels._layout import Real, check_out, check_real, strided, strided_source, strided_target
from reion_kernels._threads import run, thread_count

_THIN = 1e-9
"""A moved cell thinner than this, in cells, is treated as a sheet that lies in one cell."""


def move_cells(
    x: Real,
    displacement: Real,
    *,
    periodic: bool = True,
    out: Real | None = None,
    threads: int | None = None,
) -> Real:
    """Move cells along the last axis, and sum their contents in the cells of the same mesh.

    Each face of a cell moves by the mean displacement of the two cells that it separates, and the content of
    the cell is spread evenly between its moved faces: the mesh-to-mesh scheme of Mao et al. 2012 (MNRAS 422,
    926, section 4.2). Where faces overtake each other, cells overlap and their contents add. The sum along
    the axis is conserved, except for rounding.

    Parameters
    ----------
    x
        (x, y, z), float32 or float64, any strides: contents of the cells, any additive quantity, such as the
        21-cm signal.
    displacement
        Displacement of the centre of each cell along the last axis, in cells; shape and dtype of `x`, any
        strides.
    periodic
        True: contents that leave at one end enter at the other. False: they are lost, and the two outer faces
        move like the cells next to them.
    out
        Array for the result, of the shape and dtype of `x`, any strides, that shares no memory with the
        inputs. A new C-ordered array if not given.
    threads
        Number of threads; None for every core this process may use.

    Returns
    -------
    ndarray
        (x, y, z), of the dtype of `x`. Sums are computed in float64. NaN and infinities spread like any
        number.

    Raises
    ------
    TypeError
        If an array is not float32 or float64, or the two differ in dtype.
    ValueError
        If the shapes do not fit, or a displacement is not finite or longer than the axis.
    """
    check_real(x, "x")
    check_real(displacement, "displacement")
    if displacement.dtype != x.dtype:
        message = f"displacement: expected the dtype of x, {x.dtype}. Received: {displacement.dtype}"
        raise TypeError(message)
    if x.ndim != 3 or displacement.shape != x.shape:
        message = (
            "x, displacement: expected two arrays of one shape (x, y, z). "
            f"Received: {x.shape} and {displacement.shape}"
        )
        raise ValueError(message)
    if x.size and not max(-displacement.min(), displacement.max()) <= x.shape[2]:
        message = (
            f"displacement: expected finite numbers, at most the {x.shape[2]} cells of the axis. "
            f"Received: {displacement.min()} to {displacement.max()}"
        )
        raise ValueError(message)
    if out is None:
        out = np.empty(x.shape, dtype=x.dtype)
    check_out(out, x, x.shape, x.dtype)
    check_out(out, displacement, x.shape, x.dtype)

    def task(a: Real, u: Real, b: Real) -> None:
        if a.size:
            _move(strided(a), strided(u), strided(b, writeable=True), a.shape, periodic)

    threads = thread_count(threads, x.size)
    longest = int(np.argmax(x.shape[:2]))
    pieces = zip(*(np.array_split(v, threads, longest) for v in (x, displacement, out)), strict=True)
    run(task, pieces, threads)
    return out


@kernel(inline=True)
def _deposit(total, cell, value, periodic):  # type: ignore[no-untyped-def]
    if periodic:
        total[cell % len(total)] += value
    elif 0 <= cell < len(total):
        total[cell] += value


@kernel(
    *[
        (
            strided_source(real, 3),
            strided_source(real, 3),
            strided_target(real, 3),
            types.UniTuple(INT, 3),
            types.boolean,
        )
        for real in REALS
    ]
)
def _move(x, u, y, shape, periodic):  # type: ignore[no-untyped-def]
    n = shape[2]
    faces = np.empty(n + 1, dtype=np.float64)
    total = np.empty(n, dtype=np.float64)
    for i in range(shape[0]):
        for j in range(shape[1]):
            x_line = x.first + i * x.strides[0] + j * x.strides[1]
            u_line = u.first + i * u.strides[0] + j * u.strides[1]
            y_line = y.first + i * y.strides[0] + j * y.strides[1]
            first = np.float64(u.line[u_line])
            last = np.float64(u.line[u_line + (n - 1) * u.strides[2]])
            before = last if periodic else first
            for k in range(n):
                here = np.float64(u.line[u_line + k * u.strides[2]])
                faces[k] = k + 0.5 * (before + here)
                before = here
            faces[n] = n + 0.5 * (last + (first if periodic else last))
            total[:] = 0.0
            for k in range(n):
                value = np.float64(x.line[x_line + k * x.strides[2]])
                low = min(faces[k], faces[k + 1])
                high = max(faces[k], faces[k + 1])
                cell = int(np.floor(low))
                if high <= cell + 1 or high - low < _THIN:
                    _deposit(total, cell, value, periodic)
                    continue
                density = value / (high - low)
                # The last share is the remainder, so that the shares add up.
                left = value - density * (cell + 1 - low)
                _deposit(total, cell, density * (cell + 1 - low), periodic)
                cell += 1
                while high > cell + 1:
                    _deposit(total, cell, density, periodic)
                    left -= density
                    cell += 1
                _deposit(total, cell, left, periodic)
            for k in range(n):
                y.line[y_line + k * y.strides[2]] = total[k]
