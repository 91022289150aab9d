"""Channels of the stem for rows of cells, in vectors of eight; see `reion_kernels._vectors`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from reion_kernels._vectors import LANES, Code, Rows, vectorised


@contextmanager
def _each_vector(code: Code, rows: Any, cells: Any) -> Iterator[tuple[Any, Any]]:
    """Count rows, and the first cells of vectors; the last vector overlaps the one before, to be whole."""
    b, latest = code.builder, code.builder.sub(cells, code.number(LANES))
    with code.each(rows) as row, code.each(cells, LANES) as cell:
        yield row, b.select(b.icmp_signed("<", cell, latest), cell, latest)


def _log_ratios(code: Code, above: Rows, below: Rows, factors: Rows, out: Rows) -> None:
    b = code.builder
    scale, shift = (code.spread(factors.at(), i) for i in range(2))
    with _each_vector(code, *out.shape) as (row, cell):
        some, other = (code.load(code.bytes(values.at(row), cell)) for values in (above, below))
        value = b.fmul(code.logarithm(b.fdiv(some, other)), scale)
        code.store(b.fadd(value, shift), code.bytes(out.at(row), cell))


@vectorised(_log_ratios)
def log_ratios(above: Any, below: Any, factors: Any, out: Any) -> None:
    """Write the logarithm of the ratio of two positive fields, times a scale, plus a shift.

    Fields and `out` are (y, z) with at least `LANES` cells of z; `factors` are scale and shift, float32.
    """
    out[:] = np.log(above / below) * factors[0] + factors[1]


def _states(
    code: Code, left: Rows, neutral: Rows, density: Rows, factors: Rows, ionised: Rows, remaining: Rows
) -> None:
    b = code.builder
    per_density, floor, scale, shift, log_scale, log_shift = (code.spread(factors.at(), i) for i in range(6))
    one, zero = code.numbers(1), code.numbers(0)

    def positive(x: Any) -> Any:
        return b.select(b.fcmp_ordered(">", x, zero), x, zero)

    with _each_vector(code, *ionised.shape) as (row, cell):
        some, sink, gas = (code.load(code.bytes(rows.at(row), cell)) for rows in (left, neutral, density))
        atoms = b.fadd(b.fmul(gas, per_density), floor)
        share = b.fsub(one, b.fdiv(positive(b.fsub(sink, some)), atoms))
        code.store(b.fadd(b.fmul(share, scale), shift), code.bytes(ionised.at(row), cell))
        ratio = b.fdiv(b.fadd(positive(b.fsub(some, sink)), floor), atoms)
        value = b.fadd(b.fmul(code.logarithm(ratio), log_scale), log_shift)
        code.store(value, code.bytes(remaining.at(row), cell))


@vectorised(_states)
def states(left: Any, neutral: Any, density: Any, factors: Any, ionised: Any, remaining: Any) -> None:
    """Write the ionised fraction, and the logarithm of the photons left over per atom, of rows (y, z).

    Parameters
    ----------
    left, neutral
        Photons that are left, and atoms that are still neutral, before the former ionise the latter.
    density
        Gas density; there are `factors[0]` atoms for each unit of it, and a floor of `factors[1]`.
    factors
        (6,) float32: atoms for each unit of density, the floor of photons and atoms, and scale and shift of
        either channel.
    ionised, remaining
        The channels, with at least `LANES` cells of z.
    """
    per_density, floor, scale, shift, log_scale, log_shift = factors
    atoms = density * per_density + floor
    ionised[:] = (1 - np.maximum(neutral - left, 0) / atoms) * scale + shift
    remaining[:] = np.log((np.maximum(left - neutral, 0) + floor) / atoms) * log_scale + log_shift
