"""Keras callbacks in the training loop of reion: a round is an epoch, a step is a batch."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import keras
import numpy as np

from reion.errors import InputError
from reion.training.history import Round

_NOT_STATE = ("params", "model")
_KERAS, _FUNCTION = "keras.", "function of Keras"


class Callbacks:
    """The callbacks of a run, called where `keras.Model.fit` would call them.

    - `on_train_begin` and `on_train_end`;
    - `on_epoch_begin` and `on_epoch_end` around a round, numbered from 0; the logs at its end are loss,
      val_loss, val_mse, val_r2 and learning_rate;
    - `on_train_batch_begin` and `on_train_batch_end` around a step, with the log loss;
    - `on_test_begin` and `on_test_end` around a validation, with the log loss.

    The `model` of a callback is the compiled trunk. A callback that sets `model.stop_training` ends the run.
    """

    def __init__(self, callbacks: Sequence[keras.callbacks.Callback], trunk: keras.Model) -> None:
        for callback in callbacks:
            if not isinstance(callback, keras.callbacks.Callback):
                raise InputError(
                    f"callbacks: expected instances of keras.callbacks.Callback; received {callback!r}"
                )
        self._callbacks = list(callbacks)
        self._trunk = trunk
        self._list = keras.callbacks.CallbackList(list(callbacks))
        self._restored: tuple[list[Any], Mapping[str, list[np.ndarray]]] | None = None

    def begin(self, *, epochs: int, steps: int) -> None:
        """Start or resume a training of `epochs` rounds of `steps` steps."""
        if not self._callbacks:
            return
        self._list.set_params({"verbose": 0, "epochs": epochs, "steps": steps})
        self._list.set_model(self._trunk)
        self._trunk.stop_training = False
        self._list.on_train_begin()
        if self._restored is not None:  # after the callbacks have reset themselves
            self._assign(*self._restored)

    def begin_round(self, number: int) -> None:
        """Tell the callbacks that a round starts."""
        if self._callbacks:
            self._list.on_epoch_begin(number)

    def begin_step(self, number: int) -> None:
        """Tell the callbacks that a step of the round starts."""
        if self._callbacks:
            self._list.on_train_batch_begin(number)

    def end_step(self, number: int, loss: float) -> None:
        """Tell the callbacks that a step of the round is done."""
        if self._callbacks:
            self._list.on_train_batch_end(number, {"loss": loss})

    def begin_validation(self) -> None:
        """Tell the callbacks that a validation starts."""
        if self._callbacks:
            self._list.on_test_begin()

    def end_validation(self, loss: float) -> None:
        """Tell the callbacks that a validation is done."""
        if self._callbacks:
            self._list.on_test_end({"loss": loss})

    def end_round(self, number: int, finished: Round) -> bool:
        """Tell the callbacks that a round is validated; return whether one wants to stop."""
        if not self._callbacks:
            return False
        self._list.on_epoch_end(
            number,
            {
                "loss": finished.loss,
                "val_loss": finished.validation_loss,
                "val_mse": finished.validation_mse,
                "val_r2": finished.validation_r2,
                "learning_rate": finished.learning_rate,
            },
        )
        return bool(self._trunk.stop_training)

    def end(self) -> None:
        """Tell the callbacks that the training is over; one may put back older weights."""
        if self._callbacks:
            self._list.on_train_end()

    def to_state(self) -> tuple[list[Any], dict[str, list[np.ndarray]]]:
        """The state of the callbacks: for each its class and its plain attributes, and their arrays.

        Keras does not define the state of a callback. Attributes without a leading underscore are kept if
        JSON can hold them, or if they are functions of Keras (with which EarlyStopping compares) or lists of
        arrays. The callbacks of Keras itself decide by nothing else.
        """
        states: list[Any] = []
        arrays: dict[str, list[np.ndarray]] = {}
        for number, callback in enumerate(self._callbacks):
            plain = {}
            for name, value in vars(callback).items():
                if name.startswith("_") or name in _NOT_STATE:
                    continue
                if _are_arrays(value):
                    arrays[f"callback-{number}-{name}"] = [np.asarray(item) for item in value]
                elif (text := _as_json(value)) is not None:
                    plain[name] = text
            states.append({"kind": _kind(callback), "attributes": plain})
        return states, arrays

    def restore(self, states: Sequence[Any], arrays: Mapping[str, list[np.ndarray]]) -> None:
        """Take over the state that `to_state` returned, at the next `begin`.

        Raises
        ------
        InputError
            If the run was started with other callbacks.
        """
        before, now = [state["kind"] for state in states], [_kind(callback) for callback in self._callbacks]
        if before != now:
            raise InputError(
                f"the run was started with the callbacks {', '.join(before) or 'none'}; received "
                f"{', '.join(now) or 'none'}",
                hint="resume with reion.train(..., resume=True, callbacks=[...]), the same ones",
            )
        self._restored = list(states), arrays

    def _assign(self, states: Sequence[Any], arrays: Mapping[str, list[np.ndarray]]) -> None:
        for number, (callback, state) in enumerate(zip(self._callbacks, states, strict=True)):
            for name, text in state["attributes"].items():
                setattr(callback, name, _from_json(text))
            prefix = f"callback-{number}-"
            for group, members in arrays.items():
                if group.startswith(prefix):
                    setattr(callback, group.removeprefix(prefix), members)


def _kind(callback: keras.callbacks.Callback) -> str:
    return f"{type(callback).__module__}.{type(callback).__qualname__}"


def _are_arrays(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, np.ndarray) for item in value)


def _as_json(value: Any) -> str | None:
    """A plain value, which may be infinite, as JSON text; None for any other value."""
    if isinstance(value, np.generic):
        value = value.item()
    elif inspect.isfunction(value) and value.__module__.startswith(_KERAS):
        value = {_FUNCTION: f"{value.__module__}:{value.__qualname__}"}
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        return None
    return text if json.loads(text) == value or value != value else None


def _from_json(text: str) -> Any:
    """Inverse of `_as_json`."""
    value = json.loads(text)
    if isinstance(value, dict) and set(value) == {_FUNCTION} and value[_FUNCTION].startswith(_KERAS):
        module, _, name = value[_FUNCTION].partition(":")
        return getattr(import_module(module), name)
    return value
