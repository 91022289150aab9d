"""Gradients of the fused trunk against differences of its definition in float64."""

import importlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reion_kernels import TrunkGradients
from tests.kernels.test_residual_trunk import network, twin

module = importlib.import_module("reion_kernels.trunk_gradients")


def case(shape=(3, 4, 9), crops=2, blocks=2, seed=0, **sizes):
    """Weights, channels, what is added for every crop and stage, and gradients by the answers."""
    weights = network(blocks=blocks, seed=seed, **sizes)
    rng = np.random.default_rng(seed + 1)
    channels = rng.normal(size=(crops, *(n + 2 * blocks for n in shape), len(weights.mix)))
    added = rng.normal(size=(crops, *weights.added.shape))
    upstream = rng.normal(size=(crops, *shape, 2 if weights.error.size else 1))
    return weights, *(array.astype(np.float32) for array in (channels, added, upstream))


def answers_of(weights, channels, added, outputs):
    """The definition, in float64."""
    of_crops = [
        twin(crop.transpose(0, 3, 1, 2), weights._replace(added=stages), outputs).transpose(1, 2, 3, 0)
        for crop, stages in zip(channels, added, strict=True)
    ]
    return np.stack(of_crops)


@given(data=st.data())
@settings(deadline=None, max_examples=25)
def test_gradients_are_what_differences_say(data):
    draw = data.draw
    shape = [draw(st.integers(1, 5)), draw(st.integers(1, 5)), draw(st.integers(1, 20))]
    sizes = {name: draw(st.integers(1, 11)) for name in ("channels", "width", "hidden", "features")}
    sizes |= {"blocks": draw(st.integers(1, 3)), "errors": draw(st.sampled_from([0, 1, 9]))}
    weights, channels, added, upstream = case(shape, draw(st.integers(1, 3)), **sizes)
    outputs = upstream.shape[-1]
    kernels = TrunkGradients(threads=draw(st.integers(1, 3)))
    answers = kernels.answers(channels, weights, added)
    np.testing.assert_allclose(answers, answers_of(weights, channels, added, outputs), rtol=0, atol=3e-6)

    # The spread learns from the features and leaves them alone: each answer has weights of its own.
    rng = np.random.default_rng(9)
    of_spread = [name for name in weights._fields if name.startswith("error_") or name == "error"]
    for output in range(outputs):
        one = np.zeros_like(upstream)
        one[..., output] = upstream[..., output]
        found, by_added = kernels.gradients(one)
        names = [n for n in weights._fields if (n in of_spread) == bool(output)]
        names = [name for name in names if name not in ("added", "error_range")]
        way = {name: rng.normal(size=getattr(weights, name).shape) for name in names}
        stages = rng.normal(size=added.shape) * (1 - output)

        def loss(far, way=way, stages=stages, output=output):
            moved = {name: getattr(weights, name) + far * step for name, step in way.items()}
            told = added + far * stages
            result = answers_of(weights._replace(**moved), channels, told, outputs)
            return float((result[..., output] * upstream[..., output]).sum())

        # A step ten times as long would leave an error of its own: the third derivative is large.
        expected = (loss(1e-5) - loss(-1e-5)) / 2e-5
        parts = [(getattr(found, name) * step).sum(dtype=np.float64) for name, step in way.items()]
        parts.append((by_added * stages).sum(dtype=np.float64))
        assert sum(parts) == pytest.approx(expected, rel=1e-3, abs=2e-4 * (1 + np.abs(parts).sum()))
        for name in set(weights._fields) - set(names) - {"added"}:
            assert not getattr(found, name).any()
        np.testing.assert_allclose(found.added, by_added.sum(axis=0), rtol=1e-4, atol=1e-4)


def test_neither_threads_nor_what_came_before_change_the_result():
    weights, channels, added, upstream = case(crops=3)
    kernels = TrunkGradients(threads=1)
    answers = kernels.answers(channels, weights, added)
    expected, by_added = kernels.gradients(upstream)
    other, *batch = case((5, 2, 17), crops=4, blocks=3, seed=3)
    for threads in (1, 3):
        kernels = TrunkGradients(threads=threads)
        kernels.answers(batch[0], other, batch[1])
        kernels.gradients(batch[2])
        np.testing.assert_array_equal(kernels.answers(channels, weights, added), answers)
        found, again = kernels.gradients(upstream)
        np.testing.assert_array_equal(again, by_added)
        for one, two in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, two)


def test_what_does_not_fit_is_refused():
    weights, channels, added, upstream = case()
    kernels = TrunkGradients()
    with pytest.raises(ValueError, match="upstream: expected the shape of the last answers"):
        kernels.gradients(upstream)
    with pytest.raises(ValueError, match="channels, added: expected"):
        kernels.answers(channels[..., :-1], weights, added)
    with pytest.raises(ValueError, match="channels, added: expected"):
        kernels.answers(channels[:, :4], weights, added)
    with pytest.raises(ValueError, match="channels, added: expected"):
        kernels.answers(channels, weights, added[:1])
    with pytest.raises(ValueError, match="spread: expected"):
        kernels.answers(channels, weights._replace(spread=weights.spread[:1]), added)
    kernels.answers(channels, weights, added)
    with pytest.raises(ValueError, match="upstream: expected the shape of the last answers"):
        kernels.gradients(upstream[:, :, :1])
