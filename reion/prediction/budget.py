"""What became of the photons, counted after the network: sums over the tiles of a prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from reion.simulation.contract import PHOTON_UNITS, hydrogen_per_density, hydrogen_per_gram
from reion.simulation.cosmic_time import cosmic_age_s
from reion.storage.store import consolidate
from reion_exports import ModelCard

_BACKWARDS = 1e-3
"""By how much mean xi must fall from a snapshot to the next to be told."""


@dataclass(frozen=True, kw_only=True)
class SnapshotBudget:
    """Ionised gas and photons of a predicted snapshot.

    Attributes
    ----------
    redshift
        Of the snapshot.
    mean_xi, mean_xi_mass
        Mean ionised fraction of the volume, and of the hydrogen.
    mean_xi_std
        The error of `mean_xi`, one standard deviation; None without an uncertainty.
    photons_per_atom
        Photons emitted so far for each hydrogen atom; None where the model does not take n_ion in photons.
    recombinations_per_atom
        Recombinations so far for each atom, at 1e4 K and without clumping below a cell, from the snapshots
        of the prediction.
    used_share
        Ionised atoms and recombinations for each photon: 1 if none is lost, more if the network makes some
        up; None without photons.
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
        (X, Y, Z).
    fields
        n_igm in g cm-3, and others, on the same cells.
    spread
        (X, Y, Z): xi_std, if it was predicted.

    Returns
    -------
    Cells, xi, hydrogen atoms (1e66 Mpc-3), ionised ones, photons (in the unit of n_ion), and the square of
    the density of ionised gas (g2 cm-6, comoving); and xi_std, if it was predicted.
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

    Recombinations follow dn/dt = α_B n_e² with α_B of case B at 1e4 K, proper densities, and the mean of
    n_e² between two snapshots for the time between them.
    """
    from reion_kernels.chemistry import RECOMBINATION_CM3_S  # brings Numba, which not every model needs

    redshifts = sim["redshift"].values.astype(float)
    age_s = cosmic_age_s(sim)
    has_photons = card.inputs.get("n_ion") == PHOTON_UNITS
    share = card.mean_error_share
    rows: list[SnapshotBudget] = []
    recombined, rate_before = 0.0, 0.0
    for index, (z, total) in enumerate(zip(redshifts.tolist(), sums, strict=True)):
        # n_H² in proper cm-6, for each atom per comoving cm3: (1 + z)³ is left.
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
    """What to warn of where mean xi falls from a snapshot to the next, a sentence each."""
    return [
        f"the history goes backwards: the mean ionised fraction falls from {before.mean_xi:.3f} at "
        f"z = {before.redshift:g} to {after.mean_xi:.3f} at z = {after.redshift:g}"
        for before, after in pairwise(history)
        if after.mean_xi < before.mean_xi - _BACKWARDS
    ]


def note_backwards(store: Path, history: Sequence[SnapshotBudget]) -> list[str]:
    """What `backwards` says, which is added to the attribute `warnings` of the xi in `store`, a line each."""
    import zarr

    found = backwards(history)
    if found:
        group = zarr.open_group(store, mode="r+")
        before = str(group["xi"].attrs.get("warnings", "")).splitlines()
        group["xi"].attrs["warnings"] = "\n".join(dict.fromkeys([*before, *found]))
        consolidate(group)
    return found
