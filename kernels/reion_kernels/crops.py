"""Training crops: periodic windows of a box, normalised and rotated, written straight into the batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numba import float32, from_dtype, types
from numpy.typing import ArrayLike, NDArray

from reion_kernels._jit import INT, INTS, REALS, kernel, target
from reion_kernels._layout import Real, Strided, check_out, check_real, strided, strided_source
from reion_kernels._threads import run, thread_count
from reion_kernels.affine import NONE, Constants, Transform, folded_constants, transformed
from reion_kernels.symmetry import permutations_and_flips

BLOCK_ROWS = 16
"""Rows along z of every field that are read before they are written; the nearest cache holds them."""

LANES = 16
"""Cells that are read at a time where possible."""

_CONSTANTS = np.dtype(list(zip(Constants._fields, ("i8", "f8", "f8", "f8"), strict=True)))
"""A record of `reion_kernels.affine.Constants`."""


class _Windows(NamedTuple):
    """Windows of a box and their places in the batch, along the axes of the box; one row for each window.

    Attributes
    ----------
    start
        (windows, 3): the first cell, inside the box.
    shape
        (windows, 3): cells along each axis.
    backwards
        (windows, 3): 1 where the cells of an axis are written in the opposite order, else 0.
    corner
        (windows,): index in the memory of the batch at which a window begins.
    steps
        (windows, 3): steps in that memory from one cell to the next.
    last
        (windows,): the axis of the box that becomes the last spatial axis of the batch.
    """

    start: NDArray[np.int64]
    shape: NDArray[np.int64]
    backwards: NDArray[np.int64]
    corner: NDArray[np.int64]
    steps: NDArray[np.int64]
    last: NDArray[np.int64]


class _Walk(NamedTuple):
    """A path through memory, an inner loop over v in one over u: start, and steps of u, v and field."""

    start: int
    u: int
    v: int
    field: int


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
    """Write one periodic window of a box, normalised and rotated, into the batch of a network.

    The result equals ``symmetry(affine(window))`` with the fields moved to the last axis. It is computed in
    one pass, without intermediate arrays, in the calling thread and without the GIL, so that several threads
    can each fill their part of a batch.

    Parameters
    ----------
    fields
        (fields, X, Y, Z), float32 or float64, any strides: the fields of one snapshot.
    origin
        First cell of the window along x, y, z. Any integers: the box is periodic.
    out
        (x, y, z, fields), float32, any strides, for example ``batch[b]``. Its shape is that of the rotated
        window; a window larger than the box repeats the box.
    index
        Symmetry of the cube, 0 to 47, as in `symmetry`. The window in the box has the shape that this
        symmetry turns into the shape of `out`.
    scale, mean, std
        Constants of `affine` for each field, or one number for all. None means 1, 0 and 1.
    transform
        Transform of `affine` for each field, or one for all. None means no transform.

    Returns
    -------
    ndarray
        `out`.

    Raises
    ------
    TypeError
        If an array has the wrong dtype or `origin` is not integers.
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
    """Fill a whole batch with windows of one snapshot, on several threads.

    Parameters
    ----------
    fields
        (fields, X, Y, Z), float32 or float64, any strides.
    origins
        (windows, 3) integers: the first cell of each window.
    out
        (batch, x, y, z, fields), float32, any strides.
    places
        (windows,) integers, each once: index in the batch of each window, for a batch that is filled from
        several snapshots. None: one window for each index, in order.
    indices
        (windows,) symmetries, 0 to 47; None for the identity.
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
    check_out(out, fields, out.shape, np.float32)
    constants = _constants(count, scale, mean, std, transform)
    batch = strided(out, writeable=True)
    windows = _windows(fields.shape[1:], origins, places, indices, batch, out.shape)
    box = strided(fields)

    def task(some: slice) -> None:
        _crop(
            box,
            fields.shape[1:],
            _Windows(*(column[some] for column in windows)),
            batch.line,
            batch.strides[4],
            constants,
        )

    work = len(windows.corner) * math.prod(out.shape[1:])
    if work:
        threads = min(len(windows.corner), thread_count(threads, work))
        cuts = [len(windows.corner) * i // threads for i in range(threads + 1)]
        run(task, [(slice(*ends),) for ends in pairwise(cuts)], threads)
    return out


def _windows(
    box: tuple[int, ...],
    origins: ArrayLike,
    places: ArrayLike | None,
    indices: Sequence[int] | NDArray[np.integer] | None,
    batch: Strided,
    shape: tuple[int, ...],
) -> _Windows:
    """Check origins, places and symmetries, and return the windows for the kernel.

    `box` is the shape of the box, `shape` that of the batch; the other arguments are those of `crop_batch`.
    """
    starts = np.asarray(origins)
    if not np.issubdtype(starts.dtype, np.integer):
        message = f"origin: expected whole numbers of cells. Received: {starts.dtype}"
        raise TypeError(message)
    targets = np.arange(shape[0]) if places is None else np.asarray(places)
    if targets.size and not np.issubdtype(targets.dtype, np.integer):
        message = f"places: expected whole numbers. Received: {targets.dtype}"
        raise TypeError(message)
    targets = targets.astype(np.int64)
    if targets.ndim != 1 or np.unique(targets).size != targets.size:
        message = f"places: expected one place in the batch for each window, none twice. Received: {places!r}"
        raise ValueError(message)
    if targets.size and not 0 <= targets.min() <= targets.max() < shape[0]:
        message = f"places: expected places from 0 to {shape[0] - 1}. Received: {places!r}"
        raise ValueError(message)
    if starts.shape != (len(targets), 3):
        message = (
            f"origin: expected three cells for each of {len(targets)} windows. Received shape: {starts.shape}"
        )
        raise ValueError(message)
    turns = np.zeros(len(targets), dtype=np.int64) if indices is None else np.asarray(indices, dtype=np.int64)
    if turns.shape != targets.shape:
        message = (
            f"indices: expected one symmetry for each of {len(targets)} windows. "
            f"Received shape: {turns.shape}"
        )
        raise ValueError(message)
    permutations, flips = permutations_and_flips(turns)
    batch_axis = np.argsort(permutations, axis=1)  # what becomes of each axis of the box
    return _Windows(
        start=(starts % np.array(box)).astype(np.int64),
        shape=np.array(shape[1:4], dtype=np.int64)[batch_axis],
        backwards=np.take_along_axis(flips, batch_axis, axis=1),
        corner=batch.first + targets * batch.strides[0],
        steps=np.array(batch.strides[1:4], dtype=np.int64)[batch_axis],
        last=np.ascontiguousarray(permutations[:, 2]),
    )


def _constants(
    count: int,
    scale: ArrayLike | None,
    mean: ArrayLike | None,
    std: ArrayLike | None,
    transform: Transform | Sequence[Transform] | None,
) -> NDArray[Any]:
    """Return the constants of each field, (fields,) of dtype `_CONSTANTS`, from the user's arguments."""
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
    rows = zip(*columns, transforms, strict=True)
    return np.array([tuple(folded_constants(*row)) for row in rows], dtype=_CONSTANTS)


