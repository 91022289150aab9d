"""What takes the training steps of a network: its trunk, or kernels of our own in the place of its layers."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import keras
import numpy as np
from keras import ops

from reion.errors import InputError
from reion.jobs.resources import threads_to_use
from reion.models import trunks
from reion.models.build import Model
from reion.models.layers import SymmetricConv3D
from reion.models.normalizer import Normalizer
from reion.models.shapes import Channels, Conditions
from reion.networks import ReionModel, TransportModel
from reion.training.devices import has_gpu
from reion.training.gradients import average_gradients
from reion.training.losses import build_loss
from reion.training.optimizer import build_optimizer
from reion.training.processes import Processes
from reion_kernels.residual_trunk import TrunkWeights, residual_trunk
from reion_kernels.trunk_gradients import TrunkGradients

_FIRST_CONDITIONS = {"reion": "redshift", "transport": "conditions"}
"""The name of the layers that tell the first stage of a trunk its conditions."""


class FusedTrunk(keras.Model):  # type: ignore[misc]  # Keras is untyped
    """A trunk in training whose answers and gradients come from kernels, not from its layers.

    Its layers compute what conditions add to every stage. Kernels compute all else: in a step
    `reion_kernels.trunk_gradients`, called from within TensorFlow's compiled step, and for predictions
    `reion_kernels.residual_trunk`, which keeps nothing and takes less time and memory. The weights are those
    of the trunk's layers.

    Attributes
    ----------
    trunk
        The trunk whose weights are trained; it stays the one that is saved and exported.
    """

    def __init__(self, trunk: keras.Model, settings: ReionModel | TransportModel) -> None:
        super().__init__(name="fused")
        self.trunk = trunk
        self._blocks = settings.blocks
        self._has_spread = isinstance(settings, TransportModel) and settings.spread
        self._tells_blocks = isinstance(settings, TransportModel)
        self._kernels = TrunkGradients(threads=threads_to_use())
        self.built = True

    def call(self, inputs: Sequence[Any], training: bool | None = None) -> Channels:
        """Channels (batch, x, y, z, channel) and conditions (batch, condition) in, answers out."""
        channels, conditions = inputs
        added, weights = self._added(conditions), self._weights()
        if training:
            return self._answers(channels, added, *weights)
        return ops.convert_to_tensor(
            _predicted(*(ops.convert_to_numpy(values) for values in (channels, added, *weights)))
        )

    def _added(self, conditions: Conditions) -> Any:
        """What is added after the mix and after every block: (batch, 1 + blocks, width)."""
        names = [f"block{block}" for block in range(self._blocks)]
        told = [_FIRST_CONDITIONS[self.trunk.name]]
        told += [f"{name}_conditions" if self._tells_blocks else "" for name in names]
        stages = []
        for layer, name in zip(["mix", *(f"{name}_mix" for name in names)], told, strict=True):
            bias = ops.expand_dims(_tensor(self._layer(layer).bias), 0)
            if name:
                bias = bias + self._layer(f"{name}_bias")(self._layer(f"{name}_hidden")(conditions))
            else:
                bias = ops.repeat(bias, ops.shape(conditions)[0], axis=0)
            stages.append(bias)
        return ops.stack(stages, axis=1)

    def _weights(self) -> list[Any]:
        """The weights in the order and shapes of `TrunkWeights`; zeros for `added`."""

        def pointwise(name: str) -> tuple[Any, Any]:
            layer = self._layer(name)
            return ops.reshape(layer.kernel, layer.kernel.shape[-2:]), _tensor(layer.bias)

        blocks = [f"block{block}" for block in range(self._blocks)]
        spreads = [self._layer(f"{name}_spread") for name in blocks]
        kernels = [ops.transpose(_tensor(layer.kernel), (1, 0, 2)) for layer in spreads]
        by_rows = [ops.reshape(kernel, (-1, kernel.shape[-1])) for kernel in kernels]
        mix, bias = pointwise("mix")
        width = bias.shape[0]
        parts = [
            mix,
            ops.zeros((1 + self._blocks, width)),
            ops.stack(by_rows),
            ops.stack([_tensor(layer.bias) for layer in spreads]),
            ops.stack([pointwise(f"{name}_mix")[0] for name in blocks]),
            *pointwise("head"),
            *pointwise("output"),
        ]
        if self._has_spread:
            least, most = trunks.LEAST_SPREAD, trunks.MOST_SPREAD
            parts += [*pointwise("spread_hidden"), *pointwise("spread_output")]
            return [*parts, ops.convert_to_tensor([least, most - least], dtype="float32")]
        nothing = [ops.zeros(shape) for shape in ((0, 0), (0,), (0, 0), (0,))]
        return [*parts, *nothing, ops.convert_to_tensor([0.0, 1.0], dtype="float32")]

    def _layer(self, name: str) -> Any:
        return self.trunk.get_layer(name)

    def _answers(self, channels: Channels, added: Any, *weights: Any) -> Channels:
        tensorflow = import_module("tensorflow")

        @tensorflow.custom_gradient  # type: ignore[untyped-decorator]
        def answers(channels: Any, added: Any, *weights: Any) -> tuple[Any, Any]:
            found = tensorflow.numpy_function(self._forwards, [channels, added, *weights], tensorflow.float32)
            found.set_shape((*(None,) * 4, 1 + self._has_spread))

            def gradients(upstream: Any) -> list[Any]:
                kinds = [tensorflow.float32] * (1 + len(weights))
                parts = tensorflow.numpy_function(self._backwards, [upstream], kinds)
                for part, argument in zip(parts, (added, *weights), strict=True):
                    part.set_shape(argument.shape)
                return [None, *parts]

            return found, gradients

        return answers(channels, added, *weights)

    def _forwards(self, channels: np.ndarray, added: np.ndarray, *weights: np.ndarray) -> np.ndarray:
        return self._kernels.answers(channels, TrunkWeights(*weights), added)

    def _backwards(self, upstream: np.ndarray) -> list[np.ndarray]:
        by_weights, by_added = self._kernels.gradients(upstream)
        return [by_added, *by_weights._replace(added=np.zeros_like(by_weights.added))]


def _predicted(channels: np.ndarray, added: np.ndarray, *weights: np.ndarray) -> np.ndarray:
    """The answers (batch, x, y, z, 1 or 2) for channels (batch, x, y, z, channel)."""
    given = TrunkWeights(*weights)
    halo, outputs = 2 * given.radius_cells, 2 if given.error.size else 1
    batch, *sides, _ = channels.shape
    answers = np.empty((batch, outputs, *(side - halo for side in sides)), dtype=np.float32)
    by_planes = np.ascontiguousarray(np.moveaxis(channels, -1, 2))
    for values, told, answer in zip(by_planes, added, answers, strict=True):
        residual_trunk(values, given._replace(added=told), answer, threads=threads_to_use())
    return np.moveaxis(answers, 1, -1)


def _tensor(variable: keras.Variable) -> Any:
    """The value of a variable as a tensor; some functions of TensorFlow do not take the variable itself."""
    return ops.reshape(variable, variable.shape)


def compile_trunk(model: Model, normalizer: Normalizer, processes: Processes | None = None) -> keras.Model:
    """Give the trunk its optimiser and its loss; return what takes its training steps.

    That is a `FusedTrunk` on a CPU with TensorFlow, in float32, for the networks `reion` and `transport` with
    symmetric convolutions; otherwise the trunk itself. With several processes, gradients are averaged over
    them.

    Raises
    ------
    InputError
        If there are more processes than crops in a batch.
    """
    processes = processes or Processes()
    training = model.config.training
    if training.batch_size < processes.count:
        raise InputError(
            f"expected a crop for each of {processes.count} processes; received "
            f"training.batch_size={training.batch_size}",
            hint=f"take at most {training.batch_size} workers, or a larger batch",
        )
    for layer in model.trunk.layers:
        if isinstance(layer, SymmetricConv3D):
            layer.by_sums = not has_gpu()
    mean, std = (normalizer.xi_mean, normalizer.xi_std) if model.target_normalised else (0.0, 1.0)
    loss = build_loss(training.loss, target_mean=mean, target_std=std)
    on_tensorflow = keras.backend.backend() == "tensorflow"
    optimizer = build_optimizer(training)
    settings = _fused_settings(model)
    stepping = model.trunk if settings is None else FusedTrunk(model.trunk, settings)
    for compiled in (model.trunk, stepping):
        # XLA is many times slower than oneDNN for 3D convolutions on a CPU, and in TensorFlow it cannot
        # call back to average gradients.
        jit_compile = False if on_tensorflow and (processes.count > 1 or not has_gpu()) else "auto"
        compiled.compile(optimizer=optimizer, loss=loss, jit_compile=jit_compile)
    optimizer.build(model.trunk.trainable_variables)
    if processes.count > 1:
        average_gradients(optimizer, processes, share_of(processes, training.batch_size))
    return stepping


def share_of(processes: Processes, batch_size: int) -> float:
    """Share of a batch that this process computes."""
    return len(range(batch_size)[processes.rows(batch_size)]) / batch_size


def _fused_settings(model: Model) -> ReionModel | TransportModel | None:
    """The settings of a network whose steps `FusedTrunk` can take here; None of all others."""
    settings = model.config.model
    if (
        isinstance(settings, ReionModel | TransportModel)
        and model.config.network.is_own
        and settings.symmetric
        and settings.blocks > 0
        and model.trunk.dtype_policy.name == "float32"
        and keras.backend.backend() == "tensorflow"
        and not has_gpu()
    ):
        return settings
    return None
