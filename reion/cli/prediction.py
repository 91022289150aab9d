"""Commands that use a trained model: predict, evaluate, demo-page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from reion.cli.app import app, example
from reion.cli.environment import need_training
from reion.cli.options import (
    DryRun,
    Force,
    Format,
    Json,
    Memory,
    Model,
    Resume,
    Scheduler,
    Settings,
    Sources,
    WorkerCount,
    parse_bytes,
    parse_settings,
)
from reion.cli.output import check_place, print_plans, print_result, resumable

if TYPE_CHECKING:
    from reion.prediction.predict import Prediction


@app.command(epilog=example("reion predict model.onnx sim.zarr --out xi.zarr"))
def predict(
    model: Model,
    sources: Sources,
    out: Annotated[
        Path, typer.Option(help="The Zarr store to write; a file if it ends in .h5, .nc or .npz.")
    ],
    format_: Format = None,
    settings: Settings = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute.")] = "auto",
    memory: Memory = None,
    uncertainty: Annotated[
        bool,
        typer.Option("--uncertainty", help="Write xi_std too: how far xi is off, in every cell."),
    ] = False,
    z_reion: Annotated[
        bool,
        typer.Option("--z-reion", help="Write z_reion too: the redshift at which each cell is ionised."),
    ] = False,
    scheduler: Scheduler = None,
    workers: WorkerCount = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Predict the ionised fraction of a simulation. Memory is bounded, whatever the size of the box."""
    from reion.jobs.workers import reachable, started
    from reion.prediction.predict import predict as run_predict
    from reion.terminal import progress_bar

    memory_bytes = None if memory is None else parse_bytes(memory, "--memory")
    if dry_run:
        from reion.prediction.cost import plan_predict
        from reion.prediction.emulator import Emulator
        from reion.readers import open_simulation
        from reion.simulation.contract import shape_of

        check_place(out, sources)
        sim = open_simulation(sources, format=format_, settings=parse_settings(settings))
        plan = plan_predict(
            Emulator(model, device=device),
            shape_of(sim),
            sim.sizes["redshift"],
            sim=sim,
            sources=sources,
            memory_bytes=memory_bytes,
        )
        print_plans([plan], json=json)
        return
    with resumable(out), started(scheduler, workers) as team, progress_bar("predicting") as progress:
        prediction = run_predict(
            model,
            reachable(sources, scheduler),
            reachable([out], scheduler)[0],
            device=device,
            memory_bytes=memory_bytes,
            uncertainty=uncertainty,
            z_reion=z_reion,
            format=format_,
            settings=parse_settings(settings),
            resume=resume,
            force=force,
            workers=team,
            progress=progress,
        )
    print_result(prediction.to_json(), lambda: _prediction_in_words(prediction), json=json)


def _prediction_in_words(prediction: Prediction) -> str:
    peak = prediction.peak_memory_bytes
    memory = "" if peak is None else f", {peak / 2**30:.2f} GiB at most"
    odd = prediction.z_reion
    never = "" if odd is None else f"; {odd.never / odd.cells:.2%} of the cells never reach xi = 0.5"
    return (
        f"{prediction.output}: {prediction.cells} cells in {prediction.seconds:.1f} s, "
        f"{prediction.cells_per_second:.0f} a second on {prediction.provider}{memory}{never}"
    )


@app.command(epilog=example("reion evaluate model.onnx held_out.zarr --report report"))
def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A run folder, an ONNX file or the name of a model that comes with reion."
        ),
    ],
    sources: Sources,
    against: Annotated[
        list[str] | None,
        typer.Option(help="Another model, or files with the xi of another method; repeatable."),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Folder to write report.html into.")] = None,
    format_: Format = None,
    settings: Settings = None,
    against_format: Annotated[
        str | None, typer.Option(help="Format of the files with another method's xi.")
    ] = None,
    against_set: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="A fact that the files with another method's xi lack."),
    ] = None,
    scheduler: Scheduler = None,
    workers: WorkerCount = None,
    dry_run: DryRun = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Judge predictions against the truth.

    The excursion set and the mean field are judged beside them.
    """
    from reion.evaluation.evaluate import render
    from reion.evaluation.methods import evaluate_methods
    from reion.evaluation.report.page import report_kind
    from reion.jobs.places import output_path, refuse_existing
    from reion.jobs.workers import reachable, started
    from reion.readers import open_simulation
    from reion.terminal import progress_bar, say

    models = [model, *(against or [])]
    if any((Path(name) / "config.toml").is_file() for name in models):
        need_training("evaluating a run folder")
    if report is not None:
        kind = report_kind(report)
        refuse_existing(output_path(report, kind, sources=[*models, *sources]), kind, force=force)
    sim = open_simulation(reachable(sources, scheduler), format=format_, settings=parse_settings(settings))
    facts = parse_settings(against_set)
    if dry_run:
        from reion.evaluation.cost import plan_evaluate

        plan = plan_evaluate(
            models, sim, sources, xi_format=against_format, xi_settings=facts, report=report is not None
        )
        print_plans([plan], json=json)
        return
    with started(scheduler, workers) as team, progress_bar("evaluating") as progress:
        evaluation, page = evaluate_methods(
            models,
            sim,
            xi_format=against_format,
            xi_settings=facts,
            report=report,
            command=" ".join(sys.argv),
            force=force,
            workers=team,
            progress=progress,
        )
    if page is not None:
        say(f"report {page}")
    print_result(evaluation.to_json(), lambda: render(evaluation), json=json)


@app.command("demo-page", epilog=example("reion demo-page model.onnx --out page"))
def demo_page(
    model: Model,
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    runtime: Annotated[Path, typer.Option(help="Folder with the web build of onnxruntime.")] = Path(
        "node_modules/onnxruntime-web/dist"
    ),
    force: Force = False,
    json: Json = False,
) -> None:
    """Write a page that loads the model and predicts in the browser."""
    from reion.demo import write_demo_page

    written = write_demo_page(model, out, runtime=runtime, force=force)
    print_result(
        written.to_json(),
        lambda: f"{written.output}: look at it with `python -m http.server -d {out}`",
        json=json,
    )
