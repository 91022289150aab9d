"""The fused trunk against convolutions written out in float64."""

import importlib
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import config

from reion_kernels.residual_trunk import TrunkWeights, residual_trunk, trunk_scratch_bytes

module = importlib.import_module("reion_kernels.residual_trunk")  # the package gives the function

compiled_only = pytest.mark.skipif(bool(config.DISABLE_JIT), reason="nothing is compiled without JIT")


def network(channels=5, width=6, hidden=3, blocks=2, features=7, errors=5, seed=0):
    """Random weights whose answers are neither all zero nor all one."""
    rng = np.random.default_rng(seed)

    def some(*shape):
        inputs = shape[-2] if len(shape) > 1 else 4
        return (rng.normal(size=shape) / np.sqrt(max(1, inputs))).astype(np.float32)

    of_error = features if errors else 0
    return TrunkWeights(
        some(channels, width),
        some(1 + blocks, width),
        some(blocks, 4 * width, hidden) / np.float32(3),
        some(blocks, hidden),
        some(blocks, hidden, width),
        some(width, features),
        some(features),
        some(features, 1),
        some(1),
        some(of_error, errors),
        some(errors),
        some(errors, min(1, errors)),
        some(min(1, errors)),
        np.array([0.01, 0.5], dtype=np.float32),
    )


def channels_of(shape, channels=5, blocks=2, seed=1):
    x, y, z = (n + 2 * blocks for n in shape)
    return np.random.default_rng(seed).normal(size=(x, channels, y, z)).astype(np.float32)


def logistic(values):
    return 1 / (1 + np.exp(-values))


def silu(values):
    return values * logistic(values)


def pointwise(values, weights, added):
    return np.einsum("xiyz,io->xoyz", values, weights.astype(np.float64)) + added[:, None, None]


def twin(channels, weights, count):
    """The definition in float64: xi and, if asked for, the spread of its error."""
    values = silu(pointwise(channels.astype(np.float64), weights.mix, weights.added[0]))
    for block in range(len(weights.back)):
        x, width, y, z = values.shape
        kinds = weights.spread[block].reshape(width, 4, -1).astype(np.float64)
        spread = weights.spread_added[block][:, None, None].astype(np.float64)
        for i, j, k in np.ndindex(3, 3, 3):
            shifted = values[i : x - 2 + i, :, j : y - 2 + j, k : z - 2 + k]
            kind = abs(i - 1) + abs(j - 1) + abs(k - 1)
            spread = spread + np.einsum("xiyz,io->xoyz", shifted, kinds[:, kind])
        mixed = pointwise(silu(spread), weights.back[block], weights.added[block + 1])
        values = silu(values[1:-1, :, 1:-1, 1:-1] + mixed)
    features = silu(pointwise(values, weights.head, weights.head_added))
    answers = [logistic(pointwise(features, weights.xi, weights.xi_added))[:, 0]]
    if count > 1:
        error = silu(pointwise(features, weights.error, weights.error_added))
        least, more = weights.error_range.astype(np.float64)
        answers.append(
            logistic(pointwise(error, weights.error_xi, weights.error_xi_added))[:, 0] * more + least
        )
    return np.stack(answers)


@given(data=st.data())
@settings(deadline=None, max_examples=30)
def test_it_is_what_its_definition_says(data):
    draw = data.draw
    shape = [draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(st.integers(1, 40))]
    sizes = {name: draw(st.integers(1, 21)) for name in ("channels", "width", "hidden", "features")}
    blocks, errors = draw(st.integers(0, 3)), draw(st.sampled_from([0, 1, 8, 13]))
    weights = network(**sizes, blocks=blocks, errors=errors)
    channels = channels_of(shape, sizes["channels"], blocks)
    answers = np.full((2 if errors else 1, *shape), np.nan, dtype=np.float32)
    residual_trunk(channels, weights, answers, threads=draw(st.integers(1, 3)))
    np.testing.assert_allclose(answers, twin(channels, weights, len(answers)), rtol=0, atol=3e-6)


@pytest.mark.parametrize("periodic", list(np.ndindex(2, 2, 2)))
@pytest.mark.parametrize("shape", [(6, 7, 11), (1, 2, 1), (3, 4, 16)])
@pytest.mark.parametrize("longest", [0, 128])
def test_a_box_goes_round(shape, longest, periodic, monkeypatch):
    """Whether its tiles are as long as the box along z, or shorter and with a halo."""
    monkeypatch.setattr(module, "_TILE_CELLS", (4, 3, 5))
    monkeypatch.setattr(module, "_WRAPPED_CELLS", longest)
    weights, channels = network(), channels_of(shape, blocks=0)

    def haloed(wraps):
        x, y, z = ((0, 0) if whole else (2, 2) for whole in wraps)
        return np.pad(channels, [x, (0, 0), y, z], mode="wrap")

    expected, received = (np.empty((1, *shape), dtype=np.float32) for _ in range(2))
    residual_trunk(haloed((0, 0, 0)), weights, expected)
    residual_trunk(haloed(periodic), weights, received, periodic=periodic)
    np.testing.assert_array_equal(received, expected)


