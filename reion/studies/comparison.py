"""Several networks, trained alike on the same boxes and judged on a box none of them saw."""

from __future__ import annotations

import re
import shutil
import tempfile
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from reion.config import RunConfig, differences, load_config
from reion.errors import InputError
from reion.evaluation.evaluate import evaluate
from reion.jobs.outputs import read_json, whole_file, write_json, write_whole
from reion.prediction.emulator import Emulator
from reion.training.run import Loop, Progress, describe, train, with_photons
from reion.training.run_folder import export_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

FEWEST_STEPS = 20
_TIMED_STEPS = 6
_ROUNDS = 5
_WINDOW_CELLS = 512
"""A window so wide that the halo of its convolutions hardly counts."""
_PARTLY_IONISED = (0.1, 0.9)
"""Mean xi between which small-scale power and cross-correlation are averaged over snapshots."""


@dataclass(frozen=True)
class Budget:
    """What every run of a study may take: processor time in minutes, all cores together, or steps."""

    core_minutes: float | None = None
    steps: int | None = None

    def steps_of(self, simulations: Sequence[xr.Dataset], settings: Mapping[str, Any]) -> int:
        """How many steps of a run that is."""
        if self.core_minutes is None:
            return self.steps or FEWEST_STEPS
        seconds = core_seconds_per_step(simulations, _with_steps(settings, 1))
        return max(FEWEST_STEPS, round(60 * self.core_minutes / seconds))

    def __str__(self) -> str:
        return f"{self.steps} steps" if self.steps else f"{self.core_minutes:g} minutes of one core"


