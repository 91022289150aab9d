"""The sampler's path: periodic windows of a box, normalised and turned, straight into the batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numba import float32
from numpy.typing import ArrayLike, NDArray

from reion_kernels._jit import FLOAT, INT, INTS, REALS, kernel, source, target
from reion_kernels._layout import Real, check_out, check_real, flat
from reion_kernels._threads import run, thread_count
from reion_kernels.affine import Transform, folded
from reion_kernels.symmetry import permutations_and_flips

BLOCK_ROWS = 16
"""Rows of a window that are read before they are written."""
LANES = 16
"""Cells that are read at a time where that is possible."""


def crop(
    fields: Real,
    origin: Sequence[int],
    *,
    out: NDArray[np.float32],
    index: int = 0,
    scale: ArrayLike | None = None,
    mean: ArrayLike | None = None,
    std: ArrayLike | None = None,
    transform: Transform | Sequence[Transform] | None = None,
) -> NDArray[np.float32]:
    """Write one periodic window of a box, normalised and turned, into the batch of a network.

    Equal to ``symmetry(affine(window))`` with the fields moved to the last axis; one pass, no array in
    between, in the calling thread without the GIL, so that several threads can each fill their part of a
    batch.

    Parameters
    ----------
    fields
        (fields, X, Y, Z), float32 or float64, any strides: the fields of one snapshot.
    origin
        First cell of the window along x, y, z. Any integers: the box is periodic.
    out
        (x, y, z, fields), float32, any strides, for example ``batch[b]``. Its shape is that of the turned
        window; a window larger than the box repeats it.
    index
        Symmetry of the cube, 0 to 47, as in `symmetry`. The window has the shape that it turns into that
        of `out`.
    scale, mean, std
        Constants of `affine` for each field, or one number for all. None: 1, 0 and 1.
    transform
        Transform of `affine` for each field, or one for all. None: none.

    Returns
    -------
    ndarray
        `out`.

    Raises
    ------
    TypeError
        If an array has the wrong dtype or `origin` is not whole numbers.
    ValueError
        If shapes, `index`, constants or transforms do not fit.
    """
    batch = out[None] if isinstance(out, np.ndarray) else out
    crop_batch(
        fields,
        np.asarray(origin)[None],
        out=batch,
        indices=[index],
        scale=scale,
        mean=mean,
        std=std,
        transform=transform,
        threads=1,
    )
    return out


def crop_batch(
    fields: Real,
    origins: ArrayLike,
    *,
    out: NDArray[np.float32],
    places: ArrayLike | None = None,
    indices: Sequence[int] | NDArray[np.integer] | None = None,
    scale: ArrayLike | None = None,
    mean: ArrayLike | None = None,
    std: ArrayLike | None = None,
    transform: Transform | Sequence[Transform] | None = None,
    threads: int | None = None,
) -> NDArray[np.float32]:
    """Fill a whole batch with windows of one snapshot, several threads side by side.

    Parameters
    ----------
    fields
        (fields, X, Y, Z), float32 or float64, any strides.
    origins
        (windows, 3) integers: the first cell of each window.
    out
        (batch, x, y, z, fields), float32, any strides.
    places
        (windows,) integers, each once: where in the batch each window goes, for a batch that is filled from
        several snapshots. None: one window for each place, in order.
    indices
        (windows,) symmetries, 0 to 47; None for no turns.
    scale, mean, std, transform
        As for `crop`.
    threads
        Number of threads; None for every core this process may use. The result does not depend on it.

    Returns
    -------
    ndarray
        `out`.

    Raises
    ------
    TypeError, ValueError
        As for `crop`.
    """
    check_real(fields, "fields")
    if fields.ndim != 4 or min(fields.shape[1:]) < 1:
        message = f"fields: expected shape (fields, x, y, z) with cells in it. Received: {fields.shape}"
        raise ValueError(message)
    count = fields.shape[0]
    check_real(out, "out")
    if out.ndim != 5 or out.shape[4] != count:
        message = (
            f"out: expected shape (batch, x, y, z, {count}), a batch of {count} fields. Received: {out.shape}"
        )
        raise ValueError(message)
    check_out(out, out.shape, fields)
    if out.dtype != np.float32:
        message = f"out: expected float32, what networks take. Received: {out.dtype}"
        raise TypeError(message)
    starts = np.asarray(origins)
    if not np.issubdtype(starts.dtype, np.integer):
        message = f"origin: expected whole numbers of cells. Received: {starts.dtype}"
        raise TypeError(message)
    windows = np.arange(len(out)) if places is None else np.asarray(places)
    if windows.size and not np.issubdtype(windows.dtype, np.integer):
        message = f"places: expected whole numbers. Received: {windows.dtype}"
        raise TypeError(message)
    windows = windows.astype(np.int64)
    if windows.ndim != 1 or np.unique(windows % max(1, len(out))).size != windows.size:
        message = f"places: expected one place in the batch for each window, none twice. Received: {places!r}"
        raise ValueError(message)
    if windows.size and not 0 <= windows.min() <= windows.max() < len(out):
        message = f"places: expected places from 0 to {len(out) - 1}. Received: {places!r}"
        raise ValueError(message)
    if starts.shape != (len(windows), 3):
        message = (
            f"origin: expected three cells for each of {len(windows)} windows. Received shape: {starts.shape}"
        )
        raise ValueError(message)
    turns = np.zeros(len(windows), dtype=np.int64) if indices is None else np.asarray(indices, dtype=np.int64)
    if turns.shape != windows.shape:
        message = (
            f"indices: expected one symmetry for each of {len(windows)} windows. "
            f"Received shape: {turns.shape}"
        )
        raise ValueError(message)
    permutations, flips = permutations_and_flips(turns)
    codes, constants = _constants(count, scale, mean, std, transform)
    box = np.array(fields.shape[1:], dtype=np.int64)
    starts = (starts % box).astype(np.int64)
    shape = np.array(out.shape[1:], dtype=np.int64)
    lines = (*flat(fields), *flat(out, writeable=True))

    def task(some: slice) -> None:
        _crop(
            *lines,
            box,
            shape,
            windows[some],
            starts[some],
            permutations[some],
            flips[some],
            codes,
            constants,
        )

    work = len(windows) * math.prod(out.shape[1:])
    if work:
        threads = min(len(windows), thread_count(threads, work))
        cuts = [len(windows) * i // threads for i in range(threads + 1)]
        run(task, [(slice(*ends),) for ends in pairwise(cuts)], threads)
    return out


def _constants(
    count: int,
    scale: ArrayLike | None,
    mean: ArrayLike | None,
    std: ArrayLike | None,
    transform: Transform | Sequence[Transform] | None,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return codes (fields,) and factor, gain, shift (fields, 3) from what the user gave for each field."""
    columns = []
    for name, value, default in (("scale", scale, 1.0), ("mean", mean, 0.0), ("std", std, 1.0)):
        column = np.asarray(default if value is None else value, dtype=np.float64)
        if column.shape not in ((), (count,)):
            message = f"{name}: expected one number or {count}, one for each field. Received: {value!r}"
            raise ValueError(message)
        columns.append(column.tolist() if column.ndim else [float(column)] * count)
    if transform is None:
        transform = "none"
    transforms = [transform] * count if isinstance(transform, str) else list(transform)
    if len(transforms) != count:
        message = f"transform: expected one or {count}, one for each field. Received: {transforms}"
        raise ValueError(message)
    rows = [folded(*row) for row in zip(*columns, transforms, strict=True)]
    codes = np.array([row[0] for row in rows], dtype=np.int64)
    return codes, np.array([row[1:] for row in rows], dtype=np.float64).reshape(count, 3)


