"""The numbers of the page as rows of text, for tables without JavaScript, and their definitions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from reion.evaluation.report.wording import figure
from reion.evaluation.result import Evaluation
from reion.evaluation.scores import FEATURELESS_STD, MethodScores, PooledScores, SnapshotScores
from reion.evaluation.survey import PLANCK_OPTICAL_DEPTH, Survey, SurveyScores
from reion.metrics.bubbles import IONISED, RAYS
from reion.metrics.history import HELIUM_MASS_FRACTION, HELIUM_REIONISATION
from reion.metrics.pooling import POOLED_SNAPSHOTS
from reion.metrics.spectra import BANDS

Statistic = Callable[[PooledScores], float | None]
BAND_LABELS = {band: "0.8–1 π / cell" if band == "nyquist" else f"{band} Mpc⁻¹" for band in BANDS}


@dataclass(frozen=True)
class PooledRow:
    """One pooled statistic of the truth (empty if the truth has none) and of every method."""

    label: str
    true: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class RedshiftRow:
    """The scores of one method in one snapshot, or pooled."""

    label: str
    values: tuple[str, ...]


def pooled_rows(evaluation: Evaluation) -> Iterator[PooledRow]:
    """The table of all pooled statistics, with columns in the order of `Evaluation.methods`."""
    scores = [method.scores.pooled for method in evaluation.methods]

    def row(
        label: str,
        pred: Statistic,
        true: Statistic | None = None,
        digits: int = 4,
    ) -> PooledRow:
        return PooledRow(
            label,
            figure(true(scores[0]), digits) if true else "",
            tuple(figure(pred(score), digits) for score in scores),
        )

    yield row("R²", lambda score: score.r2)
    yield row("mean squared error", lambda score: score.mse)
    yield row("mean absolute error", lambda score: score.mae)
    yield row("calibration error", lambda score: score.calibration_error)
    yield row("mean xi", lambda score: score.mean_xi_pred, lambda score: score.mean_xi_true)
    yield row(
        "optical depth τ", lambda score: score.optical_depth_pred, lambda score: score.optical_depth_true
    )
    yield row(
        "mean bubble size [Mpc]",
        lambda score: score.bubble_size_mpc_pred,
        lambda score: score.bubble_size_mpc_true,
        digits=1,
    )
    for band, label in BAND_LABELS.items():
        yield row(f"power ratio, k = {label}", partial(_power_ratio, band), digits=3)
    for band, label in BAND_LABELS.items():
        yield row(f"cross-correlation, k = {label}", partial(_cross_correlation, band), digits=3)


def _power_ratio(band: str, scores: PooledScores) -> float | None:
    return scores.power_ratio[band]


def _cross_correlation(band: str, scores: PooledScores) -> float | None:
    return scores.cross_correlation[band]


def redshift_rows(scores: MethodScores) -> Iterator[RedshiftRow]:
    """The table of one method: a row for each snapshot, and the pooled one last."""
    for snapshot in scores.snapshots:
        yield _redshift_row(f"{snapshot.redshift:g}", snapshot)
    yield _redshift_row("pooled", scores.pooled)


def _redshift_row(label: str, scores: SnapshotScores | PooledScores) -> RedshiftRow:
    # Columns that a pooled row does not have stay empty; a dash marks a value that is not defined.
    mass_weighted = largest_cluster = ["", ""]
    if isinstance(scores, SnapshotScores):
        fields = (scores.true, scores.pred)
        mass_weighted = [figure(field.mass_weighted_xi) for field in fields]
        largest_cluster = [figure(field.largest_cluster) for field in fields]
        sizes = [field.bubble_size_mpc for field in fields]
    else:
        sizes = [scores.bubble_size_mpc_true, scores.bubble_size_mpc_pred]
    return RedshiftRow(
        label,
        (
            figure(scores.mean_xi_true),
            figure(scores.mean_xi_pred),
            *mass_weighted,
            figure(scores.r2),
            figure(scores.mse),
            *(figure(scores.power_ratio[band]) for band in BANDS),
            *(figure(scores.cross_correlation[band]) for band in BANDS),
            *(figure(size, 1) for size in sizes),
            *largest_cluster,
        ),
    )


_DEFINITIONS = {
    "pooled": f"over all cells of all {POOLED_SNAPSHOTS}",
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
    "21-cm signal": "27 mK (1 − xi)(1 + δ)(Ω_b h² / 0.023) √(0.15 / (Ω_m h²) · (1 + z) / 10) "
    "(1 − T_CMB / T_S): the last factor is 1, a spin temperature far above the CMB's, where the simulation "
    "has no t_spin; no peculiar velocities",
    "mean field": "the true mean xi of each snapshot in every cell",
}
"""The definition of each statistic that does not depend on the evaluation."""

SURVEY_COLUMNS = (
    "mean xi",
    "of the mass",
    "optical depth below z",
    "bubbles [Mpc]",
    "largest region",
    "regions",
    "tunnels",
    "islands",
)
"""Headings of the table of one xi without a truth."""


def survey_rows(scores: SurveyScores) -> Iterator[RedshiftRow]:
    """The table of one xi without a truth: a row for each snapshot, its columns `SURVEY_COLUMNS`."""
    for snapshot, depth in zip(scores.snapshots, scores.optical_depth, strict=True):
        field = snapshot.pred
        yield RedshiftRow(
            f"{snapshot.redshift:g}",
            (
                figure(field.mean_xi),
                figure(field.mass_weighted_xi),
                figure(float(depth), 4),
                figure(field.bubble_size_mpc, 1),
                figure(field.largest_cluster),
                *map(str, field.betti),
            ),
        )


def survey_definitions(survey: Survey) -> dict[str, str]:
    """The definition of each statistic of a report without truth."""
    of_truth = ("pooled", "R²", "power ratio, cross-correlation", "calibration error", "mean field")
    defined = {name: text for name, text in _DEFINITIONS.items() if name not in of_truth}
    defined["spectra"] += (
        f"; where xi scatters less than {FEATURELESS_STD:g}, only that of the 21-cm signal is drawn, and "
        f"none where mean xi is above {1 - FEATURELESS_STD:g} as well"
    )
    defined["regions, tunnels, islands"] = "the Betti numbers of the ionised cells in the periodic box"
    defined["Planck 2018"] = "τ = {:g} ± {:g}: TT,TE,EE + lowE + lensing (results VI, table 2)".format(
        *PLANCK_OPTICAL_DEPTH
    )
    if survey.photons_per_atom is not None:
        defined["photon budget"] = (
            "ionising photons emitted so far for each hydrogen atom of the box, beside the ionised fraction "
            "of its mass: what is left over recombined, or went too far"
        )
    if survey.left_out:
        listed = ", ".join(f"{z:g}" for z in survey.left_out)
        defined["left out"] = f"redshifts that not every xi has: {listed}"
    return defined


def definitions(evaluation: Evaluation) -> dict[str, str]:
    """The definition of each statistic."""
    defined = dict(_DEFINITIONS)
    if evaluation.excursion_set is not None:
        defined["excursion set"] = (
            "ionised where in any sphere from 16 cells to one the photons emitted reach "
            f"{evaluation.excursion_threshold:.3f} per hydrogen atom ({evaluation.excursion_inputs} inputs)"
        )
    if evaluation.left_out:
        defined["left out"] = "redshifts that not every prediction has: " + ", ".join(
            f"{z:g}" for z in evaluation.left_out
        )
    return defined
