"""The numbers of the page as HTML tables, which need no JavaScript."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from reion.metrics.spectra import BANDS


def tables_html(evaluation: Mapping[str, Any]) -> str:
    """One table a method: every redshift and pooled."""
    methods = {
        str(evaluation["name"]): evaluation,
        "excursion set": evaluation["baselines"]["excursion_set"],
        **evaluation["against"],
        "mean field": evaluation["baselines"]["mean_field"],
    }
    return "".join(_table(name, method) for name, method in methods.items())


def _table(name: str, method: Mapping[str, Any]) -> str:
    if method["pooled"] is None:
        return f"<p class='note'>No {escape(name)}: it {escape(method['missing'])}.</p>"
    bands = "".join(f"<th scope='col'>{band}</th>" for band in BANDS)
    head = (
        "<tr><th rowspan='2' scope='col'>z</th><th colspan='2'>mean xi</th>"
        "<th rowspan='2' scope='col'>R²</th><th rowspan='2' scope='col'>MSE</th>"
        "<th rowspan='2' scope='col'>MAE</th>"
        f"<th colspan='{len(BANDS)}'>power ratio at k [Mpc⁻¹]</th>"
        f"<th colspan='{len(BANDS)}'>cross-correlation at k [Mpc⁻¹]</th></tr>"
        f"<tr><th scope='col'>true</th><th scope='col'>predicted</th>{bands}{bands}</tr>"
    )
    rows = "".join(_row(f"{row['redshift']:g}", row) for row in method["redshifts"])
    pooled = _row("pooled", method["pooled"], "pooled")
    return (
        f"<div class='scroll'><table><caption>{escape(name)}</caption><thead>{head}</thead>"
        f"<tbody>{rows}{pooled}</tbody></table></div>"
    )


def _row(label: str, row: Mapping[str, Any], kind: str = "") -> str:
    values = [row["mean_xi_true"], row["mean_xi_pred"], row["r2"], row["mse"], row["mae"]]
    values += [row["power_ratio"][band] for band in BANDS]
    values += [row["cross_correlation"][band] for band in BANDS]
    cells = "".join(f"<td>{'–' if value is None else f'{value:.4f}'}</td>" for value in values)
    return f"<tr class='{kind}'><th scope='row'>{label}</th>{cells}</tr>"