@kernel(inline=True)
def _read_rows(  # type: ignore[no-untyped-def]
    x, at, x_strides, near, start, direction, rows, start_z, n_z, box, buffer, codes, constants
):
    # All fields of some rows along z, normalised, each row as it lies in the box. A run is read in whole
    # lanes, because single cells take longer; what is read too much is overwritten by the next run or row, or
    # lies in the lanes that the buffer has to spare. Unsigned indices spare the check whether they count from
    # the end.
    step = x_strides[3]
    for f in range(len(codes)):
        code = codes[f]
        factor = constants[f, 0]
        gain = constants[f, 1]
        shift = constants[f, 2]
        for j in range(rows):
            row = at + (start + direction * j) % box[near] * x_strides[1 + near] + f * x_strides[0]
            to = (f * BLOCK_ROWS + j) * n_z
            k = 0
            z = start_z
            while k < n_z:
                run_length = min(n_z - k, box[2] - z)
                a = row + z * step
                b = to + k
                if code == 0 and step == 1:
                    lanes = (run_length + LANES - 1) // LANES * LANES
                    for q in range(lanes if a + lanes <= len(x) else run_length):
                        value = np.float64(x[np.uintp(a + q)]) * gain + shift
                        buffer[np.uintp(b + q)] = value
                else:
                    for q in range(run_length):
                        value = np.float64(x[np.uintp(a + q * step)]) * factor
                        if code == 1:
                            value = np.log1p(value)
                        elif code == 2:
                            value = np.arcsinh(value)
                        buffer[np.uintp(b + q)] = value * gain + shift
                k += run_length
                z = 0