def compare(
    study: str | Path,
    simulations: Sequence[xr.Dataset],
    test: xr.Dataset,
    out: str | Path,
    *,
    core_minutes: float | None = None,
    resume: bool = False,
    say: Callable[[str], None] = lambda _: None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train every run of a study, export it, and judge the exported file on `test`.

    Parameters
    ----------
    study
        A TOML file, or the name of one of `studies()`: `core_minutes` or `steps`, and a table `runs` that
        gives each run a name and what it changes in the schema of a run.
    simulations, test
        Simulations to train on, and the one to judge on.
    out
        A folder: for each run its run folder, with model.onnx and evaluation.json beside the rest;
        comparison.json, comparison.md, and comparison.png, the score against the arithmetic.
    core_minutes
        Processor time of each training, all cores together, instead of the study's. It becomes a number of
        steps by timing a few, so that the run itself is repeatable.
    resume
        Keep the runs in `out` that are finished and go on with the one that is not.
    say, progress
        Called with a line for each stage, and after every step (see `reion.training.run.Progress`).

    Returns
    -------
    dict
        `core_minutes`, `steps` (the one that was not given is None) and `runs`: for each its `name`,
        `inputs`, `parameters`, `kflop_per_cell`, `steps`, `minutes`, pooled `r2`, `calibration_error`, and
        `redshifts` as `evaluate` gives them; the `excursion_set` of each set of inputs likewise.

    Raises
    ------
    InputError
        If the study does not fit its schema, `test` is one of `simulations`, `out` is occupied and `resume`
        is not given, or what is in `out` has another budget, schema or data.
    """
    out = Path(out)
    budget, runs = load_study(study)
    if core_minutes is not None:
        if not core_minutes > 0:
            raise InputError(f"expected core_minutes above 0; received {core_minutes:g}")
        budget = Budget(core_minutes=core_minutes)
    if out.exists() and not resume:
        raise InputError(
            "the output is already there", file=out, hint="--resume goes on, or give another --out"
        )
    written = out / "comparison.json"
    if written.is_file():
        _check_budget(written, budget)
    data = [describe(sim) for sim in simulations]
    if describe(test)["sha256"] in [item["sha256"] for item in data]:
        raise InputError("the box to judge on is one of those to train on", hint="give another --test")
    rows, excursion_sets = [], {}
    for number, (name, settings) in enumerate(runs.items(), start=1):
        folder = out / name
        if (folder / "config.toml").is_file():
            _check_begun(folder, settings, simulations, data, budget)
        if not (folder / "evaluation.json").is_file():
            say(f"{name}, {number} of {len(runs)}")
            _train_and_judge(folder, settings, simulations, test, budget, say, progress)
        row, excursion_set = _row(name, folder)
        rows.append(row)
        excursion_sets[row["inputs"]] = excursion_set
        result = {**asdict(budget), "runs": rows, "excursion_set": excursion_sets}
        write_json(written, result)
        with whole_file(out / "comparison.png") as partial:
            score_against_arithmetic(result).savefig(partial, dpi=200)
        write_whole(out / "comparison.md", to_markdown(result))
    return result


def studies() -> tuple[str, ...]:
    """Names of the studies that come with reion."""
    names = (item.name for item in (resources.files("reion") / "studies").iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml")))


def load_study(study: str | Path) -> tuple[Budget, dict[str, dict[str, Any]]]:
    """Read a study: what each run may take, and what it changes in the schema.

    Raises
    ------
    InputError
        If there is no such study or it does not fit; every run is checked before the first is trained.
    """
    try:
        if str(study) in studies():
            text = (resources.files("reion") / "studies" / f"{study}.toml").read_text(encoding="utf-8")
        else:
            text = Path(study).read_text(encoding="utf-8")
        values = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(
            f"expected a TOML file or the name of a study ({', '.join(studies())}); {error}", file=study
        ) from error
    minutes, steps = values.pop("core_minutes", None), values.pop("steps", None)
    runs = values.pop("runs", None)
    given = [number for number in (minutes, steps) if number is not None]
    if (
        values
        or len(given) != 1
        or not isinstance(given[0], int if minutes is None else int | float)
        or not given[0] > 0
        or not isinstance(runs, dict)
        or not runs
    ):
        raise InputError(
            "expected core_minutes or steps above 0, one of them, and tables [runs.NAME]; received "
            + (", ".join([*values, *(("runs",) if runs else ())]) or "nothing of it"),
            file=study,
        )
    for name, settings in runs.items():
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
            raise InputError(f"a run's name becomes a folder; received {name!r}", file=study)
        training = settings.get("training", {}) if isinstance(settings, dict) else None
        if not isinstance(training, dict) or training.keys() & {"steps", "round_steps"}:
            raise InputError(
                f"runs.{name}: expected a table of what the run changes, without training.steps and "
                f"training.round_steps, which the budget decides; received {settings!r}",
                file=study,
            )
        _with_steps(settings, 1)
    return Budget(minutes, steps), runs


def _with_steps(settings: Mapping[str, Any], steps: int) -> RunConfig:
    training = {**settings.get("training", {}), "steps": steps, "round_steps": max(1, -(-steps // _ROUNDS))}
    return load_config(base={**settings, "training": training})


def _check_budget(written: Path, budget: Budget) -> None:
    """Refuse to go on with a study whose runs had another budget; asked once, before anything is written."""
    before = read_json(written)
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


def _check_begun(
    folder: Path,
    settings: Mapping[str, Any],
    simulations: Sequence[xr.Dataset],
    data: Sequence[Mapping[str, Any]],
    budget: Budget,
) -> None:
    """Refuse a run folder that this study, with this budget and data, would not have made."""
    stored = load_config(folder / "config.toml")
    steps = stored.training.steps if budget.steps is None else budget.steps
    differing = differences(stored, with_photons(_with_steps(settings, steps), simulations))
    if read_json(folder / "provenance.json")["data"] != list(data):
        differing.append("other simulations")
    if differing:
        raise InputError(
            f"expected a run of this study; received one with {', '.join(differing)}",
            file=folder,
            hint="give another --out",
        )


def _train_and_judge(
    folder: Path,
    settings: Mapping[str, Any],
    simulations: Sequence[xr.Dataset],
    test: xr.Dataset,
    budget: Budget,
    say: Callable[[str], None],
    progress: Progress | None,
) -> None:
    begun = (folder / "config.toml").is_file()
    if begun:
        config = load_config(folder / "config.toml")
    else:
        config = _with_steps(settings, budget.steps_of(simulations, settings))
    if not (folder / "metrics.json").is_file():
        say(f"training {config.training.steps} steps")
        train(simulations, folder, config, resume=begun, progress=progress)
    export_run(folder, folder / "model.onnx", force=True)
    emulator = Emulator(folder / "model.onnx", device="cpu")
    evaluation = evaluate(
        {folder.name: emulator.predict(test)},
        test,
        excursion_threshold=emulator.card.excursion_set_threshold,
        excursion_inputs=config.data.inputs,
    )
    write_json(folder / "evaluation.json", evaluation)


def core_seconds_per_step(simulations: Sequence[xr.Dataset], config: RunConfig) -> float:
    """Processor time of one training step, all cores together, once everything is compiled."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "timed"
        place.mkdir()
        loop = Loop.on(simulations, place, config)
        loop.steps(2)
        started = time.process_time()
        loop.steps(_TIMED_STEPS)
        seconds = time.process_time() - started
        shutil.rmtree(place)
    return seconds / _TIMED_STEPS


def _row(name: str, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    import onnx

    from reion_exports.cost import convolution_flops

    evaluation, metrics = read_json(folder / "evaluation.json"), read_json(folder / "metrics.json")
    config = load_config(folder / "config.toml")
    model = onnx.load(folder / "model.onnx")
    card = Emulator(folder / "model.onnx", device="cpu").card
    cells = (_WINDOW_CELLS - 2 * card.receptive_radius_cells) // card.stride_cells * card.stride_cells
    window = [cells + 2 * card.receptive_radius_cells] * 3
    row = {
        "name": name,
        "inputs": config.data.inputs,
        "parameters": metrics["parameters"],
        "kflop_per_cell": convolution_flops(model, window) / cells**3 / 1e3,
        "steps": metrics["steps"],
        "minutes": metrics["seconds"] / 60,
        **_summary(evaluation),
    }
    excursion_set = {**_summary(evaluation["baselines"]["excursion_set"])}
    return row, excursion_set


def _summary(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """The scores of one method: pooled, by redshift, and at small scales while the box is partly ionised."""
    low, high = _PARTLY_IONISED
    partly = [row for row in evaluation["redshifts"] if low < row["mean_xi_true"] < high]

    def mean(statistic: str, k: str) -> float | None:
        values = [row[statistic][k] for row in partly if row[statistic].get(k) is not None]
        return float(np.mean(values)) if values else None

    kept = ("redshift", "r2", "mean_xi_true", "mean_xi_pred", "power_ratio", "cross_correlation")
    return {
        "r2": evaluation["pooled"]["r2"],
        "calibration_error": evaluation["pooled"]["calibration_error"],
        "power_ratio": {k: mean("power_ratio", k) for k in ("0.5", "1.0")},
        "cross_correlation": {k: mean("cross_correlation", k) for k in ("0.5", "1.0")},
        "bubble_size_mpc": [evaluation["pooled"][f"bubble_size_mpc_{which}"] for which in ("pred", "true")],
        "redshifts": [{key: row[key] for key in kept} for row in evaluation["redshifts"]],
    }


def _cells(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and body of the table, in words."""
    first = result["runs"][0]["redshifts"]
    shown = [index for index, row in enumerate(first) if row["r2"] is not None]
    head = ["", "parameters", "kFLOP a cell", "steps", "minutes", "R²"]
    head += [f"z = {first[index]['redshift']:g}" for index in shown]
    head += ["P, k = 0.5", "P, k = 1", "r, k = 0.5", "r, k = 1", "calibration", "bubbles, Mpc"]

    def number(value: float | None, digits: int) -> str:
        return "–" if value is None else f"{value:.{digits}f}"

    def scores(row: Mapping[str, Any]) -> list[str]:
        return [
            number(row["r2"], 3),
            *(number(row["redshifts"][index]["r2"], 3) for index in shown),
            *(number(row["power_ratio"][k], 2) for k in ("0.5", "1.0")),
            *(number(row["cross_correlation"][k], 2) for k in ("0.5", "1.0")),
            number(row["calibration_error"], 3),
            " / ".join(number(size, 1) for size in row["bubble_size_mpc"]),
        ]

    body = [
        [
            row["name"],
            f"{row['parameters']:,}",
            f"{row['kflop_per_cell']:.0f}",
            f"{row['steps']}",
            number(row["minutes"], 1),
            *scores(row),
        ]
        for row in result["runs"]
    ]
    body += [
        [f"excursion set, {inputs}", "1", "–", "–", "–", *scores(row)]
        for inputs, row in result["excursion_set"].items()
    ]
    return head, body


def to_markdown(result: Mapping[str, Any]) -> str:
    """The comparison as a Markdown table."""
    head, body = _cells(result)
    lines = [head, ["---"] * len(head), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def render(result: Mapping[str, Any]) -> Table:
    """The comparison as a table for the screen."""
    from rich.table import Table

    head, body = _cells(result)
    table = Table(
        title=f"{Budget(result['core_minutes'], result['steps'])} each; P and r where 0.1 < mean xi < 0.9"
    )
    for index, name in enumerate(head):
        table.add_column(name, justify="left" if index == 0 else "right")
    for row in body:
        table.add_row(*row)
    return table


def score_against_arithmetic(result: Mapping[str, Any]) -> Figure:
    """The share of the variance that each network leaves unexplained, over its operations a cell."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    figure = Figure(figsize=(7.1, 4.2), layout="constrained")
    axes = figure.subplots()
    for inputs, marker, colour in (("history", "o", "#0072b2"), ("instant", "s", "#c25200")):
        if inputs not in result["excursion_set"]:
            continue
        left = 1 - result["excursion_set"][inputs]["r2"]
        axes.axhline(left, color=colour, linestyle="--", linewidth=1, label=f"excursion set, {inputs}")
        runs = [run for run in result["runs"] if run["inputs"] == inputs]
        axes.plot(
            [run["kflop_per_cell"] for run in runs],
            [1 - run["r2"] for run in runs],
            marker,
            color=colour,
            label=f"networks, {inputs}",
        )
        for run in runs:
            axes.annotate(
                run["name"].removeprefix(f"{inputs}-"),
                (run["kflop_per_cell"], 1 - run["r2"]),
                xytext=(6, 0),
                textcoords="offset points",
                fontsize=8,
                verticalalignment="center",
            )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.margins(x=0.15)
    axes.invert_yaxis()
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(plain)
    axes.yaxis.set_major_locator(_one_two_five())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("operations of the convolutions [kFLOP a cell]")
    axes.set_ylabel("variance left unexplained, $1 - R^2$ (better is up)")
    axes.set_title(f"{Budget(result['core_minutes'], result['steps'])} of training each", fontsize=9)
    axes.legend(fontsize=8, frameon=False)
    return figure


def _one_two_five() -> Any:
    from matplotlib.ticker import LogLocator

    return LogLocator(subs=(1, 2, 5))
