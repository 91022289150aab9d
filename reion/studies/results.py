"""The results of a comparison: the scores that are kept of every run, their table and their figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from reion.config import InputSet
from reion.studies.spread import mean_and_spread
from reion.studies.study import Budget

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

_PARTLY_IONISED = (0.1, 0.9)
"""Power ratio and cross-correlation are averaged over the snapshots whose true mean xi is between these."""

_SMALL_SCALES = ("0.5", "1.0")
"""The bands of k in which power ratio and cross-correlation are shown."""


@dataclass(frozen=True)
class RedshiftScores:
    """The scores of one snapshot that a comparison keeps."""

    redshift: float
    r2: float | None
    mean_xi_true: float
    mean_xi_pred: float
    power_ratio: Mapping[str, float | None]
    cross_correlation: Mapping[str, float | None]


@dataclass(frozen=True)
class Summary:
    """The scores of one method that a comparison keeps.

    Parameters
    ----------
    r2, calibration_error
        Pooled scores.
    power_ratio, cross_correlation
        By band of k, the mean over the snapshots whose true mean xi is between 0.1 and 0.9.
    bubble_size_mpc
        Pooled bubble sizes, predicted and true.
    """

    r2: float | None
    calibration_error: float | None
    power_ratio: Mapping[str, float | None]
    cross_correlation: Mapping[str, float | None]
    bubble_size_mpc: tuple[float | None, float | None]
    redshifts: tuple[RedshiftScores, ...]

    @classmethod
    def from_json(cls, scores: Mapping[str, Any]) -> Summary:
        """The summary of a method, from its `pooled` and `redshifts` in the JSON of an evaluation.

        Raises
        ------
        KeyError, TypeError, ValueError, AttributeError
            If `scores` does not have that form.
        """
        from pydantic import TypeAdapter

        rows = scores["redshifts"]
        names = [field.name for field in fields(RedshiftScores)]
        low, high = _PARTLY_IONISED
        partly_ionised = [row for row in rows if low < row["mean_xi_true"] < high]

        def mean(statistic: str) -> dict[str, float | None]:
            defined = {
                k: [row[statistic][k] for row in partly_ionised if row[statistic].get(k) is not None]
                for k in _SMALL_SCALES
            }
            return {k: float(np.mean(values)) if values else None for k, values in defined.items()}

        pooled = scores["pooled"]
        return TypeAdapter(cls).validate_python(
            {
                "r2": pooled["r2"],
                "calibration_error": pooled["calibration_error"],
                "power_ratio": mean("power_ratio"),
                "cross_correlation": mean("cross_correlation"),
                "bubble_size_mpc": (pooled["bubble_size_mpc_pred"], pooled["bubble_size_mpc_true"]),
                "redshifts": [{name: row[name] for name in names} for row in rows],
            }
        )

    @property
    def worst_mean_error(self) -> float:
        """The largest error of mean xi of any snapshot."""
        return max(abs(row.mean_xi_pred - row.mean_xi_true) for row in self.redshifts)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values, as comparison.json holds them."""
        return {
            **asdict(self),
            "bubble_size_mpc": list(self.bubble_size_mpc),
            "redshifts": [asdict(scores) for scores in self.redshifts],
        }


Scores = Mapping[str, Summary]
"""The scores of one method on each box, by the name of the box."""


@dataclass(frozen=True)
class ComparedRun:
    """One training of a study: its network, its cost, and its scores on every box."""

    name: str
    seed: int
    inputs: InputSet
    parameters: int
    kflop_per_cell: float
    steps: int
    minutes: float
    scores: Scores

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values, as comparison.json holds them."""
        return {**asdict(self), "scores": _scores_json(self.scores)}


def _scores_json(scores: Scores) -> dict[str, Any]:
    return {test: summary.to_json() for test, summary in scores.items()}


@dataclass(frozen=True)
class Comparison:
    """The trainings of a study so far, and the excursion set of each set of inputs."""

    budget: Budget
    runs: tuple[ComparedRun, ...]
    excursion_sets: Mapping[InputSet, Scores]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values: the content of comparison.json."""
        return {
            **asdict(self.budget),
            "runs": [run.to_json() for run in self.runs],
            "excursion_set": {inputs: _scores_json(scores) for inputs, scores in self.excursion_sets.items()},
        }

    @property
    def tests(self) -> tuple[str, ...]:
        """Names of the boxes."""
        return tuple(self.runs[0].scores)

    @property
    def by_name(self) -> dict[str, list[ComparedRun]]:
        """The trainings of every run, one for each seed."""
        names = dict.fromkeys(run.name for run in self.runs)
        return {name: [run for run in self.runs if run.name == name] for name in names}


@dataclass(frozen=True)
class _Table:
    """A table of text, for the screen and for Markdown."""

    title: str
    head: list[str]
    body: list[list[str]]


def _tables(comparison: Comparison) -> list[_Table]:
    """One table for each box; if there are several boxes, a table of all boxes comes first."""
    tables = [_of_one_box(comparison, test) for test in comparison.tests]
    return [_of_all_boxes(comparison), *tables] if len(tables) > 1 else tables


def _costs(trainings: Sequence[ComparedRun]) -> list[str]:
    first = trainings[0]
    return [
        f"{first.parameters:,}",
        f"{first.kflop_per_cell:.0f}",
        f"{round(np.mean([run.steps for run in trainings]))}",
        _figure([run.minutes for run in trainings], 1),
    ]


_COSTS = ["parameters", "kFLOP a cell", "steps", "minutes"]


