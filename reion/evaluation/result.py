"""The result of an evaluation: every method with its scores, in the order of tables and charts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reion.config import InputSet
from reion.evaluation.scores import MethodScores, PooledScores, SnapshotScores

_RIVAL_STYLES = range(3, 9)
"""Numbers of the line styles that rivals take in turn; style 0 is that of the truth."""


def line_styles(count: int) -> tuple[int, ...]:
    """Numbers of the line styles of `count` predictions: the first one and its rivals."""
    return (1, *(_RIVAL_STYLES[i % len(_RIVAL_STYLES)] for i in range(count - 1)))


@dataclass(frozen=True)
class Method:
    """How a method appears in tables, charts and files.

    Parameters
    ----------
    label, short_label
        Its name, and a short name for narrow columns.
    line_style
        Number of its line style in charts; 0, the number of the truth, if the method is not drawn.
    is_baseline
        Whether it is a baseline, not a prediction.
    """

    label: str
    short_label: str
    line_style: int
    is_baseline: bool
    scores: MethodScores


@dataclass(frozen=True)
class Evaluation:
    """Predicted ionised fractions and two baselines, compared with the truth on the same snapshots.

    Parameters
    ----------
    predictions
        Scores by name. The evaluation is about the first prediction; the others are its rivals.
    mean_field
        Scores of the mean field: the true mean xi of each snapshot in every cell.
    excursion_set
        Scores of the excursion set; None if it cannot be computed, for the reason `excursion_set_missing`.
    excursion_threshold, excursion_inputs
        Threshold of the excursion set in photons per hydrogen atom, and its inputs, `history` or `instant`.
    left_out
        Redshifts of the truth that some prediction lacks.
    """

    predictions: Mapping[str, MethodScores]
    mean_field: MethodScores
    excursion_set: MethodScores | None
    excursion_set_missing: str | None
    excursion_threshold: float
    excursion_inputs: InputSet
    left_out: tuple[float, ...]

    @property
    def name(self) -> str:
        """Name of the first prediction."""
        return next(iter(self.predictions))

    @property
    def pooled(self) -> PooledScores:
        """Pooled scores of the first prediction."""
        return self.predictions[self.name].pooled

    @property
    def snapshots(self) -> tuple[SnapshotScores, ...]:
        """Scores of the first prediction in each snapshot, in order of time."""
        return self.predictions[self.name].snapshots

    @property
    def methods(self) -> tuple[Method, ...]:
        """Every method in the order of all tables, charts and files: predictions, then baselines."""
        styles = line_styles(len(self.predictions))
        shown = [
            Method(name, name, style, is_baseline=False, scores=scores)
            for (name, scores), style in zip(self.predictions.items(), styles, strict=True)
        ]
        if self.excursion_set is not None:
            shown.append(Method("excursion set", "exc. set", 2, is_baseline=True, scores=self.excursion_set))
        return (
            *shown,
            Method("mean field", "mean field", 0, is_baseline=True, scores=self.mean_field),
        )

    @property
    def drawn_methods(self) -> tuple[Method, ...]:
        """The methods that charts and figures show: all but the mean field."""
        return tuple(method for method in self.methods if method.line_style)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values, as `reion evaluate --json` prints them; undefined scores are None."""
        name, *rivals = self.predictions
        excursion_set: dict[str, Any]
        if self.excursion_set is None:
            excursion_set = {"missing": self.excursion_set_missing, "pooled": None, "redshifts": []}
        else:
            excursion_set = {
                "threshold": self.excursion_threshold,
                "inputs": self.excursion_inputs,
                **self.excursion_set.to_json(),
            }
        return {
            "name": name,
            **self.predictions[name].to_json(),
            "baselines": {"excursion_set": excursion_set, "mean_field": self.mean_field.to_json()},
            "against": {rival: self.predictions[rival].to_json() for rival in rivals},
            "left_out": list(self.left_out),
        }
