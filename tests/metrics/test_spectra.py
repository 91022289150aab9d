"""Power ratio and cross-correlation: by brute force over modes, and for fields whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reion import InputError
from reion.metrics import (
    cross_coefficient,
    cross_correlation,
    power_ratio,
    power_spectrum,
    transfer_function,
)
from reion.metrics.spectra import BANDS, Modes

BOX_MPC = 40.0


def noise(seed, shape=(20, 20, 20)):
    return np.random.default_rng(seed).normal(size=shape)


def brute_force(pred, true, box_mpc, name):
    """DESIGN's definition, mode by mode over the full complex transform."""
    n = np.array(true.shape)
    lengths = np.broadcast_to(box_mpc, 3)
    p, t = np.fft.fftn(pred - pred.mean()), np.fft.fftn(true - true.mean())
    k = np.linalg.norm(
        np.meshgrid(
            *(2 * np.pi * np.fft.fftfreq(m, d=length / m) for m, length in zip(n, lengths, strict=True)),
            indexing="ij",
        ),
        axis=0,
    )
    nyquist = np.pi / max(lengths / n)
    low, high = (0.8 * nyquist, nyquist) if name == "nyquist" else (0.8 * float(name), 1.2 * float(name))
    inside = (k >= low - 1e-12) & (k <= high + 1e-12)
    if not inside.any():
        return None, None
    tt, pp = (np.abs(t[inside]) ** 2).sum(), (np.abs(p[inside]) ** 2).sum()
    return pp / tt, (t[inside] * p[inside].conj()).real.sum() / np.sqrt(tt * pp)


@settings(deadline=None, max_examples=15)
@given(
    seed=st.integers(0, 1000),
    shape=st.tuples(*[st.integers(8, 15)] * 3),
    box_mpc=st.sampled_from([25.0, (20.0, 31.0, 27.0), 120.0]),
)
def test_bands_agree_with_a_sum_over_all_modes(seed, shape, box_mpc):
    pred, true = noise(seed, shape), noise(seed + 1, shape)
    pred += true
    ratio, correlation = power_ratio(pred, true, box_mpc), cross_correlation(pred, true, box_mpc)
    assert tuple(ratio) == BANDS
    for name in BANDS:
        expected_ratio, expected_correlation = brute_force(pred, true, box_mpc, name)
        assert ratio[name] == (expected_ratio and pytest.approx(expected_ratio, rel=1e-9))
        assert correlation[name] == (expected_correlation and pytest.approx(expected_correlation, rel=1e-9))


def test_identical_fields_have_ratio_and_correlation_one():
    field = noise(0)
    for name in ("0.5", "1.0", "nyquist"):
        assert power_ratio(field, field, BOX_MPC)[name] == pytest.approx(1.0, abs=1e-14)
        assert cross_correlation(field, field, BOX_MPC)[name] == pytest.approx(1.0, abs=1e-14)
        assert cross_correlation(-2 * field + 3, field, BOX_MPC)[name] == pytest.approx(-1.0, abs=1e-14)
        assert power_ratio(-2 * field + 3, field, BOX_MPC)[name] == pytest.approx(4.0, abs=1e-12)


def test_independent_fields_do_not_correlate():
    pred, true = noise(1), noise(2)
    modes = Modes.of(true, BOX_MPC)
    for name, value in cross_correlation(pred, true, BOX_MPC).items():
        independent = modes.bands[name][1].sum() / 2
        assert value is None or abs(value) < 4 / np.sqrt(independent)


def test_uniform_fields_and_empty_bands_are_undefined():
    field = noise(0)
    uniform = np.full(field.shape, 0.3, dtype=np.float32)
    assert set(power_ratio(field, uniform, BOX_MPC).values()) == {None}
    assert set(cross_correlation(uniform, field, BOX_MPC).values()) == {None}
    assert power_ratio(uniform, field, BOX_MPC)["1.0"] == 0.0
    assert power_ratio(field, field, BOX_MPC)["0.1"] is None  # the lowest mode of 40 Mpc is 0.157
    assert cross_correlation(field, field, BOX_MPC)["0.1"] is None


@pytest.mark.parametrize("box", [0.0, -3.0, np.nan, (1.0, 2.0), (1.0, 2.0, 0.0)])
def test_a_box_size_that_is_none_is_refused(box):
    with pytest.raises(InputError, match="box size"):
        power_ratio(noise(0), noise(1), box)


