"""Functions for all figures: width, line styles, drawing and saving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reion.metrics.fields import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

WIDTH_INCH = 7.1
"""Two columns of a journal page."""

STYLES: Mapping[int, Mapping[str, Any]] = {
    0: {"color": "#000000", "linestyle": "-", "linewidth": 1.6},
    1: {"color": "#0072b2", "linestyle": "-", "linewidth": 1.2},
    2: {"color": "#c25200", "linestyle": "--", "linewidth": 1.2},
    3: {"color": "#007d5c", "linestyle": "-.", "linewidth": 1.2},
    4: {"color": "#a8518a", "linestyle": (0, (5, 2)), "linewidth": 1.2},
    5: {"color": "#8a6d00", "linestyle": (0, (1, 1.5)), "linewidth": 1.4},
    6: {"color": "#3f6fb5", "linestyle": (0, (9, 2)), "linewidth": 1.2},
    7: {"color": "#a33d3d", "linestyle": (0, (3, 3)), "linewidth": 1.2},
    8: {"color": "#5b5b9a", "linestyle": (0, (7, 2, 1, 2, 1, 2)), "linewidth": 1.2},
}
"""Line styles by number, as on the page: colours that are distinct for the colour-blind, and dashes."""


def save_figure(name: str, figure: Figure, folder: Path) -> None:
    """Write NAME.png (200 dpi) and NAME.pdf into `folder`, without dates: equal figures give equal files."""
    figure.savefig(folder / f"{name}.png", dpi=200)
    # The layout is done; with "none" in place of None matplotlib would draw the second file twice.
    figure.set_layout_engine(None)
    figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None})


def new_figure(rows: int, columns: int, height: float) -> tuple[Figure, np.ndarray]:
    """A figure of the width of a page, and its axes, shape (rows, columns)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCH, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def draw_line(
    axes: Axes, x: Sequence[float] | Curve, y: Sequence[float | None] | Curve, style: int, label: str
) -> None:
    """Draw the points of a curve that are defined."""
    x_values, y_values = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    defined = np.isfinite(x_values) & np.isfinite(y_values)
    if defined.any():
        axes.plot(
            x_values[defined], y_values[defined], label=label, marker=".", markersize=3.5, **STYLES[style]
        )


def log_ticks(axis: Axis, low: float, high: float) -> None:
    """Label a logarithmic axis with plain numbers: 1, 2 and 5 in every decade if there are few decades."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    few = high < 150 * low
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,), numticks=20))
    if few:
        axis.set_major_formatter(FormatStrFormatter("%g"))
    axis.set_minor_formatter(NullFormatter())


def add_legend(figure: Figure, axes: Axes) -> None:
    """Name the lines of `axes` above the figure."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles, labels, loc="outside upper center", ncols=len(handles), fontsize=8, frameon=False
        )
