"""The compiled loops of `raytracing`: `LANES` sources at a time are followed through their spheres."""

from __future__ import annotations

import numpy as np
from numba import float32, int32, int64, uint8

from reion_kernels._jit import FLOAT, kernel, target
from reion_kernels.photo_table import FIRST_INTERVAL, FRACTION_BITS, LAST, OFFSET

LANES = 16
"""Sources that are followed together. With 8 each source takes 1.5 times as long; with 32 a fifth less, but a
lone source twice as long."""

# Constants in the types that the kernels calculate with.
_MASK = np.int32((1 << FRACTION_BITS) - 1)
_BITS = np.int32(FRACTION_BITS)
_FIRST = np.int32(FIRST_INTERVAL)
_PER_INTERVAL = np.float32(2.0**-FRACTION_BITS)
_OFFSET = np.float32(OFFSET)
_LAST = np.float32(LAST)
THIN = np.float32(0.0625)
_TWO_INTERVALS = np.float32(2.0 ** (FRACTION_BITS - 22))
_LEAST_TAU = np.float32(0.6)
_ZERO, _HALF, _ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)
_NEXT = np.uint32(1)


@kernel(inline=True)
def _left(left, tau):  # type: ignore[no-untyped-def]
    # Share of the photons left, at an optical depth to which the offset of the table has been added.
    x = np.float32(tau if tau < _LAST else _LAST)
    bits = x.view(np.int32)
    interval = np.uint32((bits >> _BITS) - _FIRST)
    within = np.float32(np.int32(bits & _MASK)) * _PER_INTERVAL
    low = left[interval]
    return low + within * (left[interval + _NEXT] - low)


@kernel(inline=True)
def _enter(tau, before, weight, a, b, c, d, wa, wb, wc, wd, factor):  # type: ignore[no-untyped-def]
    # Optical depth in front of a cell, from the optical depths behind the four cells before it.
    for lane in range(LANES):
        i = np.uint64(lane)
        va = wa * weight[a + i]
        vb = wb * weight[b + i]
        vc = wc * weight[c + i]
        vd = wd * weight[d + i]
        mean = va * before[a + i] + vb * before[b + i] + vc * before[c + i] + vd * before[d + i]
        tau[i] = factor * mean / (va + vb + vc + vd)


@kernel(inline=True)
def _pass(tau, gas, behind, weight, to, path, dark_from, opaque):  # type: ignore[no-untyped-def]
    # Optical depth behind a cell and its weight in interpolation. Returns the number of lanes without light.
    blind = np.int64(0)
    for lane in range(LANES):
        i = np.uint64(lane)
        blind += np.int32(tau[i] >= dark_from)
        out = tau[i] + gas[i] * path
        out = out if tau[i] < dark_from else opaque
        behind[to + i] = out
        weight[to + i] = _ONE / (out if out > _LEAST_TAU else _LEAST_TAU)
    return blind


@kernel(inline=True)
def _absorb(given, to, tau, gas, path, spread, strength, left, dark_from):  # type: ignore[no-untyped-def]
    # Photo-ionisations of each atom: photons that enter less photons that leave, divided by the optical depth
    # across the cell. Where the cell is thin, photons are counted over a thicker layer around its middle, at
    # least two intervals of the table, because the difference of nearly equal numbers has no digits left.
    for lane in range(LANES):
        i = np.uint64(lane)
        across = gas[i] * path
        middle = tau[i] + _HALF * across + _OFFSET
        least = middle * _TWO_INTERVALS
        least = least if least > THIN else THIN
        thick = across if across > least else least
        enter = _left(left, middle - _HALF * thick)
        leave = _left(left, middle + _HALF * thick)
        rate = strength[i] * spread * (enter - leave) / thick
        given[to + i] = rate if tau[i] < dark_from else _ZERO


@kernel(inline=True)
def _darken(behind, weight, to, opaque):  # type: ignore[no-untyped-def]
    # A cell that no light of any lane reaches.
    for lane in range(LANES):
        i = np.uint64(lane)
        behind[to + i] = opaque
        weight[to + i] = _ONE / opaque


@kernel(inline=True)
def _meet(here, tau, gas, row, place, at, above):  # type: ignore[no-untyped-def]
    # The optical depth across a cell for each lane; the optical depth in front of it starts at zero.
    for lane in range(LANES):
        i = np.uint64(lane)
        here[i] = gas[np.uint64(row[at + i] + place[above + i])]
        tau[i] = _ZERO