def gaussian_field(seed, n=48, box_mpc=96.0):
    """A Gaussian random field of power 100 / (1 + (k / 0.3)^2) Mpc3."""
    noise = np.random.default_rng(seed).normal(size=(n, n, n))
    k = 2 * np.pi * np.fft.fftfreq(n, box_mpc / n)
    k = np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k[: n // 2 + 1] ** 2)
    amplitude = np.sqrt(known_power(k) / (box_mpc / n) ** 3)
    return np.fft.irfftn(np.fft.rfftn(noise) * amplitude, noise.shape, (0, 1, 2)), box_mpc


def known_power(k):
    return 100 / (1 + (k / 0.3) ** 2)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_known_spectrum_is_recovered_within_its_errors(seed):
    field, box_mpc = gaussian_field(seed)
    spectrum = power_spectrum(field, box_mpc)
    pull = (spectrum.power / known_power(spectrum.k) - 1) / spectrum.relative_error
    # Within a shell the power is not exactly that at the mean k: 3 % at most, in the lowest shells.
    systematic = 0.03 / spectrum.relative_error
    assert np.all(np.abs(pull) < 4 + systematic)
    assert np.mean(pull**2) < 3


def test_power_agrees_with_powerbox():
    powerbox = pytest.importorskip("powerbox", minversion="1.0")
    field, box_mpc = gaussian_field(3, n=32, box_mpc=64.0)
    spectrum = power_spectrum(field, box_mpc)
    lowest, nyquist = 2 * np.pi / box_mpc, np.pi / 2.0
    edges = [0.5 * lowest]
    while edges[-1] < nyquist:
        edges.append(min(max(edges[-1] + lowest, edges[-1] * 1.25), nyquist * (1 + 1e-9)))
    theirs = powerbox.get_power(field - field.mean(), box_mpc, bins=np.array(edges), ignore_zero_mode=True)
    assert spectrum.k == pytest.approx(theirs.bin_avg, rel=1e-9)
    assert spectrum.power == pytest.approx(theirs.power, rel=1e-9)
    assert spectrum.modes == pytest.approx(theirs.nsamples)


def test_dimensionless_power_is_the_variance_per_logarithm_of_k():
    field, box_mpc = gaussian_field(4)
    modes = Modes.of(field, box_mpc)
    spectrum = power_spectrum(field, box_mpc)
    inside = modes.shell_modes.sum() / field.size
    # Parseval: the modes in all shells carry the variance, but for the corners beyond the Nyquist wavenumber.
    shells = (spectrum.power * spectrum.modes).sum() / box_mpc**3
    assert 0.5 < inside < 0.53
    assert shells == pytest.approx(field.var(), rel=0.25)
    assert spectrum.dimensionless == pytest.approx(spectrum.power * spectrum.k**3 / (2 * np.pi**2))


def test_transfer_function_and_coefficient_of_a_scaled_field_plus_noise():
    field, box_mpc = gaussian_field(5)
    other, _ = gaussian_field(6)
    k, transfer = transfer_function(2 * field, field, box_mpc)
    assert transfer == pytest.approx(2.0)
    assert cross_coefficient(field, field, box_mpc)[1] == pytest.approx(1.0)
    modes = Modes.of(field, box_mpc).shell_modes
    assert np.all(np.abs(cross_coefficient(field, other, box_mpc)[1]) < 4 * np.sqrt(2 / modes))
    mixed = cross_coefficient(field + other, field, box_mpc)[1]
    assert mixed[-5:] == pytest.approx(np.sqrt(0.5), abs=0.05)
    assert k.shape == mixed.shape
    uniform = np.zeros(field.shape)
    assert np.isnan(cross_coefficient(field, uniform, box_mpc)[1]).all()
    assert np.isnan(transfer_function(field, uniform, box_mpc)[1]).all()
    assert transfer_function(uniform, field, box_mpc)[1] == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("shape", "box_mpc"), [((1, 1, 1), 2.0), ((2, 3, 4), (4.0, 6.0, 8.0)), ((5, 5, 5), 9.0)]
)
def test_tiny_boxes_have_every_mode_in_one_shell_or_none(shape, box_mpc):
    spectrum = power_spectrum(noise(0, shape), box_mpc)
    assert spectrum.modes.sum() < np.prod(shape)
    assert np.all(spectrum.modes > 0)
    assert np.isfinite(spectrum.power).all()
