"""One interval of a ray tracing: the gas from one snapshot to the next, in equally long time steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from reion.errors import InputError
from reion.physics.mean_free_path import max_mfp_mpc, require_max_mfp
from reion.ray_tracing.settings import DIFFUSE_SHARE, BlackBody, RayTracing
from reion.simulation.constants import CM_PER_MPC
from reion.simulation.contract import (
    MAX_MFP,
    PHOTON_RATE_UNITS,
    cosmology,
    cubic_cell_size_mpc,
    hydrogen_per_gram,
    require_fields,
)
from reion.simulation.plausible_density import require_cosmic_density
from reion_kernels import (
    Photons,
    PhotoTable,
    Rays,
    black_body_table,
    evolve_step,
    power_law_table,
    trace_rays,
)

if TYPE_CHECKING:
    from astropy.cosmology import FlatLambdaCDM

_PHOTONS_PER_RATE_UNIT = 1e48
"""Photons a second for one unit of n_src."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """The ray tracing between two snapshots.

    Parameters
    ----------
    xi
        (x, y, z) float32: ionised fraction at the end.
    gamma
        (x, y, z) float32: photo-ionisations of each neutral atom a second, in the last time step.
    photons
        Count of the photons of all time steps.
    sources
        Number of sources whose rays were traced.
    max_mfp_mpc
        The comoving radius in Mpc that photons reached.
    iterations
        Iterations of rays and chemistry, one number for each time step.
    converged
        Whether every time step converged.
    """

    xi: np.ndarray
    gamma: np.ndarray
    photons: Photons
    sources: int
    max_mfp_mpc: float
    iterations: tuple[int, ...]
    converged: bool


def check_traceable(sim: xr.Dataset, settings: RayTracing) -> None:
    """Check that a Simulation has every field and fact that ray tracing needs.

    Raises
    ------
    InputError
        If a field is missing, n_src is not a photon rate, there is only one snapshot, cells are not cubes,
        the reach of photons is unknown, or the mean of n_igm is one that no box has.
    """
    require_fields(sim, ["n_igm", "n_src"], purpose="ray tracing")
    units = sim["n_src"].attrs["units"]
    if units != PHOTON_RATE_UNITS:
        raise InputError(
            f"ray tracing needs n_src as a photon rate, in {PHOTON_RATE_UNITS}; received {units}",
            hint="tell how masses become photons: --set f_gamma=... --set lifetime_myr=...",
        )
    if sim.sizes["redshift"] < 2:
        raise InputError(
            "ray tracing needs two snapshots or more: the sources of one shine until the next; received one "
            f"snapshot at z = {float(sim['redshift'][0]):g}"
        )
    cubic_cell_size_mpc(sim)
    reach_mpc(sim, settings, 0)
    require_cosmic_density(sim)


def reach_mpc(sim: xr.Dataset, settings: RayTracing, index: int) -> float:
    """The comoving radius in Mpc that photons reach from snapshot `index` to the next.

    Raises
    ------
    InputError
        If neither the settings nor the Simulation give it.
    """
    if settings.max_mfp is not None:
        return max_mfp_mpc(settings.max_mfp, float(sim["redshift"][index]), cosmology(sim))
    require_max_mfp(sim, purpose="ray tracing")
    return float(sim[MAX_MFP][index])


def photo_table(settings: RayTracing) -> PhotoTable:
    """The table of the photons of the sources' spectrum that pass an optical depth of hydrogen."""
    spectrum = settings.spectrum
    if isinstance(spectrum, BlackBody):
        return black_body_table(spectrum.temperature_k, highest_ry=spectrum.highest_ry)
    return power_law_table(spectrum.index, highest_ry=spectrum.highest_ry)


def sources_of(n_src: np.ndarray, cell_mpc: float) -> tuple[np.ndarray, np.ndarray]:
    """The cells that emit, and the photons that each emits a second.

    Parameters
    ----------
    n_src
        (x, y, z), 1e48 s-1 Mpc-3, comoving.

    Returns
    -------
    positions, rates
        (sources, 3) int64 and (sources,) float64.
    """
    positions = np.argwhere(n_src > 0)
    rates = n_src[tuple(positions.T)].astype(np.float64) * (_PHOTONS_PER_RATE_UNIT * cell_mpc**3)
    return positions, rates