@kernel(inline=True)
def _side_by_side(  # type: ignore[no-untyped-def]
    buffer, at, direction, u_row, fields, size, y, to, n_v, n_u, u_step
):
    # Called with the number of fields and the direction as literals: with steps that the compiler knows this
    # becomes vector instructions.
    for u in range(n_u):
        p = at + u * u_row
        o = to + u * u_step
        for v in range(n_v):
            for f in range(fields):
                y[np.uintp(o + fields * v + f)] = buffer[np.uintp(p + direction * v + f * size)]


@kernel()
def _write_rows(  # type: ignore[no-untyped-def]
    buffer, at, v_row, u_row, fields, size, y, to, n_v, n_u, v_step, u_step, f_step
):
    # Whole blocks of rows, whose length is known too, become vector instructions as well. Not inlined: among
    # the loops of _crop it compiles to slower code.
    packed = f_step == 1 and v_step == fields
    if packed and fields == 3 and v_row == 1:
        _side_by_side(buffer, at, 1, u_row, 3, size, y, to, n_v, n_u, u_step)
    elif packed and fields == 3 and v_row == -1:
        _side_by_side(buffer, at, -1, u_row, 3, size, y, to, n_v, n_u, u_step)
    elif packed and fields == 2 and v_row == 1:
        _side_by_side(buffer, at, 1, u_row, 2, size, y, to, n_v, n_u, u_step)
    elif packed and fields == 2 and v_row == -1:
        _side_by_side(buffer, at, -1, u_row, 2, size, y, to, n_v, n_u, u_step)
    elif n_v == BLOCK_ROWS:
        for f in range(fields):
            for u in range(n_u):
                p = at + u * u_row + f * size
                o = to + u * u_step + f * f_step
                for v in range(BLOCK_ROWS):
                    y[np.uintp(o + v * v_step)] = buffer[np.uintp(p + v * v_row)]
    else:
        for f in range(fields):
            for u in range(n_u):
                p = at + u * u_row + f * size
                o = to + u * u_step + f * f_step
                for v in range(n_v):
                    y[np.uintp(o + v * v_step)] = buffer[np.uintp(p + v * v_row)]


@kernel(
    *[
        (
            source(r),
            INT,
            INTS,
            target(float32),
            INT,
            *(INTS,) * 4,
            *(target(INT, 2),) * 3,
            INTS,
            target(FLOAT, 2),
        )
        for r in REALS
    ]
)
def _crop(  # type: ignore[no-untyped-def]
    x,
    x_first,
    x_strides,
    y,
    y_first,
    y_strides,
    box,
    shape,
    windows,
    starts,
    permutations,
    flips,
    codes,
    constants,
):
    # Axes here are those of the window. Rows along z are read as they lie in the box, normalised into a block
    # that the nearest cache holds, and written in the order of the output: "near" is the axis that becomes
    # its last one, or y where that is z itself. A flipped axis is read backwards, because writing backwards
    # is slower.
    n = np.empty(3, dtype=np.int64)
    step = np.empty(3, dtype=np.int64)
    begin = np.empty(3, dtype=np.int64)
    direction = np.empty(3, dtype=np.int64)
    fields = len(codes)
    for w in range(len(windows)):
        for a in range(3):
            axis = permutations[w, a]
            n[axis] = shape[a]
            step[axis] = y_strides[1 + a]
            begin[axis] = shape[a] - 1 if flips[w, a] else 0
            direction[axis] = -1 if flips[w, a] else 1
        corner = y_first + windows[w] * y_strides[0]
        last = permutations[w, 2]
        near = 0 if last == 0 else 1
        far = 1 - near
        n_z = n[2]
        size = BLOCK_ROWS * n_z
        buffer = np.empty(fields * size + LANES, dtype=np.float32)
        for i in range(n[far]):
            plane = (starts[w, far] + begin[far] + direction[far] * i) % box[far]
            at = x_first + plane * x_strides[1 + far]
            for first in range(0, n[near], BLOCK_ROWS):
                rows = min(BLOCK_ROWS, n[near] - first)
                start = starts[w, near] + begin[near] + direction[near] * first
                _read_rows(
                    x,
                    at,
                    x_strides,
                    near,
                    start,
                    direction[near],
                    rows,
                    starts[w, 2],
                    n_z,
                    box,
                    buffer,
                    codes,
                    constants,
                )
                to = corner + i * step[far] + first * step[near]
                if last == 2:
                    v_row, u_row, n_v, n_u = direction[2], n_z, n_z, rows
                    v_step, u_step = step[2], step[near]
                else:
                    v_row, u_row, n_v, n_u = n_z, direction[2], rows, n_z
                    v_step, u_step = step[near], step[2]
                _write_rows(
                    buffer,
                    begin[2],
                    v_row,
                    u_row,
                    fields,
                    size,
                    y,
                    to,
                    n_v,
                    n_u,
                    v_step,
                    u_step,
                    y_strides[4],
                )
