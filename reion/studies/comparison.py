"""Comparison: several networks, trained with one budget on the same boxes and evaluated on unseen boxes."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import xarray as xr

from reion.config import InputSet, RunConfig, differences, load_config
from reion.errors import InputError
from reion.evaluation.evaluate import evaluate
from reion.jobs.figures import own_settings
from reion.jobs.outputs import read_json, read_record, whole_file, write_json, write_whole
from reion.models.training_boxes import TrainingBox, changes, checksum_of, describe
from reion.prediction.emulator import Emulator
from reion.studies.results import (
    ComparedRun,
    Comparison,
    Scores,
    Summary,
    score_against_arithmetic,
    to_markdown,
)
from reion.studies.study import FOLDER_NAME, Budget, StudyRun, load_study, require_new
from reion.training.export import export_run
from reion.training.loop import Loop, StepProgress
from reion.training.provenance import Provenance, code_of, is_same_code
from reion.training.run import train, with_photons
from reion.training.run_folder import Metrics

FEWEST_STEPS = 20
"""Least number of steps of a run, however small its budget."""

_TIMED_STEPS = 6
"""Number of steps whose processor time is measured."""

_BOX = "box_sha256"
"""Key of the checksum of the evaluated box in a stored evaluation."""

_JUDGE_AGAIN = "the file is damaged: remove it, and --resume judges the run again"

_WINDOW_CELLS = 512
"""Side of the window for which operations are counted: so large that the halo hardly matters."""


def compare(
    study: str | Path,
    simulations: Sequence[xr.Dataset],
    tests: Mapping[str, xr.Dataset],
    out: str | Path,
    *,
    seeds: int = 1,
    core_minutes: float | None = None,
    resume: bool = False,
    say: Callable[[str], None] = lambda _: None,
    progress: StepProgress | None = None,
) -> Comparison:
    """Train every run of a study, export it, and evaluate the exported file on each of `tests`.

    Parameters
    ----------
    study
        A TOML file, or a name of `studies()`. It holds `core_minutes` or `steps`, and a table `runs`, which
        gives by name the settings that each run changes in the schema; a run that starts from another
        network, or takes only a part of the budget, also has `from` or `budget_share` (see `StudyRun`).
    simulations, tests
        Simulations to train on, and Simulations to evaluate on, by name.
    out
        A folder for the run folder of each training, which also gets model.onnx and a folder evaluations; and
        for comparison.json, comparison.md and comparison.png, the score against the number of operations.
    seeds
        Number of trainings of each run, from its seed and those that follow; the folders of the later
        trainings are called NAME-seed-SEED.
    core_minutes
        Processor time of each training, all cores together; replaces that of the study. A few steps are timed
        to turn it into a number of steps, so that the run itself is repeatable.
    resume
        Keep the finished runs in `out`, and go on with the unfinished one.
    say, progress
        Called with a line for each stage, and after every step (see `reion.training.loop.StepProgress`).

    Raises
    ------
    InputError
        If the study does not fit its schema; if a run, or a network that it starts from, was trained on one
        of `tests`; if `out` is occupied and `resume` is not given; if the content of `out` has another
        budget, schema, training data or boxes to evaluate on.
    """
    out = Path(out)
    budget, runs = load_study(study)
    if core_minutes is not None:
        if not core_minutes > 0:
            raise InputError(f"expected core_minutes above 0; received {core_minutes:g}")
        budget = Budget(core_minutes=core_minutes)
    written = out / "comparison.json"
    require_new(out, written.name, resume=resume)
    if written.is_file():
        _check_budget(written, budget)
    data = [describe(sim) for sim in simulations]
    boxes = _check_tests(tests, data, runs)
    compared: list[ComparedRun] = []
    excursion_sets: dict[InputSet, Scores] = {}
    trainings = _with_seeds(runs, seeds)
    if not written.is_file():  # resumed studies keep this budget
        out.mkdir(parents=True, exist_ok=True)
        write_json(written, Comparison(budget, (), {}).to_json())
    for number, (name, folder_name, run) in enumerate(trainings, start=1):
        folder = out / folder_name
        if (folder / "config.toml").is_file():
            _check_run(folder, run, simulations, data, budget)
        missing = [test for test in tests if not _is_judged(folder, test, boxes[test])]
        if missing:
            say(f"{folder_name}, {number} of {len(trainings)}")
            _train_and_export(folder, run, simulations, budget, say, progress)
            for test in missing:
                say(f"evaluating on {test}")
                _evaluate(folder, test, tests[test], boxes[test])
        finished, excursion_set = _read_finished(name, folder, tests)
        compared.append(finished)
        if excursion_set:
            excursion_sets[finished.inputs] = excursion_set
        comparison = Comparison(budget, tuple(compared), excursion_sets)
        _write(out, comparison)
    return comparison


def _write(out: Path, comparison: Comparison) -> None:
    write_json(out / "comparison.json", comparison.to_json())
    with own_settings(), whole_file(out / "comparison.png") as partial:
        score_against_arithmetic(comparison).savefig(partial, dpi=200)
    write_whole(out / "comparison.md", to_markdown(comparison))


def _check_tests(
    tests: Mapping[str, xr.Dataset], data: Sequence[TrainingBox], runs: Mapping[str, StudyRun]
) -> dict[str, str]:
    """Checksums of the boxes to evaluate on, by name; refuse boxes that were trained on."""
    checksums = {}
    for name, judged in tests.items():
        if not re.fullmatch(FOLDER_NAME, name):
            raise InputError(f"the name of a box to evaluate on becomes a file; received {name!r}")
        checksums[name] = checksum_of(judged)
        _require_unseen(name, checksums[name], data, runs)
    return checksums


def _require_unseen(
    name: str, checksum: str, data: Sequence[TrainingBox], runs: Mapping[str, StudyRun]
) -> None:
    """Refuse to evaluate on a box that a run of the study, or a network that a run starts from, has seen."""
    if checksum in [box.sha256 for box in data]:
        raise InputError(
            f"the box to evaluate on, {name}, is one of those to train on", hint="give another --test"
        )
    for run_name, run in runs.items():
        if run.parent is not None and checksum in run.parent.training_data:
            raise InputError(
                f"the box to evaluate on, {name}, is one that {run.parent.name} was trained on, from which "
                f"the run {run_name} starts",
                hint="give another --test",
            )


def _with_seeds(runs: Mapping[str, StudyRun], seeds: int) -> list[tuple[str, str, StudyRun]]:
    """For every training: the name of its run, the name of its folder, and the run with its seed."""
    if seeds < 1:
        raise InputError(f"expected at least one seed; received {seeds}")
    trainings = []
    for name, run in runs.items():
        first = run.config(1).seed
        trainings.append((name, name, run))
        for seed in range(first + 1, first + seeds):
            other = replace(run, settings={**run.settings, "seed": seed})
            trainings.append((name, f"{name}-seed-{seed}", other))
    folders = [folder for _, folder, _ in trainings]
    for folder in folders:
        if folders.count(folder) > 1:
            raise InputError(f"two trainings of this study would have the folder {folder}")
    return trainings


def _evaluation(folder: Path, test: str) -> Path:
    return folder / "evaluations" / f"{test}.json"


def _is_judged(folder: Path, test: str, checksum: str) -> bool:
    """Whether a run was evaluated on the box of this name.

    Raises
    ------
    InputError
        If the evaluation of that name is of another box.
    """
    path = _evaluation(folder, test)
    if not path.is_file():
        return False
    if _read_evaluation(path).get(_BOX) != checksum:
        raise InputError(
            f"the run was judged on another box of the name {test}",
            file=path,
            hint="give the --test another name, or another --out; without this file the run is judged again",
        )
    return True


def _check_budget(written: Path, budget: Budget) -> None:
    """Refuse to resume a study whose runs had another budget."""
    hint = "the file is damaged: remove it, and --resume writes it again from the runs"
    try:
        before = read_json(written)
    except InputError as error:
        error.hint = hint
        raise
    if not before.keys() >= asdict(budget).keys():
        raise InputError(
            f"expected the budget of a study, {', '.join(asdict(budget))}; received {', '.join(before)}",
            file=written,
            hint=hint,
        )
    differing = [
        f"{key}={before[key]} instead of {value}"
        for key, value in asdict(budget).items()
        if before[key] != value
    ]
    if differing:
        raise InputError(
            f"expected a study of this budget; received one with {', '.join(differing)}",
            file=written,
            hint="give another --out",
        )


def _check_run(
    folder: Path,
    run: StudyRun,
    simulations: Sequence[xr.Dataset],
    data: list[TrainingBox],
    budget: Budget,
) -> None:
    """Refuse a run folder that does not come from this study with this budget and data."""
    stored = load_config(folder / "config.toml")
    steps = stored.training.steps if budget.steps is None else _steps_of(budget, run)
    differing = differences(stored, with_photons(run.config(steps), simulations))
    provenance = read_record(folder / "provenance.json", Provenance)
    if changed := changes(provenance.data, data):
        differing.append(f"other simulations ({', '.join(changed)})")
    if provenance.parent != (run.parent and run.parent.ancestor):
        differing.append("another network to start from")
    if not is_same_code(provenance.code, code_of(stored)):
        differing.append("other code of " + ", ".join(code.name for code in provenance.code))
    if differing:
        raise InputError(
            f"expected a run of this study; received one with {', '.join(differing)}",
            file=folder,
            hint="give another --out",
        )


def _train_and_export(
    folder: Path,
    run: StudyRun,
    simulations: Sequence[xr.Dataset],
    budget: Budget,
    say: Callable[[str], None],
    progress: StepProgress | None,
) -> None:
    resume = (folder / "config.toml").is_file()
    if resume:
        config = load_config(folder / "config.toml")
    else:
        config = run.config(_steps_within(budget, simulations, run))
    if not (folder / "metrics.json").is_file():
        say(f"training {config.training.steps} steps")
        train(simulations, folder, config, parent=run.parent, resume=resume, progress=progress)
    if not (folder / "model.onnx").is_file():
        export_run(folder, folder / "model.onnx")


def _evaluate(folder: Path, name: str, test: xr.Dataset, checksum: str) -> None:
    emulator = Emulator(folder / "model.onnx", device="cpu")
    evaluation = evaluate(
        {folder.name: emulator.predict(test)},
        test,
        excursion_threshold=emulator.card.excursion_set_threshold,
        excursion_inputs=load_config(folder / "config.toml").data.inputs,
    )
    written = _evaluation(folder, name)
    written.parent.mkdir(exist_ok=True)
    write_json(written, {**evaluation.to_json(), _BOX: checksum})


def _steps_of(budget: Budget, run: StudyRun) -> int:
    """Number of steps of a run, for a budget in steps."""
    return max(1, round(run.budget_share * (budget.steps or FEWEST_STEPS)))


def _steps_within(budget: Budget, simulations: Sequence[xr.Dataset], run: StudyRun) -> int:
    """Number of steps that the budget allows for a run, found by timing a few."""
    if budget.core_minutes is None:
        return _steps_of(budget, run)
    seconds = core_seconds_per_step(simulations, run.config(1))
    return max(FEWEST_STEPS, round(60 * run.budget_share * budget.core_minutes / seconds))


def core_seconds_per_step(simulations: Sequence[xr.Dataset], config: RunConfig) -> float:
    """Processor time of one training step in seconds, all cores together, without compilation."""
    with tempfile.TemporaryDirectory() as folder:
        loop = Loop.prepare(simulations, config, Path(folder))
        loop.steps(2)
        started = time.process_time()
        loop.steps(_TIMED_STEPS)
        seconds = time.process_time() - started
    return seconds / _TIMED_STEPS


def _read_finished(name: str, folder: Path, tests: Iterable[str]) -> tuple[ComparedRun, Scores]:
    """A finished run, and the scores of the excursion set on the boxes that have them."""
    import onnx

    from reion_exports.cost import convolution_flops

    scores = {test: _read_scores(_evaluation(folder, test)) for test in tests}
    metrics = read_record(folder / "metrics.json", Metrics)
    config = load_config(folder / "config.toml")
    model = onnx.load(folder / "model.onnx")
    card = Emulator(folder / "model.onnx", device="cpu").card
    cells = (_WINDOW_CELLS - 2 * card.receptive_radius_cells) // card.stride_cells * card.stride_cells
    window = [cells + 2 * card.receptive_radius_cells] * 3
    run = ComparedRun(
        name=name,
        seed=config.seed,
        inputs=config.data.inputs,
        parameters=metrics.parameters,
        kflop_per_cell=convolution_flops(model, window) / cells**3 / 1e3,
        steps=metrics.steps,
        minutes=metrics.seconds / 60,
        scores={test: run for test, (run, _) in scores.items()},
    )
    return run, {test: beside for test, (_, beside) in scores.items() if beside is not None}


def _read_scores(path: Path) -> tuple[Summary, Summary | None]:
    """The scores of a run and of the excursion set (None if it has none) in a stored evaluation.

    Raises
    ------
    InputError
        If the file does not hold an evaluation.
    """
    evaluation = _read_evaluation(path)
    try:
        excursion_set = evaluation["baselines"]["excursion_set"]
        return (
            Summary.from_json(evaluation),
            Summary.from_json(excursion_set) if excursion_set["pooled"] else None,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        message = f"expected the evaluation of a run; {type(error).__name__}: {error}".splitlines()[0]
        raise InputError(message, file=path, hint=_JUDGE_AGAIN) from error


def _read_evaluation(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except InputError as error:
        error.hint = _JUDGE_AGAIN
        raise
