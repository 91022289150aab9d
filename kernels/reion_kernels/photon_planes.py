"""The compiled steps of `reion_kernels.photon_channels`, each for a range of planes or rows of a box."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import boolean, float32, float64, types
from numpy.typing import NDArray

from reion_kernels._jit import FLOAT, INT, kernel, source
from reion_kernels._vector_channels import log_ratios, states
from reion_kernels._vectors import LANES, logarithm
from reion_kernels.box_means import BOX, REACH, ZERO, copy_line, mean_of_plane, plane_buffers

ONE = np.float32(1)
_STEPS = 4
"""The search for the nearest source asks after so many steps whether all cells of a row are near enough."""


class Place(NamedTuple):
    """The cells for which channels are written, and the factors of the channels.

    Attributes
    ----------
    low, high
        First cell and end of the channels, along each axis of the fields.
    scale, shift
        (channels,) float64: each channel is multiplied by `scale`, and `shift` is added.
    """

    low: tuple[int, ...]
    high: tuple[int, ...]
    scale: NDArray[np.float64]
    shift: NDArray[np.float64]


_THREE = types.UniTuple(INT, 3)
_FACTORS = types.Array(float64, 1, "C")
PLACE = types.NamedTuple((_THREE, _THREE, _FACTORS, _FACTORS), Place)
CHANNELS = types.Array(float32, 4, "C")
FIELD = source(float32, 3)
ROWS = types.Array(boolean, 2, "C")


@kernel((FIELD, FIELD, INT, INT, FLOAT, FLOAT, FLOAT, FLOAT, BOX, BOX))
def prepare(photons, n_igm, x_low, x_high, per_unit, floor, per_density, atoms_floor, left, atoms):  # type: ignore[no-untyped-def]
    """Write photons and atoms, each with its floor, from their fields.

    The atoms are computed as in `states`, so that cells without photons are not ionised at all.
    """
    per_unit, floor = np.float32(per_unit), np.float32(floor)
    per_density, atoms_floor = np.float32(per_density), np.float32(atoms_floor)
    for x in range(x_low, x_high):
        for y in range(photons.shape[1]):
            photon, density, some, atom = photons[x, y], n_igm[x, y], left[x, y], atoms[x, y]
            for k in range(len(photon)):
                some[k] = photon[k] * per_unit + floor
                atom[k] = density[k] * per_density + atoms_floor


@kernel(
    (
        BOX,
        BOX,
        INT,
        INT,
        REACH,
        REACH,
        INT,
        FLOAT,
        PLACE,
        CHANNELS,
        INT,
        INT,
        FLOAT,
        boolean,
        boolean,
        BOX,
        BOX,
    )
)
def smooth_planes(  # type: ignore[no-untyped-def]
    photons,
    atoms,
    x_low,
    x_high,
    y_reach,
    z_reach,
    half,
    end,
    place,
    out,
    channel,
    at_reach,
    share,
    first,
    last,
    some,
    others,
):
    """Filter planes of photons and atoms along y and z, in place, and write the logarithm of their ratio.

    The balance at the reach is that of one smoothing, or a weighted mean of two. `first` and `last` say
    whether this smoothing is the first and the last of them, `share` is its weight.
    """
    rows, lines = plane_buffers(y_reach, z_reach, half)
    low, high, scale, shift = place
    for x in range(x_low, x_high):
        for values in (photons, atoms):
            mean_of_plane(values[x], y_reach, z_reach, half, end, rows, lines)
        if not low[0] <= x < high[0]:
            continue
        inner = slice(low[1], high[1]), slice(low[2], high[2])
        photon, atom = photons[x][inner], atoms[x][inner]
        at = x - low[0]
        _log_of_ratio(photon, atom, scale[channel], shift[channel], out[at, channel])
        if first and last:
            _log_of_ratio(photon, atom, scale[at_reach], shift[at_reach], out[at, at_reach])
        elif first:
            _times(photon, share, some[at])
            _times(atom, share, others[at])
        elif last:
            _add_times(photon, share, some[at])
            _add_times(atom, share, others[at])
            _log_of_ratio(some[at], others[at], scale[at_reach], shift[at_reach], out[at, at_reach])


@kernel()
def _times(values, factor, out):  # type: ignore[no-untyped-def]
    weight = np.float32(factor)
    for y in range(out.shape[0]):
        for k in range(out.shape[1]):
            out[y, k] = values[y, k] * weight


@kernel()
def _add_times(values, factor, out):  # type: ignore[no-untyped-def]
    weight = np.float32(factor)
    for y in range(out.shape[0]):
        for k in range(out.shape[1]):
            out[y, k] += values[y, k] * weight


@kernel()
def _log_of_ratio(above, below, scale, shift, out):  # type: ignore[no-untyped-def]
    if out.shape[1] >= LANES:
        factors = np.empty(2, dtype=np.float32)
        factors[0], factors[1] = scale, shift
        log_ratios(above, below, factors, out)
    else:
        for y in range(out.shape[0]):
            for k in range(out.shape[1]):
                out[y, k] = above[y, k] / below[y, k]
            _logarithm(out[y], scale, shift)


@kernel(
    (
        *(BOX, BOX, BOX, ROWS, BOX, FIELD, INT, INT, REACH, REACH, INT, FLOAT, FLOAT),
        *(FLOAT, FLOAT, PLACE, CHANNELS, INT),
    )
)
def diffuse_planes(  # type: ignore[no-untyped-def]
    left, neutral, reached, whole, lost, n_igm, x_low, x_high, y_reach, z_reach, half, end, surviving,
    per_density, floor, place, out, channel
):  # fmt: skip
    """Filter planes of the photons left along y and z, in place, remove lost ones, and write channels.

    No photon is lost in rows (x, y) that photons reach as a `whole`, where all survive.
    """
    rows, lines = plane_buffers(y_reach, z_reach, half)
    low, high, scale, shift = place
    y_first, z_first = y_reach.first, z_reach.first
    y_cells, z_cells = len(y_reach.table) - 2 * half, len(z_reach.table) - 2 * half
    survive = np.float32(surviving)
    factors = np.empty(6, dtype=np.float32)
    factors[0], factors[1] = per_density, floor
    if channel >= 0:
        for i in range(2):
            factors[2 + 2 * i], factors[3 + 2 * i] = scale[channel + i], shift[channel + i]
    for x in range(x_low, x_high):
        mean_of_plane(left[x], y_reach, z_reach, half, end, rows, lines)
        if len(reached):
            for y in range(y_first, y_first + y_cells):
                if whole[x, y] and survive == ONE:
                    continue
                some, part = (
                    left[x, y, z_first : z_first + z_cells],
                    reached[x, y, z_first : z_first + z_cells],
                )
                gone = lost[x, y, z_first : z_first + z_cells]
                for k in range(z_cells):
                    kept = some[k] * (part[k] * survive)
                    gone[k] += some[k] - kept
                    some[k] = kept
        if channel < 0 or not low[0] <= x < high[0]:
            continue
        inner = slice(low[1], high[1]), slice(low[2], high[2])
        some, sink, density = left[x][inner], neutral[x][inner], n_igm[x][inner]
        _write_states(some, sink, density, factors, out[x - low[0], channel], out[x - low[0], channel + 1])


@kernel()
def _write_states(left, neutral, density, factors, ionised, remaining):  # type: ignore[no-untyped-def]
    if ionised.shape[1] >= LANES:
        states(left, neutral, density, factors, ionised, remaining)
        return
    per_density, floor, by, more = factors[0], factors[1], factors[2], factors[3]
    for y in range(ionised.shape[0]):
        for k in range(ionised.shape[1]):
            atoms = density[y, k] * per_density + floor
            some, sink = left[y, k], neutral[y, k]
            ionised[y, k] = (ONE - (sink - some if sink > some else ZERO) / atoms) * by + more
            remaining[y, k] = ((some - sink if some > sink else ZERO) + floor) / atoms
        _logarithm(remaining[y], factors[4], factors[5])


@kernel((BOX, FIELD, INT, INT, FLOAT, FLOAT, PLACE, CHANNELS, INT))
def compare(lost, n_igm, x_low, x_high, per_density, floor, place, out, channel):  # type: ignore[no-untyped-def]
    """Write the logarithm of the lost photons, if there is a reach, and that of the atoms."""
    low, high, scale, shift = place
    width = high[2] - low[2]
    density_channel = channel + (1 if len(lost) else 0)
    for x in range(x_low, x_high):
        for y in range(low[1], high[1]):
            density = n_igm[x, y, low[2] : high[2]]
            at = (x - low[0], y - low[1])
            into = out[at[0], density_channel, at[1]]
            for k in range(width):
                into[k] = density[k] * per_density + floor
            if len(lost):
                gone = lost[x, y, low[2] : high[2]]
                share = out[at[0], channel, at[1]]
                least = np.float32(floor)
                for k in range(width):
                    share[k] = (gone[k] + least) / into[k]
                _logarithm(share, scale[channel], shift[channel])
            _logarithm(into, scale[density_channel], shift[density_channel])


@kernel((FIELD, REACH, INT, INT, INT, BOX))
def distance_along_x(photons, reach, y_low, y_high, cells, squares):  # type: ignore[no-untyped-def]
    """Write the squared distance along x to the nearest cell with photons, at most `cells` squared."""
    table, first, _ = reach
    width = photons.shape[2]
    steps = np.empty((len(table), width), dtype=np.float32)
    count = np.empty(width, dtype=np.float32)
    farthest = np.float32(cells)
    for y in range(y_low, y_high):
        for k in range(width):
            count[k] = farthest
        for i in range(len(table)):
            some, step = photons[table[i], y], steps[i]
            for k in range(width):
                further = count[k] + ONE
                nearest = further if further < farthest else farthest
                count[k] = ZERO if some[k] > ZERO else nearest
                step[k] = count[k]
        for k in range(width):
            count[k] = farthest
        for i in range(len(table) - 1, -1, -1):
            step = steps[i]
            for k in range(width):
                further = count[k] + ONE
                count[k] = further if further < step[k] else step[k]
                step[k] = count[k] * count[k]
        for i in range(len(table) - 2 * cells):
            copy_line(steps[cells + i], squares[first + i, y], width)


@kernel((BOX, ROWS, INT, INT, REACH, REACH, INT, FLOAT, FLOAT, PLACE, CHANNELS, INT))
def reached_planes(  # type: ignore[no-untyped-def]
    squares, whole, x_low, x_high, y_reach, z_reach, cells, reach, near, place, out, channel
):
    """Write how far inside the reach cells lie; `squares` then holds the share that photons reach.

    `whole` says of which rows (x, y) photons reach every cell. `squares` first holds the squared distance
    along x. Along y, and then along z, the new value is the smallest sum of the value of another cell and
    the squared distance to it.
    """
    table, y_first, _ = y_reach
    z_table, z_first, _ = z_reach
    y_cells, z_cells = len(table) - 2 * cells, len(z_table) - 2 * cells
    rows = np.empty((len(table), len(z_table)), dtype=np.float32)
    best = np.empty(len(z_table), dtype=np.float32)
    low, high, scale, shift = place
    width = high[2] - low[2]
    far, most = np.float32(reach), np.float32(near)
    # Of cells farther inside the reach, no exact distance is needed.
    near_enough = (far - most) * (far - most) if far > most else -ONE
    for x in range(x_low, x_high):
        for i in range(len(table)):
            origin, row = squares[x, table[i]], rows[i]
            for k in range(len(z_table)):
                row[k] = origin[z_table[k]]
        for i in range(y_cells):
            y = y_first + i
            row = rows[cells + i]
            for k in range(len(best)):
                best[k] = row[k]
            for step in range(1, cells + 1):
                if step % _STEPS == 0 and _is_below(best, near_enough):
                    break
                _lower(best, rows[cells + i - step], rows[cells + i + step], step)
            result = squares[x, y, z_first : z_first + z_cells]
            middle = best[cells : cells + z_cells]
            for k in range(z_cells):
                result[k] = middle[k]
            for step in range(1, cells + 1):
                if step % _STEPS == 0 and _is_below(result, near_enough):
                    break
                _lower(result, best[cells - step :], best[cells + step :], step)
            for k in range(z_cells):
                result[k] = far - np.float32(math.sqrt(result[k]))
            if low[0] <= x < high[0] and low[1] <= y < high[1]:
                inner = squares[x, y, low[2] : high[2]]
                edge = out[x - low[0], channel, y - low[1]]
                by, more = np.float32(scale[channel]), np.float32(shift[channel])
                for k in range(width):
                    within = inner[k] if inner[k] < most else most
                    edge[k] = (within if within > -most else -most) * by + more
            half, least = np.float32(0.5), ONE
            for k in range(z_cells):
                part = result[k] + half
                part = part if part < ONE else ONE
                part = part if part > ZERO else ZERO
                least = part if part < least else least
                result[k] = part
            whole[x, y] = least == ONE


@kernel()
def _is_below(values, limit):  # type: ignore[no-untyped-def]
    largest = values[0]
    for k in range(len(values)):
        largest = values[k] if values[k] > largest else largest
    return largest <= limit


@kernel()
def _lower(best, one, other, step):  # type: ignore[no-untyped-def]
    square = np.float32(step * step)
    for k in range(len(best)):
        nearest = (one[k] if one[k] < other[k] else other[k]) + square
        best[k] = nearest if nearest < best[k] else best[k]


@kernel()
def _logarithm(values, scale, shift):  # type: ignore[no-untyped-def]
    logarithm(values)
    by, more = np.float32(scale), np.float32(shift)
    for k in range(len(values)):
        values[k] = values[k] * by + more
