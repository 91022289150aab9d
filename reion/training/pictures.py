"""Pictures of a run in training, for TensorBoard: slices of xi, and histograms of the weights."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.histogram.summary_v2 import histogram_pb
from tensorboard.summary.writer.record_writer import RecordWriter

PICTURES = 50
"""About this number of rounds of a run are drawn, evenly spaced, and the last one."""

_LEAST_SIDE = 192
"""Slices are enlarged, by a whole factor, until they have at least this number of pixels a side."""


@dataclass(frozen=True)
class Slices:
    """A slice through the validation slab of a snapshot: true and predicted xi, both (y, z)."""

    redshift: float
    true: np.ndarray
    predicted: np.ndarray

    def to_png(self) -> bytes:
        """Truth, prediction and their difference side by side, as the bytes of a PNG file."""
        from matplotlib import colormaps
        from matplotlib.image import imsave

        fraction, difference = colormaps["viridis"], colormaps["RdBu_r"]
        parts = [
            fraction(self.true)[..., :3],
            fraction(self.predicted)[..., :3],
            difference((self.predicted - self.true) / 2 + 0.5)[..., :3],
        ]
        factor = max(1, -(-_LEAST_SIDE // min(self.true.shape)))
        parts = [part.repeat(factor, axis=0).repeat(factor, axis=1) for part in parts]
        bar = np.ones((parts[0].shape[0], 4, 3))
        content = io.BytesIO()
        imsave(content, np.concatenate([parts[0], bar, parts[1], bar, parts[2]], axis=1), format="png")
        return content.getvalue()


def is_drawn(step: int, *, steps: int, round_steps: int) -> bool:
    """Whether the round that ends with this step is drawn."""
    every = max(1, -(-steps // round_steps) // PICTURES)
    return step >= steps or -(-step // round_steps) % every == 0


def to_events(
    step: int,
    wall_time: float,
    *,
    slices: Slices | None,
    weights: Mapping[str, np.ndarray],
    begin: bool,
) -> bytes:
    """Records of a TensorBoard event file; with `begin`, the records that start or resume a log come first.

    `wall_time` is in seconds since 1970; `weights` are drawn as histograms, by the names given.
    """
    records = io.BytesIO()
    writer = RecordWriter(records)
    if begin:
        writer.write(Event(file_version="brain.Event:2", wall_time=wall_time).SerializeToString())
        # This makes TensorBoard drop pictures of later steps, drawn before the run was resumed.
        started = SessionLog(status=SessionLog.START)
        writer.write(Event(session_log=started, step=step, wall_time=wall_time).SerializeToString())
    values: list[Any] = []
    if slices is not None:
        image = Summary.Image(colorspace=3, encoded_image_string=slices.to_png())
        tag = f"truth, prediction, difference at z = {slices.redshift:g}"
        values.append(Summary.Value(tag=tag, image=image))
    for name, array in weights.items():
        values += histogram_pb(f"weights/{name}", array).value
    writer.write(Event(step=step, wall_time=wall_time, summary=Summary(value=values)).SerializeToString())
    return records.getvalue()


def hyperparameters(values: Mapping[str, Any], start_time: float) -> bytes:
    """The settings of a run as a record of an event file, for TensorBoard's table of hyperparameters."""
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb

    plain = {
        key: value if isinstance(value, bool | int | float | str) else str(_listed(value))
        for key, value in values.items()
        if value is not None
    }
    records = io.BytesIO()
    summary = hparams_pb(plain, start_time_secs=start_time)
    RecordWriter(records).write(Event(wall_time=start_time, summary=summary).SerializeToString())
    return records.getvalue()


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, Sequence) else value
