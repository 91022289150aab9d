"""What a person should know after ten seconds, in words and four numbers."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from reion.evaluation.report.wording import figure


def summary_html(evaluation: Mapping[str, Any]) -> str:
    """One sentence and a few numbers, each beside the excursion set's."""
    cards = "".join(
        f"<div class='card'><span>{escape(label)}</span><b>{escape(value)}</b>"
        f"<span class='than'>{escape(than)}</span></div>"
        for label, value, than in _cards(evaluation)
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

    def than(text: str | None) -> str:
        return "" if text is None or rival is None else f"excursion set {text}"

    cards = [("R², all cells pooled", figure(pooled["r2"]), than(rival and figure(rival["r2"])))]
    ours, theirs = history_error(evaluation), history_error(excursion)
    if ours is not None:
        cards.append(
            (
                "largest error of mean xi",
                _at(ours),
                than(theirs and _at(theirs)),
            )
        )
    for label, key in (("power ratio", "power_ratio"), ("cross-correlation", "cross_correlation")):
        cards.append(
            (
                f"{label} at k = 0.5 · 1 Mpc⁻¹",
                " · ".join(figure(pooled[key][k], 2) for k in ("0.5", "1.0")),
                than(rival and " · ".join(figure(rival[key][k], 2) for k in ("0.5", "1.0"))),
            )
        )
    return cards


def _at(error: tuple[float, float]) -> str:
    sign = "+" if error[0] > 0 else ""
    return f"{sign}{figure(error[0])} at z = {error[1]:g}"
