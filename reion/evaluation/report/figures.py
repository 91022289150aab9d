"""The figures of the page as files for a paper (PNG and PDF), drawn with matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reion.evaluation.report.slices import COLOURS

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
"""Line styles by number, the page's; colours that the colour-blind can tell apart, and dashes besides."""

Method = Mapping[str, Any]
Planes = Mapping[str, np.ndarray]


def figures(
    methods: Sequence[Method], planes: Planes, side_mpc: Sequence[float]
) -> Iterator[tuple[str, Figure]]:
    """Every figure and its file name.

    Parameters
    ----------
    methods
        As `reion.evaluation.report.page.styled_methods` gives them, the judged one first.
    planes
        For the slices: `true`, `pred` and possibly `density`; (snapshot, row, column), rows from the top.
    side_mpc
        Sides of the planes.
    """
    rows = methods[0]["result"]["redshifts"]
    defined = [index for index, row in enumerate(rows) if row["spectrum"] is not None]
    chosen = _spread([rows[index]["mean_xi_true"] for index in defined])
    snapshots = [defined[index] for index in chosen]
    yield (
        "history",
        _over_redshift(
            methods,
            [
                ("mean ionised fraction", "mean_xi_true", lambda row: row["mean_xi_pred"], {"ylim": (0, 1)}),
                (
                    "predicted $-$ true",
                    None,
                    lambda row: row["mean_xi_pred"] - row["mean_xi_true"],
                    {"zero": True},
                ),
                ("$R^2$", None, lambda row: row["r2"], {}),
            ],
        ),
    )
    yield (
        "regions",
        _over_redshift(
            methods,
            [
                (
                    "mean free path [Mpc]",
                    "bubble_size_mpc_true",
                    lambda row: row["bubble_size_mpc_pred"],
                    {"yscale": "log"},
                ),
                (
                    "largest region / ionised volume",
                    "largest_cluster_true",
                    lambda row: row["largest_cluster_pred"],
                    {"ylim": (0, 1.02)},
                ),
                (
                    "Euler characteristic",
                    "euler_characteristic_true",
                    lambda row: row["euler_characteristic_pred"],
                    {"zero": True},
                ),
            ],
        ),
    )
    yield "calibration", _pooled(methods)
    if not snapshots:
        return
    yield "slices", _slices(planes, rows, snapshots, side_mpc)
    k, radius = "$k$ [Mpc$^{-1}$]", "$R$ [Mpc]"
    yield (
        "power_spectrum",
        _by_snapshot(
            methods,
            snapshots,
            "spectrum",
            ("k", k),
            [
                (r"$k^3 P / 2\pi^2$", "power_true", "power_pred", {"yscale": "log"}),
                ("ratio to truth", "power_true", "power_pred", {"ratio": True}),
                ("$r(k)$ with truth", None, "cross_correlation", {"ylim": (None, 1.03)}),
                (
                    "$r(k)$ with density",
                    "density_correlation_true",
                    "density_correlation_pred",
                    {"zero": True},
                ),
            ],
        ),
    )
    if "brightness_power_true" in rows[snapshots[0]]["spectrum"]:
        yield (
            "brightness_temperature",
            _by_snapshot(
                methods,
                snapshots,
                "spectrum",
                ("k", k),
                [
                    (
                        r"$k^3 P_{21} / 2\pi^2$ [mK$^2$]",
                        "brightness_power_true",
                        "brightness_power_pred",
                        {"yscale": "log"},
                    ),
                    ("ratio to truth", "brightness_power_true", "brightness_power_pred", {"ratio": True}),
                ],
            ),
        )
    yield (
        "bubble_sizes",
        _by_snapshot(
            methods,
            snapshots,
            "bubble_sizes",
            ("radius_mpc", radius),
            [(r"d$P$ / d ln $R$", "probability_true", "probability_pred", {"ylim": (0, None)})],
        ),
    )
    yield (
        "granulometry",
        _by_snapshot(
            methods,
            snapshots,
            "granulometry",
            ("radius_mpc", radius),
            [("ionised volume in balls of $R$", "fraction_true", "fraction_pred", {"ylim": (0, 1.02)})],
        ),
    )


