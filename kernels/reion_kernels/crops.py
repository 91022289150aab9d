"""The sampler's path: periodic windows of a box, normalised and turned, straight into the batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reion_kernels._jit import INT, INTS, REALS, kernel, source, target
from reion_kernels._layout import Real, check_out, check_real, flat
from reion_kernels._threads import run, thread_count
from reion_kernels.affine import Transform, folded
from reion_kernels.symmetry import permutation_and_flips


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
        (batch, 3) integers: the first cell of each window.
    out
        (batch, x, y, z, fields), float32, any strides.
    indices
        (batch,) symmetries, 0 to 47; None for no turns.
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
    if starts.shape != (len(out), 3):
        message = (
            f"origin: expected three cells for each of {len(out)} windows. Received shape: {starts.shape}"
        )
        raise ValueError(message)
    turns = [0] * len(out) if indices is None else [int(index) for index in indices]
    if len(turns) != len(out):
        message = f"indices: expected one symmetry for each of {len(out)} windows. Received: {len(turns)}"
        raise ValueError(message)
    elements = [permutation_and_flips(index) for index in turns]
    codes, constants = _constants(count, scale, mean, std, transform)
    box = np.array(fields.shape[1:], dtype=np.int64)
    starts = (starts % box).astype(np.int64)
    line_x, first_x, strides_x = flat(fields)

    def task(b: int) -> None:
        line_y, first_y, strides_y = flat(out[b], writeable=True)
        permutation, flips = elements[b]
        shape = np.array(out.shape[1:4], dtype=np.int64)
        _crop(
            line_x,
            line_y,
            first_x,
            first_y,
            strides_x,
            strides_y,
            box,
            shape,
            starts[b],
            np.array(permutation, dtype=np.int64),
            np.array(flips, dtype=np.int64),
            codes,
            constants,
        )

    run(task, [(b,) for b in range(len(out))], thread_count(threads, out.size))
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
        columns.append(np.broadcast_to(column, (count,)).tolist())
    if transform is None:
        transform = "none"
    transforms = [transform] * count if isinstance(transform, str) else list(transform)
    if len(transforms) != count:
        message = f"transform: expected one or {count}, one for each field. Received: {transforms}"
        raise ValueError(message)
    rows = [folded(*row) for row in zip(*columns, transforms, strict=True)]
    codes = np.array([row[0] for row in rows], dtype=np.int64)
    return codes, np.array([row[1:] for row in rows], dtype=np.float64).reshape(count, 3)


@kernel(*[(source(r), target(REALS[0]), INT, INT, *(INTS,) * 7, INTS, target(REALS[1], 2)) for r in REALS])
def _crop(  # type: ignore[no-untyped-def]
    x, y, x_first, y_first, x_strides, y_strides, box, shape, start, permutation, flips, codes, constants
):
    # Where in the line of memory each cell of an output axis comes from, wrapping done.
    longest = max(shape[0], shape[1], shape[2])
    offsets = np.empty((3, longest), dtype=np.int64)
    for a in range(3):
        axis = permutation[a]
        for i in range(shape[a]):
            along = shape[a] - 1 - i if flips[a] else i
            offsets[a, i] = (start[axis] + along) % box[axis] * x_strides[1 + axis]
    for f in range(len(codes)):
        code = codes[f]
        factor = constants[f, 0]
        gain = constants[f, 1]
        shift = constants[f, 2]
        for i in range(shape[0]):
            for j in range(shape[1]):
                a = x_first + f * x_strides[0] + offsets[0, i] + offsets[1, j]
                b = y_first + f * y_strides[3] + i * y_strides[0] + j * y_strides[1]
                for k in range(shape[2]):
                    value = np.float64(x[a + offsets[2, k]]) * factor
                    if code == 1:
                        value = np.log1p(value)
                    elif code == 2:
                        value = np.arcsinh(value)
                    y[b + k * y_strides[2]] = value * gain + shift
