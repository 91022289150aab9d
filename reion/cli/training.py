"""Commands that train networks: quickstart, train, watch, compare, search; and export onnx."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reion.cli.app import app, example
from reion.cli.environment import announce_compilation, need_training
from reion.cli.options import (
    ConfigValues,
    DryRun,
    Force,
    Format,
    Json,
    Resume,
    Settings,
    Sources,
    ValuesAndFacts,
    parse_settings,
    split_settings,
)
from reion.cli.output import print_plans, print_result, resumable
from reion.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xarray import Dataset

    from reion.config import RunConfig
    from reion.studies.quickstart import Quickstart
    from reion.training.parent import Parent
    from reion.training.processes import Processes
    from reion.training.run_folder import Metrics

export_app = typer.Typer(help="Export a trained run.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(export_app, name="export")


@app.command(epilog=example("reion quickstart --set training.steps=2000"))
def quickstart(
    out: Annotated[Path, typer.Option(help="Folder for the run, the model and the report.")] = Path(
        "reion-quickstart"
    ),
    settings: ConfigValues = None,
    resume: Resume = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Train and evaluate on the packaged sample.

    Trains on one box, exports, predicts the other box, evaluates and writes a report.
    """
    need_training("reion quickstart", exports=True)
    from reion.config import load_config
    from reion.evaluation.evaluate import render
    from reion.studies.quickstart import STEPS
    from reion.studies.quickstart import quickstart as run_quickstart
    from reion.terminal import progress_bar, say

    config = load_config(None, settings or [], base={"training": {"steps": STEPS}})
    announce_compilation()
    with resumable(out), progress_bar("training") as progress:
        result = run_quickstart(out, config=config, resume=resume, force=force, progress=progress, say=say)
    print_result(result.to_json(), lambda: render(result.evaluation), json=json)
    if not json:
        sys.stdout.write(_quickstart_in_words(result))


def _quickstart_in_words(result: Quickstart) -> str:
    evaluation = result.evaluation
    r2, excursion_set = evaluation.pooled.r2, evaluation.excursion_set
    simple = None if excursion_set is None else excursion_set.pooled.r2
    verdict = "It is done, and there is nothing to pool its score over."
    if r2 is not None:
        verb = "worked" if simple is None or r2 > simple else "is done, and needs more steps"
        verdict = f"It {verb}: {max(r2, 0):.0%} of the variance of the ionised fraction explained"
        verdict += "." if simple is None else f", the simple method (excursion set) {max(simple, 0):.0%}."
    return (
        f"\nmodel   {result.model}\nreport  {result.report.absolute().as_uri()}\nrun     {result.run}\n"
        f"{result.seconds:.0f} s\n\n{verdict}\n"
        f"Try next: reion predict {result.model} YOUR_SIMULATION --out xi.zarr\n"
    )


