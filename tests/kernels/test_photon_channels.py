import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import convolve1d

from reion_kernels.photon_channels import BoxMean, PhotonPlan, PhotonReach, photon_channels

ATOMS_PER_DENSITY, FLOOR = 1.4e31, 0.006
REACH = PhotonReach(
    cells=2.6, farthest_cells=4, near_cells=3.0, shares=(0.0, 0.3, 0.7), surviving=(1.0, 1.0, 0.4, 0.0)
)
PLAN = PhotonPlan(
    atoms_per_density=ATOMS_PER_DENSITY,
    photons_per_unit=1.5,
    floor=FLOOR,
    smoothing=(BoxMean(1, 0.4), BoxMean(0, 1.0), BoxMean(3, 0.8)),
    diffusion=(BoxMean(1, 1.0), BoxMean(2, 0.3), BoxMean(1, 0.9), BoxMean(5, 0.5)),
    output_steps=(2, 4),
    reach=REACH,
)
PLANS = {
    "reach": PLAN,
    "one share": PhotonPlan(
        **{**vars(PLAN), "reach": PhotonReach(**{**vars(REACH), "cells": 30.0, "shares": (0.0, 1.0, 0.0)})}
    ),
    "no reach, three times": PhotonPlan(**{**vars(PLAN), "reach": None, "times": (0.1, 0.3, 2.0)}),
}


def fields(shape, seed=0, sources=0.05):
    rng = np.random.default_rng(seed)
    density = 4.2e-31 * rng.lognormal(-0.1, 0.5, shape)
    photons = np.where(rng.random(shape) < sources, 40 * rng.lognormal(0, 1, shape), 0)
    return density.astype(np.float32), photons.astype(np.float32)


def mean(values, box):
    """Weighted sums by SciPy."""
    if box.half == 0:
        return values
    weights = np.ones(2 * box.half + 1)
    weights[[0, -1]] = box.end
    for axis in range(3):
        values = convolve1d(values, weights / weights.sum(), axis=axis, mode="wrap")
    return values


def squared_distance(marked, cells):
    """Of every cell to every marked one, with all periodic images that are near enough."""
    shape = np.array(marked.shape)
    at = np.stack(np.indices(marked.shape), axis=-1)
    nearest = np.full(marked.shape, float(cells**2))
    for source in np.argwhere(marked):
        away = np.abs(at - source)
        away = np.minimum(away, shape - away)
        nearest = np.minimum(nearest, (away**2).sum(axis=-1))
    return nearest


