"""Training steps by kernels of our own change the weights as those of Keras' layers do."""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("keras")

import keras

from reion.config import load_config
from reion.models.build import build_model
from reion.training import stepping
from tests.tiny import TINY_NETWORK

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="they are for TensorFlow")
TRANSPORT = (
    "model.name=transport",
    "model.smoothing_mpc=[4]",
    "model.diffusion_mpc=[4,4]",
    "model.width=5",
    "model.hidden=3",
    "model.blocks=2",
    "training.crop_cells=5",
)
NETWORKS = {
    "reion": TINY_NETWORK,
    "transport": TRANSPORT,
    "transport without a spread": (*TRANSPORT, "model.spread=false"),
}
NORMALIZER = SimpleNamespace(xi_mean=0.0, xi_std=1.0)


def compiled(settings, *, kernels, monkeypatch):
    """A fresh network, what takes its steps, and a batch."""
    config = load_config(settings=[*settings, "training.batch_size=3"])
    model = build_model(config)
    with monkeypatch.context() as patch:
        if not kernels:
            patch.setattr(stepping, "_fused_settings", lambda model: None)
        steps = stepping.compile_trunk(model, NORMALIZER)
    rng = np.random.default_rng(0)
    cells = config.training.crop_cells
    side = cells + 2 * model.trunk_radius_cells
    channels, conditions = (
        rng.normal(size=(3, *(side,) * 3, model.trunk.inputs[0].shape[-1])),
        rng.normal(size=(3, model.trunk.inputs[1].shape[-1])),
    )
    xi = rng.random((3, cells, cells, cells, 1))
    return model.trunk, steps, [channels.astype("f4"), conditions.astype("f4")], xi.astype("f4")


@pytest.mark.parametrize("network", NETWORKS)
def test_the_same_steps(network, monkeypatch):
    trained = []
    for kernels in (False, True):
        trunk, steps, inputs, xi = compiled(NETWORKS[network], kernels=kernels, monkeypatch=monkeypatch)
        assert isinstance(steps, stepping.FusedTrunk) == kernels
        # All weights move: a bias that starts at zero hides what is wrong behind it.
        for number, variable in enumerate(trunk.trainable_variables):
            rng = np.random.default_rng(number)
            variable.assign(variable + 0.1 * rng.normal(size=variable.shape))
        losses = [float(steps.train_on_batch(inputs, xi)) for _ in range(3)]
        trained.append((losses, trunk))
    (expected, layers), (losses, fused) = trained
    np.testing.assert_allclose(losses, expected, rtol=2e-6)
    assert losses[0] != losses[2]
    for one, two in zip(layers.trainable_variables, fused.trainable_variables, strict=True):
        np.testing.assert_allclose(np.asarray(one), np.asarray(two), rtol=1e-3, atol=3e-5, err_msg=one.path)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_same_predictions(network, monkeypatch):
    trunk, steps, inputs, _ = compiled(NETWORKS[network], kernels=True, monkeypatch=monkeypatch)
    for number, variable in enumerate(trunk.trainable_variables):
        variable.assign(variable + 0.1 * np.random.default_rng(number).normal(size=variable.shape))
    found, expected = (np.asarray(one(inputs, training=False)) for one in (steps, trunk))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.std() > 0.01


@pytest.mark.parametrize(
    "settings",
    [
        ("model.symmetric=false",),
        ("model.blocks=0",),
        ("training.precision=mixed_bfloat16",),
    ],
)
def test_other_networks_take_their_own_steps(settings, monkeypatch):
    config = load_config(settings=[*TINY_NETWORK, *settings])
    model = build_model(config, precision=config.training.precision.replace("auto", "float32"))
    assert stepping.compile_trunk(model, NORMALIZER) is model.trunk
