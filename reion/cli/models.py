"""Commands about model files: models, info, calibrate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reion.cli.app import app, example
from reion.cli.options import Force, Format, Json, Model, Settings, parse_settings
from reion.cli.output import print_result

if TYPE_CHECKING:
    from rich.console import RenderableType

    from reion_exports import ModelCard


@app.command(epilog=example("reion models --json"))
def models(json: Json = False) -> None:
    """List the models that come with reion.

    Their names can be given wherever MODEL is asked for.
    """
    from reion.prediction.model_file import read_card, shipped_models

    cards = {name: read_card(name)[0] for name in shipped_models()}
    result = {"models": [{"name": name, **_summary(card)} for name, card in cards.items()]}
    print_result(result, lambda: _table(result["models"]), json=json)


@app.command(epilog=example("reion info rt64-history"))
def info(model: Model, json: Json = False) -> None:
    """Show the card of a model: what it takes, where it is valid, how well it does, what it was made of."""
    from hashlib import sha256

    from reion.prediction.model_file import card_of, read_model
    from reion_exports import dissect
    from reion_exports.data_sheet import meanings_of

    content, file = read_model(model)
    card = card_of(content, file)
    result = {
        "name": card.name,
        "version": card.version,
        **_summary(card),
        "meanings": meanings_of(dissect(content)),
        "receptive_radius_cells": card.receptive_radius_cells,
        "trunk_radius_cells": card.trunk_radius_cells,
        "stride_cells": card.stride_cells,
        "symmetric": card.symmetric,
        "excursion_set_threshold": card.excursion_set_threshold,
        "mean_error_share": card.mean_error_share,
        "sha256": sha256(content).hexdigest(),
        "training_data": list(card.training_data),
        "scores": dict(card.scores),
        "normalizer": dict(card.normalizer),
        "coverage": dict(card.coverage),
        "provenance": dict(card.provenance),
    }
    print_result(result, lambda: _card_in_words(result), json=json)


@app.command(epilog=example("reion calibrate model.onnx mine.zarr --out calibrated.onnx"))
def calibrate(
    model: Model,
    sources: Annotated[
        list[Path], typer.Argument(metavar="SIM...", help="Simulations with a true xi, unseen in training.")
    ],
    out: Annotated[Path, typer.Option(help="The ONNX file to write.")],
    format_: Format = None,
    settings: Settings = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Measure the error of mean xi on simulations of your own, and write a model file with that error bar."""
    from reion.evaluation.mean_error import calibrate as run_calibrate
    from reion.jobs.places import MODEL_FILE, output_path, refuse_existing
    from reion.readers import open_each
    from reion.terminal import progress_bar

    refuse_existing(output_path(out, MODEL_FILE, sources=[model, *sources]), MODEL_FILE, force=force)
    simulations = open_each(sources, format=format_, settings=parse_settings(settings))
    with progress_bar("predicting") as progress:
        result = run_calibrate(model, simulations, out, force=force, progress=progress)
    before = "" if result.before is None else f", before {result.before:.3g}"
    print_result(
        result.to_json(),
        lambda: (
            f"{result.output}: mean xi is off by {result.mean_error_share:.3g} of mean xi_std (one standard "
            f"deviation{before}), from {result.snapshots} snapshots"
        ),
        json=json,
    )


def _summary(card: ModelCard) -> dict[str, Any]:
    """The facts that decide whether a model suits a simulation, and its score."""
    return {
        "inputs": dict(card.inputs),
        "conditions": list(card.conditions),
        "cell_size_mpc": card.cell_size_mpc,
        "cell_sizes_mpc": list(_cell_sizes(card)),
        "redshift_range": list(card.redshift_range),
        "r2": _r2(card.scores),
        "licence": card.licence,
    }