@kernel(inline=True)
def _read_rows(box, plane, rows, start_z, n_z, box_z, constants, block):  # type: ignore[no-untyped-def]
    # Reads rows along z of all fields, normalised, in the order of the box. `plane` is the index in the
    # memory of the box at which the plane of the rows begins, `rows` their indices in the plane. Cells are
    # read `LANES` at a time, because single cells take longer: cells beyond the end of a row are overwritten
    # by the next row, or lie in the spare cells at the end of the block. Indices are unsigned, because Numba
    # then does not check whether they count from the end.
    step = box.strides[3]
    for f in range(len(constants)):
        transform = constants[f]["transform"]
        factor = constants[f]["factor"]
        gain = constants[f]["gain"]
        shift = constants[f]["shift"]
        for j in range(len(rows)):
            row = plane + rows[j] + f * box.strides[0]
            k = 0
            z = start_z
            while k < n_z:  # once, and again for each time the row goes on at the other end of the box
                cells = min(n_z - k, box_z - z)
                a = row + z * step
                b = (f * BLOCK_ROWS + j) * n_z + k
                if transform == NONE and step == 1:
                    whole = (cells + LANES - 1) // LANES * LANES
                    for q in range(whole if a + whole <= len(box.line) else cells):
                        block[np.uintp(b + q)] = np.float64(box.line[np.uintp(a + q)]) * gain + shift
                else:
                    for q in range(cells):
                        value = np.float64(box.line[np.uintp(a + q * step)]) * factor
                        block[np.uintp(b + q)] = transformed(value, transform) * gain + shift
                k += cells
                z = 0


