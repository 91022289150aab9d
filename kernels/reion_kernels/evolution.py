"""One time step of reionisation: ray tracing and chemistry alternate until they agree."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reion_kernels._layout import Real
from reion_kernels.chemistry import Ionisation, ionise
from reion_kernels.photo_table import PhotoTable
from reion_kernels.raytracing import Rays, trace_rays

HASTE = 3.0
"""Where an iteration lowers the neutral fraction, the change of its logarithm is multiplied by this factor.
Ionisation fronts otherwise advance one cell an iteration; the factor saves two thirds of the iterations. A
rising neutral fraction is not changed."""


class Photons(NamedTuple):
    """Count of the photons of a step, and of the atoms that they ionise, in the whole box.

    Attributes
    ----------
    emitted
        Photons that the sources emit.
    absorbed
        Photons absorbed within the reach of the sources.
    lost
        Photons that go beyond the reach.
    photo_ionisations, collisional_ionisations, recombinations
        Numbers of atoms. In a converged step there are as many photo-ionisations as absorbed photons.
    ionised
        Increase of the number of ionised atoms: the two kinds of ionisations less the recombinations.
    """

    emitted: float
    absorbed: float
    lost: float
    photo_ionisations: float
    collisional_ionisations: float
    recombinations: float
    ionised: float


class Step(NamedTuple):
    """The gas after a time step, its photons, and how the iteration ended.

    Attributes
    ----------
    xi
        (X, Y, Z), float64: ionised fraction at the end of the step.
    xi_mean
                (X, Y, Z), float64: mean ionised fraction over the step.
    gamma
        (X, Y, Z), float64: photo-ionisations a second of each neutral atom.
    photons
        Count of the photons.
    iterations
        Number of times that the rays were traced.
    converged
        False if `max_iterations` was reached before both tolerances.
    """

    xi: NDArray[np.float64]
    xi_mean: NDArray[np.float64]
    gamma: NDArray[np.float64]
    photons: Photons
    iterations: int
    converged: bool


def evolve_step(
    n_h: Real,
    xi: Real,
    positions: ArrayLike,
    rates: ArrayLike,
    *,
    cell_cm: float,
    seconds: float,
    max_mfp_cells: float,
    table: PhotoTable,
    temperature_k: float = 1e4,
    clumping: ArrayLike = 1.0,
    conserve: bool = True,
    faint_share: float = 0.0,
    faint_block_cells: int = 2,
    tolerance: float = 1e-4,
    photon_tolerance: float = 2e-3,
    max_iterations: int = 200,
    trace: Callable[..., Rays] = trace_rays,
    threads: int | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> Step:
    """Let sources shine on hydrogen for a time step, on a periodic mesh.

    Rays are traced through the neutral hydrogen, averaged over the step; the resulting rates change this
    average; both are repeated until the average no longer changes (Mellema, Iliev, Alvarez & Shapiro 2006,
    section 3). So a step may be longer than the time in which a cell is ionised. The first rays go through
    the gas at the beginning of the step.

    Parameters
    ----------
    n_h
        (X, Y, Z), float32 or float64: hydrogen in cm-3, proper.
    xi
        (X, Y, Z): ionised fraction at the beginning.
    positions, rates
        (sources, 3) integers and (sources,) photons a second, as in `trace_rays`. Both may be empty.
    cell_cm
        Side of a cell in cm, proper.
    seconds
        Length of the step.
    max_mfp_cells, table, conserve, faint_share, faint_block_cells
        As in `trace_rays`.
    temperature_k, clumping
        As in `ionise`.
    tolerance
        The step has converged if fewer than this share of the cells have changed by more than 1e-3 (and fewer
        than a third of the number of sources less one, as in C2-Ray), or if the relative changes of the sums
        of the ionised and of the neutral fraction are both below this; and if `photon_tolerance` holds too.
    photon_tolerance
        Largest difference between the photo-ionisations and the absorbed photons, relative to the emitted
        photons.
    max_iterations
        Number of iterations after which the step ends in any case.
    trace
        Function that traces the rays: `trace_rays`, or one with the same arguments and result.
    threads
        Number of threads; None for every core this process may use. The result does not depend on it.
    progress
        Called after each iteration with its number and the mean ionised fraction.

    Returns
    -------
    Step

    Raises
    ------
    TypeError
        If `n_h` is not float32 or float64 or positions are not integers.
    ValueError
        If shapes do not fit or a number is out of range.
    """
    for name, value in (("tolerance", tolerance), ("photon_tolerance", photon_tolerance)):
        if not 0.0 < value < 1.0:
            message = f"{name}: expected a share between 0 and 1. Received: {value}"
            raise ValueError(message)
    if max_iterations < 1:
        message = f"max_iterations: expected a positive number. Received: {max_iterations}"
        raise ValueError(message)
    if np.shape(xi) != np.shape(n_h):
        message = f"xi: expected the shape of n_h, {np.shape(n_h)}. Received: {np.shape(xi)}"
        raise ValueError(message)
    volume = cell_cm**3
    mean = np.array(xi, dtype=np.float64)
    ionised, cells = -math.inf, mean.size
    few = min(int(tolerance * cells), (np.size(rates) - 1) / 3)
    converged = False
    iteration = 0
    while not converged and iteration < max_iterations:
        iteration += 1
        rays = trace(
            n_h * (1.0 - mean),
            positions,
            rates,
            cell_cm=cell_cm,
            max_mfp_cells=max_mfp_cells,
            table=table,
            conserve=conserve,
            faint_share=faint_share,
            faint_block_cells=faint_block_cells,
            threads=threads,
        )
        gas = ionise(
            n_h,
            xi,
            rays.gamma,
            seconds,
            xi_guess=mean,
            temperature_k=temperature_k,
            clumping=clumping,
            threads=threads,
        )
        before, ionised = ionised, float(gas.xi.sum())
        change = abs(ionised - before)
        steady = change < tolerance * ionised and change < tolerance * (cells - ionised)
        counted = abs(gas.photo_ionisations * volume - rays.absorbed * seconds)
        converged = (steady or gas.unsettled < few) and counted <= photon_tolerance * rays.emitted * seconds
        if progress is not None:
            progress(iteration, ionised / cells)
        mean = _hasten(mean, gas.xi_mean)
    return Step(gas.xi, gas.xi_mean, rays.gamma, _counted(rays, gas, seconds, volume), iteration, converged)


def _hasten(guess: NDArray[np.float64], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """The next guess of the mean ionised fraction, from the last guess and the mean that followed from it."""
    before, neutral = 1.0 - guess, 1.0 - mean
    fallen = neutral < before
    neutral[fallen] *= (neutral[fallen] / before[fallen]) ** (HASTE - 1.0)
    return 1.0 - neutral


def _counted(rays: Rays, gas: Ionisation, seconds: float, volume: float) -> Photons:
    """Count of the photons of a step; `volume` is that of a cell in cm3."""
    net = gas.photo_ionisations + gas.collisional_ionisations - gas.recombinations
    return Photons(
        emitted=rays.emitted * seconds,
        absorbed=rays.absorbed * seconds,
        lost=rays.lost * seconds,
        photo_ionisations=gas.photo_ionisations * volume,
        collisional_ionisations=gas.collisional_ionisations * volume,
        recombinations=gas.recombinations * volume,
        ionised=net * volume,
    )
