"""A time step of reionisation, against answers on paper (Iliev et al. 2006, test 1)."""

import itertools
import math

import numpy as np
import pytest
from numba import config

from reion_kernels import black_body_table, evolve_step

TABLE = black_body_table()
MPC = 3.0856775814913673e24
ALPHA = 2.59e-13
Z = 9.0
N_H = 1.9e-7 * (1 + Z) ** 3

compiled_only = pytest.mark.skipif(bool(config.DISABLE_JIT), reason="too many cells without JIT")


def shine(n_h, xi, positions, rates, cell_mpc, seconds, **more):
    settings = {"cell_cm": cell_mpc * MPC / (1 + Z), "seconds": seconds, "max_mfp_cells": 60.0} | more
    return evolve_step(n_h, xi, positions, rates, table=TABLE, **settings)


def uniform_sphere(cells, radius_cells, cell_mpc, steps, seconds, rate, clumping):
    """Radius of the same volume of ionised gas, in cells, after each step, and the photons of all steps."""
    xi = np.full((cells,) * 3, 1e-6)
    n_h = np.full(xi.shape, N_H)
    count = np.zeros(7)
    for _ in range(steps):
        step = shine(n_h, xi, [[cells // 2] * 3], [rate], cell_mpc, seconds / steps, clumping=clumping)
        assert step.converged
        xi = step.xi
        count += step.photons
        yield (3 * (xi - 1e-6).sum() / (4 * math.pi)) ** (1 / 3), count


@compiled_only
@pytest.mark.parametrize("cell_mpc", [1.0, 2.0])
def test_without_recombinations_the_ionised_volume_is_photons_over_atoms(cell_mpc):
    cells, radius, seconds, steps = 23, 9.0, 1e16, 8
    volume = 4 / 3 * math.pi * (radius * cell_mpc * MPC / (1 + Z)) ** 3
    run = uniform_sphere(cells, radius, cell_mpc, steps, seconds, volume * N_H / seconds, 0.0)
    for i, (measured, _) in enumerate(run):
        assert measured == pytest.approx(radius * ((i + 1) / steps) ** (1 / 3), rel=0.002)


@compiled_only
@pytest.mark.slow
@pytest.mark.parametrize("cell_mpc", [1.0, 2.0])
def test_with_recombinations_the_front_runs_into_the_stroemgren_radius(cell_mpc):
    # Cells that are half ionised recombine less than their ionised half would: 20 cells to the radius keep
    # that below 0.8 % of it, 15 below 1.1 %.
    cells, radius, steps = 45, 20.0, 32
    recombination_time = 1 / (ALPHA * N_H)
    seconds = 1.8 * recombination_time
    volume = 4 / 3 * math.pi * (radius * cell_mpc * MPC / (1 + Z)) ** 3
    run = uniform_sphere(cells, radius, cell_mpc, steps, seconds, volume * N_H**2 * ALPHA, 1.0)
    for i, (measured, count) in enumerate(run):
        time = (i + 1) / steps * seconds / recombination_time
        expected = radius * (1 - math.exp(-time)) ** (1 / 3)
        assert measured == pytest.approx(expected, rel=0.01)
        emitted, _, lost, *_, recombinations, ionised = count
        assert ionised + recombinations == pytest.approx(emitted - lost, rel=0.005)


def clumpy(shape, seed=0):
    rng = np.random.default_rng(seed)
    return N_H * rng.lognormal(-0.1, 0.5, shape), rng


def test_photons_are_counted_in_clumpy_gas():
    wide = not config.DISABLE_JIT
    n_h, rng = clumpy((16, 16, 16) if wide else (4, 4, 4))
    sources = 12 if wide else 2
    positions, rates = rng.integers(0, 16, (sources, 3)), 1e53 * rng.lognormal(0, 1, sources)
    xi = np.full(n_h.shape, 2e-4)
    reports = []
    step = shine(
        n_h,
        xi,
        positions,
        rates,
        2.0,
        2e15,
        max_mfp_cells=5.5 if wide else 1.8,
        progress=lambda *a: reports.append(a),
    )
    photons = step.photons
    assert step.converged
    assert len(reports) == step.iterations
    assert reports[-1] == (step.iterations, pytest.approx(step.xi.mean()))
    assert photons.absorbed + photons.lost == pytest.approx(photons.emitted, rel=1e-4)
    assert photons.ionised + photons.recombinations == pytest.approx(
        photons.emitted - photons.lost, rel=0.005
    )
    volume = (2.0 * MPC / (1 + Z)) ** 3
    assert photons.ionised == pytest.approx((n_h * (step.xi - xi)).sum() * volume, rel=1e-4)


def test_in_the_dark_gas_recombines():
    n_h, xi = np.full((2, 2, 2), N_H), np.ones((2, 2, 2))
    step = shine(n_h, xi, [], [], 2.0, 1e16)
    assert step.converged
    assert step.photons.emitted == 0.0
    assert (step.xi < 1.0).all()
    assert (step.gamma == 0.0).all()


def test_it_stops_where_it_is_told_and_says_so():
    n_h, xi = np.full((3, 3, 3), N_H), np.zeros((3, 3, 3))
    step = shine(n_h, xi, [[1, 1, 1]], [1e54], 2.0, 1e15, max_mfp_cells=1.2, max_iterations=2)
    assert step.iterations == 2
    assert not step.converged


@compiled_only
def test_the_answer_is_that_of_patient_iteration(monkeypatch):
    # Haste changes the way and not the end.
    n_h, rng = clumpy((14, 14, 14), seed=1)
    arguments = (n_h, np.full(n_h.shape, 2e-4), rng.integers(0, 14, (6, 3)), [3e53] * 6, 2.0, 3e15)
    exact = {"max_mfp_cells": 6.0, "tolerance": 1e-7, "photon_tolerance": 1e-5, "max_iterations": 400}
    fast = shine(*arguments, **exact)
    usual = shine(*arguments, max_mfp_cells=6.0)
    monkeypatch.setattr("reion_kernels.evolution.HASTE", 1.0)
    patient = shine(*arguments, **exact)
    assert fast.converged
    assert patient.converged
    assert fast.iterations < 0.6 * patient.iterations
    assert np.allclose(fast.xi, patient.xi, atol=2e-3)
    assert fast.xi.mean() == pytest.approx(patient.xi.mean(), rel=1e-4)
    assert usual.xi.mean() == pytest.approx(patient.xi.mean(), rel=3e-3)


@compiled_only
def test_threads_change_no_bit():
    n_h, rng = clumpy((12, 12, 12))
    arguments = (n_h, np.full(n_h.shape, 2e-4), rng.integers(0, 12, (40, 3)), [1e53] * 40, 2.0, 1e15)
    one, two = (shine(*arguments, max_mfp_cells=4.0, threads=threads) for threads in (1, 2))
    assert np.array_equal(one.xi, two.xi)
    assert one.photons == two.photons


@compiled_only
@pytest.mark.parametrize(
    ("photons", "share", "block_cells", "error"),
    [
        (0.2, 0.3, 2, 0.001),
        (0.2, 0.6, 4, 0.01),
        (0.4, 0.3, 2, 0.006),
        (0.4, 0.6, 2, 0.025),
        (0.4, 0.6, 4, 0.06),
    ],
)
def test_what_hosts_for_faint_sources_cost(photons, share, block_cells, error):
    # Every cell emits, as unevenly as in 21cmFAST but without its clustering, so many photons an atom. The
    # error, mean |xi - xi of all sources followed| / mean xi, grows as faint cells become transparent.
    n_h, rng = clumpy((14, 14, 14), seed=2)
    positions = np.array(list(itertools.product(range(14), repeat=3)))
    rates = rng.lognormal(0, 1.5, len(positions))
    volume = (14 * 2.0 * MPC / (1 + Z)) ** 3
    rates *= photons * N_H * volume / 5e15 / rates.sum()
    xi = np.full(n_h.shape, 2e-4)
    exact, fast = (
        shine(
            n_h,
            xi,
            positions,
            rates,
            2.0,
            5e15,
            max_mfp_cells=3.0,
            faint_share=part,
            faint_block_cells=block_cells,
        )
        for part in (0.0, share)
    )
    assert np.abs(fast.xi - exact.xi).mean() < error * exact.xi.mean()
    assert fast.xi.mean() == pytest.approx(exact.xi.mean(), rel=0.2 * error)


@pytest.mark.parametrize(
    ("message", "change"),
    [
        ("tolerance: expected a share between 0 and 1", {"tolerance": 0.0}),
        ("photon_tolerance: expected a share", {"photon_tolerance": 2.0}),
        ("max_iterations: expected a positive number", {"max_iterations": 0}),
        ("cell_cm: expected a positive length", {"cell_cm": math.nan}),
    ],
)
def test_bad_settings_are_named(message, change):
    ones = np.full((2, 2, 2), 0.5)
    with pytest.raises(ValueError, match=message):
        shine(ones, ones, [[0, 0, 0]], [1.0], 2.0, 1e15, **({"max_mfp_cells": 1.0} | change))


def test_a_step_takes_time():
    with pytest.raises(ValueError, match="seconds: expected a positive time"):
        shine(np.ones((1, 1, 1)), np.ones((1, 1, 1)), [], [], 2.0, -1.0)


def test_fields_of_different_shapes_are_named():
    with pytest.raises(ValueError, match="xi: expected the shape of n_h"):
        shine(np.ones((2, 2, 2)), np.ones((2, 2, 3)), [], [], 2.0, 1e15)
