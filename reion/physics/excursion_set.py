"""The excursion set: the semi-numerical method, and the baseline of every evaluation.

A cell is ionised if in any sphere around it, from 16 cells down to one, the photons emitted reach `threshold`
times the number of hydrogen atoms (Furlanetto, Zaldarriaga & Hernquist 2004, ApJ 613, 1; as in 21cmFAST,
Mesinger, Furlanetto & Cen 2011, MNRAS 411, 955, with the sources of the simulation instead of the collapsed
fraction). The spheres are sharp in real space: they contain all cells whose centre is at most the radius
away.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import scipy.fft
import xarray as xr

from reion.config import InputSet
from reion.errors import InputError
from reion.jobs.resources import fft_threads
from reion.metrics.fields import checked_pair
from reion.simulation.contract import cubic_cell_size_mpc, hydrogen_density, require_fields
from reion.simulation.cosmic_time import cosmic_age_s
from reion.simulation.periodic import squared_distance
from reion.simulation.photons import N_ION_TIME_S, EmittedPhotons, warn_if_late
from reion.simulation.recombinations import less_recombinations

RADII_CELLS = tuple(float(16 * 2 ** (-step / 8)) for step in range(33))
"""Radii of the spheres in cells: 16 down to 1, eight to every factor of two.

With fewer radii the method misses spheres that just reach the threshold; more radii change nothing.
"""


def photons_per_atom(
    n_photons: np.ndarray, n_hydrogen: np.ndarray, *, radii_cells: Iterable[float] = RADII_CELLS
) -> np.ndarray:
    """The largest number of photons per hydrogen atom in any of the spheres around each cell.

    Parameters
    ----------
    n_photons, n_hydrogen
        Ionising photons and hydrogen atoms per comoving volume, in the same unit, shape (x, y, z), not
        negative, cubic cells, periodic.
    radii_cells
        Radii of the spheres in cells. A sphere wider than the box is the box.

    Returns
    -------
    numpy.ndarray
        float64, shape (x, y, z). inf where a sphere holds photons but no atoms, zero where it holds neither.

    Raises
    ------
    InputError
        If the shapes differ or a value is not finite or negative.
    """
    n_photons, n_hydrogen = checked_pair(n_photons, n_hydrogen)
    if n_photons.min() < 0 or n_hydrogen.min() < 0:
        raise InputError("expected numbers of photons and atoms that are not negative")
    # In units of the largest cell, the transform gives an empty sphere only rounding errors, far below 1e-9.
    photon_scale, atom_scale = float(n_photons.max()), float(n_hydrogen.max())
    highest = np.zeros(n_photons.shape)
    if photon_scale == 0:
        return highest
    if atom_scale == 0:
        return np.full(n_photons.shape, np.inf)
    photons = scipy.fft.rfftn(n_photons / np.float64(photon_scale), workers=fft_threads())
    atoms = scipy.fft.rfftn(n_hydrogen / np.float64(atom_scale), workers=fft_threads())
    distance = squared_distance(n_photons.shape)
    cells = 0.0
    for radius in radii_cells:
        inside = (distance <= radius**2 * (1 + 1e-12)).astype(np.float64)
        if cells == (cells := inside.sum()):
            continue  # on a mesh, a slightly smaller radius can be the same sphere
        # The transform of a ball is real, because the ball is symmetric.
        ball = scipy.fft.rfftn(inside, workers=fft_threads()).real
        inside_photons = scipy.fft.irfftn(
            photons * ball, n_photons.shape, workers=fft_threads(), overwrite_x=True
        )
        inside_atoms = scipy.fft.irfftn(
            atoms * ball, n_photons.shape, workers=fft_threads(), overwrite_x=True
        )
        inside_photons[inside_photons < 1e-9] = 0.0
        empty = inside_atoms < 1e-9
        inside_atoms[empty] = 1.0
        inside_photons /= inside_atoms
        inside_photons[empty & (inside_photons > 0)] = np.inf
        np.maximum(highest, inside_photons, out=highest)
    highest *= photon_scale / atom_scale
    return highest


def ionised(n_photons: np.ndarray, n_hydrogen: np.ndarray, *, threshold: float = 1.0) -> np.ndarray:
    """Which cells the excursion set ionises, as a boolean array of shape (x, y, z).

    Parameters
    ----------
    n_photons, n_hydrogen
        As for `photons_per_atom`.
    threshold
        Photons per hydrogen atom from which on a sphere is ionised: one, plus recombinations, less photons
        that are not counted.

    Raises
    ------
    InputError
        As `photons_per_atom`, or if the threshold is not positive.
    """
    if not threshold > 0:
        raise InputError(f"expected a positive threshold of photons per atom; received {threshold}")
    # Rounding in the transforms must not decide about a sphere that just reaches the threshold.
    reached: np.ndarray = photons_per_atom(n_photons, n_hydrogen) >= threshold * (1 - 1e-9)
    return reached


class Photons:
    """Photons emitted per comoving volume (1e66 Mpc-3, the unit of n_ion) in any snapshot.

    Parameters
    ----------
    sim
        A Simulation with n_ion or n_src (`history`), or n_src (`instant`).
    inputs
        `history`: n_ion, computed from n_src if the simulation does not have it, and less the photons that a
        clumping factor above 1 takes (`reion.simulation.recombinations`).
        `instant`: n_src times the cosmic age, as if the present sources had always shone.

    Raises
    ------
    InputError
        If the field is missing.

    Warns
    -----
    UserWarning
        If n_ion has to be computed and the series starts below z = 11 with sources already shining.
    """

    def __init__(self, sim: xr.Dataset, inputs: InputSet) -> None:
        if inputs not in ("history", "instant"):
            raise InputError(f"expected inputs 'history' or 'instant'; received {inputs!r}")
        self._sim, self._inputs = less_recombinations(sim) if inputs == "history" else sim, inputs
        self._emitted: EmittedPhotons | None = None
        if inputs == "history" and "n_ion" in self._sim.data_vars:
            return
        require_fields(sim, ["n_src"], purpose=f"the excursion set with {inputs} inputs")
        if inputs == "instant":
            self._ages_s = cosmic_age_s(sim)
            return
        self._emitted = EmittedPhotons(sim)
        warn_if_late(sim)

    def at(self, index: int) -> np.ndarray:
        """The photons emitted up to snapshot `index`, (x, y, z)."""
        if self._emitted is not None:
            return self._emitted.at(index)
        if self._inputs == "history":
            stored: np.ndarray = self._sim["n_ion"][index].values
            return stored
        age = np.float64(self._ages_s[index] / N_ION_TIME_S)
        always_shining: np.ndarray = self._sim["n_src"][index].values * age
        return always_shining


def photons(sim: xr.Dataset, inputs: InputSet) -> Iterator[np.ndarray]:
    """Yield the photons of every snapshot, in order (see `Photons`)."""
    emitted = Photons(sim, inputs)
    return map(emitted.at, range(sim.sizes["redshift"]))


def fit_threshold(simulations: Iterable[xr.Dataset], inputs: InputSet = "history") -> float:
    """The threshold, one for all redshifts, that fits the true xi of boxes best, by least squares.

    The sum of squares is the sum of xi^2 over cells below the threshold and of (1 - xi)^2 over cells above
    it, so two histograms, whose bins are a thousandth of a factor e wide, give it for every threshold.

    Parameters
    ----------
    simulations
        Simulations with xi, n_igm, the field that `inputs` needs (see `Photons`), and cubic cells.

    Raises
    ------
    InputError
        If there is no simulation, a field is missing, or there are no photons at all.
    """
    edges = np.exp(np.arange(-7.0, 7.0, 1e-3))
    gained = np.zeros(edges.size + 1)
    reached = False
    for sim in simulations:
        require_fields(sim, ["xi", "n_igm"], purpose="fitting the excursion set")
        cubic_cell_size_mpc(sim)
        for index, n_photons in enumerate(photons(sim, inputs)):
            highest = photons_per_atom(n_photons, hydrogen_density(sim["n_igm"][index].values))
            xi = sim["xi"][index].values.astype(np.float64)
            # A threshold below the ratio of this cell changes the sum of squares by (1 - xi)^2 - xi^2.
            gained += np.bincount(
                np.searchsorted(edges, highest.reshape(-1), side="right"),
                weights=(1 - 2 * xi).reshape(-1),
                minlength=gained.size,
            )
            reached = reached or bool(highest.max() >= edges[0])
    if not reached:
        raise InputError("expected sources that shine in the training boxes; received no photons")
    above = np.cumsum(gained[::-1])[::-1][1:]
    return float(edges[int(np.argmin(above))])