def twin(n_igm, photons, plan):
    """The definition, step by step, in float64: (channel, x, y, z)."""
    source = photons.astype(np.float64)
    photons = source * plan.photons_per_unit
    atoms = n_igm.astype(np.float64) * plan.atoms_per_density + plan.floor
    smooth_photons, smooth_atoms = photons + plan.floor, atoms
    channels = [np.log(smooth_photons / smooth_atoms)]
    reach = plan.reach
    at_reach = [0.0, 0.0]
    for level, box in enumerate(plan.smoothing):
        smooth_photons, smooth_atoms = mean(smooth_photons, box), mean(smooth_atoms, box)
        channels.append(np.log(smooth_photons / smooth_atoms))
        if reach:
            at_reach = [
                total + reach.shares[level] * part
                for total, part in zip(at_reach, (smooth_photons, smooth_atoms), strict=True)
            ]
    reached = 1.0
    if reach:
        within = reach.cells - np.sqrt(squared_distance(source > 0, reach.farthest_cells))
        channels += [np.log(at_reach[0] / at_reach[1]), np.clip(within, -reach.near_cells, reach.near_cells)]
        reached = np.clip(within + 0.5, 0, 1)
    for time in plan.times:
        left, neutral, lost = photons * time, atoms, 0.0
        for step, box in enumerate(plan.diffusion, start=1):
            used = np.minimum(left, neutral)
            left, neutral = mean(left - used, box), neutral - used
            kept = left * reached * (reach.surviving[step - 1] if reach else 1.0)
            lost, left = lost + left - kept, kept
            if step in plan.output_steps:
                used = np.minimum(left, neutral)
                channels += [1 - (neutral - used) / atoms, np.log((left - used + plan.floor) / atoms)]
    if reach:
        channels.append(np.log((lost + plan.floor) / atoms))
    return np.stack([*channels, np.log(atoms)])


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@given(data=st.data())
@settings(deadline=None, max_examples=8)
def test_it_is_the_definition_in_float64(plan, data):
    shape = tuple(data.draw(st.integers(1, 9)) for _ in range(3))
    density, photons = fields(shape, data.draw(st.integers(0, 999)), data.draw(st.sampled_from([0, 0.05, 1])))
    channels = photon_channels(density, photons, plan, threads=data.draw(st.integers(1, 3)))
    assert channels.dtype == np.float32
    assert channels.shape == (shape[0], plan.channels, *shape[1:])
    # The rarest photons, 1e-3 of an atom, are differences of numbers that are 1e5 times larger.
    received, expected = np.moveaxis(channels, 1, 0), twin(density, photons, plan)
    np.testing.assert_allclose(received, expected, rtol=0, atol=1e-3)
    rounding = 1e-5 * (1 + float(photons.max()))
    np.testing.assert_allclose(np.exp(received), np.exp(expected), rtol=1e-5, atol=rounding)


@pytest.mark.parametrize("cells", [7, 8, 15, 63, 64, 65, 71, 130])
def test_lines_of_any_length(cells):
    density, photons = fields((3, 2, cells), cells)
    received = np.moveaxis(photon_channels(density, photons, PLAN, threads=2), 1, 0)
    expected = twin(density, photons, PLAN)
    np.testing.assert_allclose(received, expected, rtol=0, atol=1e-3)
    np.testing.assert_allclose(np.exp(received), np.exp(expected), rtol=1e-5, atol=2e-3)