@kernel(inline=True)
def _write_packed(block, read, y, write, n_u, n_v, fields, direction):  # type: ignore[no-untyped-def]
    # Called with literals for the number of fields and the direction, so that the compiler knows the steps
    # and vectorises the loop.
    for u in range(n_u):
        a = read.start + u * read.u
        b = write.start + u * write.u
        for v in range(n_v):
            for f in range(fields):
                y[np.uintp(b + fields * v + f)] = block[np.uintp(a + direction * v + f * read.field)]


@kernel(inline=True)
def _write_spread(block, read, y, write, n_u, n_v, fields):  # type: ignore[no-untyped-def]
    for f in range(fields):
        for u in range(n_u):
            a = read.start + u * read.u + f * read.field
            b = write.start + u * write.u + f * write.field
            for v in range(n_v):
                y[np.uintp(b + v * write.v)] = block[np.uintp(a + v * read.v)]


@kernel()
def _write(block, read, y, write, n_u, n_v, fields):  # type: ignore[no-untyped-def]
    # Whole blocks of rows have a known length and are vectorised too. Not inlined, because inside the loops
    # of _crop it compiles to slower code.
    packed = write.field == 1 and write.v == fields
    if packed and fields == 3 and read.v == 1:
        _write_packed(block, read, y, write, n_u, n_v, 3, 1)
    elif packed and fields == 3 and read.v == -1:
        _write_packed(block, read, y, write, n_u, n_v, 3, -1)
    elif packed and fields == 2 and read.v == 1:
        _write_packed(block, read, y, write, n_u, n_v, 2, 1)
    elif packed and fields == 2 and read.v == -1:
        _write_packed(block, read, y, write, n_u, n_v, 2, -1)
    elif n_v == BLOCK_ROWS:
        _write_spread(block, read, y, write, n_u, BLOCK_ROWS, fields)
    else:
        _write_spread(block, read, y, write, n_u, n_v, fields)


_WINDOWS = types.NamedTuple((*(target(INT, 2),) * 3, INTS, target(INT, 2), INTS), _Windows)
_SHAPE = types.UniTuple(INT, 3)


@kernel(
    *[
        (strided_source(real, 4), _SHAPE, _WINDOWS, target(float32), INT, target(from_dtype(_CONSTANTS)))
        for real in REALS
    ]
)
def _crop(box, box_shape, windows, y, field_step, constants):  # type: ignore[no-untyped-def]
    # Rows along z are read in blocks, in the order of the box, and written in the order of the batch. A
    # reversed axis is read backwards, because writing backwards is slower.
    fields = len(constants)
    for w in range(len(windows.corner)):
        start, shape, steps = windows.start[w], windows.shape[w], windows.steps[w]
        backwards = windows.backwards[w]
        last = windows.last[w]
        # The rows of a block are neighbours along `near`, which becomes the last axis unless z does.
        near = 0 if last == 0 else 1
        far = 1 - near
        n_z = shape[2]
        first_z, step_z = (n_z - 1, -1) if backwards[2] else (0, 1)
        block = np.empty(fields * BLOCK_ROWS * n_z + LANES, dtype=np.float32)
        rows = np.empty(shape[near], dtype=np.int64)
        for j in range(shape[near]):
            cell = start[near] + (shape[near] - 1 - j if backwards[near] else j)
            rows[j] = cell % box_shape[near] * box.strides[1 + near]
        for i in range(shape[far]):
            cell = start[far] + (shape[far] - 1 - i if backwards[far] else i)
            plane = box.first + cell % box_shape[far] * box.strides[1 + far]
            for j in range(0, shape[near], BLOCK_ROWS):
                part = rows[j : j + BLOCK_ROWS]
                _read_rows(box, plane, part, start[2], n_z, box_shape[2], constants, block)
                corner = windows.corner[w] + i * steps[far] + j * steps[near]
                size = BLOCK_ROWS * n_z
                if last == near:
                    read = _Walk(first_z, v=n_z, u=step_z, field=size)
                    write = _Walk(corner, v=steps[near], u=steps[2], field=field_step)
                    _write(block, read, y, write, n_z, len(part), fields)
                else:
                    read = _Walk(first_z, v=step_z, u=n_z, field=size)
                    write = _Walk(corner, v=steps[2], u=steps[near], field=field_step)
                    _write(block, read, y, write, len(part), n_z, fields)
