"""Ionisation of hydrogen in a time step, cell by cell, and its mean over the step."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reion_kernels._jit import FLOAT, INT, kernel, target
from reion_kernels._threads import run, thread_count

RECOMBINATION_CM3_S = 2.59e-13
"""Case B recombination coefficient at 1e4 K; it falls with temperature to the power of 0.7."""
COLLISION_CM3_S = 1.3e-8 * 0.83 / 13.598**2
"""Coefficient of collisional ionisation, to be multiplied by the root of the temperature in K and by
exp(-threshold / temperature)."""
THRESHOLD_K = 13.598 / 8.617333e-5
OTHER_ELECTRONS = 7.1e-7
"""Electrons of metals for each hydrogen atom; without electrons, collisions could not start in neutral
gas."""

BLOCK_CELLS = 1 << 15
"""Cells of a partial sum. Partial sums are added in the same order for any number of threads."""
ACCURACY = 1e-5
"""Relative change of the mean neutral fraction below which the electrons of a cell have converged."""
MOST_ROUNDS = 400


class Ionisation(NamedTuple):
    """The gas after a time step.

    Attributes
    ----------
    xi
        (X, Y, Z), float64: ionised fraction at the end of the step.
    xi_mean
        (X, Y, Z), float64: mean ionised fraction over the step.
    photo_ionisations, collisional_ionisations, recombinations
        Numbers in the step per cubic centimetre, summed over the cells: multiply them by the volume of a cell
        for numbers of atoms. Ionisations less recombinations are the change of ``n_h * xi``, except for
        rounding.
    unsettled
        Number of cells whose mean differs from `xi_guess` by more than 1e-3, and by more than 1e-3 of the
        mean neutral fraction (the criterion of C2-Ray for a cell).
    """

    xi: NDArray[np.float64]
    xi_mean: NDArray[np.float64]
    photo_ionisations: float
    collisional_ionisations: float
    recombinations: float
    unsettled: int


def ionise(
    n_h: ArrayLike,
    xi: ArrayLike,
    gamma: ArrayLike,
    seconds: float,
    *,
    xi_guess: ArrayLike | None = None,
    temperature_k: float = 1e4,
    clumping: ArrayLike = 1.0,
    threads: int | None = None,
) -> Ionisation:
    """Let photons, collisions and recombinations act on hydrogen for a time step.

    With a fixed number of electrons, the ionised fraction relaxes exponentially to its equilibrium, at the
    rate gamma + n_e (collisions + clumping recombinations). Its mean over the step gives a new number of
    electrons. Both are repeated until they agree (Mellema, Iliev, Alvarez & Shapiro 2006, section 2;
    Schmidt-Voigt & Koeppen 1987).

    Parameters
    ----------
    n_h
        (X, Y, Z): hydrogen in cm-3, proper. A cell without hydrogen keeps its fraction unless photons reach
        it.
    xi
        (X, Y, Z): ionised fraction at the beginning, 0 to 1.
    gamma
        (X, Y, Z): photo-ionisations a second of each neutral atom.
    seconds
        Length of the step.
    xi_guess
        (X, Y, Z): first guess of the mean over the step. None: `xi`.
    temperature_k
        Temperature of the gas, 1 to 1e6 K.
    clumping
        <n^2> / <n>^2 within a cell: a number or (X, Y, Z). Recombinations are multiplied by it.
    threads
        Number of threads; None for every core this process may use. The result does not depend on it.

    Returns
    -------
    Ionisation

    Raises
    ------
    ValueError
        If shapes differ, or a density, fraction, rate, time, temperature or clumping factor is not finite or
        out of range.
    """
    fields = {"n_h": n_h, "xi": xi, "gamma": gamma, "xi_guess": xi if xi_guess is None else xi_guess}
    shape = np.shape(n_h)
    lines = {name: _line(name, field, shape) for name, field in fields.items()}
    clump = _line("clumping", np.broadcast_to(np.asarray(clumping, dtype=np.float64), shape), shape)
    for name in ("xi", "xi_guess"):
        _check(name, lines[name] <= 1.0, lines[name], "ionised fractions of 0 to 1")
    if not (math.isfinite(seconds) and seconds > 0):
        message = f"seconds: expected a positive time. Received: {seconds}"
        raise ValueError(message)
    if not 1.0 <= temperature_k <= 1e6:
        message = f"temperature_k: expected 1 to 1e6 K. Received: {temperature_k}"
        raise ValueError(message)
    recombination = RECOMBINATION_CM3_S * (temperature_k / 1e4) ** -0.7
    collision = COLLISION_CM3_S * math.sqrt(temperature_k) * math.exp(-THRESHOLD_K / temperature_k)
    size = len(clump)
    after, mean = np.empty(size), np.empty(size)
    blocks = [slice(first, first + BLOCK_CELLS) for first in range(0, size, BLOCK_CELLS)]
    sums = np.zeros((len(blocks), 4))

    def task(number: int, block: slice) -> None:
        fields = (line[block] for line in (*lines.values(), clump, after, mean))
        _relax(*fields, float(seconds), recombination, collision, MOST_ROUNDS, sums[number])

    threads = thread_count(threads, size)
    run(task, enumerate(blocks), threads)
    photo, collisional, recombined, unsettled = (math.fsum(column) for column in sums.T)
    fields_after = after.reshape(shape), mean.reshape(shape)
    return Ionisation(*fields_after, photo, collisional, recombined, int(unsettled))


def _line(name: str, field: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return a field as a flat float64 array; raise if it has impossible values."""
    values = np.asarray(field)
    if values.shape != shape:
        message = f"{name}: expected the shape of n_h, {shape}. Received: {values.shape}"
        raise ValueError(message)
    line = np.require(values, dtype=np.float64, requirements=["C", "W"]).reshape(-1)
    _check(name, line >= 0.0, line, "finite numbers, zero or more")
    return line