def test_tiles_and_threads_change_nothing(monkeypatch):
    weights, shape = network(), (20, 7, 19)
    channels = channels_of(shape)
    whole, parts = (np.empty((2, *shape), dtype=np.float32) for _ in range(2))
    residual_trunk(channels, weights, whole, threads=1)
    monkeypatch.setattr(module, "_TILE_CELLS", (5, 3, 4))
    residual_trunk(channels, weights, parts, threads=3)
    np.testing.assert_array_equal(parts, whole)
    alone = np.empty((1, *shape), dtype=np.float32)
    residual_trunk(channels, weights, alone)
    np.testing.assert_array_equal(alone[0], whole[0])


@pytest.mark.parametrize("threads", [1, 2, 16])
@pytest.mark.parametrize("shape", [(1, 1, 1), (64, 64, 64), (300, 5, 700), (3, 200, 65)])
@pytest.mark.parametrize("is_wrapped", [False, True])
def test_tiles_fill_a_box_once(shape, threads, is_wrapped):
    count = np.zeros(shape, dtype=int)
    x, y, z = module._TILE_CELLS
    for low, high in module.tiles(shape, threads, is_wrapped):
        largest = (x, y, shape[2] if is_wrapped else z)
        assert all(a < b <= a + most for a, b, most in zip(low, high, largest, strict=True))
        count[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] += 1
    assert (count == 1).all()


def test_extreme_channels_give_fractions_and_no_number_gives_none():
    weights, shape = network(), (3, 4, 9)
    channels = channels_of(shape)
    channels[:3] *= 1e4
    channels[-1, 0, -1, -1] = np.nan
    answers = np.empty((2, *shape), dtype=np.float32)
    residual_trunk(channels, weights, answers)
    assert np.isnan(answers[0, -1, -1, -1])
    assert np.isfinite(answers[0, 0]).all()
    assert (answers[0, 0] >= 0).all()
    assert (answers[0, 0] <= 1).all()


def test_a_tile_takes_the_memory_that_it_says():
    weights = network(width=16, hidden=12)
    planes = 3 * 3 * 16 * (32 + 4) * 152 * 4
    assert planes < trunk_scratch_bytes(weights) < 1.1 * planes


@pytest.mark.parametrize(
    ("message", "change"),
    [
        (r"channels: expected a contiguous array of float32.*float64", {"channels": np.zeros((7, 5, 8, 9))}),
        (r"channels: expected \(7, 5, 8, 9\)", {"channels": np.zeros((7, 5, 9, 8), dtype=np.float32)}),
        (r"answers: expected 1, or 2.*3", {"answers": np.zeros((3, 3, 4, 5), dtype=np.float32)}),
        (r"answers: expected 1, or 2.*2", {"weights": network(errors=0)}),
        (r"head: expected \(6, 7\)", {"weights": network()._replace(head=np.zeros((5, 7), np.float32))}),
        (
            r"spread: expected \(2, 24, 3\)",
            {"weights": network()._replace(spread=np.zeros((2, 6, 3), np.float32))},
        ),
        (r"threads: expected a positive number", {"threads": 0}),
    ],
)
def test_what_cannot_be_is_refused(message, change):
    given_ = {
        "channels": np.zeros((7, 5, 8, 9), dtype=np.float32),
        "weights": network(),
        "answers": np.zeros((2, 3, 4, 5), dtype=np.float32),
    }
    with pytest.raises(ValueError, match=message):
        residual_trunk(**{**given_, **change})


PLAIN = """
import numpy as np, sys
from tests.kernels.test_residual_trunk import channels_of, network, twin
from reion_kernels.residual_trunk import residual_trunk
channels, weights = channels_of((5, 6, 21)), network()
answers = np.empty((2, 5, 6, 21), np.float32)
residual_trunk(channels, weights, answers)
print(np.abs(answers - twin(channels, weights, 2)).max())
"""


@compiled_only
@pytest.mark.slow
def test_a_processor_without_wide_vectors_computes_the_same(tmp_path):
    environment = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", PLAIN],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout) < 3e-6
