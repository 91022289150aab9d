"""The training loop: rounds of steps, with a validation after each round."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import xarray as xr

from reion.config import RunConfig
from reion.metrics.calibration import one_standard_deviation
from reion.metrics.pooling import is_partly_ionised
from reion.models.build import build_model
from reion.models.coverage import Coverage
from reion.models.normalizer import Normalizer, fit_normalizer
from reion.training.devices import resolve_precision
from reion.training.history import Round
from reion.training.parent import Parent
from reion.training.pictures import Slices
from reion.training.processes import Processes
from reion.training.rehearsal import rehearsal_snapshots
from reion.training.sampler import (
    Batch,
    CropSequence,
    TrainingSnapshot,
    prepare_snapshots,
    slab_pair,
    slabs_along_x,
    validation_pair,
)
from reion.training.state import State
from reion.training.stepping import compile_trunk, share_of

StepProgress = Callable[[int, int, Mapping[str, float]], None]
"""Called after every step with the steps done, all steps, and the newest `loss` and validation `r2`."""


class NotFiniteError(ArithmeticError):
    """A step has made the loss or a weight NaN or infinite; the message says which, and at which step."""


_MOST_WHOLE_SNAPSHOTS = 60
"""The error of mean xi is measured on at most this number of snapshots."""


class Loop:
    """Takes the steps of a run; the next batch is read while the network computes with the current one.

    Attributes
    ----------
    state
        Network, optimiser and history: all that a step changes.
    stepping
        What takes the steps and predicts: the trunk, or what does both faster with its weights.
    snapshots, normalizer
        The snapshots from which batches are cut, and the normalisation of the batches.
    rehearsed
        Snapshots from which a part of the crops is cut so that the network forgets less, see
        `reion.training.rehearsal`.
    """

    def __init__(
        self,
        state: State,
        stepping: keras.Model,
        snapshots: Sequence[TrainingSnapshot],
        normalizer: Normalizer,
        *,
        rehearsed: Sequence[TrainingSnapshot] = (),
        processes: Processes | None = None,
        progress: StepProgress | None = None,
    ) -> None:
        self.state = state
        self.snapshots = snapshots
        self.rehearsed = rehearsed
        self.normalizer = normalizer
        self.stepping = stepping
        self._training = state.model.config.training
        self._processes = processes or Processes()
        self._progress = progress
        self._ahead: Iterator[Batch] = iter(())

    @classmethod
    def prepare(
        cls,
        simulations: Sequence[xr.Dataset],
        config: RunConfig,
        cache: Path,
        *,
        parent: Parent | None = None,
        processes: Processes | None = None,
        progress: StepProgress | None = None,
        callbacks: Sequence[keras.callbacks.Callback] = (),
    ) -> Loop:
        """Prepare the simulations, measure their normalisation, build and compile a network.

        With `parent`, the network starts with the parent's weights and keeps its normalisation.

        The folder `cache` is for channels that do not fit in memory (`reion.training.sampler`).

        Raises
        ------
        InputError
            For the reasons that `prepare_snapshots`, `resolve_precision` and `compile_trunk` give.
        """
        processes = processes or Processes()
        model = build_model(config, precision=resolve_precision(config.training.precision))
        snapshots = prepare_snapshots(simulations, model, cache)
        normalizer = fit_normalizer(
            model.stem.channels,
            model.stem.scale,
            model.stem.transform,
            ((snapshot.redshift, snapshot.channels, snapshot.xi) for snapshot in snapshots),
        )
        if parent is not None:
            normalizer = parent.normalizer
        # Sums of floats may differ between machines: every process takes those of the chief.
        agreed = processes.broadcast(json.dumps(normalizer.to_dict()).encode())
        normalizer = Normalizer.from_dict(json.loads(agreed))
        stepping = compile_trunk(model, normalizer, processes)
        rehearsed: Sequence[TrainingSnapshot] = ()
        if parent is not None:
            model.trunk.set_weights(parent.weights_for(config))
            if config.training.rehearsal:
                trunk = stepping if config.model == parent.config.model else parent.trunk()
                rehearsed = rehearsal_snapshots(simulations, model, trunk, normalizer, parent.coverage, cache)
        state = State(model, callbacks=callbacks)
        return cls(
            state,
            stepping,
            snapshots,
            normalizer,
            rehearsed=rehearsed,
            processes=processes,
            progress=progress,
        )

    @property
    def coverage(self) -> Coverage:
        """The range of each quantity in the training boxes."""
        return Coverage.of((snapshot.redshift, snapshot.quantities) for snapshot in self.snapshots)

    def rounds(self) -> Iterator[Round]:
        """Train until the schema's steps are done or its patience is used up; yield each validated round.

        Raises
        ------
        NotFiniteError
            If the loss or a weight is NaN or infinite.
        ProcessLostError
            If another process does not answer.
        """
        state, length = self.state, self._training.round_steps
        state.events.begin(epochs=-(-self._training.steps // length), steps=length)
        while state.step < self._training.steps and not (state.out_of_patience or state.stopped):
            number = state.step // length
            stop = min(self._training.steps, (number + 1) * length)
            state.events.begin_round(number)
            loss = self.steps(stop - state.step)
            state.average_statistics(self._processes)
            self._check_weights()
            state.events.begin_validation()
            with state.averaged():
                r2, mse, validation_loss = self._validate()
            state.events.end_validation(validation_loss)
            finished = Round(
                step=state.step,
                loss=loss,
                validation_loss=validation_loss,
                validation_mse=mse,
                validation_r2=r2,
                learning_rate=float(state.trunk.optimizer.learning_rate),
                seconds=round(state.seconds, 3),
                waiting_share=round(state.waiting_seconds / max(state.seconds, 1e-9), 5),
            )
            state.finish_round(finished)
            with state.averaged():  # a callback that keeps weights keeps those that were validated
                wanted = state.events.end_round(number, finished)
            state.stopped = self._processes.broadcast(b"stop" if wanted else b"on") == b"stop"
            yield finished
        self._end()

    def _end(self) -> None:
        """Tell the callbacks that the training ends; if one puts weights back, validate and keep those."""
        state = self.state
        before = state.trunk.get_weights()
        state.events.end()
        after: list[np.ndarray] = state.trunk.get_weights()
        changed = any(not np.array_equal(old, new) for old, new in zip(before, after, strict=True))
        # All processes validate, or none.
        if self._processes.broadcast(b"changed" if changed else b"same") == b"changed":
            state.put_back, state.put_back_r2 = after, self._validate()[0]

    def steps(self, count: int) -> float:
        """Take `count` steps and return their mean loss."""
        state = self.state
        losses = []
        r2 = state.history[-1].validation_r2 if state.history else math.nan
        started = time.perf_counter()
        for left in range(count, 0, -1):
            asked = time.perf_counter()
            batch = next(self._ahead, None)
            if batch is None:
                self._ahead = self.batches(max(left, self._training.steps - state.step)).ahead()
                batch = next(self._ahead)
            state.waiting_seconds += time.perf_counter() - asked
            number = state.step % self._training.round_steps
            state.events.begin_step(number)
            loss = self._take_step(batch)
            state.events.end_step(number, loss)
            state.step += 1
            if not math.isfinite(loss):
                raise NotFiniteError(f"the loss is {loss} at step {state.step}")
            losses.append(loss)
            if self._progress is not None:
                self._progress(state.step, self._training.steps, {"loss": loss, "r2": r2})
        state.seconds += time.perf_counter() - started
        return float(np.mean(losses))

    def batches(self, count: int) -> CropSequence:
        """The next `count` batches, each with only the rows of this process."""
        return CropSequence(
            self.snapshots,
            self.normalizer,
            self.state.model,
            first=self.state.step,
            batches=count,
            rows=self._processes.rows(self._training.batch_size),
            rehearsed=self.rehearsed,
        )

    def last_batch(self) -> Batch:
        """The whole batch of the step that was taken last."""
        first = self.state.step - 1
        return CropSequence(
            self.snapshots,
            self.normalizer,
            self.state.model,
            first=first,
            batches=1,
            rehearsed=self.rehearsed,
        )[0]

    def _take_step(self, batch: Batch) -> float:
        """Update the network by this process's rows of a batch; return the loss of the whole batch."""
        (values, conditions), target = batch
        processes = self._processes
        # Keras before 3.15 returns the mean loss of all steps since the last reset.
        self.stepping.reset_metrics()
        try:
            loss = float(self.stepping.train_on_batch([values, conditions], target))
        except Exception:
            # Backends wrap errors that are raised inside a compiled step.
            if processes.failure is not None:
                raise processes.failure from None
            raise
        if processes.count == 1:
            return loss
        return float(processes.sum(np.array(loss * share_of(processes, self._training.batch_size))))

    def _check_weights(self) -> None:
        """Refuse to validate or save a network with weights that are NaN or infinite.

        The last step may break the weights although its loss, computed before, is finite.
        """
        for variable in self.state.variables:
            values = keras.ops.convert_to_numpy(variable)
            if not np.isfinite(values.astype(np.float64)).all():
                raise NotFiniteError(f"{variable.path} is not finite at step {self.state.step}")

    def _validate(self) -> tuple[float, float, float]:
        """Validation R², mean squared error and loss, pooled over the partly ionised snapshots."""
        processes = self._processes
        squares = total = total_squares = count = losses = 0.0
        for predicted, true, loss in self._validated(self.snapshots[processes.rank :: processes.count]):
            error = predicted[..., :1].astype(np.float64) - true
            squares += float((error**2).sum())
            total += float(true.sum(dtype=np.float64))
            total_squares += float((true.astype(np.float64) ** 2).sum())
            count += true.size
            losses += loss * true.size
        sums = processes.sum(np.array([squares, total, total_squares, count, losses]))
        squares, total, total_squares, count, losses = sums.tolist()
        if count == 0 or total_squares <= total**2 / count:
            return math.nan, math.nan, math.nan
        return 1.0 - squares / (total_squares - total**2 / count), squares / count, losses / count

    def _validated(
        self, snapshots: Sequence[TrainingSnapshot]
    ) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
        """Yield prediction, true xi and loss of the validation slab of each partly ionised snapshot.

        The prediction is (1, x, y, z, 1 or 2), true xi (1, x, y, z, 1).
        """
        model, normalizer = self.state.model, self.normalizer
        for snapshot in snapshots:
            if not is_partly_ionised(float(snapshot.xi.mean())):
                continue
            (values, conditions), true = validation_pair(snapshot, normalizer, model)
            answer = self.stepping([values, conditions], training=False)
            target = keras.ops.convert_to_tensor(true)
            loss = float(model.trunk.compute_loss(y=target, y_pred=answer, training=False))
            predicted = keras.ops.convert_to_numpy(answer)
            if model.target_normalised:
                predicted = np.clip(predicted * normalizer.xi_std + normalizer.xi_mean, 0, 1)
            yield predicted, true, loss

    def slices(self) -> Slices | None:
        """A slice through the middle of the validation slab of the snapshot that is nearest to half ionised.

        It is predicted with the weights that are validated. None if no snapshot is partly ionised.
        """
        partly = [s for s in self.snapshots if is_partly_ionised(float(s.xi.mean()))]
        if not partly:
            return None
        chosen = min(partly, key=lambda snapshot: abs(float(snapshot.xi.mean()) - 0.5))
        with self.state.averaged():
            ((predicted, true, _),) = self._validated([chosen])
        middle = true.shape[1] // 2
        return Slices(chosen.redshift, true[0, middle, ..., 0], predicted[0, middle, ..., 0])

    def mean_error_share(self) -> float | None:
        """The standard deviation of the error of mean xi, divided by the mean spread (xi_std) of the cells.

        Errors of neighbouring cells are correlated, so the error of the mean does not follow from the spread
        of the cells. It is measured: the ratio that 68.3 % of the partly ionised snapshots stay below. Whole
        training boxes are predicted, because errors cancel less in a validation slab, an eighth of a box.
        None if the network predicts no spread.
        """
        model, normalizer = self.state.model, self.normalizer
        if self.state.trunk.output_shape[-1] < 2:
            return None
        partly = [s for s in self.snapshots if is_partly_ionised(float(s.xi.mean()))]
        ratios = []
        for snapshot in partly[:: -(-len(partly) // _MOST_WHOLE_SNAPSHOTS) or 1]:
            error = spread = 0.0
            for x in slabs_along_x(snapshot):
                inputs, true = slab_pair(snapshot, normalizer, model, x)
                answer = keras.ops.convert_to_numpy(self.stepping(list(inputs), training=False))
                error += float((answer[..., :1] - true).sum(dtype=np.float64))
                spread += float(answer[..., 1:].sum(dtype=np.float64))
            ratios.append(error / spread)
        return one_standard_deviation(ratios) if ratios else None
