"""Whether the density of a box is that of the universe: its mean, and the growth of its structure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import xarray as xr

from reion.errors import InputError
from reion.simulation.contract import (
    AXES,
    cosmological_parameters,
    cosmology,
    mean_baryon_density,
)
from reion.simulation.units import field_conversion

IMPOSSIBLE_FACTOR = 100.0
"""No box has a mean this many times above or below the cosmic one; a box of a few Mpc may have twice it."""

_TOLERANCE = 0.05
"""Relative difference from an expected mean density that still counts as equal."""

_SHRINKING = 0.01
"""Relative fall of the spread of the density between two snapshots above which it counts as one."""

_TAKEN_AS_THEY_ARE = ("1 + overdensity", "kg m-3", "Msun Mpc-3", "hydrogen cm-3", "baryon cm-3")
"""Units that a density may really have whose numbers were taken as g cm-3."""

_CORNER_CELLS = 8
"""Side of the corner of a box whose mean is examined first: one chunk of a snapshot is read for it."""

_HINT = "`reion inspect` names the unit that fits; give it with --set n_igm_unit=..."


def mean_density_doubt(sim: xr.Dataset, means: np.ndarray) -> str | None:
    """What is wrong with the mean density, with a guess at the mistake; None if it is the cosmic mean.

    Parameters
    ----------
    sim
        The simulation, for its cosmology and redshifts.
    means
        Mean of n_igm at each redshift, g cm-3.
    """
    ratios = means / mean_baryon_density(sim)
    ratio = float(np.median(ratios))
    if np.all(np.abs(ratios - 1) < _TOLERANCE):
        return None
    model = cosmology(sim)
    h = float(model.H0.value) / 100
    assumed = cosmological_parameters(sim)
    expansion = (1 + sim["redshift"].values) ** 3
    usual_mistakes = {
        "proper instead of comoving (--set n_igm_unit='proper g cm-3')": expansion,
        "comoving, but taken as proper (leave 'proper' out of n_igm_unit)": 1 / expansion,
        "1 + overdensity taken as overdensity (--set n_igm_unit='1 + overdensity')": 2.0,
        "all matter instead of baryons": model.Om0 / model.Ob0,
        "hydrogen only, 76 % of the mass": 0.76,
        **{
            f"a unit with h{power} taken without it, or one without h taken with h{-power}": h**-power
            for power in (-3, -2, -1, 1, 2, 3)
        },
    }
    for unit in _TAKEN_AS_THEY_ARE:
        scale = field_conversion("n_igm", unit, redshift=0.0, cosmology=assumed, cell_volume_mpc3=1.0).scale
        usual_mistakes[f"in {unit}, taken as g cm-3 (--set n_igm_unit='{unit}')"] = 1 / scale
    # Several mistakes can give similar ratios, such as h-2 and 2: the nearest at all redshifts is named.
    deviation = {
        mistake: float(np.max(np.abs(np.log(ratios / expected)))) if np.all(ratios > 0) else np.inf
        for mistake, expected in usual_mistakes.items()
    }
    mistake = min(deviation, key=lambda name: deviation[name])
    if deviation[mistake] < _TOLERANCE:
        return f"n_igm has {ratio:.3g} times the cosmic mean: is it {mistake}?"
    return f"n_igm has {ratio:.3g} times the cosmic mean: is its unit right, is the box a chosen region?"


def falling_structure_doubt(redshift: Sequence[float], spreads: Sequence[float]) -> str | None:
    """What is wrong if structure shrinks with time, which gravity makes grow; None if it does not.

    Parameters
    ----------
    redshift
        Redshifts of the snapshots, descending.
    spreads
        Standard deviation of n_igm over its mean at each of them.
    """
    falls = [
        f"from {before:.3g} at z = {z_before:g} to {after:.3g} at z = {z:g}"
        for (z_before, before), (z, after) in pairwise(zip(redshift, spreads, strict=True))
        if after < before * (1 - _SHRINKING)
    ]
    if not falls:
        return None
    return (
        f"the spread of n_igm over its mean falls with time, {', '.join(falls)}: are snapshots exchanged? "
        "Gravity makes it grow; only gas that reionisation heats may become smoother"
    )


def require_cosmic_density(sim: xr.Dataset) -> None:
    """Refuse a simulation whose density is off by a factor that no box can have, so that its unit is wrong.

    A corner of the box is read at every redshift; the whole box only if the corner is that far off.

    Raises
    ------
    InputError
        If a mean is `IMPOSSIBLE_FACTOR` times above or below the cosmic mean; the hint guesses at the unit.
    """
    cosmic = mean_baryon_density(sim)
    corner = sim["n_igm"].isel({axis: slice(_CORNER_CELLS) for axis in AXES})
    for index, redshift in enumerate(sim["redshift"].values.tolist()):
        ratio = float(corner[index].values.mean(dtype=np.float64)) / cosmic
        if _is_impossible(ratio) and corner.shape != sim["n_igm"].shape:
            slabs = (sim["n_igm"][index, x].values.mean(dtype=np.float64) for x in range(sim.sizes["x"]))
            ratio = sum(slabs) / sim.sizes["x"] / cosmic
        if _is_impossible(ratio):
            one = sim.isel(redshift=[index])
            raise _refusal(ratio, redshift, mean_density_doubt(one, np.array([ratio * cosmic])))


def require_cosmic_mean(n_igm: np.ndarray, *, redshift: float, cosmic_mean: float) -> None:
    """Refuse one box (x, y, z) in g cm-3 as `require_cosmic_density` does, beside a cosmic mean in g cm-3."""
    ratio = float(n_igm.mean(dtype=np.float64)) / cosmic_mean
    if _is_impossible(ratio):
        raise _refusal(ratio, redshift, None)


def _is_impossible(ratio: float) -> bool:
    """Whether no box has this ratio. Negative and infinite values are refused where they are read."""
    return math.isfinite(ratio) and (ratio > IMPOSSIBLE_FACTOR or 0 <= ratio < 1 / IMPOSSIBLE_FACTOR)


def _refusal(ratio: float, redshift: float, guess: str | None) -> InputError:
    return InputError(
        f"n_igm at z = {redshift:g}: expected the comoving baryon density in g cm-3, with a mean near the "
        f"cosmic one; received a mean of {ratio:.3g} times that",
        hint=guess if guess is not None and "--set" in guess else _HINT,
    )