@kernel(inline=True)
def _leave(escaped, left, tau, behind, to, leaving, dark_from):  # type: ignore[no-untyped-def]
    # Adds the share of photons that leave the sphere behind a cell.
    for lane in range(LANES):
        i = np.uint64(lane)
        out = leaving * _left(left, behind[to + i] + _OFFSET)
        escaped[i] += np.float64(out if tau[i] < dark_from else _ZERO)


@kernel(
    (
        target(float32),
        target(int64),
        target(int64),
        target(int64),
        target(int64),
        target(int32, 2),
        target(float32, 2),
        target(float32),
        target(float32),
        target(float32),
        target(int32),
        target(int32),
        target(float32),
        target(float32),
        float32,
        target(float32, 2),
        target(float32, 2),
        target(uint8, 2),
        target(float32),
        target(uint8),
        target(FLOAT, 2),
        FLOAT,
    )
)
def follow(  # type: ignore[no-untyped-def]
    gas,
    rates,
    row,
    place,
    layers,
    upstream,
    weights,
    path,
    spread,
    leaving,
    column,
    height,
    left,
    strength,
    opaque,
    tau_behind,
    weight_behind,
    dark,
    given,
    reached,
    of_each,
    most,
):
    """Follow `LANES` sources through their spheres, then add their photo-ionisations to the rates."""
    tau = np.empty(LANES, dtype=np.float32)
    here = np.empty(LANES, dtype=np.float32)
    absorbed = np.zeros(LANES, dtype=np.float64)
    escaped = np.zeros(LANES, dtype=np.float64)
    dark_from = np.float32(0.999) * opaque
    for n in range(len(layers) - 1):
        before, weight_before, dark_before = tau_behind[1 - n % 2], weight_behind[1 - n % 2], dark[1 - n % 2]
        behind, weight, dark_here = tau_behind[n % 2], weight_behind[n % 2], dark[n % 2]
        for p in range(layers[n], layers[n + 1]):
            slot = p - layers[n]
            to = np.uint64(slot * LANES)
            a, b, c, d = upstream[p, 0], upstream[p, 1], upstream[p, 2], upstream[p, 3]
            reached[p] = 0
            if n > 0 and dark_before[a] & dark_before[b] & dark_before[c] & dark_before[d]:
                dark_here[slot] = 1
                _darken(behind, weight, to, opaque)
                continue
            _meet(here, tau, gas, row, place, np.uint64(column[p] * LANES), np.uint64(height[p] * LANES))
            if n > 0:
                _enter(
                    tau,
                    before,
                    weight_before,
                    np.uint64(a * LANES),
                    np.uint64(b * LANES),
                    np.uint64(c * LANES),
                    np.uint64(d * LANES),
                    weights[p, 0],
                    weights[p, 1],
                    weights[p, 2],
                    weights[p, 3],
                    path[p] if n == 1 else _ONE,  # the ray is as slanted in the source's own cell
                )
            blind = _pass(tau, here, behind, weight, to, path[p], dark_from, opaque)
            dark_here[slot] = blind == LANES
            if blind == LANES:
                continue
            reached[p] = 1
            start = np.uint64(p * LANES)
            _absorb(given, start, tau, here, path[p], spread[p], strength, left, dark_from)
            for lane in range(LANES):
                i = np.uint64(lane)
                absorbed[i] += np.float64(given[start + i] * here[i])
            if leaving[p] > _ZERO:
                _leave(escaped, left, tau, behind, to, leaving[p], dark_from)
    _count(strength, absorbed, escaped, of_each, most)
    for lane in range(LANES):
        tau[lane] = np.float32(1.0 / min(max(of_each[2, lane], 1.0 / most), most))
    _add(rates, row, place, column, height, given, reached, tau)


@kernel(inline=True)
def _count(strength, absorbed, escaped, of_each, most):  # type: ignore[no-untyped-def]
    # Shares of the photons: absorbed and lost, both after the correction, and their sum before it.
    for lane in range(LANES):
        share = absorbed[lane] / np.float64(strength[lane]) if strength[lane] > _ZERO else 0.0
        made = share + escaped[lane]
        correction = 1.0 / min(max(made, 1.0 / most), most)
        of_each[0, lane] = share * correction
        of_each[1, lane] = escaped[lane] * correction
        of_each[2, lane] = made


@kernel(inline=True)
def _add(rates, row, place, column, height, given, reached, correction):  # type: ignore[no-untyped-def]
    for p in range(len(column)):
        if reached[p]:
            at = np.uint64(column[p] * LANES)
            above = np.uint64(height[p] * LANES)
            start = np.uint64(p * LANES)
            for lane in range(LANES):
                i = np.uint64(lane)
                cell = np.uint64(row[at + i] + place[above + i])
                rates[cell] += np.int64(given[start + i] * correction[i])
