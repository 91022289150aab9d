"""The state of a training run between two steps: all that a checkpoint holds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

import keras
import numpy as np

from reion.models.build import Model
from reion.training.callbacks import Callbacks
from reion.training.checkpoints import Checkpoint, pack, unpack
from reion.training.history import Round
from reion.training.processes import Processes


@dataclass
class State:
    """A network in training and its progress so far.

    Attributes
    ----------
    model
        The compiled network: its weights, optimiser and random numbers change at every step.
    step
        Steps done.
    history
        The rounds that are finished.
    best
        Weights of the round with the best validation R², in the order of the trunk; None without patience.
    best_r2, stale_rounds
        The best validation R², and the number of rounds since.
    seconds, waiting_seconds
        Time spent in steps, and the part of it in which the network waited for batches.
    stopped
        Whether a callback has ended the run.
    put_back, put_back_r2
        Weights that a callback has put into the trunk at the end (None if no callback did), and their
        validation R².
    callbacks, events
        Keras callbacks, and the object that calls them.
    """

    model: Model
    step: int = 0
    history: list[Round] = field(default_factory=list)
    best: list[np.ndarray] | None = None
    best_r2: float = -math.inf
    stale_rounds: int = 0
    seconds: float = 0.0
    waiting_seconds: float = 0.0
    stopped: bool = False
    put_back: list[np.ndarray] | None = None
    put_back_r2: float = math.nan
    callbacks: Sequence[keras.callbacks.Callback] = ()

    def __post_init__(self) -> None:
        self.events = Callbacks(self.callbacks, self.trunk)

    @property
    def trunk(self) -> keras.Model:
        """The part of the network that is trained."""
        return self.model.trunk

    @property
    def variables(self) -> list[keras.Variable]:
        """Variables of the trunk, then of its optimiser."""
        return [*self.trunk.variables, *self.trunk.optimizer.variables]

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """The trainable weights, by the paths of the variables."""
        return {variable.path: _array(variable) for variable in self.trunk.trainable_variables}

    @property
    def out_of_patience(self) -> bool:
        """Whether validation has not improved for as many rounds as the schema allows."""
        patience = self.model.config.training.patience_rounds
        return patience is not None and self.stale_rounds >= patience

    @property
    def validation_r2(self) -> float:
        """Validation R² of the weights that are kept; NaN if xi does not vary in the validation slabs."""
        if self.put_back is not None:
            return self.put_back_r2
        return self.history[-1].validation_r2 if self.best is None else self.best_r2

    def finish_round(self, finished: Round) -> None:
        """Add a round to the history; with patience, keep its weights if they are the best so far."""
        self.history.append(finished)
        r2 = finished.validation_r2
        if self.model.config.training.patience_rounds is None or math.isnan(r2):
            return
        if r2 > self.best_r2:
            self.best_r2, self.stale_rounds = r2, 0
            with self.averaged():
                self.best = self.trunk.get_weights()
        else:
            self.stale_rounds += 1

    def best_weights(self) -> list[np.ndarray]:
        """The weights of the trunk that the run keeps.

        They are those that a callback has put back; else, with `patience_rounds`, those of the best
        validation R²; else the last ones. With `ema_momentum` they are moving averages.
        """
        if self.put_back is not None:
            return self.put_back
        if self.best is not None:
            return self.best
        with self.averaged():
            weights: list[np.ndarray] = self.trunk.get_weights()
        return weights

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Give the trunk the moving average of its weights within the block, if the schema asks for it."""
        if self.model.config.training.ema_momentum is None:
            yield
            return
        variables = self.trunk.trainable_variables
        own = [_array(variable).copy() for variable in variables]
        self.trunk.optimizer.finalize_variable_values(variables)
        try:
            yield
        finally:
            for variable, array in zip(variables, own, strict=True):
                variable.assign(array)

    def to_checkpoint(self) -> Checkpoint:
        """The state as a checkpoint."""
        arrays = {
            "network": [_array(variable) for variable in self.trunk.variables],
            "optimizer": [_array(variable) for variable in self.trunk.optimizer.variables],
        }
        if self.best is not None:
            arrays["best"] = self.best
        states, remembered = self.events.to_state()
        arrays |= remembered
        state = {
            "callbacks": states,
            "stopped": self.stopped,
            "history": [asdict(row) for row in self.history],
            "best_r2": self.best_r2 if math.isfinite(self.best_r2) else None,
            "stale_rounds": self.stale_rounds,
            "seconds": self.seconds,
            "waiting": self.waiting_seconds,
        }
        return Checkpoint(self.step, arrays, state)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take over the state of a checkpoint."""
        arrays = [*checkpoint.arrays["network"], *checkpoint.arrays["optimizer"]]
        for variable, array in zip(self.variables, arrays, strict=True):
            variable.assign(array)
        stored = checkpoint.state
        self.step = checkpoint.step
        self.stopped = stored["stopped"]
        self.events.restore(stored["callbacks"], checkpoint.arrays)
        self.history = [Round.from_json(row) for row in stored["history"]]
        self.best = checkpoint.arrays.get("best")
        self.best_r2 = -math.inf if stored["best_r2"] is None else stored["best_r2"]
        self.stale_rounds = stored["stale_rounds"]
        self.seconds = stored["seconds"]
        self.waiting_seconds = stored["waiting"]

    def share(self, processes: Processes) -> None:
        """Give every process the state of the chief, but its own random numbers for dropout."""
        if processes.count == 1:
            return
        mine = pack(self.to_checkpoint()) if processes.is_chief else b""
        self.restore(unpack(processes.broadcast(mine)))
        for variable in self.trunk.non_trainable_variables:
            # Seed states are uint32. The chief's rank is 0, so its numbers are those of a single process.
            if keras.backend.standardize_dtype(variable.dtype) == "uint32":
                seed_state = _array(variable).copy()
                seed_state.flat[0] += np.uint32(processes.rank)
                variable.assign(seed_state)

    def average_statistics(self, processes: Processes) -> None:
        """Average the moving statistics of batch normalisation, which each process has of its own crops."""
        if processes.count == 1:
            return
        for variable in self.trunk.non_trainable_variables:
            if "float" in keras.backend.standardize_dtype(variable.dtype):
                variable.assign(processes.sum(_array(variable) / np.float32(processes.count)))


def _array(variable: keras.Variable) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(variable))
