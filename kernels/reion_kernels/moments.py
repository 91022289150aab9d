"""Count, mean, variance, skewness and range of a field in one pass over memory, mergeable."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numba import int32, int64, uint32, uint64
from numpy.typing import NDArray

from reion_kernels._jit import FLOAT, INT, INTS, REALS, kernel, source, target
from reion_kernels._layout import Real, check_real, flat, together
from reion_kernels._threads import run, thread_count

BLOCK = 1 << 15
"""Elements whose moments are taken at once: few enough to stay in the cache where they are read twice."""

_UNFINISHED = -2
"""Count of a block whose moments are not taken yet."""

NEAR = 1 << 10
"""Elements at the beginning of a block whose mean stands for that of the block."""


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Moments of the finite values of a field.

    Sums are central, so they lose nothing to cancellation whatever the mean is. Two of them merge into those
    of both fields together (Chan, Golub & LeVeque 1979; Pébay 2008, SAND2008-6212, equations 2.1 and 3.1).

    Attributes
    ----------
    count
        Number of finite values.
    nonfinite
        Number of NaN and infinities, which are left out of everything else.
    weight
        Sum of the weights; `count` where none are given.
    mean
        Weighted mean; NaN if `weight` is zero.
    mean_tail
        What float64 cannot hold of the mean: the mean is ``mean + mean_tail``. Merging needs it where the
        mean is much larger than the standard deviation.
    m2, m3
        Weighted sums of the second and third power of the differences from the mean. The third power of
        values outside 1e-100 to 1e100 leaves the range of float64.
    minimum, maximum
        Range of the finite values; inf and -inf if there are none.
    """

    count: int
    nonfinite: int
    weight: float
    mean: float
    mean_tail: float
    m2: float
    m3: float
    minimum: float
    maximum: float

    @classmethod
    def empty(cls) -> Moments:
        """Return the moments of nothing, which change nothing when merged."""
        return cls(
            count=0,
            nonfinite=0,
            weight=0.0,
            mean=math.nan,
            mean_tail=0.0,
            m2=0.0,
            m3=0.0,
            minimum=math.inf,
            maximum=-math.inf,
        )

    @property
    def variance(self) -> float:
        """Mean squared difference from the mean (of the population); NaN if there are no values."""
        return self.m2 / self.weight if self.weight > 0 else math.nan

    @property
    def std(self) -> float:
        """Square root of the variance."""
        return math.sqrt(self.variance)

    @property
    def skewness(self) -> float:
        """Third standardised moment (of the population); NaN if there are no values or all are equal."""
        if not self.m2 > 0:
            return math.nan
        return self.m3 / self.m2 * math.sqrt(self.weight / self.m2)

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both fields together.

        Parameters
        ----------
        other
            Moments of other values, with weights in the same unit.

        Returns
        -------
        Moments
            Equal, but for rounding, to those of one field with the values of both.
        """
        rows = np.array([self._row(), other._row()])
        _merge_rows(rows)
        return _from_row(rows[0], self.count + other.count, self.nonfinite + other.nonfinite)

    def _row(self) -> tuple[float, ...]:
        return (self.weight, self.mean, self.mean_tail, self.m2, self.m3, self.minimum, self.maximum)


def _from_row(row: NDArray[np.float64], count: int, nonfinite: int) -> Moments:
    weight, mean, tail, m2, m3, minimum, maximum = row.tolist()
    return Moments(
        count=count,
        nonfinite=nonfinite,
        weight=weight,
        mean=mean,
        mean_tail=tail,
        m2=m2,
        m3=m3,
        minimum=minimum,
        maximum=maximum,
    )


def moments(x: Real, weights: Real | None = None, *, threads: int | None = None) -> Moments:
    """Take the moments of a field in one pass.

    Blocks of 32,768 values are summed about a value near their own mean and merged in pairs, in an order
    that the number of threads does not change: nor does it change the result.

    Parameters
    ----------
    x
        Field of any shape and any strides, float32 or float64; no copy of it is made.
    weights
        Weight of each value, not negative, float32 or float64, of a shape that broadcasts to that of `x`. A
        value whose weight is not finite counts as not finite.
    threads
        Number of threads; None for every core this process may use.

    Returns
    -------
    Moments
        In the units of `x` and their powers.

    Raises
    ------
    TypeError
        If an array is not float32 or float64.
    ValueError
        If `weights` does not broadcast to `x` or holds a negative number.
    """
    check_real(x, "x")
    views = [x]
    if weights is not None:
        check_real(weights, "weights")
        try:
            views = [np.broadcast_to(weights, x.shape), x]
        except ValueError:
            message = f"weights: expected a shape that broadcasts to {x.shape}. Received: {weights.shape}"
            raise ValueError(message) from None
    if x.size == 0:
        return Moments.empty()
    views = list(together(*views))
    shape = np.array(views[0].shape, dtype=np.int64)
    lines = [flat(view) for view in reversed(views)]
    n_blocks = -(-x.size // BLOCK)
    rows = np.empty((n_blocks, 7))
    counts = np.full((n_blocks, 2), _UNFINISHED, dtype=np.int64)
    in_line = weights is None and len(shape) == 1 and lines[0][2][0] == 1

    def task(first: int, last: int) -> None:
        if in_line:
            _whole_blocks(
                *_with_bits(lines[0][0][first * BLOCK : last * BLOCK]), rows[first:last], counts[first:last]
            )
        unfinished = first + np.flatnonzero(counts[first:last, 0] == _UNFINISHED)
        gathered = np.ones((2, min(BLOCK, x.size) if unfinished.size else 0))  # values and their weights
        for b in unfinished:
            here = gathered[:, : x.size - b * BLOCK]
            for line, buffer in zip(lines, here, strict=False):
                _gather(*line, shape, b * BLOCK, buffer)
            if weights is None and not in_line:
                _whole_blocks(*_with_bits(here[0]), rows[b : b + 1], counts[b : b + 1])
            if counts[b, 0] == _UNFINISHED:
                _masked(*here, rows[b], counts[b])

    threads = thread_count(threads, x.size)
    cuts = [n_blocks * i // threads for i in range(threads + 1)]
    run(task, pairwise(cuts), threads)
    if counts.min() < 0:
        message = "weights: expected weights that are not negative. Received: a negative one"
        raise ValueError(message)
    _merge_rows(rows)
    return _from_row(rows[0], int(counts[:, 0].sum()), int(counts[:, 1].sum()))


def _with_bits(x: Real) -> tuple[NDArray[Any], ...]:
    """Return `x` to be read and room for three values, each as floats and as signed and unsigned integers."""
    x = x.view()
    x.flags.writeable = False
    kinds = [f"{kind}{x.itemsize}" for kind in "fiu"]
    ends = np.empty(3, dtype=x.dtype)
    return (*(x.view(kind) for kind in kinds), *(ends.view(kind) for kind in kinds))


@kernel(*[(source(r), INT, INTS, INTS, INT, target(FLOAT)) for r in REALS])
def _gather(x, x_first, x_strides, shape, start, buffer):  # type: ignore[no-untyped-def]
    # Elements start, start + 1, ... of a view, in its own order.
    last = len(shape) - 1
    place = np.zeros(last + 1, dtype=np.int64)
    rest = start
    at = x_first
    for axis in range(last, -1, -1):
        place[axis] = rest % shape[axis]
        rest = rest // shape[axis]
        at += place[axis] * x_strides[axis]
    for i in range(len(buffer)):
        buffer[i] = x[at]
        axis = last
        at += x_strides[axis]
        place[axis] += 1
        while axis > 0 and place[axis] == shape[axis]:
            place[axis] = 0
            at += x_strides[axis - 1] - shape[axis] * x_strides[axis]
            axis -= 1
            place[axis] += 1


@kernel()
def _sums(x, signed, unsigned, pivot):  # type: ignore[no-untyped-def]
    # Power sums about the pivot, and the range by the bits. Comparing floats that may be NaN does not
    # vectorise; as integers positive floats are sorted, and negative ones backwards.
    s1 = 0.0
    s2 = 0.0
    s3 = 0.0
    low = signed[0]
    high = signed[0]
    far = unsigned[0]
    for i in range(len(x)):
        d = np.float64(x[i]) - pivot
        square = d * d
        s1 += d
        s2 += square
        s3 += square * d
        low = min(low, signed[i])
        high = max(high, signed[i])
        far = max(far, unsigned[i])
    return s1, s2, s3, low, high, far


@kernel()
def _pivot(x):  # type: ignore[no-untyped-def]
    # The mean, and the value itself where all are equal.
    first = np.float64(x[0])
    total = 0.0
    for i in range(len(x)):
        total += np.float64(x[i]) - first
    return first + total / len(x)


@kernel(exact=True)
def _two_sum(a, b):  # type: ignore[no-untyped-def]
    # The sum and its rounding error (Knuth 1997, section 4.2.2, theorem B).
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


@kernel(exact=True)
def _finish(row, weight, pivot, s1, s2, s3):  # type: ignore[no-untyped-def]
    # Central moments from power sums about the pivot.
    shift = s1 / weight
    row[0] = weight
    row[1], row[2] = _two_sum(pivot, shift)
    row[3] = max(s2 - s1 * shift, 0.0)
    row[4] = s3 - 3.0 * shift * s2 + 2.0 * shift * shift * s1


@kernel((target(FLOAT), target(FLOAT), target(FLOAT), INTS))
def _masked(x, weights, row, count):  # type: ignore[no-untyped-def]
    # One block where values may be missing: those that are not finite do not count.
    weight = 0.0
    total = 0.0
    first = np.nan
    low = np.inf
    high = -np.inf
    count[0] = 0
    count[1] = 0
    for i in range(len(x)):
        if weights[i] < 0.0:
            count[0] = -1
            return
        if not (np.isfinite(x[i]) and np.isfinite(weights[i])):
            count[1] += 1
            continue
        if count[0] == 0:
            first = x[i]
        count[0] += 1
        weight += weights[i]
        total += weights[i] * (x[i] - first)
        low = min(low, x[i])
        high = max(high, x[i])
    row[5] = low
    row[6] = high
    if weight == 0.0:
        for k in range(5):
            row[k] = np.nan if k == 1 else 0.0
        return
    pivot = first + total / weight
    s1 = 0.0
    s2 = 0.0
    s3 = 0.0
    for i in range(len(x)):
        if np.isfinite(x[i]) and np.isfinite(weights[i]):
            d = x[i] - pivot
            s1 += weights[i] * d
            s2 += weights[i] * d * d
            s3 += weights[i] * d * d * d
    _finish(row, weight, pivot, s1, s2, s3)


@kernel(
    *[
        (source(r), source(i), source(u), target(r), target(i), target(u), target(FLOAT, 2), target(INT, 2))
        for r, i, u in zip(REALS, (int32, int64), (uint32, uint64), strict=True)
    ]
)
def _whole_blocks(x, signed, unsigned, ends, ends_signed, ends_unsigned, rows, counts):  # type: ignore[no-untyped-def]
    # Blocks side by side. One with values that are not finite is left unfinished.
    for b in range(len(rows)):
        start = b * BLOCK
        end = min(start + BLOCK, len(x))
        values = x[start:end]
        # Of the first values alone: others would have to come from memory before their turn.
        pivot = _pivot(values[:NEAR])
        sums = _sums(values, signed[start:end], unsigned[start:end], pivot)
        shift = sums[0] / len(values)
        if len(values) * shift * shift > 0.5 * sums[1]:
            # More than σ from the mean of the block, its central sums would be differences of larger ones.
            pivot += shift
            sums = _sums(values, signed[start:end], unsigned[start:end], pivot)
        s1, s2, s3, low, high, far = sums
        if not np.isfinite(s3):
            continue
        ends_signed[0] = low
        ends_signed[1] = high
        ends_unsigned[2] = far
        rows[b, 5] = ends[0] if low >= 0 else ends[2]
        rows[b, 6] = ends[1] if high >= 0 else ends[0]
        counts[b, 0] = len(values)
        counts[b, 1] = 0
        _finish(rows[b], float(len(values)), pivot, s1, s2, s3)


@kernel((target(FLOAT, 2),), exact=True)
def _merge_rows(rows):  # type: ignore[no-untyped-def]
    # In pairs of pairs, into the first row: rounding errors grow with the logarithm of the number of rows.
    step = 1
    while step < len(rows):
        for i in range(0, len(rows) - step, 2 * step):
            a = rows[i]
            b = rows[i + step]
            a[5] = min(a[5], b[5])
            a[6] = max(a[6], b[6])
            if b[0] == 0.0:
                continue
            if a[0] == 0.0:
                for k in range(5):
                    a[k] = b[k]
                continue
            weight = a[0] + b[0]
            part_a = a[0] / weight
            part_b = b[0] / weight
            delta = (b[1] - a[1]) + (b[2] - a[2])
            a[4] += b[4] + delta * (
                3.0 * (part_a * b[3] - part_b * a[3])
                + delta * delta * weight * part_a * part_b * (part_a - part_b)
            )
            a[3] += b[3] + delta * delta * a[0] * part_b
            a[1], a[2] = _two_sum(a[1], a[2] + delta * part_b)
            a[0] = weight
        step *= 2