def _of_all_boxes(comparison: Comparison) -> _Table:
    tests = comparison.tests

    def in_words(trainings: Sequence[Scores]) -> list[str]:
        r2 = [_figure([scores[test].r2 for scores in trainings if test in scores], 3) for test in tests]
        off = [
            _figure([scores[test].worst_mean_error for scores in trainings if test in scores], 3)
            for test in tests
        ]
        return [f"{score}, {error}" for score, error in zip(r2, off, strict=True)]

    body = [
        [name, *_costs(trainings), *in_words([run.scores for run in trainings])]
        for name, trainings in comparison.by_name.items()
    ]
    body += [
        [f"excursion set, {inputs}", "1", "–", "–", "–", *in_words([scores])]
        for inputs, scores in comparison.excursion_sets.items()
    ]
    return _Table("pooled R², and the largest error of mean xi", ["", *_COSTS, *tests], body)


def _of_one_box(comparison: Comparison, test: str) -> _Table:
    first = comparison.runs[0].scores[test].redshifts
    shown = [index for index, scores in enumerate(first) if scores.r2 is not None]
    head = ["", *_COSTS, "R²"]
    head += [f"z = {first[index].redshift:g}" for index in shown]
    head += ["P, k = 0.5", "P, k = 1", "r, k = 0.5", "r, k = 1", "calibration", "bubbles, Mpc"]

    def in_words(trainings: Sequence[Summary]) -> list[str]:
        def by_scale(statistic: str) -> list[str]:
            return [
                _figure([getattr(scores, statistic)[k] for scores in trainings], 2) for k in _SMALL_SCALES
            ]

        return [
            _figure([scores.r2 for scores in trainings], 3),
            *(_figure([scores.redshifts[index].r2 for scores in trainings], 3) for index in shown),
            *by_scale("power_ratio"),
            *by_scale("cross_correlation"),
            _figure([scores.calibration_error for scores in trainings], 3),
            " / ".join(_figure([scores.bubble_size_mpc[i] for scores in trainings], 1) for i in (0, 1)),
        ]

    body = [
        [name, *_costs(trainings), *in_words([run.scores[test] for run in trainings])]
        for name, trainings in comparison.by_name.items()
    ]
    body += [
        [f"excursion set, {inputs}", "1", "–", "–", "–", *in_words([scores[test]])]
        for inputs, scores in comparison.excursion_sets.items()
        if test in scores
    ]
    return _Table(test, head, body)


def _figure(values: Sequence[float | None], digits: int) -> str:
    """A number; for several seeds their mean, with the standard deviation between seeds."""
    return mean_and_spread([value for value in values if value is not None], digits)


def to_markdown(comparison: Comparison) -> str:
    """The comparison as Markdown: one table, or several with titles."""
    tables = _tables(comparison)
    parts = []
    for table in tables:
        lines = [table.head, ["---"] * len(table.head), *table.body]
        text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
        parts.append(text if len(tables) == 1 else f"## {table.title}\n\n{text}")
    return "\n".join(parts)


def render(comparison: Comparison) -> Table:
    """The comparison as a table for the screen: that of the only box, or that of all boxes."""
    from rich.table import Table

    first, *rest = _tables(comparison)
    title = f"{comparison.budget} each; " + (first.title if rest else "P and r where 0.1 < mean xi < 0.9")
    table = Table(title=title)
    for index, name in enumerate(first.head):
        table.add_column(name, justify="left" if index == 0 else "right")
    for row in first.body:
        table.add_row(*row)
    return table


def score_against_arithmetic(comparison: Comparison) -> Figure:
    """A figure of the unexplained share of the variance against the operations per cell, for each network.

    Each point is a mean over boxes and seeds.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure = Figure(figsize=(7.1, 4.2), layout="constrained")
    axes = figure.subplots()
    styles: Mapping[InputSet, tuple[str, str]] = {"history": ("o", "#0072b2"), "instant": ("s", "#c25200")}
    for inputs, (marker, colour) in styles.items():
        excursion_set = _mean_r2([comparison.excursion_sets.get(inputs, {})])
        if excursion_set is not None:
            label = f"excursion set, {inputs}"
            axes.axhline(1 - excursion_set, color=colour, linestyle="--", linewidth=1, label=label)
        runs = {
            name: (trainings[0].kflop_per_cell, 1 - r2)
            for name, trainings in comparison.by_name.items()
            if trainings[0].inputs == inputs
            and (r2 := _mean_r2([run.scores for run in trainings])) is not None
        }
        if not runs:
            continue
        axes.plot(*zip(*runs.values(), strict=True), marker, color=colour, label=f"networks, {inputs}")
        for name, point in runs.items():
            axes.annotate(
                name.removeprefix(f"{inputs}-"),
                point,
                xytext=(6, 0),
                textcoords="offset points",
                fontsize=8,
                verticalalignment="center",
            )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.margins(x=0.15)
    axes.invert_yaxis()
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(plain)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("operations of the convolutions [kFLOP a cell]")
    axes.set_ylabel("variance left unexplained, $1 - R^2$ (better is up)")
    axes.set_title(f"{comparison.budget} of training each", fontsize=9)
    axes.legend(fontsize=8, frameon=False)
    return figure


def _mean_r2(trainings: Sequence[Scores]) -> float | None:
    """Mean R² over all boxes and trainings in which it is defined."""
    found = [summary.r2 for scores in trainings for summary in scores.values() if summary.r2 is not None]
    return float(np.mean(found)) if found else None
