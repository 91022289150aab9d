"""Rays from many sources: against a slow twin, against geometry, and against what must not matter."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import config

from reion_kernels import N_SYMMETRIES, black_body_table, symmetry, trace_rays
from reion_kernels.sphere import sphere

TABLE = black_body_table()
CELL_CM = 6e23
UNIT = 1.0 / (TABLE.cross_section_cm2 * CELL_CM)
"""Density of neutral hydrogen, in cm-3, at which a cell has an optical depth of one."""

compiled_only = pytest.mark.skipif(bool(config.DISABLE_JIT), reason="too many cells without JIT")


def rays(tau, positions, rates, radius, **more):
    return trace_rays(
        tau * UNIT, positions, rates, cell_cm=CELL_CM, max_mfp_cells=radius, table=TABLE, **more
    )


ENERGY = np.exp((np.polynomial.legendre.leggauss(300)[0] + 1) / 2 * np.log(10))
PHOTONS = ENERGY**3 / np.expm1(ENERGY * 157887.5 / 5e4) * np.polynomial.legendre.leggauss(300)[1]
CROSS_SECTION = ENERGY**-2.8


def absorbed_of(before, across):
    """Photons absorbed across an optical depth, of one that was sent out, divided by that optical depth."""
    lost = -np.expm1(-across * CROSS_SECTION) / across if across > 0 else CROSS_SECTION
    return PHOTONS @ (np.exp(-before * CROSS_SECTION) * lost) / PHOTONS.sum()


def twin(tau, positions, rates, radius):
    """The textbook's version in float64: a cell at a time, from the source outwards, no photon counted twice.

    Photo-ionisations a second of each atom as C2-Ray has them, without any correction.
    """
    gamma = np.zeros(tau.shape)
    reach = [min(int(radius), n // 2) for n in tau.shape]
    cells = list(itertools.product(*(range(-r, r + 1) for r in reach)))
    cells = sorted((o for o in cells if sum(i * i for i in o) <= radius**2), key=lambda o: max(map(abs, o)))
    for position, rate in zip(positions, rates, strict=True):
        behind = {}
        for offset in cells:
            cell = tuple((p + i) % n for p, i, n in zip(position, offset, tau.shape, strict=True))
            r = math.sqrt(sum(i * i for i in offset))
            n = max(map(abs, offset))
            path = r / n if n else 0.5
            before = 0.0
            if n:
                # The ray crosses the layer before at the offset shrunk by (n - 1) / n.
                crossing = [i * (n - 1) / n for i in offset]
                total = mean = 0.0
                for corner in itertools.product(*({math.floor(c), math.ceil(c)} for c in crossing)):
                    share = math.prod(1 - abs(c - i) for c, i in zip(crossing, corner, strict=True))
                    if share > 1e-12:
                        weight = share / max(0.6, behind[corner])
                        total += weight
                        mean += weight * behind[corner]
                before = mean / total * (path if n == 1 else 1.0)
            across = tau[cell] * path
            behind[offset] = before + across
            volume = 4 * math.pi * r**2 * path if n else 1.0
            gamma[cell] += rate * path / volume * absorbed_of(before, across)
    return gamma * TABLE.cross_section_cm2 / CELL_CM**2


@st.composite
def boxes(draw, widest=8):
    shape = tuple(draw(st.integers(1, widest)) for _ in range(3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    tau = 10.0 ** rng.uniform(-4, draw(st.sampled_from([-1, 1, 3])), shape) * (rng.random(shape) < 0.95)
    count = draw(st.integers(1, 3))
    return tau.astype(draw(st.sampled_from([np.float32, np.float64]))), rng.integers(0, 99, (count, 3)), count


@given(box=boxes(widest=7), radius=st.sampled_from([0.5, 1.0, 1.5, 2.4, 3.0]))
@settings(deadline=None, max_examples=15)
def test_rates_are_those_of_the_slow_twin(box, radius):
    tau, positions, count = box
    rates = 1e52 * np.arange(1.0, count + 1)
    expected = twin(tau.astype(np.float32).astype(float), positions, rates, radius)
    got = rays(tau, positions, rates, radius, conserve=False, threads=1).gamma
    largest = rates.sum() * TABLE.cross_section_cm2 / CELL_CM**2
    assert np.allclose(got, expected, rtol=2e-3, atol=2e-7 * largest)


@compiled_only
def test_rates_far_from_the_source_are_those_of_the_twin():
    rng = np.random.default_rng(3)
    tau = np.where(rng.random((23, 21, 22)) < 0.5, 3e-3, 1.0) * rng.lognormal(0, 0.5, (23, 21, 22))
    positions, rates = [[2, 20, 11]], [1e54]
    got = rays(tau, positions, rates, 10.2, conserve=False).gamma
    expected = twin(tau, positions, rates, 10.2)
    assert ((got > 0) == (expected > 0)).all()
    assert np.allclose(got, expected, rtol=3e-3, atol=1e-6 * expected.max())


@given(box=boxes(widest=6), radius=st.sampled_from([0.7, 2.0, 2.9]))
@settings(deadline=None, max_examples=15)
def test_every_photon_is_absorbed_or_lost(box, radius):
    tau, positions, count = box
    result = rays(tau, positions, [3e53] * count, radius)
    assert result.emitted == pytest.approx(3e53 * count)
    assert result.lost == pytest.approx((result.escaped * 3e53).sum(), rel=1e-6, abs=1e-6 * result.emitted)
    if (np.abs(result.created - 1.25) < 0.75).all():
        assert result.absorbed + result.lost == pytest.approx(result.emitted, rel=1e-5)
    in_cells = (result.gamma * tau).sum() * UNIT * CELL_CM**3
    assert in_cells == pytest.approx(result.absorbed, rel=1e-4, abs=1e-6 * result.emitted)


def test_without_gas_all_photons_are_lost_and_rates_fall_with_the_square_of_the_distance():
    result = rays(np.zeros((9, 9, 9)), [[4, 4, 4]], [1e54], 3.0)
    assert result.lost == pytest.approx(1e54, rel=1e-6)
    assert result.absorbed == 0.0
    distance = np.sqrt(((np.indices((9, 9, 9)) - 4) ** 2).sum(axis=0))
    assert ((result.gamma > 0) == (distance <= 3.0)).all()
    pure = rays(np.zeros((9, 9, 9)), [[4, 4, 4]], [1e54], 3.0, conserve=False).gamma
    near = (distance > 0) & (distance <= 3.0)
    assert np.allclose(pure[near] * distance[near] ** 2, pure[5, 4, 4], rtol=1e-5)


def test_layers_conserve_solid_angle():
    geometry = sphere(9.0, (64, 64, 64), conserve=True)
    angle = geometry.spread[1:] / geometry.path[1:]
    for n in (1, 2, 3, 4, 5):  # the layers that are whole
        assert angle[geometry.layers[n] - 1 : geometry.layers[n + 1] - 1].sum() == pytest.approx(1, rel=1e-5)
    assert geometry.leaving.sum() == pytest.approx(1, rel=1e-5)
    assert np.allclose(geometry.weights[1:].sum(axis=1), 1)


def test_a_wall_casts_a_shadow():
    tau = np.zeros((15, 9, 9))
    tau[5, 3:6, 3:6] = 1e4
    gamma = rays(tau, [[2, 4, 4]], [1e54], 6.5).gamma
    open_sky = rays(np.zeros((15, 9, 9)), [[2, 4, 4]], [1e54], 6.5, conserve=False).gamma
    assert gamma[7, 4, 4] < 1e-6 * open_sky[7, 4, 4]
    assert (gamma[6:8, 3:6, 3:6] < 1e-3 * open_sky[6:8, 3:6, 3:6]).all()
    # Beside the wall it is as bright as without it.
    assert gamma[4, 8, 4] == pytest.approx(open_sky[4, 8, 4], rel=0.1)


@pytest.mark.parametrize("index", range(0, N_SYMMETRIES, 1 if not config.DISABLE_JIT else 11))
def test_turning_the_box_turns_the_rates(index):
    rng = np.random.default_rng(1)
    tau = 10.0 ** rng.uniform(-2, 2, (7, 7, 7))
    sources = np.zeros((7, 7, 7))
    sources[tuple(rng.integers(0, 7, (3, 4)))] = rng.random(4)

    def gamma(tau, sources):
        positions = np.argwhere(sources > 0)
        return rays(tau, positions, sources[tuple(positions.T)], 3.0).gamma

    turned = gamma(symmetry(tau, index), symmetry(sources, index))
    expected = symmetry(gamma(tau, sources), index)
    # The scheme itself prefers no axis: what is left is the order of four float32 additions.
    assert np.allclose(turned, expected, rtol=1e-4, atol=1e-7 * expected.max())


@compiled_only
def test_how_far_the_scheme_is_from_isotropic():
    # Behind uniform gas of an optical depth of one a cell, rates should depend on the distance alone. What
    # interpolation makes of it: columns 8 % too long two cells from the source, less farther away.
    geometry = sphere(15.0, (64,) * 3, conserve=True)
    distance = np.sqrt((geometry.offsets.astype(float) ** 2).sum(axis=1))
    behind = np.zeros(len(distance))
    behind[0] = 0.5
    for n in range(1, len(geometry.layers) - 1):
        here = slice(geometry.layers[n], geometry.layers[n + 1])
        before = behind[geometry.upstream[here] + geometry.layers[n - 1]]
        weight = geometry.weights[here] / np.maximum(0.6, before)
        mean = (weight * before).sum(axis=1) / weight.sum(axis=1)
        behind[here] = (mean * geometry.path[here] if n == 1 else mean) + geometry.path[here]
    error = behind / (distance + 0.5 * geometry.path) - 1
    assert np.abs(error[1:]).max() < 0.09
    assert np.sqrt(np.mean(error[1:] ** 2)) < 0.03


def test_two_sources_add():
    rng = np.random.default_rng(2)
    tau = 10.0 ** rng.uniform(-2, 2, (6, 6, 6))
    a, b = ([0, 1, 2], 2e52), ([3, 3, 1], 5e53)
    together = rays(tau, [a[0], b[0]], [a[1], b[1]], 2.5)
    apart = [rays(tau, [place], [rate], 2.5) for place, rate in (a, b)]
    assert np.allclose(together.gamma, apart[0].gamma + apart[1].gamma, rtol=1e-6)
    assert together.absorbed == pytest.approx(apart[0].absorbed + apart[1].absorbed, rel=1e-7)
    assert np.allclose(together.escaped, [apart[0].escaped[0], apart[1].escaped[0]], rtol=1e-6)
    twice = rays(tau, [a[0], a[0]], [1.5 * a[1], 0.5 * a[1]], 2.5)
    assert np.allclose(twice.gamma, 2 * apart[0].gamma, rtol=1e-6)


def test_threads_change_no_bit(monkeypatch):
    monkeypatch.setattr("reion_kernels.raytracing.GROUPS_A_TASK", 1)
    rng = np.random.default_rng(4)
    shape = (24, 10, 12)
    count, radius = (300, 4.2) if not config.DISABLE_JIT else (60, 1.5)
    tau = 10.0 ** rng.uniform(-3, 3, shape)
    positions, rates = rng.integers(0, 99, (count, 3)), rng.lognormal(100, 2, count)
    one, *more = (rays(tau, positions, rates, radius, threads=threads) for threads in (1, 2, 3, 7))
    for other in more:
        for mine, theirs in zip(one, other, strict=True):
            assert np.array_equal(mine, theirs)
    shuffled = rng.permutation(count)
    again = rays(tau, positions[shuffled], rates[shuffled], radius, threads=2)
    assert np.allclose(again.gamma, one.gamma, rtol=1e-6)


@pytest.mark.parametrize("shift", [(1, 0, 0), (3, 5, 2)])
def test_the_box_is_periodic(shift):
    rng = np.random.default_rng(5)
    tau = 10.0 ** rng.uniform(-2, 1, (6, 7, 8))
    positions, rates = rng.integers(0, 6, (4, 3)), rng.random(4)
    gamma = rays(tau, positions, rates, 2.2).gamma
    moved = rays(np.roll(tau, shift, (0, 1, 2)), positions + shift, rates, 2.2).gamma
    assert np.allclose(moved, np.roll(gamma, shift, (0, 1, 2)), rtol=1e-5)


def test_a_reach_beyond_half_the_box_goes_round_once():
    tau = np.full((4, 5, 5), 0.2)
    far = rays(tau, [[0, 0, 0]], [1e54], 50.0)
    assert (far.gamma > 0).all()
    assert far.absorbed + far.lost == pytest.approx(1e54, rel=1e-5)
    farther = rays(tau, [[0, 0, 0]], [1e54], 5000.0)
    assert np.array_equal(far.gamma, farther.gamma)
    # Half the box away along x there are two nearest images, and nothing prefers one.
    assert np.allclose(far.gamma[1], far.gamma[3], rtol=1e-6)


def test_the_work_for_a_source_does_not_depend_on_the_box():
    small, large = (sphere(3.3, (n, n, n), conserve=True) for n in (8, 4000))
    assert all(np.array_equal(a, b) for a, b in zip(small, large, strict=True))
    tau = np.full((40, 9, 9), 0.3)
    part = rays(tau[:9], [[4, 4, 4]], [1e54], 3.3).gamma
    whole = rays(tau, [[4, 4, 4]], [1e54], 3.3).gamma
    assert np.array_equal(whole[:9], part)
    assert (whole[9:] == 0).all()


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_no_photon_of_a_faint_source_is_lost(share):
    rng = np.random.default_rng(6)
    tau = 10.0 ** rng.uniform(-5, 2, (6, 6, 6))
    positions, rates = np.argwhere(tau > 0)[::3], 1e52 * rng.lognormal(0, 1, 72)
    result = rays(tau, positions, rates, 2.2, faint_share=share)
    assert result.absorbed + result.lost == pytest.approx(rates.sum(), rel=1e-5)
    assert result.lost == pytest.approx(result.escaped @ rates, rel=1e-6)
    in_cells = (result.gamma * tau).sum() * UNIT * CELL_CM**3
    assert in_cells == pytest.approx(result.absorbed, rel=1e-4)
    # Sources that have nobody to share a host with are followed as before.
    lone = rays(tau, positions[:1], rates[:1], 2.2, faint_share=share)
    assert np.array_equal(lone.gamma, rays(tau, positions[:1], rates[:1], 2.2).gamma)


@pytest.mark.parametrize("faint_share", [0.0, 0.6])
@pytest.mark.parametrize("count", [2, 5, 40])
def test_shares_add_up_to_the_whole(count, faint_share):
    rng = np.random.default_rng(5)
    tau = rng.random((7, 6, 5)) * 2
    positions, rates = rng.integers(0, 5, (20, 3)), rng.random(20) * 1e50
    rates[3] = 0.0
    whole = rays(tau, positions, rates, 2.5, faint_share=faint_share)
    shares = [
        rays(tau, positions, rates, 2.5, faint_share=faint_share, share=(number, count))
        for number in range(count)
    ]
    gamma = sum(share.gamma for share in shares)
    np.testing.assert_allclose(gamma, whole.gamma, rtol=1e-5, atol=whole.gamma.max() * 1e-9)
    for name in ("emitted", "absorbed", "lost"):
        assert sum(getattr(share, name) for share in shares) == pytest.approx(getattr(whole, name), rel=1e-6)
    np.testing.assert_allclose(sum(share.escaped for share in shares), whole.escaped, rtol=1e-5)
    np.testing.assert_allclose(np.prod([share.created for share in shares], axis=0), whole.created, rtol=1e-5)


def test_no_sources_no_light():
    dark = rays(np.ones((3, 3, 3)), [], [], 2.0)
    assert (dark.gamma == 0).all()
    assert dark.emitted == dark.absorbed == dark.lost == 0.0
    out = rays(np.ones((3, 3, 3)), [[0, 0, 0]], [0.0], 2.0)
    assert (out.gamma == 0).all()
    assert out.escaped.tolist() == [0.0]


def test_layout_and_precision_of_the_input_do_not_matter():
    tau = (np.arange(60.0).reshape(3, 4, 5) * 0.25).astype(np.float32)
    expected = rays(tau, [[1, 1, 1]], [1.0], 1.5).gamma
    turned = np.asfortranarray(tau)[::-1].copy(order="F")[::-1]
    assert np.allclose(rays(turned, [[1, 1, 1]], [1.0], 1.5).gamma, expected, rtol=1e-6)
    assert np.allclose(rays(tau.astype(np.float64), [[1, 1, 1]], [1.0], 1.5).gamma, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (TypeError, "n_hi: expected a numpy array", {"n_hi": np.ones((3, 3, 3), int)}),
        (ValueError, "n_hi: expected three axes", {"n_hi": np.ones((3, 3))}),
        (ValueError, "n_hi: expected finite densities", {"n_hi": np.full((3, 3, 3), np.nan)}),
        (ValueError, "cell_cm: expected a positive length", {"cell_cm": -1.0}),
        (ValueError, "max_mfp_cells: expected a positive length", {"max_mfp_cells": np.inf}),
        (ValueError, "rates: expected finite numbers", {"rates": [np.nan]}),
        (TypeError, "positions: expected integers", {"positions": [[0.5, 0.0, 0.0]]}),
        (ValueError, "faint_share: expected 0 to 1", {"faint_share": 1.5}),
        (ValueError, "faint_block_cells: expected a positive number", {"faint_block_cells": 0}),
        (ValueError, "share: expected a number from 0", {"share": (2, 2)}),
        (ValueError, "threads: expected a positive number", {"threads": 0}),
    ],
)
def test_bad_input_is_named(error, message, change):
    arguments = {
        "n_hi": np.ones((3, 3, 3)),
        "positions": [[0, 0, 0]],
        "rates": [1.0],
        "cell_cm": 1.0,
        "max_mfp_cells": 1.0,
        "table": TABLE,
    } | change
    with pytest.raises(error, match=message):
        trace_rays(**arguments)
