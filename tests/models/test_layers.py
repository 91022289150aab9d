"""What the layers compute in training: the values and gradients of plain convolutions."""

from __future__ import annotations

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from reion.models.layers import PointwiseConv3D, SymmetricConv3D  # noqa: E402


def gradients(layer, values, upstream, *, training):
    """Of the sum of `upstream` times the layer's output: for the values, and for each weight."""
    variables = [variable.value for variable in layer.trainable_variables]
    match keras.backend.backend():
        case "tensorflow":
            import tensorflow as tf

            values = tf.constant(values)
            with tf.GradientTape() as tape:
                tape.watch(values)
                total = tf.reduce_sum(layer(values, training=training) * upstream)
            found = tape.gradient(total, [values, *variables])
            return [np.asarray(tf.convert_to_tensor(each)) for each in found]
        case "jax":
            import jax

            def total(values, variables):
                made, _ = layer.stateless_call(variables, [], values, training=training)
                return (made * upstream).sum()

            of_values, of_variables = jax.grad(total, (0, 1))(values, variables)
            return [np.asarray(each) for each in (of_values, *of_variables)]
        case _:
            values = keras.ops.convert_to_tensor(values).requires_grad_()
            for variable in variables:
                variable.grad = None
            (layer(values, training=training) * keras.ops.convert_to_tensor(upstream)).sum().backward()
            return [each.grad.cpu().numpy() for each in (values, *variables)]


@pytest.mark.parametrize(
    ("kind", "by_sums"), [(SymmetricConv3D, True), (SymmetricConv3D, False), (PointwiseConv3D, None)]
)
@pytest.mark.parametrize("shape", [(2, 5, 7, 6, 3), (1, 3, 3, 3, 4)])
def test_training_has_the_values_and_gradients_of_the_convolution(kind, by_sums, shape):
    keras.utils.set_random_seed(0)  # of the weights: with some, one cell has gradients of hardly anything
    rng = np.random.default_rng(0)
    values = rng.normal(size=shape).astype(np.float32)
    layer = kind(5, activation="silu")
    if by_sums is not None:
        layer.by_sums = by_sums
    plain = keras.ops.convert_to_numpy(layer(values))
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(layer(values, training=True)), plain, rtol=1e-5, atol=1e-6
    )
    upstream = rng.normal(size=plain.shape).astype(np.float32)
    expected = gradients(layer, values, upstream, training=False)
    assert all(np.abs(each).max() > 0.1 for each in expected)
    for mine, theirs in zip(gradients(layer, values, upstream, training=True), expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


def test_the_orbits_are_those_of_the_cube():
    """A kernel that is one at one orbit sums the neighbours that lie so many steps away."""
    values = np.random.default_rng(1).normal(size=(1, 3, 3, 3, 1)).astype(np.float32)
    layer = SymmetricConv3D(1)
    layer.build(values.shape)
    steps = np.abs(np.indices((3, 3, 3)) - 1).sum(axis=0)
    for orbit, count in enumerate((1, 6, 12, 8)):
        assert (steps == orbit).sum() == count
        layer.kernel.assign(np.eye(4, dtype=np.float32)[orbit].reshape(4, 1, 1))
        found = float(keras.ops.convert_to_numpy(layer(values)).item())
        assert found == pytest.approx(values[0, ..., 0][steps == orbit].sum(), abs=1e-5)
