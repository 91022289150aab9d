"""Lengths are comoving where they say so, and the mask is a sum over the ball."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.cosmology import FlatLambdaCDM
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import gamma

from reion.errors import InputError
from reion.physics.mean_free_path import (
    MODELS,
    ball_mean,
    max_mfp_cells,
    max_mfp_mpc,
    songaila_cowie_2010,
    with_propagation_mask,
)
from reion.readers import open_simulation
from reion.simulation.contract import check_simulation, make_simulation
from reion.storage.store import write_simulation

COSMOLOGY = FlatLambdaCDM(H0=70, Om0=0.3, Ob0=0.045)


def test_the_radius_of_the_original_project_is_24_cells():
    xi = np.zeros((1, 300, 1, 1), np.float32)
    sim = make_simulation(
        {"xi": xi}, redshift=[8.397], box_size=[500 / 0.7, 500 / 0.7 / 300, 500 / 0.7 / 300]
    )
    assert max_mfp_cells(sim, 57.14)[0, 0] == pytest.approx(24, abs=0.002)


def test_songaila_and_cowie_follows_from_their_counts_of_systems():
    # 1 / (n(z) Gamma(2 - beta)) redshift units, each of c / (H(z) (1 + z)) proper Mpc; beta = 1.28 is theirs.
    for z in (3.5, 5.0, 5.9):
        per_redshift = 2.80 * ((1 + z) / 4.5) ** 1.94
        per_unit = 299792.458 / (COSMOLOGY.H(z).value * (1 + z))
        expected = per_unit / (per_redshift * gamma(2 - 1.28))
        assert songaila_cowie_2010(z, COSMOLOGY) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(
    ("model", "redshift", "proper"),
    [
        ("worseck-2014", 4.0, 37.0),
        ("worseck-2014", 5.0, 37.0 * 1.2**-5.4),
        ("songaila-cowie-2010", 3.5, 50.0),
        ("choudhury-2009", 3.0, 0.1 * 299792.458 / (70 * np.sqrt(0.3 * 64 + 0.7))),
    ],
)
def test_models_at_their_pivots_are_proper_and_become_comoving(model, redshift, proper):
    assert MODELS[model](redshift, COSMOLOGY) == pytest.approx(proper, rel=1e-3)
    assert max_mfp_mpc(model, redshift, COSMOLOGY) == pytest.approx(proper * (1 + redshift), rel=1e-3)


def test_h70_is_the_hubble_constant():
    other = FlatLambdaCDM(H0=35, Om0=0.3, Ob0=0.045)
    for model in MODELS:
        ratio = max_mfp_mpc(model, 6.0, other) / max_mfp_mpc(model, 6.0, COSMOLOGY)
        assert ratio == pytest.approx(2.0, rel=1e-3)


@pytest.mark.parametrize("wrong", ["worseck", "-3", "nan", 0.0, -1.0, np.inf])
def test_nonsense_is_refused(wrong):
    with pytest.raises(InputError, match="max_mfp: expected a comoving length"):
        max_mfp_mpc(wrong, 8.0, COSMOLOGY)


@settings(deadline=None, max_examples=25)
@given(
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    radii=st.tuples(*[st.floats(0.3, 8.0)] * 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_mask_is_the_mean_over_the_ball(shape, radii, seed):
    field = np.random.default_rng(seed).random(shape)
    total = np.zeros(shape)
    count = 0
    for offset in np.ndindex(*(2 * int(r) + 1 for r in radii)):
        step = [o - int(r) for o, r in zip(offset, radii, strict=True)]
        if sum((s / r) ** 2 for s, r in zip(step, radii, strict=True)) <= 1:
            total += np.roll(field, step, axis=(0, 1, 2))
            count += 1
    np.testing.assert_allclose(ball_mean(field, np.array(radii)), total / count, rtol=1e-5, atol=1e-6)


def test_the_mask_keeps_the_mean_and_moves_with_the_sources(simulation):
    masked = with_propagation_mask(simulation, 5.0)
    n_src, mask = masked["n_src"].values, masked["propagation_mask"].values
    np.testing.assert_allclose(mask.mean((1, 2, 3)), n_src.mean((1, 2, 3)), rtol=1e-5)
    assert masked["propagation_mask"].attrs["units"] == masked["n_src"].attrs["units"]
    moved = simulation.assign(n_src=simulation["n_src"].roll(x=5, y=-3, z=2))
    expected = np.roll(mask, (5, -3, 2), axis=(1, 2, 3))
    np.testing.assert_allclose(
        with_propagation_mask(moved, 5.0)["propagation_mask"].values, expected, rtol=1e-4, atol=1e-3
    )
    np.testing.assert_array_equal(masked["propagation_mask"][1, 2:5, ::-1, 3].values, mask[1, 2:5, ::-1, 3])


def test_it_is_a_field_of_the_simulation(simulation, tmp_path):
    write_simulation(simulation, tmp_path / "sim.zarr")
    sim = open_simulation(tmp_path / "sim.zarr", settings={"propagation_mask": "worseck-2014"})
    check_simulation(sim)
    write_simulation(sim, tmp_path / "masked.zarr")
    masked = open_simulation(tmp_path / "masked.zarr")
    np.testing.assert_array_equal(masked["propagation_mask"].values, sim["propagation_mask"].values)
