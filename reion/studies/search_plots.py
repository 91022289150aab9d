"""A figure of the trials of a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from reion.studies.ranges import Range

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from reion.studies.search import Judged, Trial

_COLUMNS = 3


def plot(trials: Sequence[Trial], ranges: Mapping[str, Range], default: Judged) -> Figure:
    """Plot the validation R² of the trials in order, and over every setting; given up trials are hollow."""
    from matplotlib.figure import Figure

    shown = [trial for trial in trials if trial.validation_r2 is not None]
    rows = -(-(1 + len(ranges)) // _COLUMNS)
    figure = Figure(figsize=(3.4 * _COLUMNS, 2.6 * rows), layout="constrained")
    panels = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    r2 = np.array([trial.validation_r2 for trial in shown], dtype=float)
    complete = np.array([trial.state == "complete" for trial in shown], dtype=bool)
    numbers = np.array([trial.number for trial in shown])
    best = np.maximum.accumulate(np.where(complete, r2, -np.inf))
    first = panels[0]
    first.plot(numbers[np.isfinite(best)], best[np.isfinite(best)], color="#0072b2", label="best so far")
    first.axhline(default.mean, color="#c25200", linestyle="--", label="defaults, mean of seeds")
    first.set_xlabel("trial")
    first.legend(fontsize=7, frameon=False)
    places = [numbers]
    for panel, (key, span) in zip(panels[1:], ranges.items(), strict=False):
        values = [trial.drawn.get(key) for trial in shown]
        if span.choices is None:
            places.append(np.array(values, dtype=float))
        else:
            places.append(np.array([span.choices.index(value) for value in values], dtype=float))
            panel.set_xticks(range(len(span.choices)), [str(choice) for choice in span.choices], fontsize=6)
        if span.log:
            panel.set_xscale("log")
        panel.set_xlabel(key, fontsize=8)
    for panel, place in zip(panels, places, strict=False):
        panel.plot(place[complete], r2[complete], "o", color="#222222", markersize=4)
        panel.plot(place[~complete], r2[~complete], "o", color="#222222", markersize=4, fillstyle="none")
        if complete.any():
            low = float(np.quantile(r2, 0.1))
            panel.set_ylim(bottom=low - 0.05 * (r2.max() - low) - 1e-6)
        panel.set_ylabel("validation R²", fontsize=8)
    for panel in panels[len(places) :]:
        panel.set_visible(False)
    return figure