def save_figure(name: str, figure: Figure, folder: Path) -> None:
    """Write NAME.png (200 dots an inch) and NAME.pdf into `folder`, without dates, so that runs compare."""
    figure.savefig(folder / f"{name}.png", dpi=200)
    figure.set_layout_engine("none")  # laid out once is enough
    figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None})


def _spread(mean_xi: Sequence[float]) -> list[int]:
    """Up to three snapshots: those nearest to a quarter, a half and three quarters ionised."""
    if not mean_xi:
        return []
    nearest = {int(np.argmin(np.abs(np.array(mean_xi) - target))) for target in (0.25, 0.5, 0.75)}
    return sorted(nearest)


def _new(rows: int, columns: int, height: float) -> tuple[Figure, np.ndarray]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCH, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _line(axes: Axes, x: Sequence[Any], y: Sequence[Any], style: int, label: str) -> None:
    pairs = [(a, b) for a, b in zip(x, y, strict=True) if a is not None and b is not None]
    if pairs:
        axes.plot(*zip(*pairs, strict=True), label=label, marker=".", markersize=3.5, **STYLES[style])


def _finish(axes: Axes, options: Mapping[str, Any]) -> None:
    if "yscale" in options and axes.lines:
        axes.set_yscale(options["yscale"])
        _log_ticks(axes.yaxis, *axes.get_ylim())
    if "ylim" in options:
        axes.set_ylim(*options["ylim"])
    if options.get("zero"):
        axes.axhline(0, color="0.5", linewidth=0.7, linestyle=":", zorder=0)
    axes.tick_params(labelsize=7, direction="in", which="both")
    axes.xaxis.label.set_fontsize(8)
    axes.yaxis.label.set_fontsize(8)


