"""Small boxes of density and sources to trace rays through."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from reion.ray_tracing import simulate as simulating
from reion.simulation.contract import make_simulation

PLANCK = {"H0": 67.66, "Om0": 0.30964, "Ob0": 0.04897}


def density_and_sources(side=12, redshift=(12.0, 11.0, 10.0), sources=5, cell_mpc=2.0, seed=0) -> xr.Dataset:
    """A few sources in uneven gas; they shine more and more."""
    rng = np.random.default_rng(seed)
    n_igm = 4.2e-31 * rng.lognormal(-0.1, 0.4, (side,) * 3)
    n_src = np.zeros((len(redshift), side, side, side))
    cells = rng.choice(side**3, sources, replace=False)
    for index in range(len(redshift)):
        n_src[index].flat[cells] = (1 + index) * rng.uniform(2e4, 8e4, sources)
    return make_simulation(
        {
            "n_igm": np.repeat(n_igm[None], len(redshift), axis=0).astype(np.float32),
            "n_src": n_src.astype(np.float32),
        },
        redshift=redshift,
        box_size=side * cell_mpc,
        cosmology=PLANCK,
        source_code="toy",
    )


def interrupt_at(monkeypatch: pytest.MonkeyPatch, snapshot: int) -> None:
    """Let a simulation be interrupted, as by Ctrl-C, when it comes to the snapshot of this number."""
    evolve = simulating.evolve

    def interrupted(sim, index, *args, **options):
        if index == snapshot:
            raise KeyboardInterrupt
        return evolve(sim, index, *args, **options)

    monkeypatch.setattr(simulating, "evolve", interrupted)
