"""Power ratio and cross-correlation: by brute force over modes, and for fields whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reion import InputError
from reion.metrics import cross_correlation, power_ratio
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
