"""The results of a comparison: what is kept of every run, and the table and the figure of all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from reion.config import InputSet
from reion.studies.study import Budget

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

_PARTLY_IONISED = (0.1, 0.9)
"""Power ratio and cross-correlation are averaged over the snapshots whose true mean xi is between these."""

_SMALL_SCALES = ("0.5", "1.0")
"""The bands of k in which they are shown."""


@dataclass(frozen=True)
class RedshiftScores:
    """What a comparison keeps of one snapshot's scores."""

    redshift: float
    r2: float | None
    mean_xi_true: float
    mean_xi_pred: float
    power_ratio: Mapping[str, float | None]
    cross_correlation: Mapping[str, float | None]


@dataclass(frozen=True)
class Summary:
    """What a comparison keeps of one method's scores.

    Parameters
    ----------
    r2, calibration_error
        Pooled.
    power_ratio, cross_correlation
        Band of k to the mean over the snapshots whose true mean xi is between 0.1 and 0.9.
    bubble_size_mpc
        Pooled, predicted and true.
    """

    r2: float | None
    calibration_error: float | None
    power_ratio: Mapping[str, float | None]
    cross_correlation: Mapping[str, float | None]
    bubble_size_mpc: tuple[float | None, float | None]
    redshifts: tuple[RedshiftScores, ...]

    @classmethod
    def from_json(cls, scores: Mapping[str, Any]) -> Summary:
        """Take what is kept from `pooled` and `redshifts` of a method in the JSON of an evaluation.

        Raises
        ------
        KeyError, TypeError, ValueError, AttributeError
            If it holds something else.
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

    def to_json(self) -> dict[str, Any]:
        """As comparison.json has it."""
        return {
            **asdict(self),
            "bubble_size_mpc": list(self.bubble_size_mpc),
            "redshifts": [asdict(scores) for scores in self.redshifts],
        }


@dataclass(frozen=True)
class ComparedRun:
    """One run of a study: what was trained, what it cost, and its scores."""

    name: str
    inputs: InputSet
    parameters: int
    kflop_per_cell: float
    steps: int
    minutes: float
    scores: Summary

    def to_json(self) -> dict[str, Any]:
        """As comparison.json has it."""
        values = asdict(self)
        del values["scores"]
        return {**values, **self.scores.to_json()}


@dataclass(frozen=True)
class Comparison:
    """The runs of a study so far, and the excursion set of each set of inputs."""

    budget: Budget
    runs: tuple[ComparedRun, ...]
    excursion_sets: Mapping[InputSet, Summary]

    def to_json(self) -> dict[str, Any]:
        """What comparison.json holds."""
        return {
            **asdict(self.budget),
            "runs": [run.to_json() for run in self.runs],
            "excursion_set": {inputs: scores.to_json() for inputs, scores in self.excursion_sets.items()},
        }


def _table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Head and body of the table, in words."""
    first = comparison.runs[0].scores.redshifts
    shown = [index for index, scores in enumerate(first) if scores.r2 is not None]
    head = ["", "parameters", "kFLOP a cell", "steps", "minutes", "R²"]
    head += [f"z = {first[index].redshift:g}" for index in shown]
    head += ["P, k = 0.5", "P, k = 1", "r, k = 0.5", "r, k = 1", "calibration", "bubbles, Mpc"]

    def in_words(scores: Summary) -> list[str]:
        return [
            _figure(scores.r2, 3),
            *(_figure(scores.redshifts[index].r2, 3) for index in shown),
            *(_figure(scores.power_ratio[k], 2) for k in _SMALL_SCALES),
            *(_figure(scores.cross_correlation[k], 2) for k in _SMALL_SCALES),
            _figure(scores.calibration_error, 3),
            " / ".join(_figure(size, 1) for size in scores.bubble_size_mpc),
        ]

    body = [
        [
            run.name,
            f"{run.parameters:,}",
            f"{run.kflop_per_cell:.0f}",
            f"{run.steps}",
            _figure(run.minutes, 1),
            *in_words(run.scores),
        ]
        for run in comparison.runs
    ]
    body += [
        [f"excursion set, {inputs}", "1", "–", "–", "–", *in_words(scores)]
        for inputs, scores in comparison.excursion_sets.items()
    ]
    return head, body


def _figure(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def to_markdown(comparison: Comparison) -> str:
    """The comparison as a Markdown table."""
    head, body = _table(comparison)
    lines = [head, ["---"] * len(head), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def render(comparison: Comparison) -> Table:
    """The comparison as a table for the screen."""
    from rich.table import Table

    head, body = _table(comparison)
    table = Table(title=f"{comparison.budget} each; P and r where 0.1 < mean xi < 0.9")
    for index, name in enumerate(head):
        table.add_column(name, justify="left" if index == 0 else "right")
    for row in body:
        table.add_row(*row)
    return table


def score_against_arithmetic(comparison: Comparison) -> Figure:
    """The share of the variance that each network leaves unexplained, over its operations a cell."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure = Figure(figsize=(7.1, 4.2), layout="constrained")
    axes = figure.subplots()
    styles: Mapping[InputSet, tuple[str, str]] = {"history": ("o", "#0072b2"), "instant": ("s", "#c25200")}
    for inputs, (marker, colour) in styles.items():
        excursion_set = comparison.excursion_sets.get(inputs)
        if excursion_set is not None and excursion_set.r2 is not None:
            label = f"excursion set, {inputs}"
            axes.axhline(1 - excursion_set.r2, color=colour, linestyle="--", linewidth=1, label=label)
        runs = {
            run.name: (run.kflop_per_cell, 1 - run.scores.r2)
            for run in comparison.runs
            if run.inputs == inputs and run.scores.r2 is not None
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
