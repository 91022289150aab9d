"""The methods that `reion evaluate` compares: run folders, ONNX files, shipped models, and stored xi."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import xarray as xr

from reion.config import InputSet
from reion.errors import InputError, did_you_mean
from reion.evaluation.evaluate import evaluate
from reion.evaluation.report.page import write_report
from reion.evaluation.result import Evaluation
from reion.evaluation.stored import (
    attributes_of_xi,
    error_bar_is_used,
    spread_of,
    training_in,
    warnings_in,
)
from reion.jobs.outputs import scratch_folder
from reion.jobs.workers import Workers
from reion.models.training_boxes import boxes_in, is_training_box
from reion.prediction.emulator import Emulator
from reion.prediction.model_file import shipped_models
from reion.prediction.predicted_field import PredictedField
from reion.prediction.warned import collected_warnings
from reion.readers import open_simulation
from reion.simulation.contract import DIMS, require_fields
from reion.simulation.joining import require_same_box


@dataclass(frozen=True)
class Prediction:
    """A predicted xi and where it comes from.

    Parameters
    ----------
    xi
        Predicted xi with dimensions (redshift, x, y, z).
    excursion_set_threshold, inputs
        Threshold and inputs of the model's training, used for the excursion set; None and `history` if there
        is no model.
    fields
        Fields of the simulation from which xi is predicted; empty if xi is read from a file.
    emulator
        The emulator that predicts xi, if the method is an ONNX file.
    stored
        The simulation from which xi is read, if it is in a file.
    spread
        xi_std, the standard deviation of the error of xi, if it is known.
    warned
        Warnings about quantities of the simulation that the training did not cover.
    training_data, training_boxes
        Checksums of the boxes that the model was trained on, and their records; empty if unknown.
    """

    name: str
    xi: xr.DataArray
    excursion_set_threshold: float | None
    inputs: InputSet
    provenance: Mapping[str, Any]
    fields: Sequence[str] = ()
    emulator: Emulator | None = None
    stored: xr.Dataset | None = None
    spread: xr.DataArray | None = None
    warned: Sequence[str] = ()
    training_data: Sequence[str] = ()
    training_boxes: Sequence[Mapping[str, Any]] = ()

    def require_box_of(self, sim: xr.Dataset) -> None:
        """Raise `InputError` if xi is read from a file with a box of another size than the simulation's."""
        if self.stored is not None:
            require_same_box(sim, self.stored, file=str(self.provenance["file"]))

    def seen(self, sim: xr.Dataset) -> str | None:
        """A sentence if the model was trained on this simulation; None if it was not, or that is unknown."""
        if not is_training_box(sim, self.training_data, self.training_boxes):
            return None
        return f"{self.name} was trained on this box: its score is no held-out score"


def evaluate_methods(
    methods: Sequence[str],
    sim: xr.Dataset,
    *,
    xi_format: str | None = None,
    xi_settings: Mapping[str, str] | None = None,
    report: Path | None = None,
    command: str = "",
    force: bool = False,
    workers: Workers | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Evaluation, Path | None]:
    """Evaluate the first of `methods` beside the others, and write a report if its place is given.

    Parameters
    ----------
    methods
        The methods, as `predict_with` takes them.
    xi_format, xi_settings
        Format and settings of methods that are files with xi: see `reion.readers.open_simulation`.
    report
        Place of the report (see `reion.evaluation.report.page.write_report`).
    command
        The command line, for the last section of the report.

    Returns
    -------
    tuple of Evaluation and Path
        The evaluation, and the page of the report; None without a report.

    Raises
    ------
    InputError
        As `predict_with`, `evaluate` and `write_report` do; if two methods are the same.

    Warns
    -----
    UserWarning
        If a model was trained on this simulation.
    """
    with contextlib.ExitStack() as stack:
        keep = None
        if report is not None:
            keep = stack.enter_context(scratch_folder(report.absolute()))
        predictions = _named(methods, sim, xi_format=xi_format, xi_settings=xi_settings, keep=keep)
        xi = {prediction.name: prediction.xi for prediction in predictions}
        spreads = {p.name: p.spread for p in predictions if p.spread is not None}
        evaluation = evaluate(
            xi,
            sim,
            excursion_threshold=predictions[0].excursion_set_threshold,
            excursion_inputs=predictions[0].inputs,
            spreads=spreads,
            workers=workers,
            progress=progress,
        )
        if report is None:
            return evaluation, None
        provenance = {prediction.name: prediction.provenance for prediction in predictions}
        provenance["command"] = {"line": command}
        page = write_report(
            evaluation,
            sim,
            xi,
            report,
            spreads=spreads,
            warned={prediction.name: prediction.warned for prediction in predictions},
            provenance=provenance,
            force=force,
        )
        return evaluation, page


