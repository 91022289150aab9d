"""The reach of ionising photons: `max_mfp` in comoving Mpc, in cells, and as a propagation mask.

`max_mfp` is a comoving radius, the largest distance of a photon from its source. It is a number, or a model
of the mean free path in `MODELS`. The models give proper lengths, which 1 + z makes comoving.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import xarray as xr

from reion.errors import InputError
from reion.simulation.contract import DIMS, FIELDS, MAX_MFP, cell_size_mpc, cosmology, require_fields
from reion.simulation.lazy import CellKey, LazyField
from reion.simulation.periodic import ball_counts

MASK = "propagation_mask"


def songaila_cowie_2010(redshift: float, model: Any) -> float:
    """Proper Mpc: 50 ((1 + z) / 4.5)^-4.44 h70^-1, from Lyman limit systems at z < 6.

    Songaila & Cowie 2010, ApJ 721, 1448: n(z) = 2.80 ((1 + z) / 4.5)^1.94 systems per unit redshift.
    """
    return float(50.0 * ((1 + redshift) / 4.5) ** -4.44 * 70.0 / model.H0.value)


def choudhury_2009(redshift: float, model: Any) -> float:
    """Proper Mpc: 0.1 c / H(z) ((1 + z) / 4)^-2.55.

    Choudhury, Haehnelt & Regan 2009, MNRAS 394, 960; PINION's propagation mask uses it.
    """
    from astropy import constants

    hubble_length = (constants.c / model.H(redshift)).to_value("Mpc")
    return float(0.1 * hubble_length * ((1 + redshift) / 4) ** -2.55)


def worseck_2014(redshift: float, model: Any) -> float:
    """Proper Mpc: 37 ((1 + z) / 5)^-5.4 h70^-1, from stacked quasar spectra at 2.3 < z < 5.5.

    Worseck et al. 2014, MNRAS 445, 1745.
    """
    return float(37.0 * ((1 + redshift) / 5) ** -5.4 * 70.0 / model.H0.value)


MODELS: Mapping[str, Callable[[float, Any], float]] = {
    "songaila-cowie-2010": songaila_cowie_2010,
    "choudhury-2009": choudhury_2009,
    "worseck-2014": worseck_2014,
}
"""Models of the mean free path, in proper Mpc, at a redshift in an astropy cosmology. All were measured after
reionisation; at higher redshifts they are extrapolations."""


def max_mfp_mpc(max_mfp: float | str, redshift: float, model: Any) -> float:
    """The reach of photons at a redshift, in comoving Mpc.

    Parameters
    ----------
    max_mfp
        A number of comoving Mpc, or a name in `MODELS`.
    model
        The cosmology, from `reion.simulation.contract.cosmology`; a number needs none.

    Raises
    ------
    InputError
        If `max_mfp` is neither a name in `MODELS` nor a positive length.
    """
    if isinstance(max_mfp, str) and max_mfp in MODELS:
        return MODELS[max_mfp](redshift, model) * (1 + redshift)
    try:
        radius = float(max_mfp)
    except ValueError:
        radius = np.nan
    if not np.isfinite(radius) or radius <= 0:
        raise InputError(
            f"max_mfp: expected a comoving length in Mpc or one of {', '.join(MODELS)}; received {max_mfp!r}"
        )
    return radius


def require_max_mfp(sim: xr.Dataset, *, purpose: str) -> None:
    """Raise `InputError` if `sim` has no `max_mfp`; `purpose` says in the message what needs it."""
    if MAX_MFP not in sim.variables:
        raise InputError(
            f"{purpose} needs to know how far photons reach, and the simulation does not say",
            hint="give a comoving radius in Mpc or a model: --set max_mfp=30, --set max_mfp=worseck-2014",
        )


def max_mfp_cells(sim: xr.Dataset, max_mfp: float | str) -> np.ndarray:
    """The reach of photons in cells along x, y, z, at every redshift.

    Returns
    -------
    numpy.ndarray
        (redshift, 3), float64.
    """
    model = cosmology(sim)
    radii_mpc = [max_mfp_mpc(max_mfp, float(redshift), model) for redshift in sim["redshift"].values]
    radii_cells: np.ndarray = np.asarray(radii_mpc)[:, np.newaxis] / np.asarray(cell_size_mpc(sim))
    return radii_cells


def with_propagation_mask(sim: xr.Dataset, max_mfp: float | str) -> xr.Dataset:
    """Return the simulation with `propagation_mask`: where photons of a snapshot's sources can be.

    The mask is the mean of `n_src` over the periodic ball of radius `max_mfp` around each cell, in the units
    of `n_src`. It is computed lazily, when it is read.

    Raises
    ------
    InputError
        If there are no sources, or `max_mfp` is not understood.
    """
    require_fields(sim, ["n_src"], purpose="the propagation mask")
    radii_cells = max_mfp_cells(sim, max_mfp)
    attrs = {
        "units": sim["n_src"].attrs["units"],
        "long_name": FIELDS[MASK].long_name,
        "max_mfp": str(max_mfp),
    }
    mask = _PropagationMask(sim["n_src"], radii_cells)
    return sim.assign({MASK: (DIMS, mask.as_variable_data(), attrs)})


def ball_mean(field: np.ndarray, radii_cells: np.ndarray) -> np.ndarray:
    """Mean of a field over the ball around each cell.

    Parameters
    ----------
    field
        (x, y, z), periodic, not negative, float32 or float64.
    radii_cells
        (3,): radius of the ball along x, y, z. A cell belongs to the ball if its centre does. A ball larger
        than the box counts a cell once for each of its periodic images inside the ball.

    Returns
    -------
    numpy.ndarray
        (x, y, z), in the dtype of `field`.
    """
    from scipy.fft import ifft2, irfft, rfftn

    kernel = _ball_transform(field.shape, tuple(float(radius) for radius in radii_cells))
    spectrum = rfftn(field)
    spectrum *= kernel.astype(spectrum.real.dtype, copy=False)
    # The same as irfftn, without its copy of the spectrum.
    spectrum = ifft2(spectrum, axes=(0, 1), overwrite_x=True)
    mean: np.ndarray = irfft(spectrum, n=field.shape[2], axis=2, overwrite_x=True)
    np.maximum(mean, 0, out=mean)  # rounding may give values below zero
    return mean


@lru_cache(maxsize=1)
def _ball_transform(shape: tuple[int, ...], radii_cells: tuple[float, ...]) -> np.ndarray:
    """Fourier transform of the ball, normalised to a sum of one; real, because the ball is symmetric."""
    from scipy.fft import rfftn

    ball = ball_counts(shape, radii_cells)
    transform: np.ndarray = rfftn(ball).real * np.float32(1.0 / ball.sum(dtype=np.float64))
    return transform


class _PropagationMask(LazyField):
    """The propagation mask of a field of sources."""

    def __init__(self, n_src: xr.DataArray, radii_cells: np.ndarray) -> None:
        super().__init__(n_src.shape)
        self._n_src = n_src
        self._radii_cells = radii_cells

    def snapshot(self, index: int, key: CellKey) -> np.ndarray:
        """The cells `key` of the mask of snapshot `index`, from all sources of the snapshot."""
        n_src = self._n_src[index].values.astype(np.float32, copy=False)
        return ball_mean(n_src, self._radii_cells[index])[key]
