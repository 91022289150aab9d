"""The summary of a report: the verdict in words, and four numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from reion.evaluation.report.wording import figure
from reion.evaluation.result import Evaluation
from reion.evaluation.scores import MethodScores
from reion.metrics.pooling import POOLED_SNAPSHOTS


@dataclass(frozen=True)
class Card:
    """One number of the summary, and that of the excursion set, empty if it has none."""

    label: str
    value: str
    excursion_set: str


def headline(evaluation: Evaluation) -> str:
    """The verdict on the first prediction, in one or two sentences."""
    name, r2 = evaluation.name, evaluation.pooled.r2
    if r2 is None:
        return f"{name} cannot be judged cell by cell: there are no {POOLED_SNAPSHOTS}."
    text = f"{name} reproduces {100 * max(r2, 0):.1f} % of the variance of the ionised fraction"
    excursion_set = evaluation.excursion_set
    if excursion_set is not None and excursion_set.pooled.r2 is not None:
        share = 100 * max(excursion_set.pooled.r2, 0)
        text += f"; the excursion set, with one threshold, {share:.1f} %"
    weakest = min(
        ((snapshot.r2, snapshot.redshift) for snapshot in evaluation.snapshots if snapshot.r2 is not None),
        key=lambda pair: pair[0],
        default=None,
    )
    if weakest is not None:
        text += f". It is weakest at z = {weakest[1]:g} (R² {weakest[0]:.3f})"
    return text + "."


def cards(evaluation: Evaluation) -> Iterator[Card]:
    """The numbers of the summary."""
    for label, number in _NUMBERS.items():
        excursion_set = "" if evaluation.excursion_set is None else number(evaluation.excursion_set)
        yield Card(label, number(evaluation.predictions[evaluation.name]), excursion_set)


def _largest_history_error(scores: MethodScores) -> str:
    errors = [(s.pred.mean_xi - s.true.mean_xi, s.redshift) for s in scores.snapshots]
    error, redshift = max(errors, key=lambda pair: abs(pair[0]))
    return f"{'+' if error > 0 else ''}{figure(error)} at z = {redshift:g}"


def _of_two_bands(by_band: Mapping[str, float | None]) -> str:
    return " · ".join(figure(by_band[band], 2) for band in ("0.5", "1.0"))


_NUMBERS: Mapping[str, Callable[[MethodScores], str]] = {
    "R², all cells pooled": lambda scores: figure(scores.pooled.r2),
    "largest error of mean xi": _largest_history_error,
    "power ratio at k = 0.5 · 1 Mpc⁻¹": lambda scores: _of_two_bands(scores.pooled.power_ratio),
    "cross-correlation at k = 0.5 · 1 Mpc⁻¹": lambda scores: _of_two_bands(scores.pooled.cross_correlation),
}