def _named(
    methods: Sequence[str],
    sim: xr.Dataset,
    *,
    xi_format: str | None,
    xi_settings: Mapping[str, str] | None,
    keep: Path | None,
) -> list[Prediction]:
    """Predict with every method under its own name; warn of models that were trained on the simulation."""
    predictions = []
    for number, (method, name) in enumerate(zip(methods, names_of(methods), strict=True)):
        own = None if keep is None else keep / str(number)
        found = predict_with(method, sim, xi_format=xi_format, xi_settings=xi_settings, keep=own)
        found.require_box_of(sim)
        found = replace(found, name=name)
        if (seen := found.seen(sim)) is not None:
            warnings.warn(seen, stacklevel=3)
            found = replace(found, warned=[*found.warned, seen])
        predictions.append(found)
    return predictions


def names_of(methods: Sequence[str]) -> list[str]:
    """Names of the methods: file or folder names, with their parent folders where names would be equal.

    Raises
    ------
    InputError
        If two methods are the same file.
    """
    places = [Path(method) if method in shipped_models() else Path(method).absolute() for method in methods]
    own = [place.name if (place / "config.toml").is_file() else place.stem for place in places]
    for depth in range(max(len(place.parts) for place in places)):
        names = [
            last if own.count(last) == 1 else _within_folders(place, last, depth)
            for place, last in zip(places, own, strict=True)
        ]
        if len(set(names)) == len(names):
            return names
    raise InputError(f"expected different methods; received {', '.join(methods)}")


def _within_folders(place: Path, name: str, depth: int) -> str:
    folders = place.parent.parts
    return Path(*folders[max(0, len(folders) - depth) :], name).as_posix()


def predict_with(
    method: str,
    sim: xr.Dataset,
    *,
    xi_format: str | None = None,
    xi_settings: Mapping[str, str] | None = None,
    keep: Path | None = None,
) -> Prediction:
    """Predict xi of `sim` with a model, or read xi from a file.

    Parameters
    ----------
    method
        A run folder, an ONNX file, the name of a shipped model, or the path of a Simulation with xi.
    xi_format, xi_settings
        Format and settings of such a Simulation: see `reion.readers.open_simulation`.
    keep
        A folder, for this method alone, in which to keep predictions of an ONNX file. Without it each
        snapshot is predicted whenever it is read; with it, only once.

    Raises
    ------
    InputError
        If there is no such model or file, or it does not fit the simulation.
    """
    path = Path(method)
    if path.suffix == ".onnx" or method in shipped_models():
        return _with_model_file(method, sim, keep)
    if (path / "config.toml").is_file():
        return _with_run(path, sim)
    if not os.path.lexists(path) and (near := did_you_mean(method, shipped_models())):
        raise InputError(f"expected a run folder, a model, or a file with xi; there is none{near}", file=path)
    with error_bar_is_used():
        other = open_simulation(path, format=xi_format, settings=xi_settings)
    require_fields(other, ["xi"], purpose="comparing with the truth", file=method)
    attributes = attributes_of_xi(path)
    training_data, training_boxes = boxes_in(training_in(attributes))
    return Prediction(
        path.stem,
        other["xi"],
        None,
        "history",
        {"file": method},
        stored=other,
        spread=spread_of(path),
        warned=warnings_in(attributes),
        training_data=training_data,
        training_boxes=training_boxes,
    )


def _with_model_file(method: str, sim: xr.Dataset, keep: Path | None) -> Prediction:
    emulator = Emulator(method)
    card = emulator.card
    inputs: InputSet = "history" if "n_ion" in card.inputs else "instant"
    provenance = {"model": method, "sha256": emulator.sha256, **card.provenance}
    with collected_warnings() as warned:
        emulator.check(sim)
    emulator = emulator.for_cells_of(sim)
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
    lazy = PredictedField(emulator, sim, keep=keep).as_variable_data()
    xi = xr.DataArray(
        xr.Variable(DIMS, lazy, emulator.provenance(sim)),
        coords={dim: sim.coords[dim] for dim in DIMS},
        name="xi",
    )
    return Prediction(
        Path(method).stem,
        xi,
        card.excursion_set_threshold,
        inputs,
        provenance,
        fields=list(card.inputs),
        emulator=emulator,
        warned=warned,
        training_data=card.training_data,
        training_boxes=boxes_in(card.provenance.get("training"))[1],
    )


def _with_run(folder: Path, sim: xr.Dataset) -> Prediction:
    try:
        from reion.training.run_folder import load_run
    except ModuleNotFoundError as error:
        raise InputError(
            f"evaluating a run folder needs {error.name}",
            file=folder,
            hint="pip install 'reion[train]', or evaluate the exported file",
        ) from error
    run = load_run(folder)
    provenance = run.provenance.to_json()
    return Prediction(
        folder.name,
        run.predict(sim),
        run.metrics.excursion_set_threshold,
        run.config.data.inputs,
        provenance,
        fields=run.config.inputs,
        training_boxes=boxes_in(provenance)[1],
        training_data=run.provenance.training_data,
    )
