"""The page of ionised fractions without a truth: the page of an evaluation, without scores."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import xarray as xr

from reion.evaluation.report.drawing import save_figure
from reion.evaluation.report.figures import survey_figures
from reion.evaluation.report.numbers import points_of
from reion.evaluation.report.page import (
    described,
    flat,
    put_report,
    said,
    slices_note,
    snapshots_in_words,
    templates,
    versions,
)
from reion.evaluation.report.slices import middle_planes, survey_slices_json
from reion.evaluation.report.summary import Card
from reion.evaluation.report.tables import SURVEY_COLUMNS, survey_definitions, survey_rows
from reion.evaluation.report.wording import figure
from reion.evaluation.survey import PLANCK_OPTICAL_DEPTH, Survey
from reion.jobs.outputs import write_json
from reion.simulation.contract import AXES, box_size_mpc

_BEGUN = 0.05
"""Ionised share of the first snapshot, or neutral share of the last, above which the page warns of it."""

_CURVES = ("spectrum", "bubble_sizes", "granulometry")


def write_survey_report(
    found: Survey,
    sim: xr.Dataset,
    xi: Mapping[str, xr.DataArray],
    folder_or_file: Path | str,
    *,
    spreads: Mapping[str, xr.DataArray] | None = None,
    warned: Mapping[str, Sequence[str]] | None = None,
    provenance: Mapping[str, Any] | None = None,
    force: bool = False,
) -> Path:
    """Write the page of a survey and, into a folder, its figures and numbers as files.

    Parameters
    ----------
    found
        The result of `reion.evaluation.survey.survey` for `xi` and `sim`.
    sim, xi
        The Simulation and the ionised fractions by name, for the slices.
    folder_or_file, spreads, warned, provenance, force
        As in `reion.evaluation.report.page.write_report`.

    Returns
    -------
    Path
        The path of the page.

    Raises
    ------
    InputError
        If the place is occupied and `force` is not given, or its content is not a report that reion wrote.
    """
    spreads = spreads or {}
    html = partial(render_survey, found, sim, xi, provenance or {}, spreads=spreads, warned=warned or {})
    return put_report(folder_or_file, html, partial(_write_files, found, sim, xi, spreads), force=force)


def _write_files(
    found: Survey,
    sim: xr.Dataset,
    xi: Mapping[str, xr.DataArray],
    spreads: Mapping[str, xr.DataArray],
    folder: Path,
) -> None:
    """Write figures as PNG and PDF, numbers as CSV and JSON."""
    write_json(folder / "numbers" / "survey.json", found.to_json())
    _write_csv(found, folder / "numbers")
    planes = middle_planes(found, sim, xi[found.name], judged=False, spread=spreads.get(found.name))
    for name, drawn in survey_figures(found, planes, box_size_mpc(sim)[:2]):
        save_figure(name, drawn, folder / "figures")


def render_survey(
    found: Survey,
    sim: xr.Dataset,
    xi: Mapping[str, xr.DataArray],
    provenance: Mapping[str, Any],
    *,
    spreads: Mapping[str, xr.DataArray],
    warned: Mapping[str, Sequence[str]],
) -> str:
    """The HTML of the page (see `write_survey_report`)."""
    folder = files("reion.evaluation.report")
    shape = " x ".join(str(sim.sizes[axis]) for axis in AXES)
    sides = " x ".join(f"{side:g}" for side in box_size_mpc(sim))
    redshift = [snapshot.redshift for snapshot in found.snapshots]
    made = {**provenance, "simulation": described(sim), "written by": versions()}
    methods = [
        {"name": method.label, "style": method.line_style, "result": method.scores.to_json("_pred")}
        for method in found.methods
    ]
    photons = found.to_json()["photons_per_atom"]
    return (
        templates()
        .get_template("page.html")
        .render(
            judged=False,
            title=f"{found.name}: ionised fraction",
            subtitle=f"{shape} cells in {sides} Mpc (comoving), {snapshots_in_words(redshift)}",
            headline=survey_headline(found),
            cards=list(survey_cards(found)),
            warned=said(warned),
            slices_note=slices_note(sim, error_bars=bool(spreads)),
            methods=found.methods,
            columns=SURVEY_COLUMNS,
            survey_rows=survey_rows,
            definitions=survey_definitions(found).items(),
            provenance=list(flat(made)),
            css=(folder / "report.css").read_text(encoding="utf-8"),
            js=(folder / "report.js").read_text(encoding="utf-8"),
            data={
                "judged": False,
                "evaluation": {"redshifts": [{"redshift": z} for z in redshift]},
                "methods": methods,
                "photons_per_atom": photons,
                "planck": PLANCK_OPTICAL_DEPTH,
                "slices": survey_slices_json(found, sim, xi, spreads),
            },
        )
    )


def survey_headline(found: Survey) -> str:
    """The main results of the first xi, in one or two sentences."""
    scores = found.fields[found.name]
    first, last = scores.snapshots[0], scores.snapshots[-1]
    text = f"In {found.name} the mean ionised fraction goes from {figure(first.pred.mean_xi)} at z = "
    text += f"{first.redshift:g} to {figure(last.pred.mean_xi)} at z = {last.redshift:g}"
    half = half_redshift(found)
    if half is not None:
        text += f", and passes one half at z = {half:.2f}"
    depth, (planck, error) = float(scores.optical_depth[0]), PLANCK_OPTICAL_DEPTH
    apart = f"{abs(depth - planck) / error:.1f} σ from that of Planck 2018"
    assumed = _assumed_of_the_optical_depth(found)
    if assumed:
        return f"{text}. With {' and '.join(assumed)}, its optical depth is {depth:.4f}, {apart}."
    return f"{text}. Its optical depth, {depth:.4f}, is {apart}."


def _assumed_of_the_optical_depth(found: Survey) -> list[str]:
    """Assumptions about the gas before the first snapshot and after the last in the optical depth."""
    first, last = found.snapshots[0], found.snapshots[-1]
    return [
        f"{share} gas ionised {side} z = {snapshot.redshift:g}"
        for share, side, snapshot, left_out in (
            ("no", "above", first, first.pred.mean_xi),
            ("all", "below", last, 1 - last.pred.mean_xi),
        )
        if left_out > _BEGUN
    ]


def half_redshift(found: Survey) -> float | None:
    """Redshift at which the mean of the first xi passes one half, linear in z; None if it does not."""
    snapshots = found.snapshots
    for before, after in pairwise(snapshots):
        low, high = before.pred.mean_xi, after.pred.mean_xi
        if low < 0.5 <= high:
            return before.redshift + (0.5 - low) / (high - low) * (after.redshift - before.redshift)
    return None


def survey_cards(found: Survey) -> Iterator[Card]:
    """The numbers of the summary."""
    scores, half = found.fields[found.name], half_redshift(found)
    planck, error = PLANCK_OPTICAL_DEPTH
    first, last = found.snapshots[0].redshift, found.snapshots[-1].redshift
    yield Card(
        "redshift at which mean xi is one half",
        "–" if half is None else f"{half:.2f}",
        f"not between z = {first:g} and {last:g}" if half is None else "",
    )
    compared = [f"Planck 2018: {planck:g} ± {error:g}", *_assumed_of_the_optical_depth(found)]
    yield Card("optical depth", f"{float(scores.optical_depth[0]):.4f}", "; ".join(compared))
    middle = min(found.snapshots, key=lambda snapshot: abs(snapshot.pred.mean_xi - 0.5))
    size = figure(middle.pred.bubble_size_mpc, 1)
    yield Card(f"mean bubble size at z = {middle.redshift:g}", f"{size} Mpc", "")
    if found.photons_per_atom is not None:
        yield Card(
            f"photons for each atom by z = {last:g}",
            f"{float(found.photons_per_atom[-1]):.2f}",
            f"{figure(found.snapshots[-1].pred.mass_weighted_xi)} of the atoms are ionised",
        )


def _write_csv(found: Survey, folder: Path) -> None:
    """Write survey.csv with one row for each xi and redshift, and a file for each group of curves."""
    rows = [
        ({"xi": name, "redshift": row["redshift"]}, row)
        for name, scores in found.fields.items()
        for row in scores.to_json()["redshifts"]
    ]
    single = [
        {**key, **{k: v for k, v in row.items() if k not in _CURVES and not isinstance(v, list)}}
        for key, row in rows
    ]
    tables = {"survey": single}
    for group in _CURVES:
        tables[group] = [{**key, **point} for key, row in rows for point in points_of(row[group])]
    for name, lines in tables.items():
        columns = list(dict.fromkeys(column for line in lines for column in line))
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(lines)
