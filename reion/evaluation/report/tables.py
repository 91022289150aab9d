"""The numbers of the page as HTML tables, which need no JavaScript, and what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from reion.evaluation.report.wording import figure
from reion.evaluation.scores import FEATURELESS_STD, POOLED_MEAN_XI, POOLED_REDSHIFT
from reion.metrics.bubbles import IONISED, RAYS
from reion.metrics.history import HELIUM_MASS_FRACTION, HELIUM_REIONISATION
from reion.metrics.spectra import BANDS


def tables_html(evaluation: Mapping[str, Any]) -> str:
    """Everything pooled side by side, one table a method with every redshift, and the definitions."""
    methods = {
        str(evaluation["name"]): evaluation,
        **evaluation["against"],
        "excursion set": evaluation["baselines"]["excursion_set"],
        "mean field": evaluation["baselines"]["mean_field"],
    }
    judged = {name: method for name, method in methods.items() if method["pooled"] is not None}
    missing = "".join(
        f"<p class='note'>No {escape(name)}: it {escape(method['missing'])}.</p>"
        for name, method in methods.items()
        if method["pooled"] is None
    )
    by_redshift = "".join(
        f"<details{' open' if number == 0 else ''}><summary>{escape(name)}, every redshift</summary>"
        f"{_redshift_table(method)}</details>"
        for number, (name, method) in enumerate(judged.items())
    )
    definitions = "".join(
        f"<tr><th scope='row'>{escape(term)}</th><td>{escape(text)}</td></tr>"
        for term, text in definitions_of(evaluation).items()
    )
    return (
        f"{_pooled_table(judged)}{missing}{by_redshift}"
        "<details><summary>What the numbers mean</summary>"
        f"<div class='scroll'><table class='facts'><tbody>{definitions}</tbody></table></div></details>"
    )


def definitions_of(evaluation: Mapping[str, Any]) -> dict[str, str]:
    """Each statistic and how it is defined."""
    low, high = POOLED_MEAN_XI
    excursion = evaluation["baselines"]["excursion_set"]
    found = {
        "pooled": f"over all cells of all snapshots at z ≤ {POOLED_REDSHIFT:g} whose true mean xi is between "
        f"{low:g} and {high:g}",
        "R²": "1 − Σ(p − t)² / Σ(t − mean t)²; not defined where the true xi scatters less than "
        f"{FEATURELESS_STD:g}, nor are spectra there",
        "power ratio, cross-correlation": "Σ|P|² / Σ|T|² and Re ΣTP* / √(Σ|T|² Σ|P|²) over the modes "
        "from 0.8 k to 1.2 k, means removed, no window; nyquist: 0.8 to 1.0 of π / cell",
        "spectra": "k³P/2π² in shells of k; the grey band is the scatter of a Gaussian field with as many "
        "independent modes (cosmic variance)",
        "calibration error": "|mean predicted − mean true xi| in bins of the prediction, averaged over cells",
        "optical depth": "of the mass-weighted history, linear in z between snapshots, fully ionised below "
        "the last and neutral above the first; helium "
        f"(Y = {HELIUM_MASS_FRACTION:g}) once ionised with hydrogen, twice below z = {HELIUM_REIONISATION:g}",
        "bubble size": f"mean free path: {RAYS:,} rays from random ionised points (xi ≥ {IONISED:g}) to "
        "the first neutral cell, at most one box side long; granulometry: ionised volume reached by "
        "balls of radius R that fit in",
        "largest region, Euler characteristic": "ionised cells connected through faces, in the periodic box; "
        "Euler characteristic = regions − tunnels + enclosed neutral islands",
        "21-cm signal": "27 mK (1 − xi)(1 + δ)(Ω_b h² / 0.023) √(0.15 / (Ω_m h²) · (1 + z) / 10): spin "
        "temperature far above the CMB's, no peculiar velocities",
        "mean field": "the true mean xi of each snapshot in every cell",
    }
    if excursion["pooled"] is not None:
        found["excursion set"] = (
            "ionised where in any sphere from 16 cells to one the photons emitted reach "
            f"{excursion['threshold']:.3f} per hydrogen atom ({excursion['inputs']} inputs)"
        )
    if evaluation["left_out"]:
        found["left out"] = "redshifts that not every prediction has: " + ", ".join(
            f"{z:g}" for z in evaluation["left_out"]
        )
    return found


def _pooled_table(methods: Mapping[str, Mapping[str, Any]]) -> str:
    # Label, key of the truth, key of the prediction, band of k, decimals.
    rows: list[tuple[str, str | None, str, str | None, int]] = [
        ("R²", None, "r2", None, 4),
        ("mean squared error", None, "mse", None, 4),
        ("mean absolute error", None, "mae", None, 4),
        ("calibration error", None, "calibration_error", None, 4),
        ("mean xi", "mean_xi_true", "mean_xi_pred", None, 4),
        ("optical depth τ", "optical_depth_true", "optical_depth_pred", None, 4),
        ("mean bubble size [Mpc]", "bubble_size_mpc_true", "bubble_size_mpc_pred", None, 1),
        *((f"power ratio, k = {_band(band)}", None, "power_ratio", band, 3) for band in BANDS),
        *((f"cross-correlation, k = {_band(band)}", None, "cross_correlation", band, 3) for band in BANDS),
    ]
    first = next(iter(methods.values()))["pooled"]
    body = ""
    for label, truth, key, band, digits in rows:
        values = [method["pooled"][key] for method in methods.values()]
        if band is not None:
            values = [value[band] for value in values]
        cells = "".join(f"<td>{figure(value, digits)}</td>" for value in values)
        true = figure(first[truth], digits) if truth else ""
        body += f"<tr><th scope='row'>{label}</th><td>{true}</td>{cells}</tr>"
    head = "".join(f"<th scope='col'>{escape(name)}</th>" for name in ("truth", *methods))
    return (
        "<div class='scroll'><table class='pooled'><caption>Pooled</caption>"
        f"<thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _band(band: str) -> str:
    return "0.8–1 π / cell" if band == "nyquist" else f"{band} Mpc⁻¹"


def _redshift_table(method: Mapping[str, Any]) -> str:
    bands = "".join(f"<th scope='col'>{band}</th>" for band in BANDS)
    pair = "<th scope='col'>true</th><th scope='col'>pred</th>"
    head = (
        "<tr><th rowspan='2' scope='col'>z</th><th colspan='2'>mean xi</th>"
        "<th colspan='2'>mass-weighted</th>"
        "<th rowspan='2' scope='col'>R²</th><th rowspan='2' scope='col'>MSE</th>"
        f"<th colspan='{len(BANDS)}'>power ratio at k [Mpc⁻¹]</th>"
        f"<th colspan='{len(BANDS)}'>cross-correlation at k [Mpc⁻¹]</th>"
        "<th colspan='2'>bubbles [Mpc]</th><th colspan='2'>largest region</th></tr>"
        f"<tr>{pair}{pair}{bands}{bands}{pair}{pair}</tr>"
    )
    rows = "".join(_row(f"{row['redshift']:g}", row) for row in method["redshifts"])
    pooled = _row("pooled", method["pooled"], "pooled")
    return f"<div class='scroll'><table><thead>{head}</thead><tbody>{rows}{pooled}</tbody></table></div>"


def _row(label: str, row: Mapping[str, Any], kind: str = "") -> str:
    both = ("true", "pred")
    values = [row[f"mean_xi_{which}"] for which in both]
    values += [row.get(f"mass_weighted_xi_{which}", "") for which in both]
    values += [row["r2"], row["mse"]]
    values += [row["power_ratio"][band] for band in BANDS]
    values += [row["cross_correlation"][band] for band in BANDS]
    sizes = [figure(row[f"bubble_size_mpc_{which}"], 1) for which in both]
    values += [*sizes, *(row.get(f"largest_cluster_{which}", "") for which in both)]
    # What a pooled row does not have stays empty; a dash is for what is not defined.
    cells = "".join(f"<td>{value if isinstance(value, str) else figure(value)}</td>" for value in values)
    return f"<tr class='{kind}'><th scope='row'>{label}</th>{cells}</tr>"