def _log_ticks(axis: Axis, low: float, high: float) -> None:
    """Plain numbers, 1 2 5 in every decade where there are few decades."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    few = high < 150 * low
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,), numticks=20))
    if few:
        axis.set_major_formatter(FormatStrFormatter("%g"))
    axis.set_minor_formatter(NullFormatter())


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles, labels, loc="outside upper center", ncols=len(handles), fontsize=8, frameon=False
        )


def _over_redshift(
    methods: Sequence[Method],
    panels: Sequence[tuple[str, str | None, Callable[[Mapping[str, Any]], float | None], Mapping[str, Any]]],
) -> Figure:
    figure, axes = _new(1, len(panels), 2.6)
    for panel, (label, truth, pick, options) in zip(axes[0], panels, strict=True):
        rows = methods[0]["result"]["redshifts"]
        redshift = [row["redshift"] for row in rows]
        if truth is not None:
            _line(panel, redshift, [row[truth] for row in rows], 0, "truth")
        for method in methods:
            values = [pick(row) for row in method["result"]["redshifts"]]
            _line(panel, redshift, values, method["style"], method["name"])
        panel.set_xlim(max(redshift) + 0.3, min(redshift) - 0.3)
        panel.set_xlabel("redshift $z$")
        panel.set_ylabel(label)
        _finish(panel, options)
    _legend(figure, axes[0, 0])
    return figure


def _by_snapshot(
    methods: Sequence[Method],
    snapshots: Sequence[int],
    group: str,
    x: tuple[str, str],
    panels: Sequence[tuple[str, str | None, str, Mapping[str, Any]]],
) -> Figure:
    """One column a snapshot, one row a quantity of `group`."""
    rows = methods[0]["result"]["redshifts"]
    panels = [panel for panel in panels if panel[2] in rows[snapshots[0]][group]]
    figure, axes = _new(len(panels), len(snapshots), 0.6 + 1.8 * len(panels))
    for column, snapshot in enumerate(snapshots):
        axes[0, column].set_title(
            f"$z = {rows[snapshot]['redshift']:g}$, mean xi {rows[snapshot]['mean_xi_true']:.2f}", fontsize=8
        )
        for row, (label, truth, pred, options) in enumerate(panels):
            panel = axes[row, column]
            found = rows[snapshot][group]
            reference = None if truth is None else found[truth]
            if reference is not None and not options.get("ratio"):
                _line(panel, found[x[0]], reference, 0, "truth")
                if "modes" in found and options.get("yscale") == "log":
                    scatter = np.sqrt(2 / np.array(found["modes"]))
                    power = np.array(reference)
                    low, high = power * np.maximum(1 - scatter, 1e-3), power * (1 + scatter)
                    panel.fill_between(found[x[0]], low, high, color="0.85", zorder=0)
            for method in methods:
                of_method = method["result"]["redshifts"][snapshot][group]
                values = None if of_method is None else of_method[pred]
                if values is None:
                    continue
                if options.get("ratio") and reference is not None:
                    values = [
                        None if a is None or not b else a / b for a, b in zip(values, reference, strict=True)
                    ]
                if options.get("yscale") == "log":
                    values = [value if value else None for value in values]
                _line(panel, of_method[x[0]], values, method["style"], method["name"])
            panel.set_xscale("log")
            _log_ticks(panel.xaxis, *panel.get_xlim())
            if options.get("ratio"):
                panel.axhline(1, color="0.5", linewidth=0.7, linestyle=":", zorder=0)
                panel.set_ylim(0, 2)
            if row == len(panels) - 1:
                panel.set_xlabel(x[1])
            if column == 0:
                panel.set_ylabel(label)
            _finish(panel, options)
    _legend(figure, axes[0, 0])
    return figure


def _pooled(methods: Sequence[Method]) -> Figure:
    figure, axes = _new(1, 3, 2.6)
    panels = (
        ("reliability", "mean_xi_pred", "mean_xi_true", "predicted xi", "mean true xi"),
        ("error_by_density", "overdensity", "bias", "density / mean", "mean of predicted $-$ true"),
        ("error_by_density", "overdensity", "mse", "density / mean", "MSE"),
    )
    for panel, (group, x, y, x_label, y_label) in zip(axes[0], panels, strict=True):
        for method in methods:
            found = method["result"]["pooled"][group]
            if found is not None:
                _line(panel, found[x], found[y], method["style"], method["name"])
        panel.set_xlabel(x_label)
        panel.set_ylabel(y_label)
        _finish(panel, {"zero": y == "bias"})
    axes[0, 0].plot([0, 1], [0, 1], color="0.5", linewidth=0.7, linestyle=":", zorder=0)
    _legend(figure, axes[0, 0])
    return figure


def _slices(
    planes: Planes, rows: Sequence[Mapping[str, Any]], snapshots: Sequence[int], side_mpc: Sequence[float]
) -> Figure:
    shown = [
        name for name in ("density", "true", "pred", "difference") if name in planes or name == "difference"
    ]
    titles = {"density": "gas density / mean", "true": "true xi", "pred": "predicted xi"}
    titles["difference"] = "predicted $-$ true"
    figure, axes = _new(len(snapshots), len(shown), WIDTH_INCH / len(shown) * len(snapshots) + 0.6)
    for row, snapshot in enumerate(snapshots):
        for column, name in enumerate(shown):
            panel = axes[row, column]
            if name == "difference":
                values, low, high = planes["pred"][snapshot] - planes["true"][snapshot], -1.0, 1.0
            elif name == "density":
                values = np.log10(np.maximum(planes["density"][snapshot], 1e-3))
                low, high = -0.5, 0.5
            else:
                values, low, high = planes[name][snapshot], 0.0, 1.0
            image = panel.imshow(
                values,
                cmap=COLOURS.get(name, COLOURS["xi"]),
                vmin=low,
                vmax=high,
                extent=(0, side_mpc[0], 0, side_mpc[1]),
                interpolation="nearest",
            )
            if row == 0:
                panel.set_title(titles[name], fontsize=8)
            if row == len(snapshots) - 1:
                panel.set_xlabel("$x$ [Mpc]")
                bar = figure.colorbar(
                    image, ax=axes[:, column].tolist(), location="bottom", shrink=0.9, aspect=25
                )
                bar.ax.tick_params(labelsize=7)
                if name == "density":
                    bar.set_ticks([-0.5, 0, 0.5], labels=["0.32", "1", "3.2"])
            if column == 0:
                panel.set_ylabel(f"$z = {rows[snapshot]['redshift']:g}$\n$y$ [Mpc]")
            else:
                panel.set_yticklabels([])
            _finish(panel, {})
    return figure