def _cell_sizes(card: ModelCard) -> tuple[float, float]:
    """Smallest and largest cell size in Mpc that the model serves: its own, or those of its training."""
    from reion.models.coverage import Coverage

    covered = Coverage.from_json(card.coverage).range_of("cell_size")
    if card.trunk_radius_cells is None or covered is None:
        return (card.cell_size_mpc, card.cell_size_mpc)
    return covered


def _r2(scores: Mapping[str, Any]) -> float | None:
    """The pooled R² on a held-out box; None for a model that was exported without such a score."""
    pooled = scores.get("pooled")
    r2 = pooled.get("r2") if isinstance(pooled, Mapping) else None
    return float(r2) if isinstance(r2, int | float) else None


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _table(listed: list[dict[str, Any]]) -> RenderableType:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for title in ("model", "inputs", "cells", "redshift", "held-out R²", "licence"):
        table.add_column(title)
    for model in listed:
        lowest, highest = model["redshift_range"]
        table.add_row(
            model["name"],
            ", ".join([*model["inputs"], *model["conditions"]]),
            _span(model["cell_sizes_mpc"]),
            f"{lowest:g} to {highest:g}",
            _number(model["r2"]),
            model["licence"],
        )
    return table


def _span(lengths_mpc: Sequence[float]) -> str:
    smallest, largest = lengths_mpc
    return f"{smallest:.4g} Mpc" if smallest == largest else f"{smallest:.4g} to {largest:.4g} Mpc"


def _card_in_words(card: Mapping[str, Any]) -> str:
    lowest, highest = card["redshift_range"]
    threshold = card["excursion_set_threshold"]
    rows = {
        "takes": ", ".join(f"{name} [{units}]" for name, units in card["inputs"].items())
        + "".join(f", {name}" for name in ("redshift", *card["conditions"])),
        "cells": f"{_span(card['cell_sizes_mpc'])} comoving",
        "redshifts": f"{lowest:g} to {highest:g}",
        "looks": f"{card['receptive_radius_cells']} cells far along each axis, in blocks of "
        f"{card['stride_cells']}",
        "turns with the box": "yes, under all 48 symmetries of the cube" if card["symmetric"] else "no",
        "excursion set": "no threshold"
        if threshold is None
        else f"threshold {threshold:.4g} on the same boxes",
        "licence": card["licence"],
        "sha256": card["sha256"],
        "training boxes": ", ".join(card["training_data"]) or "not said",
    }
    lines = [f"{card['name']} {card['version']}"]
    lines += [f"  {name:<19}{text}" for name, text in rows.items()]
    lines += ["inputs and outputs", *_nested(card["meanings"])] if card["meanings"] else []
    lines += ["training covered", *_covered(card["coverage"])] if card["coverage"] else []
    lines += ["scores", *_nested(card["scores"]), "made with", *_nested(card["provenance"])]
    return "\n".join(lines)


def _covered(coverage: Mapping[str, Any]) -> list[str]:
    """A line for each quantity: its lowest and highest value in the training boxes, at any redshift."""
    from reion.models.coverage import QUANTITIES, Coverage

    lines = []
    for name in coverage:
        span = Coverage.from_json(coverage).range_of(name)
        if span is not None:
            lines.append(f"  {name:<19}{span[0]:.3g} to {span[1]:.3g}{QUANTITIES[name].unit}")
    return lines


def _nested(values: Mapping[str, Any], indent: int = 2) -> list[str]:
    """Nested values as lines, one for each value; a list of mappings gets a line for each mapping."""
    lines = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            lines += [f"{'':{indent}}{name}", *_nested(value, indent + 2)]
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            lines.append(f"{'':{indent}}{name}")
            lines += [f"{'':{indent + 2}}{_on_one_line(item)}" for item in value]
        else:
            lines.append(f"{'':{indent}}{name} {_value(value)}")
    return lines


def _on_one_line(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} ({_on_one_line(value)})" if isinstance(value, Mapping) else f"{name} {_value(value)}"
        for name, value in values.items()
    )


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(_value, value))
    return "–" if value is None else str(value)
