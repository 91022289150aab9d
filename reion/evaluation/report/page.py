"""The page of a report: summary, slices, charts, tables and provenance in one self-contained file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from jinja2 import Environment, PackageLoader, StrictUndefined

from reion.evaluation.report.drawing import save_figure
from reion.evaluation.report.figures import figures
from reion.evaluation.report.numbers import write_csv
from reion.evaluation.report.slices import middle_planes, slices_json
from reion.evaluation.report.summary import cards, headline
from reion.evaluation.report.tables import definitions, pooled_rows, redshift_rows
from reion.evaluation.result import Evaluation
from reion.jobs.figures import own_settings
from reion.jobs.outputs import whole_folder, write_json, write_whole
from reion.jobs.places import GENERATOR, Kind, claimed, holds_only
from reion.metrics.pooling import POOLED_SNAPSHOTS
from reion.metrics.spectra import BANDS
from reion.simulation.contract import AXES, box_size_mpc


def is_our_page(path: Path) -> bool:
    """Whether a file is the page of a report that reion wrote."""
    return path.is_file() and GENERATOR in path.read_bytes()[:4096]


def is_our_report(folder: Path) -> bool:
    """Whether a folder is a report that reion wrote, and holds no other files."""
    return holds_only(folder, ("report.html", "figures", "numbers")) and is_our_page(folder / "report.html")


PAGE = Kind(name="the page of a report", ending=".html", is_ours=is_our_page)
REPORT = Kind(name="the folder of a report", is_ours=is_our_report, into_empty=True)


def write_report(
    evaluation: Evaluation,
    true: xr.Dataset,
    predictions: Mapping[str, xr.DataArray] | xr.DataArray,
    folder_or_file: Path | str,
    *,
    spreads: Mapping[str, xr.DataArray] | None = None,
    warned: Mapping[str, Sequence[str]] | None = None,
    provenance: Mapping[str, Any] | None = None,
    force: bool = False,
) -> Path:
    """Write the page of an evaluation and, into a folder, its figures and numbers as files.

    Parameters
    ----------
    evaluation
        The result of `reion.evaluation.evaluate.evaluate` for `predictions` and `true`.
    true, predictions
        The evaluated Simulation and predictions, for the slices.
    folder_or_file
        If the name ends in .html, only the page is written. Otherwise it is a folder for report.html,
        `figures/` (PNG and PDF) and `numbers/` (CSV and JSON).
    spreads
        xi_std of the predictions that have it, by name.
    warned
        Warnings of each model, by the name of its prediction.
    provenance
        Entries of the last section: model, training data, command, ...; nested mappings are flattened. The
        attributes of the truth and the versions of the packages are added.
    force
        Replace an existing report, if it holds no other files.

    Returns
    -------
    Path
        The path of the page.

    Raises
    ------
    InputError
        If the place is occupied and `force` is not given, or its content is not a report that reion wrote.
    """
    by_name = predictions if isinstance(predictions, Mapping) else {evaluation.name: predictions}
    spreads = spreads or {}
    html = partial(
        render_page, evaluation, true, by_name, provenance or {}, spreads=spreads, warned=warned or {}
    )
    write_files = partial(_write_files, evaluation, true, by_name, spreads)
    return put_report(folder_or_file, html, write_files, force=force)


def put_report(
    folder_or_file: Path | str,
    html: Callable[[], str],
    write_files: Callable[[Path], None],
    *,
    force: bool = False,
) -> Path:
    """Write a page to its place and, if that is a folder, its figures and numbers too.

    Parameters
    ----------
    folder_or_file, force
        See `write_report`.
    html
        Returns the HTML of the page.
    write_files
        Called with a folder; writes into its empty folders `figures` and `numbers`.

    Returns
    -------
    Path
        The path of the page.

    Raises
    ------
    InputError
        As `write_report` does.
    """
    kind = report_kind(Path(folder_or_file))
    with claimed(folder_or_file, kind, force=force) as place:
        text = html()
        if kind is PAGE:
            write_whole(place, text)
            return place
        with whole_folder(place) as folder:
            write_whole(folder / "report.html", text)
            (folder / "figures").mkdir()
            (folder / "numbers").mkdir()
            with own_settings():
                write_files(folder)
        return place / "report.html"


def report_kind(folder_or_file: Path) -> Kind:
    """The kind of output that `write_report` writes: a page if the name ends in .html, otherwise a folder."""
    return PAGE if folder_or_file.suffix.lower() == PAGE.ending else REPORT


def _write_files(
    evaluation: Evaluation,
    true: xr.Dataset,
    predictions: Mapping[str, xr.DataArray],
    spreads: Mapping[str, xr.DataArray],
    folder: Path,
) -> None:
    """Write figures as PNG and PDF, numbers as CSV and JSON."""
    write_json(folder / "numbers" / "evaluation.json", evaluation.to_json())
    write_csv(evaluation, folder / "numbers")
    name = evaluation.name
    planes = middle_planes(evaluation, true, predictions[name], spread=spreads.get(name))
    for name, figure in figures(evaluation, planes, box_size_mpc(true)[:2]):
        save_figure(name, figure, folder / "figures")


def render_page(
    evaluation: Evaluation,
    true: xr.Dataset,
    predictions: Mapping[str, xr.DataArray],
    provenance: Mapping[str, Any],
    *,
    spreads: Mapping[str, xr.DataArray],
    warned: Mapping[str, Sequence[str]],
) -> str:
    """The HTML of the page (see `write_report`)."""
    folder = files("reion.evaluation.report")
    shape = " x ".join(str(true.sizes[axis]) for axis in AXES)
    sides = " x ".join(f"{side:g}" for side in box_size_mpc(true))
    redshift = [snapshot.redshift for snapshot in evaluation.snapshots]
    return (
        templates()
        .get_template("page.html")
        .render(
            judged=True,
            title=f"{evaluation.name}: ionised fraction against the truth",
            subtitle=f"{shape} cells in {sides} Mpc (comoving), {snapshots_in_words(redshift)}",
            headline=headline(evaluation),
            cards=list(cards(evaluation)),
            warned=said(warned),
            slices_note=slices_note(true, error_bars=bool(spreads)),
            pooled_snapshots=POOLED_SNAPSHOTS,
            methods=evaluation.methods,
            missing=evaluation.excursion_set_missing,
            pooled_rows=list(pooled_rows(evaluation)),
            redshift_rows=redshift_rows,
            bands=BANDS,
            definitions=definitions(evaluation).items(),
            provenance=list(flat({**provenance, "truth": described(true), "written by": versions()})),
            css=(folder / "report.css").read_text(encoding="utf-8"),
            js=(folder / "report.js").read_text(encoding="utf-8"),
            data={
                "judged": True,
                "evaluation": evaluation.to_json(),
                "methods": [
                    {"name": method.label, "style": method.line_style, "result": method.scores.to_json()}
                    for method in evaluation.drawn_methods
                ],
                "slices": slices_json(evaluation, true, predictions, spreads),
            },
        )
    )


def templates() -> Environment:
    """The Jinja environment for the templates of this folder."""
    environment = Environment(
        loader=PackageLoader("reion.evaluation.report", ""), autoescape=True, undefined=StrictUndefined
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment


def said(warned: Mapping[str, Sequence[str]]) -> list[tuple[str, Sequence[str]]]:
    """Names and warnings of the models that gave warnings."""
    return [(name, lines) for name, lines in warned.items() if lines]


def snapshots_in_words(redshift: Sequence[float]) -> str:
    """The number of snapshots and their range of redshifts, in words."""
    if len(redshift) == 1:
        return f"one snapshot at z = {redshift[0]:g}"
    return f"{len(redshift)} snapshots from z = {redshift[0]:g} to {redshift[-1]:g}"


def slices_note(true: xr.Dataset, *, error_bars: bool) -> str:
    """A note on the slices: what they show, and their colours."""
    shown = {
        "n_igm": "gas density over its mean",
        "n_src": "ionising photon rate of the sources that switch on",
    }
    if "n_src" not in true.data_vars:
        shown["n_ion"] = "ionising photons emitted so far"
    parts = [text for name, text in shown.items() if name in true.data_vars]
    return (
        "One cell deep, across z; "
        + "; ".join(parts)
        + " (both logarithmic); xi: ionised fraction of hydrogen"
        + ("; error bar: standard deviation of the error that the network expects." if error_bars else ".")
    )


def described(true: xr.Dataset) -> dict[str, Any]:
    """The origin of the truth: its attributes, fields and units."""
    fields = [f"{name} [{variable.attrs.get('units')}]" for name, variable in true.data_vars.items()]
    return {"fields": fields, **{str(key): value for key, value in true.attrs.items()}}


def versions() -> dict[str, str]:
    """Versions of the packages that made the page."""
    import platform

    import matplotlib as mpl
    import scipy

    import reion

    return {
        "reion": reion.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "xarray": xr.__version__,
        "matplotlib": mpl.__version__,
    }


def flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested mappings and lists of mappings, flattened to one level with keys joined by dots."""
    for key, value in mapping.items():
        listed = list(value) if isinstance(value, (list, tuple)) else []
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        elif any(isinstance(part, Mapping) for part in listed):
            yield from flat({f"{key}.{number}": part for number, part in enumerate(listed, 1)}, prefix)
        else:
            yield f"{prefix}{key}", ", ".join(map(str, listed)) if listed else str(value)
