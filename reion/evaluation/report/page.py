"""Put the page together: summary, slices, charts, tables and provenance in one self-contained file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import xarray as xr

from reion.errors import InputError
from reion.evaluation.evaluate import matching_snapshots
from reion.evaluation.report.figures import figures, save_figure
from reion.evaluation.report.numbers import write_csv
from reion.evaluation.report.slices import Slicer, colour_tables, pack
from reion.evaluation.report.summary import summary_html
from reion.evaluation.report.tables import tables_html
from reion.jobs.outputs import write_json, write_whole
from reion.physics import excursion_set
from reion.simulation.contract import DIMS, PHOTON_RATE_UNITS, PHOTON_UNITS, box_size_mpc, hydrogen_density


def write_report(
    evaluation: Mapping[str, Any],
    true: xr.Dataset,
    predictions: Mapping[str, xr.DataArray] | xr.DataArray,
    folder_or_file: Path | str,
    *,
    provenance: Mapping[str, Any] | None = None,
    force: bool = False,
) -> Path:
    """Write the page of an evaluation and, into a folder, its figures and numbers as files.

    Parameters
    ----------
    evaluation
        What `reion.evaluation.evaluate.evaluate` returned for `predictions` and `true`.
    true, predictions
        The same Simulation and predictions, for the slices.
    folder_or_file
        A name that ends in .html: the page alone. Otherwise a folder: report.html, `figures/` (PNG and PDF)
        and `numbers/` (CSV and JSON).
    provenance
        What the last section lists: model, training data, command, ...; nested mappings are flattened. What
        the truth says of itself and the versions of the packages are added.
    force
        Replace a page that is there.

    Returns
    -------
    Path
        The page's path.

    Raises
    ------
    InputError
        If the page exists and `force` is not given.
    """
    target = Path(folder_or_file)
    by_name = predictions if isinstance(predictions, Mapping) else {str(evaluation["name"]): predictions}
    alone = target.suffix == ".html"
    page = target if alone else target / "report.html"
    if page.exists() and not force:
        raise InputError("the report exists already", file=page, hint="--force replaces it")
    folder = page.parent
    folder.mkdir(parents=True, exist_ok=True)
    html = render_page(evaluation, true, by_name, provenance or {})
    if alone:
        write_whole(page, html)
        return page
    with TemporaryDirectory(prefix=".report-", dir=folder) as partial:
        draft = Path(partial)
        write_whole(draft / page.name, html)
        _write_files(evaluation, true, by_name, draft)
        # The page comes last: where it is, the rest is too.
        for file in sorted(draft.rglob("*"), key=lambda file: file.name == page.name):
            if file.is_file():
                place = folder / file.relative_to(draft)
                place.parent.mkdir(exist_ok=True)
                file.replace(place)
    return page


def _write_files(
    evaluation: Mapping[str, Any],
    true: xr.Dataset,
    predictions: Mapping[str, xr.DataArray],
    folder: Path,
) -> None:
    """Figures as PNG and PDF, numbers as CSV and JSON."""
    (folder / "figures").mkdir()
    (folder / "numbers").mkdir()
    write_json(folder / "numbers" / "evaluation.json", evaluation)
    write_csv(evaluation, folder / "numbers")
    name = str(evaluation["name"])
    indices = evaluated_snapshots(evaluation, true)
    found = matching_snapshots(name, predictions[name], true)
    slicer = Slicer((true.sizes["x"], true.sizes["y"], 1), len(indices))
    middle = slice(true.sizes["z"] // 2, true.sizes["z"] // 2 + 1)
    planes = {
        "true": slicer.cut(true["xi"][index, :, :, middle].values for index in indices)[:, 0],
        "pred": slicer.cut(predictions[name][found[index], :, :, middle].values for index in indices)[:, 0],
    }
    if "n_igm" in true.data_vars:
        boxes = (_overdensity(true["n_igm"][index].values)[:, :, middle] for index in indices)
        planes["density"] = slicer.cut(boxes)[:, 0]
    for figure_name, figure in figures(styled_methods(evaluation), planes, box_size_mpc(true)[:2]):
        save_figure(figure_name, figure, folder / "figures")


def evaluated_snapshots(evaluation: Mapping[str, Any], true: xr.Dataset) -> list[int]:
    """Indices in `true` of the snapshots that were evaluated."""
    return [
        int(np.abs(true["redshift"].values - row["redshift"]).argmin()) for row in evaluation["redshifts"]
    ]


def render_page(
    evaluation: Mapping[str, Any],
    true: xr.Dataset,
    predictions: Mapping[str, xr.DataArray],
    provenance: Mapping[str, Any],
) -> str:
    """The page's HTML (see `write_report`)."""
    name = str(evaluation["name"])
    methods = styled_methods(evaluation)
    sides = box_size_mpc(true)
    shape = tuple(true.sizes[axis] for axis in DIMS[1:])
    redshift = [row["redshift"] for row in evaluation["redshifts"]]
    data = {
        "evaluation": evaluation,
        "methods": methods,
        "slices": _slices(evaluation, true, predictions),
    }
    folder = files("reion.evaluation.report")
    parts = {
        "title": escape(f"{name}: ionised fraction against the truth"),
        "subtitle": escape(
            f"{' x '.join(map(str, shape))} cells in {' x '.join(f'{side:g}' for side in sides)} Mpc "
            f"(comoving), {_snapshots(redshift)}"
        ),
        "summary": summary_html(evaluation),
        "tables": tables_html(evaluation),
        "slices_note": escape(_slices_note(true)),
        "provenance": _provenance_html({**provenance, "truth": _described(true), "written by": _versions()}),
        "css": (folder / "report.css").read_text(encoding="utf-8"),
        "js": (folder / "report.js").read_text(encoding="utf-8"),
        # Inside a script element only a closing tag could end the data early.
        "data": json.dumps(data, allow_nan=False, separators=(",", ":")).replace("</", "<\\/"),
    }
    html = (folder / "template.html").read_text(encoding="utf-8")
    for key, text in parts.items():
        html = html.replace("{{" + key + "}}", text)
    return html