@app.command(epilog=example("reion train train.zarr --out run --config run.toml --set seed=1"))
def train(
    sources: Sources,
    out: Annotated[Path, typer.Option(help="The run folder to write.")],
    config: Annotated[Path | None, typer.Option(help="TOML file with the configuration of the run.")] = None,
    format_: Format = None,
    settings: ValuesAndFacts = None,
    parent: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="MODEL",
            help="Train a shipped model or a finished run further.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes to train with, one GPU each where there are GPUs."),
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(
            help="Train so many times, from this seed and those that follow, into one folder.", min=1
        ),
    ] = 1,
    resume: Resume = False,
    dry_run: DryRun = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Train a network on one or more simulations."""
    if seeds > 1 and (force or (workers or 1) > 1):
        raise InputError("--seeds trains one run after the other; received --force or --workers with it")
    processes = _processes(1 if dry_run else workers)
    from reion.config import RunConfig, load_config
    from reion.readers import open_each
    from reion.terminal import progress_bar, say

    values, facts = split_settings(settings, RunConfig.model_fields)
    simulations = open_each(sources, format=format_, settings=facts)
    need_training("reion train")
    from reion.training.run import train as run_train
    from reion.training.run_folder import stored_schema

    older = None
    if parent is not None:
        from reion.training.parent import load_parent

        older = load_parent(parent)
    base = None if older is None else older.defaults()
    if resume and config is None and seeds == 1:
        base = stored_schema(out) or base
    schema = load_config(config, values, base=base)
    if dry_run:
        from reion.training.cost import plan_train

        print_plans([plan_train(schema, simulations, sources)], json=json)
        return
    announce_compilation()
    if seeds > 1:
        _train_seeds(simulations, out, schema, seeds, older, resume=resume, json=json)
        return
    with (
        resumable(out) if processes.is_chief else nullcontext(),
        progress_bar("training") if processes.is_chief else nullcontext() as progress,
    ):
        metrics = run_train(
            simulations,
            out,
            schema,
            parent=older,
            resume=resume,
            force=force,
            progress=progress,
            processes=processes,
            say=say,
        )
    if processes.is_chief:
        print_result({"run": str(out), **metrics.to_json()}, lambda: _run_in_words(out, metrics), json=json)


def _train_seeds(
    simulations: Sequence[Dataset],
    out: Path,
    schema: RunConfig,
    seeds: int,
    parent: Parent | None,
    *,
    resume: bool,
    json: bool,
) -> None:
    from reion.studies.seeds import in_words, train_seeds
    from reion.terminal import progress_bar, say

    with resumable(out), progress_bar("training") as progress:
        result = train_seeds(
            simulations, out, schema, seeds=seeds, parent=parent, resume=resume, progress=progress, say=say
        )
    print_result({"out": str(out), **result.to_json()}, lambda: in_words(result), json=json)


def _run_in_words(out: Path, metrics: Metrics) -> str:
    r2 = metrics.validation_r2
    return (
        f"{out}: validation R² {'–' if r2 is None else f'{r2:.4f}'} after {metrics.steps} steps, "
        f"{metrics.seconds:.0f} s, {metrics.cells_per_second} cells a second, "
        f"{metrics.waiting_share:.1%} of the time waiting for data"
    )


def _processes(workers: int | None) -> Processes:
    """The processes that train together: this one alone if there is neither a launcher nor `--workers`.

    With `--workers` above 1 and no launcher, this process starts them, waits, and exits with their code.
    """
    from reion.terminal import say
    from reion.training.processes import Processes, launched, run_locally, take_own_gpu

    place = None if workers == 1 else launched(os.environ)
    if place is None and workers is not None and workers > 1:
        sys.exit(run_locally(workers, [sys.executable, "-m", "reion", *sys.argv[1:]], os.environ))
    if place is not None and workers not in (None, place.count):
        raise InputError(f"expected --workers {place.count}, as the launcher has started; received {workers}")
    if place is not None and place.rank > 0:
        # The first process prints the result, or the error, for all.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    processes = Processes.join(place)
    gpus = take_own_gpu(processes.local_rank, os.environ)
    if place is None and workers is None and gpus > 1:
        say(f"one of {gpus} GPUs is used: --workers {gpus} uses them all")
    return processes


@app.command(epilog=example("reion watch run --every 10"))
def watch(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, finished or not.")],
    every: Annotated[
        float | None, typer.Option(help="Print it again after so many seconds, until it ends.", min=0.1)
    ] = None,
    json: Json = False,
) -> None:
    """Print the curve of a run, how it stands, and what to do next."""
    import shutil
    import time

    from reion.training.watch import in_words
    from reion.training.watch import watch as read_run

    while True:
        watched = read_run(run)
        width = shutil.get_terminal_size((100, 24)).columns
        print_result(watched.to_json(), lambda: in_words(watched, width), json=json)  # noqa: B023 (used at once)
        if every is None or watched.state != "training":
            return
        sys.stdout.flush()
        time.sleep(every)


@app.command(epilog=example("reion compare models box1.zarr box3.zarr --test box2.zarr --out comparison"))
def compare(
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help="A TOML file or the name of a study that reion has.")
    ],
    sources: Annotated[list[Path], typer.Argument(metavar="SIM...", help="Simulations to train on.")],
    test: Annotated[
        list[Path], typer.Option(help="A simulation to judge on; give it again for each further one.")
    ],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    format_: Format = None,
    settings: Settings = None,
    core_minutes: Annotated[
        float | None,
        typer.Option(help="Processor time of each training in minutes, instead of the study's."),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Train each so many times, from other seeds.", min=1)] = 1,
    resume: Resume = False,
    json: Json = False,
) -> None:
    """Train several networks alike and compare them.

    All train on the same boxes for the same time; all are judged on other boxes.
    """
    from reion.readers import open_each, open_simulation

    facts = parse_settings(settings)
    simulations = open_each(sources, format=format_, settings=facts)
    names = [path.stem for path in test]
    if len(set(names)) < len(names):
        raise InputError(f"expected --test with different names; received {', '.join(names)}")
    judged = {
        name: open_simulation(path, format=format_, settings=facts)
        for name, path in zip(names, test, strict=True)
    }
    need_training("reion compare", exports=True)
    from reion.studies.comparison import compare as run_compare
    from reion.studies.results import render
    from reion.terminal import progress_bar, say

    announce_compilation()
    with resumable(out), progress_bar("training") as progress:
        result = run_compare(
            study,
            simulations,
            judged,
            out,
            seeds=seeds,
            core_minutes=core_minutes,
            resume=resume,
            say=say,
            progress=progress,
        )
    print_result(result.to_json(), lambda: render(result), json=json)


@app.command(epilog=example("reion search voxel box1.zarr box3.zarr --out search"))
def search(
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help="A TOML file or the name of a search that reion has.")
    ],
    sources: Annotated[list[Path], typer.Argument(metavar="SIM...", help="Simulations to train on.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    format_: Format = None,
    settings: Settings = None,
    core_minutes: Annotated[
        float | None,
        typer.Option(help="Processor time of all trials in minutes, instead of the study's.", min=0.001),
    ] = None,
    trials: Annotated[
        int | None, typer.Option(help="How many trials, instead of the study's.", min=2)
    ] = None,
    seeds: Annotated[
        int, typer.Option(help="Train the best settings and the defaults from so many other seeds.", min=1)
    ] = 3,
    resume: Resume = False,
    json: Json = False,
) -> None:
    """Search for settings of a network.

    Trials draw them from the ranges of a study; the best ones are then compared with the defaults.
    """
    if find_spec("optuna") is None:
        raise InputError("reion search needs optuna", hint="pip install 'reion[search]'")
    from reion.readers import open_each

    simulations = open_each(sources, format=format_, settings=parse_settings(settings))
    need_training("reion search")
    from reion.studies.search import search as run_search
    from reion.terminal import progress_bar, say

    announce_compilation()
    with resumable(out), progress_bar("training") as progress:
        result = run_search(
            study,
            simulations,
            out,
            core_minutes=core_minutes,
            trials=trials,
            seeds=seeds,
            resume=resume,
            say=say,
            progress=progress,
        )
    print_result(
        {"out": str(out), **result.to_json()},
        lambda: (
            f"{result.verdict}\n{out / 'best.toml'}: the settings of trial {result.best}; "
            f"{out / 'study.toml'}: both, for `reion compare`"
        ),
        json=json,
    )


@export_app.command("onnx", epilog=example("reion export onnx run --out model.onnx"))
def export_onnx(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="A finished run folder; or, with --cell-size, a model file or a shipped model.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The ONNX file to write.")],
    cell_size: Annotated[
        float | None,
        typer.Option(
            help="Comoving side of the cells in Mpc, for a network that serves any cell size.", min=0.0
        ),
    ] = None,
    scores: Annotated[
        Path | None, typer.Option(help="What `reion evaluate --json` printed for the run, for the metadata.")
    ] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Write one self-contained ONNX file and compare it with Keras."""
    if cell_size is not None and not Path(run).is_dir():
        from reion.jobs.outputs import sha256_of, write_whole
        from reion.jobs.places import MODEL_FILE, claimed
        from reion.prediction.emulator import Emulator

        fitted = Emulator(run, device="cpu").at_cell_size(cell_size)
        with claimed(out, MODEL_FILE, force=force, sources=[run]) as place:
            write_whole(place, fitted.content)
        print_result(
            {"output": str(place), "cell_size_mpc": cell_size, "sha256": sha256_of(place)},
            lambda: f"{place}: {fitted.card.name} for cells of {cell_size:g} Mpc",
            json=json,
        )
        return
    need_training("reion export onnx", exports=True)
    from reion.jobs.outputs import read_json
    from reion.training.export import export_run, held_out_scores

    held_out = None if scores is None else held_out_scores(read_json(scores))
    written = export_run(run, out, scores=held_out, cell_size_mpc=cell_size, force=force)
    print_result(
        written.to_json(),
        lambda: (
            f"{written.output}: {written.bytes / 1e6:.2f} MB, {written.nodes} nodes, "
            f"differs from Keras by at most {written.max_difference:.1e}"
        ),
        json=json,
    )