def test_it_is_what_the_stem_prepares_for_training():
    from reion.models.photon_plan import photon_plan
    from reion.models.transport import Transport
    from reion.networks import TransportModel

    density, photons = fields((12, 10, 11), sources=0.02)
    for cell_size, max_mfp in itertools.product((2.0, 4.4), (3.0, 17.0, 70.0)):
        plan = photon_plan(TransportModel(), "n_ion", cell_size_mpc=cell_size, max_mfp=max_mfp)
        transport = Transport.of_settings(TransportModel(), cell_size)
        assert plan.channels == len(transport.names)
        assert plan.radius_cells == transport.radius_cells
        channels = photon_channels(density, photons, plan)
        expected = transport.prepare(density, photons, max_mfp)
        # As above: photons that are rare are differences of numbers that are much larger.
        np.testing.assert_allclose(np.moveaxis(channels, 1, 0), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("periodic", [(0, 1, 1), (1, 0, 0), (0, 0, 0)])
def test_a_window_gives_what_the_box_gives(plan, periodic):
    shape, radius = (14, 12, 13), plan.radius_cells
    density, photons = fields(shape, 3)
    whole = photon_channels(density, photons, plan)
    index, inner = [], []
    for n, wraps in zip(shape, periodic, strict=True):
        index.append(np.arange(n) if wraps else np.arange(2 - radius, 7 + radius) % n)
        inner.append(slice(None) if wraps else slice(2, 7))
    window = [np.ascontiguousarray(field[np.ix_(*index)]) for field in (density, photons)]
    part = photon_channels(*window, plan, periodic=periodic, threads=2)
    np.testing.assert_allclose(part, whole[inner[0], :, inner[1], inner[2]], rtol=0, atol=2e-5)


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_it_moves_and_turns_with_the_box_and_threads_change_nothing(plan):
    density, photons = fields((10, 9, 8), 4)
    channels = photon_channels(density, photons, plan, threads=1)
    for threads in (2, 3, 4):
        np.testing.assert_array_equal(photon_channels(density, photons, plan, threads=threads), channels)
    rolled = [np.roll(field, (3, -4, 5), (0, 1, 2)) for field in (density, photons)]
    np.testing.assert_allclose(
        photon_channels(*rolled, plan), np.roll(channels, (3, -4, 5), (0, 2, 3)), rtol=0, atol=2e-5
    )
    turned = [np.ascontiguousarray(field.transpose(2, 0, 1)[::-1]) for field in (density, photons)]
    np.testing.assert_allclose(
        photon_channels(*turned, plan), channels.transpose(3, 1, 0, 2)[::-1], rtol=0, atol=2e-5
    )


@pytest.mark.parametrize("more", [-1, 0, 5])
def test_channels_go_into_given_memory_where_there_is_room(more):
    density, photons = fields((4, 5, 6))
    expected = photon_channels(density, photons, PLAN)
    memory = np.full(expected.size + more, np.nan, dtype=np.float32)
    received = photon_channels(density, photons, PLAN, memory=memory)
    np.testing.assert_array_equal(received, expected)
    assert np.shares_memory(received, memory) == (more >= 0)
    assert np.isnan(memory[expected.size :]).all()


@given(seed=st.integers(0, 999), sources=st.sampled_from([0.0, 0.02, 0.5]))
@settings(deadline=None, max_examples=8)
def test_every_photon_ionises_or_is_left_or_is_lost(seed, sources):
    density, photons = fields((8, 7, 6), seed, sources)
    channels = np.moveaxis(photon_channels(density, photons, PLAN).astype(np.float64), 1, 0)
    atoms = density.astype(np.float64) * ATOMS_PER_DENSITY + FLOOR
    ionised, left, lost = channels[-4], channels[-3], channels[-2]
    found = (ionised * atoms + (np.exp(left) + np.exp(lost)) * atoms - 2 * FLOOR).sum()
    assert found == pytest.approx(1.5 * photons.sum(dtype=np.float64), rel=1e-4, abs=1e-3)


def test_every_channel_is_scaled_and_shifted():
    density, photons = fields((5, 4, 6), 5)
    scale, shift = np.linspace(0.5, 2, PLAN.channels), np.linspace(-1, 1, PLAN.channels)
    plain = photon_channels(density, photons, PLAN)
    scaled = photon_channels(density, photons, PLAN, scale=scale, shift=shift)
    expected = plain * scale[:, None, None] + shift[:, None, None]
    np.testing.assert_allclose(scaled, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (TypeError, "n_igm: expected a numpy array of float32.*float64", {"n_igm": np.ones((4, 4, 4))}),
        (ValueError, "photons: expected.*(4, 4)", {"photons": np.ones((4, 4), dtype=np.float32)}),
        (ValueError, "expected one shape", {"photons": np.ones((4, 4, 5), dtype=np.float32)}),
        (ValueError, "expected more than 26 cells", {"periodic": (0, 1, 1)}),
        (ValueError, "expected 12 numbers", {"scale": [1.0]}),
        (ValueError, "threads: expected a positive number", {"threads": 0}),
        (ValueError, "memory: expected a contiguous array", {"memory": np.zeros((9, 9), dtype=np.float32)}),
        (ValueError, "memory: expected a contiguous array", {"memory": np.zeros(99, dtype=np.float32)[::2]}),
        (TypeError, "memory: expected float32.*float64", {"memory": np.zeros(99)}),
    ],
)
def test_what_cannot_be_is_refused(error, message, change):
    density, photons = fields((4, 4, 4))
    with pytest.raises(error, match=message.replace("(", r"\(").replace(")", r"\)")):
        photon_channels(**{"n_igm": density, "photons": photons, "plan": PLAN, **change})
