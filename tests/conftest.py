"""Small simulations that every test can use."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from reion.simulation import make_simulation


def toy_simulation(shape=(12, 10, 8), redshift=(12.0, 10.0, 8.0, 7.0), cell_mpc=2.0, seed=0) -> xr.Dataset:
    """A box with every field, smooth enough to look like one: bubbles grow around random sources."""
    rng = np.random.default_rng(seed)
    snapshots = len(redshift)
    n_igm = 4.2e-31 * rng.lognormal(-0.1, 0.4, (1, *shape)).astype(np.float32)
    n_igm = np.repeat(n_igm, snapshots, axis=0)
    n_src = np.where(rng.random((snapshots, *shape)) < 0.02, rng.lognormal(3, 1, (snapshots, *shape)), 0.0)
    centre = rng.integers(0, shape, size=(4, 3))
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    distance = np.min(
        [
            np.linalg.norm((grid - c + np.array(shape) // 2) % shape - np.array(shape) // 2, axis=-1)
            for c in centre
        ],
        axis=0,
    )
    radius = np.linspace(0.0, 0.4 * min(shape), snapshots)
    xi = 1.0 / (1.0 + np.exp(2.0 * (distance[None] - radius[:, None, None, None])))
    return make_simulation(
        {"n_igm": n_igm, "n_src": n_src.astype(np.float32), "xi": xi.astype(np.float32)},
        redshift=redshift,
        box_size=[n * cell_mpc for n in shape],
        cosmology={"H0": 67.66, "Om0": 0.30964, "Ob0": 0.04897},
        source_code="toy",
    )


@pytest.fixture
def simulation() -> xr.Dataset:
    return toy_simulation()
