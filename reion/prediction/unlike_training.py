"""Inputs that no training had, said before a prediction is made of them."""

from __future__ import annotations

import warnings
from collections.abc import Collection

import xarray as xr

from reion.simulation.photons import FIRST_LIGHT_REDSHIFT

_SAMPLED_CELLS = 1 << 22
_EVERYWHERE = 0.5
"""Sources in more than this share of cells are sources everywhere. They are in 0.1 to 0.6 % of the cells of
the boxes that the shipped models were trained on."""


def warn_of_inputs(sim: xr.Dataset, inputs: Collection[str]) -> None:
    """Warn of what makes a prediction worthless: no photons where there must be some, sources everywhere.

    Only a part of a large box is read.

    Parameters
    ----------
    inputs
        The fields that the model takes.
    """
    redshift = float(sim["redshift"][0])
    late = redshift < FIRST_LIGHT_REDSHIFT
    shining = late and ("n_src" not in sim.data_vars or bool(_planes(sim["n_src"], 0).any()))
    if "n_ion" in inputs and "n_ion" in sim.data_vars and shining and not _planes(sim["n_ion"], 0).any():
        warnings.warn(
            f"n_ion is zero everywhere at z = {redshift:g}: photons emitted before are not in it, and the "
            "model will predict hardly any ionised gas; give the whole series, or n_ion itself",
            stacklevel=2,
        )
    if "n_src" in inputs and "n_ion" not in inputs and "n_src" in sim.data_vars:
        share = float((_planes(sim["n_src"], -1) > 0).mean())
        if share > _EVERYWHERE:
            warnings.warn(
                f"n_src: sources are in {share:.0%} of the cells; a model trained on fewer, brighter "
                "ones (the shipped ones: in less than 1 %) will predict hardly any ionised gas",
                stacklevel=2,
            )


def _planes(field: xr.DataArray, index: int) -> xr.DataArray:
    """The first planes of one snapshot of a field, (x, y, z), as many as can be read quickly."""
    planes = max(1, _SAMPLED_CELLS // (field.sizes["y"] * field.sizes["z"]))
    return field[index, :planes].load()
