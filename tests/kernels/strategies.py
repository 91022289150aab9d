"""Arrays of every kind that kernels must take."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

LENGTHS = st.sampled_from([1, 2, 3, 5, 7, 8, 16, 17])
"""One, primes, and both sides of the width of a tile."""

SPECIAL = [0.0, -0.0, np.nan, np.inf, -np.inf, 1e-45, -1e-42, 1e-38, 1e38, -1e38]


def laid_out(values: np.ndarray, order: str, backwards: int, every_other: bool, frozen: bool) -> np.ndarray:
    """The same values in another layout of memory."""
    x = np.asarray(values, order="F" if order == "F" else "C")
    if every_other:
        wide = np.full([2 * n for n in x.shape], np.nan, dtype=x.dtype, order="F" if order == "F" else "C")
        wide[tuple(slice(None, None, 2) for _ in x.shape)] = x
        x = wide[tuple(slice(None, None, 2) for _ in x.shape)]
    for axis in range(x.ndim):
        if backwards >> axis & 1:
            x = np.flip(np.flip(x, axis).copy(order="K"), axis)
    x.flags.writeable = not frozen
    return x


@st.composite
def arrays(draw, shape=None, ndim=3, finite=False, empty=True, dtype=None, magnitudes=(1.0, 1e-31, 1e38)):
    """Random, constant or special values of a random shape, dtype and layout."""
    if shape is None:
        lengths = st.one_of(LENGTHS, st.just(0)) if empty else LENGTHS
        shape = tuple(draw(lengths) for _ in range(ndim))
    dtype = dtype or draw(st.sampled_from([np.float32, np.float64]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = rng.normal(1.0, 0.5, shape) * draw(st.sampled_from(magnitudes))
    if draw(st.booleans()) and values.size:
        values[...] = values.flat[0]
    if not finite and draw(st.booleans()):
        values = np.where(rng.random(shape) < 0.1, rng.choice(SPECIAL, shape), values)
    return laid_out(
        values.astype(dtype),
        draw(st.sampled_from("CF")),
        draw(st.integers(0, 15)),
        draw(st.booleans()),
        draw(st.booleans()),
    )
