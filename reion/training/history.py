"""The history of a run, one row per round: as history.csv, and as curves for TensorBoard."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

_CURVES = ("loss", "validation_loss", "validation_mse", "validation_r2", "learning_rate")


@dataclass(frozen=True, kw_only=True)
class Round:
    """The results of one round: the steps from one validation and checkpoint to the next.

    Attributes
    ----------
    step
        Steps done since the run was started.
    loss
        Mean training loss of the round's steps.
    validation_loss, validation_mse, validation_r2
        Loss, mean squared error of xi and R² in the validation slabs of the partly ionised snapshots; NaN if
        there are none.
    learning_rate
        Learning rate after the last step.
    seconds
        Time spent in steps since the run was started.
    waiting_share
        Share of that time in which the network waited for batches.
    """

    step: int
    loss: float
    validation_loss: float
    validation_mse: float
    validation_r2: float
    learning_rate: float
    seconds: float
    waiting_share: float

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Round:
        """The round that a checkpoint holds; null, which JSON has for numbers that are not finite, is NaN."""
        numbers: dict[str, Any] = {k: math.nan if v is None else v for k, v in values.items()}
        return cls(**numbers)


def to_csv(rounds: Sequence[Round]) -> str:
    """The text of history.csv."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=[field.name for field in fields(Round)])
    writer.writeheader()
    writer.writerows(map(asdict, rounds))
    return text.getvalue()


def to_events(rounds: Sequence[Round], start_time: float, *, begin: bool) -> bytes:
    """Records of a TensorBoard event file; with `begin`, the record that starts a file comes first.

    `start_time` is the time at which the run was started, in seconds since 1970.
    """
    records = io.BytesIO()
    writer = RecordWriter(records)
    if begin:
        writer.write(Event(file_version="brain.Event:2").SerializeToString())
    for row in rounds:
        values = [Summary.Value(tag=name, simple_value=getattr(row, name)) for name in _CURVES]
        event = Event(step=row.step, wall_time=start_time + row.seconds, summary=Summary(value=values))
        writer.write(event.SerializeToString())
    return records.getvalue()
