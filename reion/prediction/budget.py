"""The photon budget of a prediction: photons, ionised gas and recombinations, summed over its tiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import xarray as xr

from reion.simulation.contract import PHOTON_UNITS, hydrogen_per_density, hydrogen_per_gram
from reion.simulation.cosmic_time import cosmic_age_s
from reion_exports import ModelCard

_BACKWARDS = 1e-3
"""A fall of mean xi from one snapshot to the next is reported if it is larger than this."""


@dataclass(frozen=True, kw_only=True)
class SnapshotBudget:
    """Ionised gas and photons of a predicted snapshot.

    Attributes
    ----------
    redshift
        Redshift of the snapshot.
    mean_xi, mean_xi_mass
        Mean ionised fraction by volume, and by mass of hydrogen.
    mean_xi_std
        Standard deviation of the error of `mean_xi`; None if no `xi_std` was predicted.
    photons_per_atom
        Photons emitted so far for each hydrogen atom, less those that clumping above 1 takes where it is
        allowed for (`less_recombinations`); None if the model does not take n_ion in photons.
    recombinations_per_atom
        Recombinations so far for each atom, at 1e4 K and without clumping inside cells, integrated over the
        snapshots of the prediction.
    used_share
        Ionised atoms and recombinations for each photon: 1 if no photon is lost, above 1 if the network
        ionises more than the photons can; None without photons.
    """

    redshift: float
    mean_xi: float
    mean_xi_mass: float
    mean_xi_std: float | None
    photons_per_atom: float | None
    recombinations_per_atom: float
    used_share: float | None

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)


def tile_sums(
    xi: np.ndarray, fields: Mapping[str, np.ndarray], spread: np.ndarray | None = None
) -> dict[str, float]:
    """Sums over the cells of a tile.

    Parameters
    ----------
    xi
        Predicted xi, (X, Y, Z).
    fields
        n_igm in g cm-3 and the other fields of the model, on the same cells.
    spread
        xi_std, (X, Y, Z), if it was predicted.

    Returns
    -------
    By name, the sums of cells, xi, hydrogen atoms and ionised atoms (1e66 Mpc-3), photons (unit of n_ion),
    the squared density of ionised gas (1e-60 g2 cm-6, comoving), and xi_std, if it was predicted.
    """
    xi = np.clip(xi.astype(np.float64), 0.0, 1.0)
    gas = fields["n_igm"].astype(np.float64)
    sums = {} if spread is None else {"spread": float(spread.sum(dtype=np.float64))}
    return sums | {
        "cells": float(xi.size),
        "xi": float(xi.sum()),
        "atoms": float(gas.sum()) * hydrogen_per_density(),
        "ionised": float((xi * gas).sum()) * hydrogen_per_density(),
        "photons": float(fields["n_ion"].sum(dtype=np.float64)) if "n_ion" in fields else 0.0,
        "ionised_gas_squared": float(((xi * gas) ** 2).sum()) * 1e60,
    }


def budgets(
    sim: xr.Dataset, card: ModelCard, sums: Sequence[Mapping[str, float]]
) -> tuple[SnapshotBudget, ...]:
    """The budget of every snapshot, from the sums over its tiles.

    Recombinations follow dn/dt = α_B n_e² with the case-B coefficient α_B at 1e4 K and proper densities.
    Between two snapshots the mean of their rates is taken.
    """
    from reion_kernels.chemistry import RECOMBINATION_CM3_S  # imports Numba, which not every model needs

    redshifts = sim["redshift"].values.astype(float)
    age_s = cosmic_age_s(sim)
    has_photons = card.inputs.get("n_ion") == PHOTON_UNITS
    share = card.mean_error_share
    rows: list[SnapshotBudget] = []
    recombined, rate_before = 0.0, 0.0
    for index, (z, total) in enumerate(zip(redshifts.tolist(), sums, strict=True)):
        # The rate per atom is mean n² / mean n in proper densities: the comoving ratio times (1 + z)³.
        squared = total["ionised_gas_squared"] * 1e-60 * hydrogen_per_gram() ** 2 / total["cells"]
        density = total["atoms"] / hydrogen_per_density() * hydrogen_per_gram() / total["cells"]
        rate = RECOMBINATION_CM3_S * squared / density * (1 + z) ** 3
        if index:
            recombined += 0.5 * (rate + rate_before) * (age_s[index] - age_s[index - 1])
        rate_before = rate
        ionised = total["ionised"] / total["atoms"]
        photons = total["photons"] / total["atoms"] if has_photons else None
        rows.append(
            SnapshotBudget(
                redshift=z,
                mean_xi=total["xi"] / total["cells"],
                mean_xi_mass=ionised,
                mean_xi_std=share * total["spread"] / total["cells"] if share and "spread" in total else None,
                photons_per_atom=photons,
                recombinations_per_atom=recombined,
                used_share=(ionised + recombined) / photons if photons else None,
            )
        )
    return tuple(rows)


def backwards(history: Sequence[SnapshotBudget]) -> list[str]:
    """A warning, one sentence, for each pair of snapshots between which mean xi falls."""
    return [
        f"the history goes backwards: the mean ionised fraction falls from {before.mean_xi:.3f} at "
        f"z = {before.redshift:g} to {after.mean_xi:.3f} at z = {after.redshift:g}"
        for before, after in pairwise(history)
        if after.mean_xi < before.mean_xi - _BACKWARDS
    ]
