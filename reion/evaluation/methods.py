"""What `reion evaluate` judges: a run folder, an ONNX file, a shipped model, or somebody's own xi."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr

from reion.config import InputSet
from reion.errors import InputError
from reion.evaluation.evaluate import evaluate
from reion.evaluation.report.page import write_report
from reion.jobs.workers import Workers
from reion.prediction.emulator import Emulator, shipped_models
from reion.prediction.predict import PredictedField
from reion.readers import open_simulation
from reion.simulation.contract import DIMS, require_fields


@dataclass(frozen=True)
class Judged:
    """A prediction and where it comes from.

    `excursion_set_threshold` and `inputs` are those of the model's training, for the baseline beside it.
    `fields` are those of the simulation that it is predicted from, by `emulator` if it is one; `stored` is
    where it is read from instead.
    """

    name: str
    xi: xr.DataArray
    excursion_set_threshold: float | None
    inputs: InputSet
    provenance: Mapping[str, Any]
    fields: Sequence[str] = ()
    emulator: Emulator | None = None
    stored: xr.Dataset | None = None


def judge(
    sources: Sequence[str],
    sim: xr.Dataset,
    *,
    report: Path | None = None,
    command: str = "",
    force: bool = False,
    workers: Workers | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, Any], Path | None]:
    """Evaluate the first of `sources` beside the others, and write the report if a folder is given.

    Returns
    -------
    What `reion.evaluation.evaluate.evaluate` returns, and the report's page.

    Raises
    ------
    InputError
        As `predict_with`, `evaluate` and `write_report` do; if two sources have one name.
    """
    with contextlib.ExitStack() as stack:
        keep = None
        if report is not None:
            # Beside the report, where workers on other machines find it too.
            report.parent.mkdir(parents=True, exist_ok=True)
            beside = tempfile.TemporaryDirectory(dir=report.parent.absolute(), prefix=f".{report.name}.")
            keep = Path(stack.enter_context(beside))
        judged = [predict_with(source, sim, keep=keep) for source in sources]
        predictions = {prediction.name: prediction.xi for prediction in judged}
        if len(predictions) < len(judged):
            raise InputError(f"expected different names; received {', '.join(p.name for p in judged)}")
        result = evaluate(
            predictions,
            sim,
            excursion_threshold=judged[0].excursion_set_threshold,
            excursion_inputs=judged[0].inputs,
            workers=workers,
            progress=progress,
        )
        if report is None:
            return result, None
        provenance = {prediction.name: prediction.provenance for prediction in judged}
        provenance["command"] = {"line": command}
        return result, write_report(result, sim, predictions, report, provenance=provenance, force=force)


def predict_with(source: str, sim: xr.Dataset, *, keep: Path | None = None) -> Judged:
    """Predict `sim` with the model at `source`, or read xi from there.

    What an ONNX file predicts is computed snapshot by snapshot when it is asked for; with `keep`, a folder,
    only once.

    Raises
    ------
    InputError
        If there is no such model or file, or it does not fit the simulation.
    """
    path = Path(source)
    if path.suffix == ".onnx" or source in shipped_models():
        emulator = Emulator(source)
        card = emulator.card
        inputs: InputSet = "history" if "n_ion" in card.inputs else "instant"
        provenance = {"model": source, "sha256": emulator.sha256, **card.provenance}
        emulator.check(sim)
        if keep is not None:
            keep = keep / path.stem
            keep.mkdir(exist_ok=True)
        lazy = PredictedField(emulator, sim, keep=keep).as_variable_data()
        xi = xr.DataArray(
            xr.Variable(DIMS, lazy, emulator.provenance(sim)),
            coords={dim: sim.coords[dim] for dim in DIMS},
            name="xi",
        )
        return Judged(
            path.stem,
            xi,
            card.excursion_set_threshold,
            inputs,
            provenance,
            fields=list(card.inputs),
            emulator=emulator,
        )
    if (path / "config.toml").is_file():
        try:
            from reion.training.run_folder import load_run
        except ModuleNotFoundError as error:
            raise InputError(
                f"judging a run folder needs {error.name}",
                file=path,
                hint="pip install 'reion[train]', or judge the exported file",
            ) from error
        run = load_run(path)
        threshold = run.metrics["excursion_set_threshold"]
        inputs = run.config.data.inputs
        fields = run.config.inputs
        return Judged(path.name, run.predict(sim), threshold, inputs, run.provenance, fields=fields)
    other = open_simulation(path)
    require_fields(other, ["xi"], purpose="comparing with the truth", file=source)
    return Judged(path.stem, other["xi"], None, "history", {"file": source}, stored=other)
