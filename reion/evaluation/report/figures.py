"""The figures of the page as files for a paper (PNG and PDF), drawn with matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from reion.evaluation.field_statistics import Bins, FieldStatistics
from reion.evaluation.report.drawing import WIDTH_INCH, add_legend, draw_line, log_ticks, new_figure
from reion.evaluation.report.slices import COLOURS
from reion.evaluation.result import Evaluation, Method
from reion.evaluation.scores import SnapshotScores
from reion.evaluation.survey import PLANCK_OPTICAL_DEPTH, Survey, SurveyMethod, SurveySnapshot
from reion.metrics.fields import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Planes = Mapping[str, np.ndarray]
AnyMethod = Method | SurveyMethod
AnySnapshot = SnapshotScores | SurveySnapshot
_Value = TypeVar("_Value")
_Abscissa = tuple[str, Callable[[Bins], Curve]]
"""Label and values of a horizontal axis."""


@dataclass(frozen=True, kw_only=True)
class _Panel(Generic[_Value]):
    """The quantity of a snapshot that one panel of a figure shows; either `of_field` or `of_scores` is given.

    Parameters
    ----------
    label
        Label of the vertical axis.
    of_field
        Takes the statistics of a field and returns the quantity, for the truth and for every method.
    of_scores
        Takes the scores of a method and returns the quantity, which the truth does not have.
    limits, log
        Limits of the vertical axis, and whether it is logarithmic.
    zero
        Whether a line marks zero.
    """

    label: str
    of_field: Callable[[FieldStatistics], _Value] | None = None
    of_scores: Callable[[SnapshotScores], _Value] | None = None
    limits: tuple[float | None, float | None] | None = None
    log: bool = False
    zero: bool = False

    def true(self, snapshot: AnySnapshot) -> _Value | None:
        return None if self.of_field is None or snapshot.true is None else self.of_field(snapshot.true)

    def pred(self, snapshot: AnySnapshot) -> _Value | None:
        if self.of_field is not None:
            return self.of_field(snapshot.pred)
        if self.of_scores is None or isinstance(snapshot, SurveySnapshot):
            return None
        return self.of_scores(snapshot)

    @property
    def needs_truth(self) -> bool:
        """Whether there is nothing to draw without a truth."""
        return self.of_field is None


@dataclass(frozen=True, kw_only=True)
class _CurvePanel(_Panel[Curve | None]):
    """A panel that shows a curve for each snapshot.

    Parameters
    ----------
    ratio
        Draw the ratio of prediction to truth, and no curve for the truth.
    cosmic_variance
        Shade the scatter of the truth that follows from its number of modes.
    """

    ratio: bool = False
    cosmic_variance: bool = False

    @property
    def needs_truth(self) -> bool:
        return self.ratio or self.of_field is None


def figures(
    evaluation: Evaluation, planes: Planes, side_mpc: Sequence[float]
) -> Iterator[tuple[str, Figure]]:
    """Yield the file name of every figure, and the figure.

    Parameters
    ----------
    planes
        For the slices: `true`, `pred` and possibly `density` and `spread`, each (snapshot, row, column) with
        rows from the top.
    side_mpc
        Sides of the planes along x and y.
    """
    methods = evaluation.drawn_methods
    snapshots = _half_way(evaluation.snapshots)
    yield "history", _over_redshift(methods, _HISTORY)
    yield "regions", _over_redshift(methods, _REGIONS)
    yield "calibration", _calibration(methods)
    if any(method.scores.pooled.spread_calibration is not None for method in methods):
        yield "error_bars", _error_bars(methods)
    if not snapshots:
        return
    redshift = [evaluation.snapshots[index].redshift for index in snapshots]
    yield "slices", _slices(planes, redshift, snapshots, side_mpc)
    has_density = evaluation.snapshots[snapshots[0]].true.mass_weighted_xi is not None
    spectra = [*_POWER, _DENSITY_CORRELATION] if has_density else _POWER
    yield "power_spectrum", _by_snapshot(methods, snapshots, _WAVENUMBER, spectra)
    if has_density:
        yield "brightness_temperature", _by_snapshot(methods, snapshots, _WAVENUMBER, _BRIGHTNESS)
    yield "bubble_sizes", _by_snapshot(methods, snapshots, _BUBBLE_RADIUS, _BUBBLE_SIZES)
    yield "granulometry", _by_snapshot(methods, snapshots, _BALL_RADIUS, _GRANULOMETRY)


def survey_figures(found: Survey, planes: Planes, side_mpc: Sequence[float]) -> Iterator[tuple[str, Figure]]:
    """Yield the file name of every figure of a report without truth, and the figure; see `figures`."""
    methods = found.methods
    snapshots = _half_way(found.snapshots)
    history: list[_Panel[float | None]] = [panel for panel in _HISTORY if not panel.needs_truth]
    if found.snapshots[0].pred.mass_weighted_xi is not None:
        history.append(_MASS_WEIGHTED)
    figure = _over_redshift(methods, history, more=1)
    _optical_depth(figure.axes[-1], found)
    yield "history", figure
    yield "regions", _over_redshift(methods, _REGIONS)
    if not snapshots:
        return
    redshift = [found.snapshots[index].redshift for index in snapshots]
    yield "slices", _slices(planes, redshift, snapshots, side_mpc)
    has_density = found.snapshots[snapshots[0]].pred.mass_weighted_xi is not None
    spectra = [panel for panel in _POWER if not panel.needs_truth]
    if has_density:
        brightness = [panel for panel in _BRIGHTNESS if not panel.needs_truth]
        spectra += [*brightness, _DENSITY_CORRELATION]
    yield "power_spectrum", _by_snapshot(methods, snapshots, _WAVENUMBER, spectra)
    yield "bubble_sizes", _by_snapshot(methods, snapshots, _BUBBLE_RADIUS, _BUBBLE_SIZES)
    yield "granulometry", _by_snapshot(methods, snapshots, _BALL_RADIUS, _GRANULOMETRY)


def _optical_depth(axes: Axes, found: Survey) -> None:
    """Draw the optical depth below each redshift, and the value of the whole that Planck has measured."""
    for method in found.methods:
        redshift = [snapshot.redshift for snapshot in method.scores.snapshots]
        draw_line(axes, redshift, method.scores.optical_depth, method.line_style, method.label)
    value, error = PLANCK_OPTICAL_DEPTH
    axes.axhspan(value - error, value + error, color="0.85", zorder=0)
    axes.axhline(value, color="0.5", linewidth=0.7, zorder=0)
    axes.text(
        0.98, value, "Planck 2018", fontsize=7, ha="right", va="bottom", transform=axes.get_yaxis_transform()
    )
    axes.set_ylim(0, None)
    axes.set_xlabel("redshift $z$")
    axes.set_ylabel("optical depth below $z$")
    _finish(axes)


def _half_way(snapshots: Sequence[AnySnapshot]) -> list[int]:
    """Indices of up to three snapshots with spectra: nearest to a quarter, a half and 3/4 ionised."""
    defined = [index for index, snapshot in enumerate(snapshots) if not snapshot.featureless]
    if not defined:
        return []
    mean_xi = np.array([mean_xi_of(snapshots[index]) for index in defined])
    nearest = {int(np.argmin(np.abs(mean_xi - target))) for target in (0.25, 0.5, 0.75)}
    return [defined[index] for index in sorted(nearest)]


def mean_xi_of(snapshot: AnySnapshot) -> float:
    """Mean xi of the truth, or of the field itself without a truth."""
    return (snapshot.true or snapshot.pred).mean_xi


def _finish(axes: Axes, panel: _Panel[Any] | None = None) -> None:
    """Set the properties of the axes that all panels share, and those of this panel."""
    if panel is not None:
        if panel.log and axes.lines:
            axes.set_yscale("log")
            log_ticks(axes.yaxis, *axes.get_ylim())
        if panel.limits is not None:
            axes.set_ylim(*panel.limits)
        if panel.zero:
            axes.axhline(0, color="0.5", linewidth=0.7, linestyle=":", zorder=0)
    axes.tick_params(labelsize=7, direction="in", which="both")
    axes.xaxis.label.set_fontsize(8)
    axes.yaxis.label.set_fontsize(8)


def _over_redshift(
    methods: Sequence[AnyMethod], panels: Sequence[_Panel[float | None]], *, more: int = 0
) -> Figure:
    """A figure of panels side by side, with empty axes for `more` panels."""
    figure, axes = new_figure(1, len(panels) + more, 2.6)
    snapshots = methods[0].scores.snapshots
    redshift = [snapshot.redshift for snapshot in snapshots]
    for panel_axes in axes[0]:
        panel_axes.set_xlim(max(redshift) + 0.3, min(redshift) - 0.3)
    for panel_axes, panel in zip(axes[0], panels, strict=not more):
        if panel.of_field is not None and snapshots[0].true is not None:
            draw_line(panel_axes, redshift, [panel.true(snapshot) for snapshot in snapshots], 0, "truth")
        for method in methods:
            values = [panel.pred(snapshot) for snapshot in method.scores.snapshots]
            draw_line(panel_axes, redshift, values, method.line_style, method.label)
        panel_axes.set_xlabel("redshift $z$")
        panel_axes.set_ylabel(panel.label)
        _finish(panel_axes, panel)
    add_legend(figure, axes[0, 0])
    return figure


def _by_snapshot(
    methods: Sequence[AnyMethod],
    snapshots: Sequence[int],
    x: _Abscissa,
    panels: Sequence[_CurvePanel],
) -> Figure:
    """A figure with a column for each of `snapshots` and a row for each panel."""
    figure, axes = new_figure(len(panels), len(snapshots), 0.6 + 1.8 * len(panels))
    for column, index in enumerate(snapshots):
        snapshot = methods[0].scores.snapshots[index]
        axes[0, column].set_title(
            f"$z = {snapshot.redshift:g}$, mean xi {mean_xi_of(snapshot):.2f}", fontsize=8
        )
        for row, panel in enumerate(panels):
            of_methods = [(method, method.scores.snapshots[index]) for method in methods]
            _curves(axes[row, column], panel, x[1](snapshot.bins), of_methods)
            if row == len(panels) - 1:
                axes[row, column].set_xlabel(x[0])
            if column == 0:
                axes[row, column].set_ylabel(panel.label)
            _finish(axes[row, column], panel)
    add_legend(figure, axes[0, 0])
    return figure


def _curves(
    axes: Axes, panel: _CurvePanel, x: Curve, of_methods: Sequence[tuple[AnyMethod, AnySnapshot]]
) -> None:
    """Draw the truth, if there is one, and every method in one snapshot."""
    snapshot = of_methods[0][1]
    true = panel.true(snapshot)
    if true is not None and not panel.ratio:
        draw_line(axes, x, true, 0, "truth")
    sure = panel.pred(snapshot) if snapshot.true is None else true
    if sure is not None and panel.cosmic_variance and not panel.ratio:
        scatter = np.sqrt(2 / snapshot.bins.modes)
        low, high = sure * np.maximum(1 - scatter, 1e-3), sure * (1 + scatter)
        axes.fill_between(x, low, high, color="0.85", zorder=0, label="cosmic variance")
    for method, scores in of_methods:
        pred = panel.pred(scores)
        if pred is None:
            continue
        if panel.ratio and true is not None:
            pred = np.divide(pred, true, out=np.full(true.shape, np.nan), where=true != 0)
        if panel.log:
            pred = np.where(pred == 0, np.nan, pred)
        draw_line(axes, x, pred, method.line_style, method.label)
    axes.set_xscale("log")
    log_ticks(axes.xaxis, *axes.get_xlim())
    if panel.ratio:
        axes.axhline(1, color="0.5", linewidth=0.7, linestyle=":", zorder=0)
        axes.set_ylim(0, 2)


def _calibration(methods: Sequence[Method]) -> Figure:
    figure, axes = new_figure(1, 3, 2.6)
    reliability_axes, bias_axes, error_axes = axes[0]
    for method in methods:
        pooled, style = method.scores.pooled, method.line_style
        draw_line(
            reliability_axes, pooled.reliability.mean_pred, pooled.reliability.mean_true, style, method.label
        )
        errors = pooled.density_errors
        if errors is not None:
            draw_line(bias_axes, errors.mean_overdensity, errors.bias, style, method.label)
            draw_line(error_axes, errors.mean_overdensity, errors.mse, style, method.label)
    for panel_axes, x_label, y_label in (
        (reliability_axes, "predicted xi", "mean true xi"),
        (bias_axes, "density / mean", "mean of predicted $-$ true"),
        (error_axes, "density / mean", "MSE"),
    ):
        panel_axes.set_xlabel(x_label)
        panel_axes.set_ylabel(y_label)
        _finish(panel_axes)
    bias_axes.axhline(0, color="0.5", linewidth=0.7, linestyle=":", zorder=0)
    reliability_axes.plot([0, 1], [0, 1], color="0.5", linewidth=0.7, linestyle=":", zorder=0)
    add_legend(figure, reliability_axes)
    return figure


def _error_bars(methods: Sequence[Method]) -> Figure:
    """The true error of predictions against their predicted error."""
    figure, axes = new_figure(1, 1, 3.0)
    panel = axes[0, 0]
    longest = 0.0
    for method in methods:
        spread = method.scores.pooled.spread_calibration
        if spread is not None:
            draw_line(panel, spread.predicted, spread.found, method.line_style, method.label)
            longest = float(np.nanmax([longest, *spread.predicted, *spread.found]))
    panel.plot([0, longest], [0, longest], color="0.5", linewidth=0.7, linestyle=":", zorder=0)
    panel.set_xlabel("predicted standard deviation of the error")
    panel.set_ylabel("root mean square error")
    panel.set_aspect("equal")
    _finish(panel)
    add_legend(figure, panel)
    return figure


def _slices(
    planes: Planes, redshift: Sequence[float], snapshots: Sequence[int], side_mpc: Sequence[float]
) -> Figure:
    """A figure of slices with a row for each of `snapshots`."""
    shown = [
        name
        for name in ("density", "true", "pred", "spread", "difference")
        if name in planes or (name == "difference" and "true" in planes)
    ]
    titles = {"density": "gas density / mean", "true": "true xi", "spread": "predicted spread of xi"}
    # Without a truth, xi may come from any program, e.g. a ray tracer: it need not be predicted.
    titles["pred"] = "predicted xi" if "true" in planes else "ionised fraction xi"
    titles["difference"] = "predicted $-$ true"
    figure, axes = new_figure(len(snapshots), len(shown), WIDTH_INCH / len(shown) * len(snapshots) + 0.6)
    for row, snapshot in enumerate(snapshots):
        for column, name in enumerate(shown):
            panel = axes[row, column]
            if name == "difference":
                values, low, high = planes["pred"][snapshot] - planes["true"][snapshot], -1.0, 1.0
            elif name == "spread":
                values, low, high = planes[name][snapshot], 0.0, float(planes[name].max()) or 1.0
            elif name == "density":
                values = np.log10(np.maximum(planes["density"][snapshot], 1e-3))
                low, high = -0.5, 0.5
            else:
                values, low, high = planes[name][snapshot], 0.0, 1.0
            image = panel.imshow(
                values,
                cmap=COLOURS.get("sources" if name == "spread" else name, COLOURS["xi"]),
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
                panel.set_ylabel(f"$z = {redshift[row]:g}$\n$y$ [Mpc]")
            else:
                panel.set_yticklabels([])
            _finish(panel)
    return figure


def _power(field: FieldStatistics) -> Curve | None:
    return field.spectrum.power if field.spectrum else None


def _brightness_power(field: FieldStatistics) -> Curve | None:
    return field.spectrum.brightness_power if field.spectrum else None


_HISTORY: Sequence[_Panel[float | None]] = (
    _Panel(label="mean ionised fraction", of_field=lambda field: field.mean_xi, limits=(0, 1)),
    _Panel(label="predicted $-$ true", of_scores=lambda s: s.pred.mean_xi - s.true.mean_xi, zero=True),
    _Panel(label="$R^2$", of_scores=lambda scores: scores.r2),
)
_MASS_WEIGHTED: _Panel[float | None] = _Panel(
    label="mass-weighted mean xi", of_field=lambda field: field.mass_weighted_xi, limits=(0, 1)
)
_REGIONS: Sequence[_Panel[float | None]] = (
    _Panel(label="mean free path [Mpc]", of_field=lambda field: field.bubble_size_mpc, log=True),
    _Panel(
        label="largest region / ionised volume",
        of_field=lambda field: field.largest_cluster,
        limits=(0, 1.02),
    ),
    _Panel(label="Euler characteristic", of_field=lambda field: field.euler_characteristic, zero=True),
)
_POWER = (
    _CurvePanel(label=r"$k^3 P / 2\pi^2$", of_field=_power, log=True, cosmic_variance=True),
    _CurvePanel(label="ratio to truth", of_field=_power, ratio=True),
    _CurvePanel(
        label="$r(k)$ with truth",
        of_scores=lambda scores: scores.cross_correlation_spectrum,
        limits=(None, 1.03),
    ),
)
_DENSITY_CORRELATION = _CurvePanel(
    label="$r(k)$ with density",
    of_field=lambda field: field.spectrum.density_correlation if field.spectrum else None,
    zero=True,
)
_BRIGHTNESS = (
    _CurvePanel(
        label=r"$k^3 P_{21} / 2\pi^2$ [mK$^2$]", of_field=_brightness_power, log=True, cosmic_variance=True
    ),
    _CurvePanel(label="ratio to truth", of_field=_brightness_power, ratio=True),
)
_WAVENUMBER: _Abscissa = ("$k$ [Mpc$^{-1}$]", lambda bins: bins.k)
_BUBBLE_RADIUS: _Abscissa = ("$R$ [Mpc]", lambda bins: bins.bubble_radius_mpc)
_BALL_RADIUS: _Abscissa = ("$R$ [Mpc]", lambda bins: bins.ball_radius_mpc)
_BUBBLE_SIZES = (
    _CurvePanel(
        label=r"d$P$ / d ln $R$",
        of_field=lambda field: field.bubble_sizes.probability if field.bubble_sizes else None,
        limits=(0, None),
    ),
)
_GRANULOMETRY = (
    _CurvePanel(
        label="ionised volume in balls of $R$", of_field=lambda field: field.ball_fraction, limits=(0, 1.02)
    ),
)
