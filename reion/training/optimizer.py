"""The optimiser and the learning rate of a run, both by the names that Keras gives them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from reion.config import TrainingConfig
from reion.errors import InputError

CONSTANT = "Constant"
"""The name of a constant learning rate, for which Keras has no class; callbacks may change that rate."""

_FLOOR = 0.01
"""A cosine schedule ends at this share of the learning rate."""


@keras.saving.register_keras_serializable(package="reion")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that rises linearly from zero to `target` in `steps` steps, and then follows `after`.

    `after` is a schedule, which counts its steps from the end of the rise, or a constant rate.
    """

    def __init__(self, after: Any, steps: int, target: float) -> None:
        super().__init__()
        self.after = after
        self.steps = steps
        self.target = target

    def __call__(self, step: Any) -> Any:
        """The learning rate at a step."""
        step = ops.cast(step, "float32")
        later = self.after(ops.maximum(step - self.steps, 0.0)) if callable(self.after) else self.after
        return ops.where(step < self.steps, self.target * step / self.steps, later)

    def get_config(self) -> dict[str, Any]:
        """The arguments, as Keras stores them."""
        after = keras.saving.serialize_keras_object(self.after) if callable(self.after) else self.after
        return {"after": after, "steps": self.steps, "target": self.target}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> WarmUp:
        """Inverse of `get_config`."""
        after = config["after"]
        if isinstance(after, Mapping):
            after = keras.saving.deserialize_keras_object(after)
        return cls(after, config["steps"], config["target"])


def build_optimizer(training: TrainingConfig) -> keras.optimizers.Optimizer:
    """The optimiser that the schema names, with its schedule.

    Raises
    ------
    InputError
        If Keras has no optimiser or schedule of that name, or the class does not take the arguments.
    """
    chosen = training.optimizer
    kind = _class(keras.optimizers, keras.optimizers.Optimizer, "training.optimizer.name", chosen.name)
    given: dict[str, Any] = {"learning_rate": _schedule(training), "clipnorm": training.clip_norm}
    if training.weight_decay:
        given["weight_decay"] = training.weight_decay
    if training.ema_momentum is not None:
        given |= {"use_ema": True, "ema_momentum": training.ema_momentum}
    return _make(kind, "training.optimizer.arguments", given, chosen.arguments)


def _schedule(training: TrainingConfig) -> Any:
    """The learning rate as Keras takes it, a number or a schedule over the steps after the warm-up."""
    chosen, rate = training.schedule, training.learning_rate
    warmup = round(training.warmup_share * training.steps)
    steps = max(1, training.steps - warmup)
    if chosen.name == CONSTANT:
        if chosen.arguments:
            raise InputError(
                f"training.schedule.arguments: {CONSTANT} takes none; received {', '.join(chosen.arguments)}"
            )
        return WarmUp(rate, warmup, rate) if warmup else rate
    schedules = keras.optimizers.schedules
    kind = _class(schedules, schedules.LearningRateSchedule, "training.schedule.name", chosen.name)
    known: dict[str, Any] = {
        "initial_learning_rate": rate,
        "decay_steps": steps,
        "first_decay_steps": steps,
        "alpha": _FLOOR,
    }
    if kind is schedules.CosineDecay:  # it has a warm-up of its own
        known |= {"warmup_steps": warmup, "warmup_target": rate if warmup else None}
        known["initial_learning_rate"] = 0.0 if warmup else rate
        warmup = 0
    taken = inspect.signature(kind).parameters
    given = {name: value for name, value in known.items() if name in taken}
    after = _make(kind, "training.schedule.arguments", given, chosen.arguments)
    return WarmUp(after, warmup, rate) if warmup else after


def _class(module: Any, base: type, key: str, name: str) -> type:
    """The class of this name in a module of Keras; upper and lower case count as equal."""
    found = {
        item.__name__.lower(): item
        for item in vars(module).values()
        if isinstance(item, type) and issubclass(item, base) and item is not base
    }
    names = sorted(kind.__name__ for kind in found.values())
    if name.lower() not in found:
        names += [CONSTANT] if key.startswith("training.schedule") else []
        raise InputError(
            f"{key}: expected one of {', '.join(names)}, as Keras {keras.__version__} has them; "
            f"received {name!r}"
        )
    return found[name.lower()]


def _make(kind: type, key: str, given: Mapping[str, Any], arguments: Mapping[str, Any]) -> Any:
    try:
        return kind(**{**given, **arguments})
    except (TypeError, ValueError) as error:
        takes = [name for name in inspect.signature(kind).parameters if name not in ("name", "kwargs")]
        message = str(error).splitlines()[0]
        raise InputError(
            f"{key} of {kind.__name__}: {message}", hint=f"it takes {', '.join(takes)}"
        ) from error
