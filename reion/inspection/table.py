"""The inspection of a simulation as tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reion.inspection.result import FieldInspection, Inspection, Statistics
from reion.simulation.contract import AXES

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_STATISTICS_COLUMNS = (
    "mean",
    "σ",
    "min",
    "max",
    "skewness",
    "empty",
    *(f"{axis} line" for axis in AXES),
    "norm. min",
    "norm. max",
)


def render(inspection: Inspection) -> RenderableType:
    """An inspection as tables: one for each field, the history and the checks."""
    from rich.console import Group

    return Group(
        _headline(inspection),
        *map(_field_table, inspection.fields.values()),
        _history_table(inspection),
        _checks_table(inspection),
    )


def _headline(inspection: Inspection) -> str:
    cells = " x ".join(str(n) for n in inspection.shape)
    sides = " x ".join(f"{length:g}" for length in inspection.box_size_mpc)
    redshifts = inspection.redshifts
    return (
        f"{cells} cells, {sides} Mpc (comoving), cell {inspection.cell_size_mpc[0]:.4g} Mpc, "
        f"{len(redshifts)} redshifts from {redshifts[0]:g} to {redshifts[-1]:g}, "
        f"from {inspection.source_code}"
    )


def _field_table(field: FieldInspection) -> Table:
    from rich.table import Table

    table = Table(title=f"{field.name} ({field.units})", title_justify="left")
    for column in ("z", *_STATISTICS_COLUMNS):
        table.add_column(column, justify="right")
    for snapshot in field.snapshots:
        means = [snapshot.axis_means[axis] for axis in AXES]
        table.add_row(f"{snapshot.redshift:g}", *_cells(snapshot.statistics, means))
    if len(field.snapshots) > 1:
        table.add_row("all", *_cells(field.pooled, [None] * len(AXES)), style="bold")
    return table


def _cells(statistics: Statistics, axis_means: list[float] | list[None]) -> list[str]:
    """The texts of a row, in the order of `_STATISTICS_COLUMNS`."""
    values = (
        statistics.mean,
        statistics.std,
        statistics.minimum,
        statistics.maximum,
        statistics.skewness,
        statistics.empty_fraction,
        *axis_means,
        statistics.normalised_minimum,
        statistics.normalised_maximum,
    )
    return [_text(value) for value in values]


def _history_table(inspection: Inspection) -> Table:
    from rich.table import Table

    table = Table(title="history", title_justify="left")
    for column in ("z", "age / Myr", "mean xi", "by mass", "at sources", "photons per H"):
        table.add_column(column, justify="right")
    for point in inspection.history:
        table.add_row(
            f"{point.redshift:g}",
            f"{point.age_myr:.0f}",
            _text(point.mean_xi),
            _text(point.mean_xi_mass),
            _text(point.mean_xi_at_sources),
            _text(point.photons_per_hydrogen),
        )
    return table


def _checks_table(inspection: Inspection) -> Table:
    from rich.table import Table

    table = Table(title="checks", title_justify="left", show_header=False, box=None)
    for check in inspection.checks:
        table.add_row("[green]ok[/]" if check.ok else "[yellow]look[/]", check.name, check.message)
    return table


def _text(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
