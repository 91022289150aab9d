"""The channels of the network for many worlds: physics in Mpc, whatever computes them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from reion.models.transport import REFERENCE_DENSITY, BoxFilter, PeriodicBox, Transport
from reion.networks import TransportModel
from reion.simulation.contract import hydrogen_per_density
from reion_kernels import symmetry

ATOMS = REFERENCE_DENSITY * hydrogen_per_density()
"""Of a cell at mean density, in 1e66 Mpc-3."""


def transport(cell_size_mpc: float, **changes) -> Transport:
    return Transport.of_settings(TransportModel(**changes), cell_size_mpc)


def world(
    cells: int, *, share: float = 0.01, photons: float = 20.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    n_igm = REFERENCE_DENSITY * rng.lognormal(-0.1, 0.5, (cells,) * 3)
    emitted = np.where(
        rng.random((cells,) * 3) < share, photons * ATOMS * rng.lognormal(0, 1, (cells,) * 3), 0.0
    )
    return n_igm.astype(np.float32), emitted.astype(np.float32)


def named(stem: Transport, n_igm: np.ndarray, photons: np.ndarray, max_mfp: float) -> dict[str, np.ndarray]:
    return dict(zip(stem.names, stem.prepare(n_igm, photons, max_mfp), strict=True))


@given(variance=st.floats(0.001, 200))
def test_a_box_filter_has_the_variance_that_is_asked_for(variance):
    kernel = BoxFilter.of_variance(variance)
    assert 0 <= kernel.end <= 1 + 1e-9
    line = np.zeros((4 * kernel.half + 3, 1, 1))
    line[line.shape[0] // 2] = 1.0
    weights = PeriodicBox().mean(line, kernel)[:, 0, 0]
    places = np.arange(line.shape[0]) - line.shape[0] // 2
    assert weights.sum() == pytest.approx(1)
    assert (weights * places**2).sum() == pytest.approx(variance, rel=1e-9)
    assert kernel.variance == pytest.approx(variance, rel=1e-9)


@pytest.mark.parametrize("cell_size_mpc", [0.9, 1, 1.394, 2, 3, 4.3])
def test_the_scales_are_the_same_in_mpc_whatever_the_cells(cell_size_mpc):
    stem = transport(cell_size_mpc)
    for filters, radii in ((stem.smoothing, stem.smoothing_mpc), (stem.diffusion, stem.spread_mpc)):
        variances = (
            np.cumsum([kernel.variance for kernel in filters]) * cell_size_mpc**2 + cell_size_mpc**2 / 12
        )
        np.testing.assert_allclose(np.sqrt(5 * variances), radii, rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), cells=st.integers(2, 9), shape=st.tuples(*[st.integers(3, 12)] * 3))
def test_distances_are_those_of_scipy(seed, cells, shape):
    marked = np.random.default_rng(seed).random(shape) < 0.02
    marked[0, 0, 0] = True
    received = PeriodicBox().squared_distance(marked.astype(float), cells)
    unmarked = np.pad(~marked, cells, mode="wrap")
    expected = ndimage.distance_transform_edt(unmarked)[(slice(cells, -cells),) * 3] ** 2
    np.testing.assert_allclose(received, np.minimum(expected, cells**2), rtol=1e-6)


def test_every_photon_ionises_an_atom_is_left_over_or_is_lost():
    n_igm, photons = world(24)
    stem = transport(2.0)
    channels = named(stem, n_igm, photons, 12.0)
    atoms = n_igm.astype(float) * hydrogen_per_density() + 1e-3 * ATOMS
    last = stem.output_steps[-1]
    floor = 1e-3 * ATOMS
    ionised = (channels[f"ionised_{last}"] * atoms).sum()
    left = (np.exp(channels[f"left_{last}"]) * atoms - floor).sum()
    lost = (np.exp(channels["lost"]) * atoms - floor).sum()
    assert lost > 0.05 * photons.sum()
    assert ionised + left + lost == pytest.approx(photons.sum(), rel=1e-4)


def test_nothing_is_ionised_beyond_the_reach_of_all_sources():
    n_igm = np.full((32,) * 3, REFERENCE_DENSITY, dtype=np.float32)
    photons = np.zeros_like(n_igm)
    photons[16, 16, 16] = 1e5 * ATOMS
    stem = transport(2.0)
    distance = np.linalg.norm(np.indices(n_igm.shape) - 16, axis=0) * 2.0
    last = f"ionised_{stem.output_steps[-1]}"
    for reach in (10.0, 20.0):
        ionised = named(stem, n_igm, photons, reach)[last]
        assert ionised[distance > reach + 2].max() == pytest.approx(0, abs=1e-6)
        assert ionised[distance < 0.6 * reach].min() > 0.99
    edge = named(stem, n_igm, photons, 20.0)["edge"]
    assert edge[16, 16, 16 + 10] == pytest.approx(0)
    assert edge[16, 16, 16 + 12] == pytest.approx(-2)
    assert edge[16, 16, 16] == 3


def test_the_farther_photons_reach_the_more_is_ionised():
    n_igm, photons = world(20, share=0.003, photons=200.0)
    stem = transport(2.381)
    last = f"ionised_{stem.output_steps[-1]}"
    means = [named(stem, n_igm, photons, reach)[last].mean() for reach in (5, 10, 15, 20, 30, 60)]
    assert np.all(np.diff(means) >= -1e-6)
    assert means[0] < 0.7 * means[-1]


def test_a_smooth_world_has_the_same_channels_on_finer_cells():
    """A field that hardly changes from cell to cell looks the same to every scale, whatever the mesh."""

    def field(cells: int) -> np.ndarray:
        place = (np.arange(cells) + 0.5) / cells
        wave = np.sin(2 * np.pi * place)
        return 1 + 0.3 * wave[:, None, None] * np.ones((1, cells, cells)) * (1 + 0.5 * wave[None, :, None])

    fine, coarse = transport(2.0), transport(4.0)
    values = {}
    for stem, cells in ((fine, 48), (coarse, 24)):
        n_igm = (REFERENCE_DENSITY * field(cells)).astype(np.float32)
        photons = (0.7 * ATOMS * field(cells)[::-1]).astype(np.float32)
        values[cells] = named(stem, n_igm, photons, 30.0)
    for name in ("balance_3", "balance_6", "balance_8", "balance_at_reach", "density"):
        blocks = values[48][name].reshape(24, 2, 24, 2, 24, 2).mean(axis=(1, 3, 5))
        np.testing.assert_allclose(blocks, values[24][name], atol=0.02, err_msg=name)


@pytest.mark.parametrize("index", [0, 7, 23, 30, 47])
def test_the_channels_turn_with_the_box_and_move_with_it(index):
    n_igm, photons = world(14, seed=index)
    stem = transport(4.0)
    channels = stem.prepare(n_igm, photons, 20.0)
    turned = stem.prepare(symmetry(n_igm, index), symmetry(photons, index), 20.0)
    np.testing.assert_allclose(turned, [symmetry(channel, index) for channel in channels], atol=2e-5)
    moved = stem.prepare(np.roll(n_igm, 5, 1), np.roll(photons, 5, 1), 20.0)
    np.testing.assert_allclose(moved, np.roll(channels, 5, 2), atol=2e-5)


def test_keras_computes_the_same_channels():
    from reion.models.stems import PhotonTransport

    n_igm, photons = world(8)
    stem = PhotonTransport("n_ion", transport(4.0))
    expected = stem.prepare({"n_igm": n_igm, "n_ion": photons, "max_mfp": 17.0})
    radius = stem.radius_cells
    windows = {
        name: np.pad(f, radius, mode="wrap")[None] for name, f in (("n_igm", n_igm), ("n_ion", photons))
    }
    received = np.asarray(stem({**windows, "max_mfp": np.array([17.0], dtype=np.float32)}))[0]
    np.testing.assert_allclose(np.moveaxis(received, -1, 0), expected, atol=2e-3)
    assert PhotonTransport.from_config(stem.get_config()).transport == stem.transport
