"""What a person should know after ten seconds, in words and four numbers."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any


def summary_html(evaluation: Mapping[str, Any]) -> str:
    """One sentence and a few numbers, each beside the excursion set's."""
    cards = "".join(
        f"<div class='card'><span>{escape(label)}</span><b>{escape(figure)}</b>"
        f"<span class='than'>{escape(than)}</span></div>"
        for label, figure, than in _cards(evaluation)
    )
    return f"<p class='headline'>{escape(headline(evaluation))}</p><div class='cards'>{cards}</div>"


def headline(evaluation: Mapping[str, Any]) -> str:
    """The verdict in a sentence or two."""
    name, pooled = str(evaluation["name"]), evaluation["pooled"]
    if pooled["r2"] is None:
        return (
            f"{name} cannot be judged cell by cell: no snapshot at z ≤ 11.5 has a true mean ionised fraction "
            "between 0.001 and 0.999."
        )
    text = f"{name} reproduces {100 * max(pooled['r2'], 0):.1f} % of the variance of the ionised fraction"
    excursion = evaluation["baselines"]["excursion_set"]["pooled"]
    if excursion is not None and excursion["r2"] is not None:
        text += f"; the excursion set, with one threshold, {100 * max(excursion['r2'], 0):.1f} %"
    worst = worst_redshift(evaluation)
    if worst is not None:
        text += f". It is weakest at z = {worst['redshift']:g} (R² {worst['r2']:.3f})"
    return text + "."


def worst_redshift(evaluation: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The snapshot with the lowest R2, or None where no snapshot has one."""
    defined = [row for row in evaluation["redshifts"] if row["r2"] is not None]
    return min(defined, key=lambda row: float(row["r2"]), default=None)


def history_error(method: Mapping[str, Any]) -> tuple[float, float] | None:
    """The largest error of the mean ionised fraction and its redshift."""
    errors = [(row["mean_xi_pred"] - row["mean_xi_true"], row["redshift"]) for row in method["redshifts"]]
    return max(errors, key=lambda pair: abs(pair[0]), default=None)


def _cards(evaluation: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    excursion = evaluation["baselines"]["excursion_set"]
    pooled, rival = evaluation["pooled"], excursion["pooled"]

    def than(figure: str | None) -> str:
        return "" if figure is None or rival is None else f"excursion set {figure}"

    cards = [("R², all cells pooled", _figure(pooled["r2"]), than(rival and _figure(rival["r2"])))]
    ours, theirs = history_error(evaluation), history_error(excursion)
    if ours is not None:
        cards.append(
            (
                "largest error of mean xi",
                f"{ours[0]:+.3f} at z = {ours[1]:g}",
                than(theirs and f"{theirs[0]:+.3f} at z = {theirs[1]:g}"),
            )
        )
    for label, key in (("power over true power", "power_ratio"), ("cross-correlation", "cross_correlation")):
        cards.append(
            (
                f"{label}, k = 0.5 and 1 Mpc⁻¹",
                " · ".join(_figure(pooled[key][k], 2) for k in ("0.5", "1.0")),
                than(rival and " · ".join(_figure(rival[key][k], 2) for k in ("0.5", "1.0"))),
            )
        )
    return cards


def _figure(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
