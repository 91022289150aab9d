"""The quickstart on the packaged sample: train, export, predict a held-out box, evaluate, report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reion.config import RunConfig, load_config
from reion.evaluation.evaluate import evaluate
from reion.evaluation.report.page import REPORT, write_report
from reion.evaluation.result import Evaluation
from reion.jobs.places import MODEL_FILE, output_path, refuse_existing
from reion.prediction.emulator import Emulator
from reion.sample import load_sample
from reion.training.export import export_run
from reion.training.run import train

STEPS = 400
"""Training steps, enough for the sample: the whole quickstart takes three to fifteen minutes on two cores."""


@dataclass(frozen=True)
class Quickstart:
    """The files that a quickstart wrote, its duration, and the scores of the model.

    Parameters
    ----------
    seconds
        Wall time.
    run, model, report
        The run folder, the ONNX file and the page of the report.
    evaluation
        Evaluation of the exported file on the held-out box.
    """

    seconds: float
    run: Path
    model: Path
    report: Path
    evaluation: Evaluation

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values, as `reion quickstart --json` prints them."""
        return {
            "seconds": self.seconds,
            "run": str(self.run),
            "model": str(self.model),
            "report": str(self.report),
            "evaluation": self.evaluation.to_json(),
        }


def _is_finished(run: Path, config: RunConfig) -> bool:
    """Whether the run is finished with this schema; `train` refuses or lengthens a run of another schema."""
    return (run / "metrics.json").is_file() and load_config(run / "config.toml") == config


def quickstart(
    out: str | Path,
    *,
    config: RunConfig | None = None,
    resume: bool = False,
    force: bool = False,
    progress: Callable[[int, int, Mapping[str, float]], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> Quickstart:
    """Train on one box of the packaged sample, export, and evaluate the exported file on the other.

    Parameters
    ----------
    out
        A folder for run/, model.onnx and report/.
    config
        The schema of the training; the default trains the default model for `STEPS` steps.
    resume, force
        Go on with an interrupted quickstart in `out`, or replace one.
    progress, say
        Called after every training step (see `reion.training.loop.StepProgress`), and with a line for every
        stage.

    Raises
    ------
    InputError
        If `out` is occupied, or there is nothing to resume.
    """
    started = time.perf_counter()
    say = say or (lambda _: None)
    out = Path(out)
    run, model, report = out / "run", out / "model.onnx", out / "report"
    for place, kind in ((model, MODEL_FILE), (report, REPORT)):
        hint = "--force replaces it, or give another --out"
        refuse_existing(output_path(place, kind), kind, force=force or resume, hint=hint)
    if config is None:
        config = load_config(base={"training": {"steps": STEPS}})
    sample = load_sample()
    if not (resume and _is_finished(run, config)):
        say(f"training on one box of 64^3 cells at ten redshifts, {config.training.steps} steps")
        train([sample.train], run, config, resume=resume, force=force, progress=progress)
    say(f"exporting {model}")
    export = export_run(run, model, force=force or resume)
    say("predicting the held-out box with onnxruntime")
    emulator = Emulator(model, device="cpu")
    prediction = emulator.predict(sample.held_out)
    evaluation = evaluate(
        {"reion": prediction},
        sample.held_out,
        excursion_threshold=emulator.card.excursion_set_threshold,
        excursion_inputs=config.data.inputs,
    )
    provenance = {
        "how": "reion quickstart: trained on one box of the packaged sample, evaluated on the other",
        "model": {"file": str(model), "sha256": export.sha256, "nodes": export.nodes},
        "largest difference between Keras and ONNX": export.max_difference,
        **emulator.card.provenance,
    }
    say("writing the report")
    page = write_report(
        evaluation,
        sample.held_out,
        {"reion": prediction},
        report,
        provenance=provenance,
        force=force or resume,
    )
    return Quickstart(round(time.perf_counter() - started, 1), run, model, page, evaluation)
