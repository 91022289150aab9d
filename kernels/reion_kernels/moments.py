"""Count, mean, variance, skewness and range of a field in one pass over memory, mergeable."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np
from numba import float32, float64, from_dtype, int32, int64, uint32, uint64
from numpy.typing import NDArray

from reion_kernels._jit import kernel, source, target
from reion_kernels._layout import Real, check_real, merged_axes
from reion_kernels._threads import run, thread_count

BLOCK = 1 << 15
"""Values whose moments are taken at once: few enough to stay in the cache, because they are read twice."""

_PIECE = 64 * BLOCK
"""Values that the kernel gets at a time, copied where they are not contiguous."""

FIRST_VALUES = 1 << 9
"""Values at the beginning of a block whose mean approximates that of the block."""

LANES = 32
"""Independent partial sums. The compiler may use vectors of any width, and every processor still adds in the
same order."""


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Moments of the finite values of a field.

    Sums are central, so they lose no digits to cancellation, whatever the mean is. The moments of two fields
    merge into those of both together (Chan, Golub & LeVeque 1979; Pébay 2008, SAND2008-6212, equations 2.1
    and 3.1).

    Attributes
    ----------
    count
        Number of finite values.
    nonfinite
        Number of NaN and infinities, which no other attribute includes.
    mean
        Mean; NaN if `count` is zero.
    mean_tail
        Rounding error of `mean`: the mean is ``mean + mean_tail``. Merging needs it where the mean is much
        larger than the standard deviation.
    m2, m3
        Sums of the second and third power of the differences from the mean. The third power of values
        outside 1e-100 to 1e100 leaves the range of float64.
    minimum, maximum
        Range of the finite values; inf and -inf if there are none.
    """

    count: int = 0
    nonfinite: int = 0
    mean: float = math.nan
    mean_tail: float = 0.0
    m2: float = 0.0
    m3: float = 0.0
    minimum: float = math.inf
    maximum: float = -math.inf

    @classmethod
    def empty(cls) -> Moments:
        """Return the moments of nothing, which change nothing when merged."""
        return cls()

    @property
    def variance(self) -> float:
        """Mean squared difference from the mean (of the population); NaN if there are no values."""
        return self.m2 / self.count if self.count else math.nan

    @property
    def std(self) -> float:
        """Square root of the variance."""
        return math.sqrt(self.variance)

    @property
    def skewness(self) -> float:
        """Third standardised moment (of the population); NaN if there are no values or all are equal."""
        if not self.m2 > 0:
            return math.nan
        return self.m3 / self.m2 * math.sqrt(self.count / self.m2)

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both fields together.

        Parameters
        ----------
        other
            Moments of other values.

        Returns
        -------
        Moments
            Equal, except for rounding, to the moments of one field with the values of both.
        """
        return _merged(np.array([self._record(), other._record()], dtype=_RECORD))

    def _record(self) -> tuple[float, ...]:
        return tuple(getattr(self, field.name) for field in fields(self))


_RECORD = np.dtype([(field.name, "i8" if field.type == "int" else "f8") for field in fields(Moments)])
"""Record of `Moments` for kernels."""


def moments(x: Real, *, threads: int | None = None) -> Moments:
    """Take the moments of a field in one pass.

    Blocks of 32,768 values are summed about a value near their own mean and merged in pairs. The order of
    merging does not depend on the number of threads, so the result does not either.

    Parameters
    ----------
    x
        Field of any shape and any strides, float32 or float64. If its values are not contiguous, a few rows
        at a time are copied.
    threads
        Number of threads; None for every core this process may use.

    Returns
    -------
    Moments
        In the units of `x` and their powers.

    Raises
    ------
    TypeError
        If `x` is not a float32 or float64 array.
    """
    check_real(x, "x")
    if x.size == 0:
        return Moments.empty()
    (view,) = merged_axes(x)
    row_values = math.prod(view.shape[1:])
    rows = min(len(view), max(1, _PIECE // row_values))
    nothing = Moments.empty()._record()
    records = np.empty((-(-len(view) // rows), -(-rows * row_values // BLOCK)), dtype=_RECORD)
    records[:] = nothing

    def task(first: int, last: int) -> None:
        for piece in range(first, last):
            values = np.ascontiguousarray(view[piece * rows : (piece + 1) * rows]).reshape(-1)
            mine = records[piece, : -(-values.size // BLOCK)]
            _take(*_with_bits(values), mine)
            for block in np.flatnonzero(mine["nonfinite"]):
                whole = values[block * BLOCK : (block + 1) * BLOCK]
                finite = whole[np.isfinite(whole)]
                mine[block] = nothing
                if finite.size:
                    _take(*_with_bits(finite), mine[block : block + 1])
                mine["nonfinite"][block] = whole.size - finite.size

    threads = thread_count(threads, x.size)
    run(task, pairwise(len(records) * i // threads for i in range(threads + 1)), threads)
    return _merged(records.reshape(-1))


def _with_bits(x: Real) -> tuple[Real, NDArray[np.signedinteger], NDArray[np.unsignedinteger]]:
    """Return `x`, which is contiguous, as floats and as signed and unsigned integers of the same bits."""
    x = x.view()
    x.flags.writeable = False
    return x, x.view(f"i{x.itemsize}"), x.view(f"u{x.itemsize}")


def _merged(records: NDArray[Any]) -> Moments:
    """Merge records, at least one, into `Moments`; the records are overwritten."""
    _merge(records)
    return Moments(**{name: records[name][0].item() for name in _RECORD.names or ()})


@kernel()
def _sums(x, signed, unsigned, pivot, ends):  # type: ignore[no-untyped-def]
    # Sums of the first three powers of the differences from the pivot, and the range. The range is found from
    # the bits, because comparisons of floats that may be NaN are not vectorised: read as integers, positive
    # floats are in order and negative ones in reverse order. Four values are added to each other before they
    # are added to a lane, because a lane is in memory.
    lanes = np.zeros((3, LANES))
    s1, s2, s3 = lanes[0], lanes[1], lanes[2]
    low = signed[0]
    high = signed[0]
    far = unsigned[0]
    whole = len(x) - len(x) % (4 * LANES)
    for start in range(0, whole, 4 * LANES):
        for i in range(start, start + 4 * LANES):
            low = min(low, signed[i])
            high = max(high, signed[i])
            far = max(far, unsigned[i])
        part = x[start : start + 4 * LANES]
        for i in range(LANES):
            a = np.float64(part[i]) - pivot
            b = np.float64(part[i + LANES]) - pivot
            c = np.float64(part[i + 2 * LANES]) - pivot
            d = np.float64(part[i + 3 * LANES]) - pivot
            s1[i] += (a + b) + (c + d)
            s2[i] += (a * a + b * b) + (c * c + d * d)
            s3[i] += (a * a * a + b * b * b) + (c * c * c + d * d * d)
    for i in range(whole, len(x)):
        a = np.float64(x[i]) - pivot
        s1[i % LANES] += a
        s2[i % LANES] += a * a
        s3[i % LANES] += a * a * a
        low = min(low, signed[i])
        high = max(high, signed[i])
        far = max(far, unsigned[i])
    ends.view(signed.dtype)[0] = low
    ends.view(signed.dtype)[1] = high
    ends.view(unsigned.dtype)[2] = far
    minimum = ends[0] if low >= 0 else ends[2]
    maximum = ends[1] if high >= 0 else ends[0]
    return s1.sum(), s2.sum(), s3.sum(), minimum, maximum


@kernel()
def _two_sum(a, b):  # type: ignore[no-untyped-def]
    # The sum and its rounding error (Knuth 1997, section 4.2.2, theorem B).
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


@kernel(
    (source(float32), source(int32), source(uint32), target(from_dtype(_RECORD))),
    (source(float64), source(int64), source(uint64), target(from_dtype(_RECORD))),
)
def _take(x, signed, unsigned, records):  # type: ignore[no-untyped-def]
    # One block after another. `nonfinite` is set to 1 if a block may hold values that are not finite.
    ends = np.empty(3, dtype=x.dtype)
    for b in range(len(records)):
        start = b * BLOCK
        values, i, u = (
            x[start : start + BLOCK],
            signed[start : start + BLOCK],
            unsigned[start : start + BLOCK],
        )
        # The mean of the first values only: reading the others here would fetch them from memory too early.
        near = min(FIRST_VALUES, len(values))
        pivot = np.float64(values[0])
        pivot += _sums(values[:near], i[:near], u[:near], pivot, ends)[0] / near
        s1, s2, s3, minimum, maximum = _sums(values, i, u, pivot, ends)
        count = len(values)
        shift = s1 / count
        if count * shift * shift > 0.5 * s2:
            # With a pivot more than σ from the mean, the central sums would be differences of larger numbers.
            pivot += shift
            s1, s2, s3, minimum, maximum = _sums(values, i, u, pivot, ends)
            shift = s1 / count
        record = records[b]
        record["count"] = count
        record["nonfinite"] = 0 if np.isfinite(s3) else 1
        record["mean"], record["mean_tail"] = _two_sum(pivot, shift)
        record["m2"] = max(s2 - s1 * shift, 0.0)
        record["m3"] = s3 - 3.0 * shift * s2 + 2.0 * shift * shift * s1
        record["minimum"] = minimum
        record["maximum"] = maximum


@kernel((target(from_dtype(_RECORD)),))
def _merge(records):  # type: ignore[no-untyped-def]
    # Merges pairs, then pairs of pairs, into the first record, so that rounding errors grow only with the
    # logarithm of the number of records.
    step = 1
    while step < len(records):
        for i in range(0, len(records) - step, 2 * step):
            a = records[i]
            b = records[i + step]
            a["nonfinite"] += b["nonfinite"]
            if b["count"] == 0:
                continue
            if a["count"] == 0:
                nonfinite = a["nonfinite"]
                records[i] = b
                records[i]["nonfinite"] = nonfinite
                continue
            a["minimum"] = min(a["minimum"], b["minimum"])
            a["maximum"] = max(a["maximum"], b["maximum"])
            count = a["count"] + b["count"]
            part_a = a["count"] / count
            part_b = b["count"] / count
            delta = (b["mean"] - a["mean"]) + (b["mean_tail"] - a["mean_tail"])
            a["m3"] += b["m3"] + delta * (
                3.0 * (part_a * b["m2"] - part_b * a["m2"])
                + delta * delta * count * part_a * part_b * (part_a - part_b)
            )
            a["m2"] += b["m2"] + delta * delta * a["count"] * part_b
            a["mean"], a["mean_tail"] = _two_sum(a["mean"], a["mean_tail"] + delta * part_b)
            a["count"] = count
        step *= 2