def _snapshots(redshift: list[float]) -> str:
    if len(redshift) == 1:
        return f"one snapshot at z = {redshift[0]:g}"
    return f"{len(redshift)} snapshots from z = {redshift[0]:g} to {redshift[-1]:g}"


def styled_methods(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every method but the mean field: `name`, `style` (the number of its line style) and `result`."""
    excursion = evaluation["baselines"]["excursion_set"]
    found = [(str(evaluation["name"]), 1, evaluation)]
    if excursion["redshifts"]:
        found.append(("excursion set", 2, excursion))
    found += [
        (name, 3 + number % 6, result) for number, (name, result) in enumerate(evaluation["against"].items())
    ]
    return [
        {"name": name, "style": style, "result": {key: result[key] for key in ("pooled", "redshifts")}}
        for name, style, result in found
    ]


def _slices(
    evaluation: Mapping[str, Any], true: xr.Dataset, predictions: Mapping[str, xr.DataArray]
) -> dict[str, Any]:
    redshift = [row["redshift"] for row in evaluation["redshifts"]]
    indices = evaluated_snapshots(evaluation, true)
    sizes = true.sizes
    slicer = Slicer((sizes["x"], sizes["y"], sizes["z"]), len(indices))
    fields: dict[str, str] = {}
    scales: dict[str, dict[str, Any]] = {}
    if "n_igm" in true.data_vars:
        density = slicer.cut(_overdensity(true["n_igm"][index].values) for index in indices)
        density = np.log10(np.maximum(density, 1e-3))
        low, high = (float(edge) for edge in np.percentile(density, [0.5, 99.5]))
        high = max(high, low + 1e-3)
        fields["density"] = pack(density, low, high)
        scales["density"] = {
            "low": low,
            "high": high,
            "log": True,
            "units": "density / mean",
            "colours": "density",
        }
    sources = next((name for name in ("n_src", "n_ion") if name in true.data_vars), None)
    if sources is not None:
        rate = slicer.cut(true[sources][index].values for index in indices)
        brightest = float(rate.max())
        high = np.log10(brightest) if brightest > 0 else 0.0
        low = high - 4.0
        fields["sources"] = pack(np.log10(np.maximum(rate, 10**low)), low, high)
        units = {PHOTON_RATE_UNITS: "10⁴⁸ s⁻¹ Mpc⁻³", PHOTON_UNITS: "10⁶⁶ Mpc⁻³"}.get(
            true[sources].attrs["units"], true[sources].attrs["units"]
        )
        scales["sources"] = {
            "low": low,
            "high": float(high),
            "log": True,
            "units": units,
            "colours": "sources",
        }
    fields["true"] = pack(slicer.cut(true["xi"][index].values for index in indices), 0, 1)
    xi = {"low": 0, "high": 1, "log": False, "units": "ionised fraction", "colours": "xi"}
    scales |= {
        "true": xi,
        "pred": xi,
        "difference": {**xi, "low": -1, "units": "difference", "colours": "difference"},
    }
    methods = []
    for name in (evaluation["name"], *evaluation["against"]):
        found = matching_snapshots(name, predictions[name], true)
        cut = slicer.cut(predictions[name][found[index]].values for index in indices)
        methods.append({"name": name, "packed": pack(cut, 0, 1)})
    if evaluation["baselines"]["excursion_set"]["redshifts"]:
        cut = slicer.cut(_excursion_set(evaluation, true, indices))
        methods.insert(1, {"name": "excursion set", "packed": pack(cut, 0, 1)})
    lx, ly, lz = box_size_mpc(true)
    # Half-way through reionisation there is most to see.
    means = [row["mean_xi_true"] for row in evaluation["redshifts"]]
    return {
        "redshifts": redshift,
        "first": int(np.argmin(np.abs(np.array(means) - 0.5))),
        "depths": [(depth + 0.5) * lz / sizes["z"] for depth in slicer.depths],
        "rows": slicer.rows,
        "columns": slicer.columns,
        "side_mpc": [lx, ly],
        "fields": fields,
        "methods": methods,
        "scales": scales,
        "colours": colour_tables(),
    }


def _overdensity(n_igm: np.ndarray) -> np.ndarray:
    mean = n_igm.mean(dtype=np.float64)
    overdensity: np.ndarray = n_igm / (mean if mean > 0 else 1.0)
    return overdensity


def _excursion_set(
    evaluation: Mapping[str, Any], true: xr.Dataset, indices: list[int]
) -> Iterator[np.ndarray]:
    baseline = evaluation["baselines"]["excursion_set"]
    for index, photons in enumerate(excursion_set.photons(true, baseline["inputs"])):
        if index in indices:
            atoms = hydrogen_density(true["n_igm"][index].values)
            yield excursion_set.ionised(photons, atoms, threshold=baseline["threshold"]).astype(np.float32)


def _slices_note(true: xr.Dataset) -> str:
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
        + " (both logarithmic); xi: ionised fraction of hydrogen."
    )


def _described(true: xr.Dataset) -> dict[str, Any]:
    """Where the truth comes from: what its attributes say, fields and units."""
    fields = [f"{name} [{variable.attrs.get('units')}]" for name, variable in true.data_vars.items()]
    return {"fields": fields, **{str(key): value for key, value in true.attrs.items()}}


def _versions() -> dict[str, str]:
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


def _provenance_html(provenance: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><th scope='row'>{escape(key)}</th><td>{escape(value)}</td></tr>"
        for key, value in _flat(provenance)
    )
    return f"<div class='scroll'><table class='facts'><tbody>{rows}</tbody></table></div>"


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested mappings and lists of mappings as one level: keys joined with dots."""
    for key, value in mapping.items():
        listed = list(value) if isinstance(value, (list, tuple)) else []
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif any(isinstance(part, Mapping) for part in listed):
            yield from _flat({f"{key}.{number}": part for number, part in enumerate(listed, 1)}, prefix)
        else:
            yield f"{prefix}{key}", ", ".join(map(str, listed)) if listed else str(value)