def faint_share(sources: int, cells: int, settings: RayTracing) -> float:
    """The `faint_share` of `reion_kernels.trace_rays`, from the settings or, without one, the sources."""
    if settings.faint_share is not None:
        return settings.faint_share
    return 0.5 if sources > DIFFUSE_SHARE * cells else 0.0


def redshift_at(model: FlatLambdaCDM, age_s: float, between: np.ndarray) -> float:
    """The redshift, between two redshifts, at which the universe has the age `age_s` in seconds."""
    from scipy.optimize import brentq

    def too_old_s(redshift: float) -> float:
        return float(model.age(redshift).to_value("s")) - age_s

    return float(brentq(too_old_s, min(between), max(between), xtol=1e-9))


def _time_steps(model: FlatLambdaCDM, between: np.ndarray, steps: int) -> tuple[float, list[float]]:
    """Length in seconds of the equal time steps between two redshifts, and the redshift of each middle."""
    begin_s, end_s = (float(model.age(float(redshift)).to_value("s")) for redshift in between)
    step_s = (end_s - begin_s) / steps
    return step_s, [redshift_at(model, begin_s + (number + 0.5) * step_s, between) for number in range(steps)]


def evolve(
    sim: xr.Dataset,
    index: int,
    xi: np.ndarray,
    settings: RayTracing,
    *,
    trace: Callable[..., Rays] = trace_rays,
    threads: int | None = None,
    progress: Callable[[float, float], None] | None = None,
) -> Interval:
    """Let the sources of a snapshot shine until the next one.

    The comoving density and the sources are those of the snapshot. The proper hydrogen density of a time
    step, n_igm / (1.222 m_p) (1 + z)^3, and the proper cell size are those of the middle of the step.

    Parameters
    ----------
    index
        Number of the snapshot; the interval ends at the next one.
    xi
        (x, y, z): ionised fraction at the beginning, 0 to 1.
    trace
        Function that traces the rays, with the arguments of `reion_kernels.trace_rays`.
    progress
        Called with the finished share of the interval, 0 to 1, and the mean ionised fraction.
    """
    model = cosmology(sim)
    cell_mpc = cubic_cell_size_mpc(sim)
    step_s, middles = _time_steps(model, sim["redshift"].values[index : index + 2], settings.steps)
    positions, rates = sources_of(sim["n_src"][index].values, cell_mpc)
    atoms_cm3 = sim["n_igm"][index].values.astype(np.float64) * hydrogen_per_gram()
    radius_mpc = reach_mpc(sim, settings, index)
    table = photo_table(settings)
    xi = np.asarray(xi, dtype=np.float64)
    photons: list[Photons] = []
    iterations: list[int] = []
    converged = True
    for number, middle in enumerate(middles):

        def report(iteration: int, mean_xi: float, number: int = number) -> None:
            if progress is not None:
                progress((number + 1 - 0.5**iteration) / settings.steps, mean_xi)

        step = evolve_step(
            atoms_cm3 * (1 + middle) ** 3,
            xi,
            positions,
            rates,
            cell_cm=cell_mpc * CM_PER_MPC / (1 + middle),
            seconds=step_s,
            max_mfp_cells=radius_mpc / cell_mpc,
            table=table,
            temperature_k=settings.temperature_k,
            clumping=settings.clumping_at(middle),
            conserve=settings.conserve,
            faint_share=faint_share(len(rates), xi.size, settings),
            tolerance=settings.tolerance,
            photon_tolerance=settings.photon_tolerance,
            max_iterations=settings.max_iterations,
            trace=trace,
            threads=threads,
            progress=report,
        )
        xi = step.xi
        photons.append(step.photons)
        iterations.append(step.iterations)
        converged = converged and step.converged
    return Interval(
        xi=xi.astype(np.float32),
        gamma=step.gamma.astype(np.float32),
        photons=Photons(*(float(sum(numbers)) for numbers in zip(*photons, strict=True))),
        sources=len(rates),
        max_mfp_mpc=radius_mpc,
        iterations=tuple(iterations),
        converged=converged,
    )
