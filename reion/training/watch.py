"""The state of a run, read from its folder during or after training: its curves, and what to do next."""

from __future__ import annotations

import csv
import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from reion.errors import InputError
from reion.jobs.outputs import is_being_written

Standing = Literal["finished", "training", "stopped", "diverged"]

_HEIGHT = 10
"""Lines of text that a curve takes."""


@dataclass(frozen=True)
class Watched:
    """The state of a run.

    Attributes
    ----------
    folder, state
        The run folder and its state; `stopped` means that the run was interrupted or killed.
    step, steps
        Steps in the history, and steps that the schema asks for.
    seconds_left
        Seconds that the remaining steps take at the speed so far; None if the run is finished or no round is.
    rounds
        The rows of history.csv: the numbers by column.
    """

    folder: Path
    state: Standing
    step: int
    steps: int
    seconds_left: float | None
    rounds: tuple[dict[str, float], ...]

    @property
    def advice(self) -> str:
        """One sentence: the state of the run, and what to do next."""
        resume = "the same `reion train` with --resume goes on from its last checkpoint"
        match self.state:
            case "finished":
                return (
                    f"finished: `reion evaluate {self.folder} SIM` judges it, `reion export onnx` writes it"
                )
            case "training":
                left = "" if self.seconds_left is None else f", about {_duration(self.seconds_left)} left"
                return f"training{left}"
            case "diverged":
                return (
                    "stopped because the loss or a weight was no number: its batch is in diverged.npz; start "
                    "anew with a lower training.learning_rate, or look for what is wrong in that batch"
                )
        return f"not finished, and no process writes it: {resume}"

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "run": str(self.folder),
            "state": self.state,
            "advice": self.advice,
            "step": self.step,
            "steps": self.steps,
            "seconds_left": self.seconds_left,
            "rounds": list(self.rounds),
        }


def watch(folder: str | Path) -> Watched:
    """Read the state of a run from its folder.

    Raises
    ------
    InputError
        If `folder` is no run folder.
    """
    folder = Path(folder)
    try:
        schema = tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))
        steps = int(schema["training"]["steps"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"expected a run folder, as `reion train --out` writes it; {type(error).__name__}: {error}",
            file=folder,
        ) from error
    rounds = _history(folder / "history.csv")
    step = int(rounds[-1]["step"]) if rounds else 0
    state: Standing = "stopped"
    if (folder / "metrics.json").is_file():
        state = "finished"
    elif is_being_written(folder):
        state = "training"
    elif (folder / "diverged.npz").is_file():
        state = "diverged"
    left = rounds[-1]["seconds"] / step * (steps - step) if step and state != "finished" else None
    return Watched(folder, state, step, steps, left, rounds)


def _history(path: Path) -> tuple[dict[str, float], ...]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return tuple({name: float(text) for name, text in row.items()} for row in csv.DictReader(file))
    except FileNotFoundError:
        return ()
    except (ValueError, TypeError) as error:
        raise InputError(f"expected the history of a run; {error}", file=path) from error


def in_words(run: Watched, width: int = 100) -> str:
    """The curves of validation R² and both losses as text of `width` columns, and the advice below."""
    lines = [f"{run.folder}: step {run.step} of {run.steps}"]
    if run.rounds:
        steps = [row["step"] for row in run.rounds]
        last = run.rounds[-1]
        r2 = [row["validation_r2"] for row in run.rounds]
        lines += ["", f"validation R², now {last['validation_r2']:.4f}"]
        lines += draw({"•": r2}, steps, run.steps, width)
        losses = {
            "·": [row["loss"] for row in run.rounds],
            "•": [row["validation_loss"] for row in run.rounds],
        }
        lines += ["", f"loss · now {last['loss']:.4f}, validation loss • now {last['validation_loss']:.4f}"]
        lines += draw(losses, steps, run.steps, width)
    return "\n".join([*lines, "", run.advice])


def draw(curves: dict[str, list[float]], steps: Sequence[float], end: float, width: int) -> list[str]:
    """Lines of text that show curves over the steps from 0 to `end`, with the range of values on the left.

    `curves` has the values at `steps` by the mark that draws them. Values that are not finite leave a gap; of
    several values in one column the last is drawn.
    """
    values = [value for curve in curves.values() for value in curve if math.isfinite(value)]
    if not values:
        return ["no value yet"]
    low, high = min(values), max(values)
    span = high - low or 1.0
    columns = max(10, width - 12)
    canvas = [[" "] * columns for _ in range(_HEIGHT)]
    for mark, curve in curves.items():
        for step, value in zip(steps, curve, strict=True):
            if math.isfinite(value):
                column = min(columns - 1, int(step / max(end, 1) * columns))
                row = _HEIGHT - 1 - round((value - low) / span * (_HEIGHT - 1))
                canvas[row][column] = mark
    labels = {0: f"{high:.4g}", _HEIGHT - 1: f"{low:.4g}"}
    lines = [f"{labels.get(row, ''):>9} │{''.join(cells).rstrip()}" for row, cells in enumerate(canvas)]
    return [*lines, f"{'':>9} └{'─' * columns}", f"{'step':>9}  0{f'{end:g}':>{columns - 1}}"]


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return (
        f"{seconds:.0f} s" if seconds < 90 else f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"
    )