def _check(name: str, right: NDArray[np.bool_], line: NDArray[np.float64], expected: str) -> None:
    wrong = np.flatnonzero(~(right & np.isfinite(line)))
    if wrong.size:
        message = (
            f"{name}: expected {expected}. Received: {line[wrong[0]]} in cell {wrong[0]} of the flat array"
        )
        raise ValueError(message)


@kernel((*[target(FLOAT)] * 7, FLOAT, FLOAT, FLOAT, INT, target(FLOAT)))
def _relax(  # type: ignore[no-untyped-def]
    n_h, xi, gamma, guess, clumping, after, mean, seconds, recombination, collision, rounds, sums
):
    photo = 0.0
    collisional = 0.0
    recombined = 0.0
    unsettled = 0
    for i in range(len(n_h)):
        # The loop uses neutral fractions: in ionised gas 1 - xi has few digits left.
        start = 1.0 - xi[i]
        neutral = 1.0 - guess[i]
        end = start
        electrons = 0.0
        for _ in range(rounds):
            last = neutral
            electrons = n_h[i] * (1.0 - neutral + OTHER_ELECTRONS)
            down = electrons * recombination * clumping[i]
            speed = gamma[i] + electrons * collision + down
            elapsed = speed * seconds
            if elapsed < 1e-8:
                # Too small a change for the exponential: the first term of its series.
                change = (down - speed * start) * seconds
                end = start + change
                neutral = start + 0.5 * change
            else:
                balance = down / speed
                left = np.exp(-elapsed)
                end = balance + (start - balance) * left
                neutral = balance + (start - balance) * (1.0 - left) / elapsed
            if abs(neutral - last) <= ACCURACY * neutral:
                break
        change = abs(neutral - (1.0 - guess[i]))
        if change > 1e-3 and change > 1e-3 * neutral:
            unsettled += 1
        after[i] = 1.0 - end
        mean[i] = 1.0 - neutral
        photo += gamma[i] * neutral * n_h[i] * seconds
        collisional += electrons * collision * neutral * n_h[i] * seconds
        recombined += electrons * recombination * clumping[i] * (1.0 - neutral) * n_h[i] * seconds
    sums[0] = photo
    sums[1] = collisional
    sums[2] = recombined
    sums[3] = unsettled
