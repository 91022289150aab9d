"""The command line: parse, call, print. What a command does is in the module it calls."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from reion.errors import InputError

if TYPE_CHECKING:
    from reion.jobs.plan import Plan, Terms
    from reion.training.launch import Place

app = typer.Typer(
    name="reion",
    help="Radiative transfer of cosmic reionisation, learnt: gas density and ionising sources in, "
    "ionised fraction of every cell out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
export_app = typer.Typer(help="Export a trained run.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(export_app, name="export")

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout; progress on stderr.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the output if it exists.")]
Format = Annotated[str | None, typer.Option("--format", help="Format of the files, if not recognised.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="What the files lack, or a setting.")
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Say what it will cost, in cells, bytes, memory and time; do nothing."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with what was interrupted; do not begin anew.")]
Scheduler = Annotated[
    str | None, typer.Option(help="Address, or file, of the Dask scheduler whose workers do the work.")
]
Count = Annotated[
    int | None, typer.Option("--workers", min=1, help="Start so many worker processes on this machine.")
]
Sources = Annotated[list[Path], typer.Argument(metavar="SOURCE...", help="Files, folders or Zarr stores.")]


def main() -> None:
    """Run the command line: exit code 0 done, 2 bad usage or bad input, 1 our fault, 130 interrupted."""
    as_json = "--json" in sys.argv
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    try:
        app(prog_name="reion")
    except InputError as error:
        from reion.terminal import print_error

        print_error(error, as_json=as_json)
        sys.exit(2)
    except BrokenPipeError:
        # The reader of our output has gone, as `| head` does: nothing is wrong.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:  # noqa: BLE001 (the last handler: whatever is left is our fault)
        traceback.print_exc()
        if as_json:
            from reion.terminal import print_json

            print_json({"error": {"message": f"{type(error).__name__}: {error}", "file": None, "hint": None}})
        sys.stderr.write("this is an error of reion, not yours: please report it with the lines above\n")
        sys.exit(1)


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option(help="Folder for the run, the model and the report.")] = Path(
        "reion-quickstart"
    ),
    settings: Set = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted one.")] = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Go the whole way on the packaged sample: train, export, predict a held-out box, evaluate, report."""
    _need_training("reion quickstart")
    from reion.config import load_config
    from reion.studies.quickstart import STEPS
    from reion.studies.quickstart import quickstart as run_quickstart
    from reion.terminal import print_json, print_table, progress_bar, say

    config = load_config(None, settings or [], base={"training": {"steps": STEPS}})
    _compile_kernels()
    with _going_on_in(out), progress_bar("training") as progress:
        result = run_quickstart(out, config=config, resume=resume, force=force, progress=progress, say=say)
    if json:
        print_json(result)
        return
    from reion.evaluation.evaluate import render

    print_table(render(result["evaluation"]))
    sys.stdout.write(
        f"\nmodel   {result['model']}\nreport  {result['report']}\nrun     {result['run']}\n"
        f"{result['seconds']:.0f} s\n"
    )


@app.command()
def convert(
    sources: Sources,
    out: Annotated[Path, typer.Option(help="The Zarr store to write; a folder for several simulations.")],
    format_: Format = None,
    settings: Set = None,
    cell_size: Annotated[
        float | None, typer.Option(help="Regrid to cells of this size, Mpc comoving.")
    ] = None,
    scheduler: Scheduler = None,
    workers: Count = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Convert a simulation to Zarr, units checked, every value checked."""
    from reion.jobs.workers import reachable, started
    from reion.storage.conversion import convert as run_convert
    from reion.terminal import print_json, progress_bar

    _compile_kernels()
    if dry_run:
        from reion.storage.cost import plan_each

        plans = plan_each(sources, format_, _settings(settings), cell_size)
        _print_plans(plans, json=json)
        return
    with _going_on_in(out), started(scheduler, workers) as team, progress_bar("converting") as progress:
        result = run_convert(
            reachable(sources, scheduler),
            reachable([out], scheduler)[0],
            format=format_,
            settings=_settings(settings),
            cell_size_mpc=cell_size,
            resume=resume,
            force=force,
            workers=team,
            progress=progress,
        )
    if json:
        print_json(result)
        return
    for store in result["stores"]:
        fields = ", ".join(f"{name} [{units}]" for name, units in store["fields"].items())
        sys.stdout.write(
            f"{store['path']}: {len(store['redshifts'])} snapshots of {store['shape']}, {fields}\n"
        )
        if store["cosmology"].get("assumed"):
            values = ", ".join(f"{name} = {store['cosmology'][name]:g}" for name in ("H0", "Om0", "Ob0"))
            sys.stdout.write(f"  cosmology assumed: flat LCDM, {values}; --set gives another\n")


@app.command()
def inspect(
    sources: Sources,
    format_: Format = None,
    settings: Set = None,
    plot: Annotated[Path | None, typer.Option(help="Folder for pictures.")] = None,
    scheduler: Scheduler = None,
    workers: Count = None,
    dry_run: DryRun = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Look at every value of a simulation once: moments, axis profiles, history, what looks wrong."""
    from reion.inspection.look import inspect as run_inspect
    from reion.inspection.look import render
    from reion.jobs.workers import reachable, started
    from reion.readers import open_simulation
    from reion.terminal import print_json, print_table, progress_bar

    sim = open_simulation(reachable(sources, scheduler), format=format_, settings=_settings(settings))
    _compile_kernels()
    if dry_run:
        from reion.inspection.cost import plan_inspect

        _print_plans([plan_inspect(sim, sources)], json=json)
        return
    with started(scheduler, workers) as team, progress_bar("reading") as progress:
        result = run_inspect(sim, plot=plot, force=force, workers=team, progress=progress)
    if json:
        print_json(result)
    else:
        print_table(render(result))


@app.command()
def train(
    sources: Sources,
    out: Annotated[Path, typer.Option(help="The run folder to write.")],
    config: Annotated[Path | None, typer.Option(help="TOML file with the schema of the run.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A value of the schema: model.name=patch, seed=1."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes to train with, one GPU each where there are GPUs."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint.")] = False,
    dry_run: DryRun = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Train a network on one or more simulations."""
    place = _place(workers)
    _need_training("reion train")
    from reion.config import load_config
    from reion.readers import open_each
    from reion.terminal import print_json, progress_bar
    from reion.training.run import train as run_train

    chief = place is None or place.rank == 0
    schema = load_config(config, settings or [])
    simulations = open_each(sources)
    if dry_run:
        from reion.training.cost import plan_train

        _print_plans([plan_train(schema, simulations, sources)], json=json)
        return
    _compile_kernels()
    with (
        _going_on_in(out) if chief else nullcontext(),
        progress_bar("training") if chief else nullcontext() as progress,
    ):
        result = run_train(
            simulations, out, schema, resume=resume, force=force, progress=progress, place=place
        )
    if not chief:
        return
    if json:
        print_json({"run": str(out), **result})
    else:
        r2 = result["validation_r2"]
        sys.stdout.write(
            f"{out}: validation R² {'–' if r2 is None else f'{r2:.4f}'} after {result['steps']} steps, "
            f"{result['seconds']:.0f} s, {result['cells_per_second']} cells a second, "
            f"{result['waiting_share']:.1%} of the time waiting for data\n"
        )


@app.command()
def evaluate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A run folder, an ONNX file or a shipped model's name.")
    ],
    sources: Sources,
    against: Annotated[
        list[str] | None, typer.Option(help="More models, or files with the xi of another method.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Folder for report.html.")] = None,
    format_: Format = None,
    settings: Set = None,
    scheduler: Scheduler = None,
    workers: Count = None,
    dry_run: DryRun = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Judge predictions against the truth, beside the excursion set and the mean field."""
    from reion.evaluation.evaluate import render
    from reion.evaluation.methods import judge
    from reion.jobs.workers import reachable, started
    from reion.readers import open_simulation
    from reion.terminal import print_json, print_table, progress_bar, say

    if report is not None and (report / "report.html").exists() and not force:
        raise InputError("the report is already there", file=report, hint="--force replaces it")
    sim = open_simulation(reachable(sources, scheduler), format=format_, settings=_settings(settings))
    if dry_run:
        from reion.evaluation.cost import plan_evaluate

        plan = plan_evaluate([model, *(against or [])], sim, sources, report=report is not None)
        _print_plans([plan], json=json)
        return
    with started(scheduler, workers) as team, progress_bar("evaluating") as progress:
        result, page = judge(
            [model, *(against or [])],
            sim,
            report=report,
            command=" ".join(sys.argv),
            force=force,
            workers=team,
            progress=progress,
        )
    if page is not None:
        say(f"report {page}")
    if json:
        print_json(result)
    else:
        print_table(render(result))


@app.command()
def compare(
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help="A TOML file, or the name of a study of reion's.")
    ],
    sources: Annotated[list[Path], typer.Argument(metavar="SIM...", help="What to train on.")],
    test: Annotated[Path, typer.Option(help="The simulation to judge on.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    core_minutes: Annotated[
        float | None, typer.Option(help="Processor time of each training instead of the study's, minutes.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Keep the runs that are finished.")] = False,
    json: Json = False,
) -> None:
    """Train several networks on the same boxes for the same time and judge them on another."""
    _need_training("reion compare")
    from reion.readers import open_each, open_simulation
    from reion.studies.comparison import compare as run_compare
    from reion.studies.comparison import render
    from reion.terminal import print_json, print_table, progress_bar, say

    simulations, judged = open_each(sources), open_simulation(test)
    _compile_kernels()
    with _going_on_in(out), progress_bar("training") as progress:
        result = run_compare(
            study,
            simulations,
            judged,
            out,
            core_minutes=core_minutes,
            resume=resume,
            say=say,
            progress=progress,
        )
    if json:
        print_json(result)
    else:
        print_table(render(result))


@export_app.command("onnx")
def export_onnx(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run folder.")],
    out: Annotated[Path, typer.Option(help="The ONNX file to write.")],
    scores: Annotated[
        Path | None, typer.Option(help="What `reion evaluate --json` printed for it, for the metadata.")
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Store weights in half precision.")] = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Write one self-contained ONNX file, proved against Keras."""
    _need_training("reion export onnx")
    from reion.terminal import print_json
    from reion.training.run_folder import export_run, held_out_scores, read_json

    held_out = None if scores is None else held_out_scores(read_json(scores))
    result = export_run(run, out, scores=held_out, half=half, force=force)
    if json:
        print_json(result)
    else:
        sys.stdout.write(
            f"{result['output']}: {result['bytes'] / 1e6:.2f} MB, {result['nodes']} nodes, "
            f"differs from Keras by at most {result['max_difference']:.1e}\n"
        )


@app.command()
def predict(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="An ONNX file or a shipped model's name.")],
    simulation: Annotated[Path, typer.Argument(metavar="SIM", help="The simulation to predict.")],
    out: Annotated[Path, typer.Option(help="The Zarr store to write.")],
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute.")] = "auto",
    memory: Annotated[str, typer.Option(help="Memory a process may take, e.g. 2GiB.")] = "2GiB",
    scheduler: Scheduler = None,
    workers: Count = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Predict the ionised fraction, any box in bounded memory."""
    from reion.jobs.workers import reachable, started
    from reion.prediction.predict import predict as run_predict
    from reion.terminal import print_json, progress_bar

    memory_bytes = _bytes(memory, "--memory")
    if dry_run:
        from reion.prediction.cost import plan_predict
        from reion.prediction.emulator import Emulator
        from reion.readers import open_simulation
        from reion.simulation.contract import shape_of

        sim = open_simulation(simulation)
        emulator = Emulator(model, device=device)
        found = plan_predict(
            emulator,
            shape_of(sim),
            sim.sizes["redshift"],
            sim=sim,
            sources=[simulation],
            memory_bytes=memory_bytes,
        )
        _print_plans([found], json=json)
        return
    (source,), (place,) = (reachable([path], scheduler) for path in (simulation, out))
    with _going_on_in(out), started(scheduler, workers) as team, progress_bar("predicting") as progress:
        result = run_predict(
            model,
            source,
            place,
            device=device,
            memory_bytes=memory_bytes,
            resume=resume,
            force=force,
            workers=team,
            progress=progress,
        )
    if json:
        print_json(result)
    else:
        peak = result["peak_memory_bytes"]
        memory = "" if peak is None else f", {peak / 2**30:.2f} GiB at most"
        sys.stdout.write(
            f"{result['output']}: {result['cells']} cells in {result['seconds']:.1f} s, "
            f"{result['cells_per_second']:.0f} a second on {result['provider']}"
            f"{memory}\n"
        )


@app.command()
def plan(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="An ONNX file, a shipped model's name, or a run's TOML file."),
    ],
    sources: Annotated[
        list[Path] | None, typer.Argument(metavar="[SIM...]", help="The data, if it is there already.")
    ] = None,
    cells: Annotated[
        int | None, typer.Option(min=1, help="Cells along a side of the box, in place of SIM.")
    ] = None,
    snapshots: Annotated[int, typer.Option(min=1, help="Snapshots of a box, with --cells.")] = 1,
    boxes: Annotated[int, typer.Option(min=1, help="Boxes to train on, with --cells.")] = 1,
    memory: Annotated[str, typer.Option(help="Memory a process may take, e.g. 2GiB.")] = "2GiB",
    machines: Annotated[int, typer.Option(min=1, help="Machines that share the work.")] = 1,
    rate: Annotated[
        float | None, typer.Option(min=1e-9, help="Cells a second of a machine; else it is measured here.")
    ] = None,
    bandwidth: Annotated[
        str | None, typer.Option(help="Bytes a second from and to the disk, all machines together, e.g. 2GB.")
    ] = None,
    json: Json = False,
) -> None:
    """Say what predicting or training will cost, before it starts."""
    from reion.jobs.plan import Terms

    terms = Terms(
        rate=rate,
        bandwidth=None if bandwidth is None else float(_bytes(bandwidth, "--bandwidth")),
        machines=machines,
    )
    if model.endswith(".toml"):
        _need_training("planning a training run")
    found = _plan_any(
        model,
        sources or [],
        cells=cells,
        snapshots=snapshots,
        boxes=boxes,
        memory_bytes=_bytes(memory, "--memory"),
        terms=terms,
    )
    _print_plans([found], json=json)


@app.command("demo-page")
def demo_page(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="An ONNX file or a shipped model's name.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    runtime: Annotated[Path, typer.Option(help="Folder with onnxruntime's web build.")] = Path(
        "node_modules/onnxruntime-web/dist"
    ),
    force: Force = False,
    json: Json = False,
) -> None:
    """Write a page that loads the model and predicts in the browser."""
    from reion.demo import write_demo_page
    from reion.terminal import print_json

    result = write_demo_page(model, out, runtime=runtime, force=force)
    if json:
        print_json(result)
    else:
        sys.stdout.write(f"{result['output']}: look at it with `python -m http.server -d {out}`\n")


@app.command()
def bench(
    suites: Annotated[
        list[str] | None, typer.Argument(metavar="[SUITE...]", help="kernels, data, train, predict, cluster.")
    ] = None,
    json: Json = False,
) -> None:
    """Measure ratios against the hardware and the alternatives, both sides in one process."""
    from reion.bench import render
    from reion.bench import run as run_bench
    from reion.terminal import print_json, print_table, say

    result = run_bench(suites or [], say)
    if json:
        print_json(result)
    else:
        print_table(render(result))


@contextmanager
def _going_on_in(out: Path) -> Iterator[None]:
    """Say, when interrupted, that nothing is lost."""
    try:
        yield
    except KeyboardInterrupt:
        from reion.terminal import say

        say(f"interrupted: what is done for {out} is kept, and the same command with --resume goes on")
        raise


def _place(workers: int | None) -> Place | None:
    """The place of this process among the workers; with `--workers` and no launcher, be the launcher."""
    from reion.terminal import say
    from reion.training.launch import place_from_environment, run_local_workers, take_own_gpu

    place = None if workers == 1 else place_from_environment(os.environ)
    if place is not None and workers not in (None, place.count):
        raise InputError(f"expected --workers {place.count}, as the launcher has started; received {workers}")
    if place is None and workers is not None and workers > 1:
        sys.exit(run_local_workers(workers, [sys.executable, "-m", "reion", *sys.argv[1:]], os.environ))
    gpus = take_own_gpu(place, os.environ)
    if place is None and workers is None and gpus > 1:
        say(f"one of {gpus} GPUs is used: --workers {gpus} uses them all")
    return place


def _need_training(command: str) -> None:
    missing = [name for name in ("tensorflow", "keras", "onnx", "tf2onnx") if find_spec(name) is None]
    if missing:
        raise InputError(f"{command} needs {', '.join(missing)}", hint="pip install 'reion[train]'")
    backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if backend not in ("tensorflow", "jax", "torch") or find_spec(backend) is None:
        raise InputError(
            f"{command} cannot compute with KERAS_BACKEND={backend}",
            hint="expected tensorflow, jax or torch, installed",
        )
    if backend == "tensorflow":
        from reion.terminal import quiet_stderr

        # TensorFlow reports its CPU features and missing GPUs in a dozen lines that help nobody here.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        with quiet_stderr():
            import tensorflow as tf

            tf.config.list_physical_devices("GPU")


def _compile_kernels() -> None:
    """Compile what Numba has not compiled on this machine before, and say so, since it takes a while."""
    from reion.terminal import say
    from reion_kernels import cache_is_cold, compile_kernels

    if cache_is_cold():
        say("compiling the kernels, once on this machine: some ten seconds")
        compile_kernels()


def _plan_any(
    model: str,
    sources: Sequence[Path],
    *,
    cells: int | None,
    snapshots: int,
    boxes: int,
    memory_bytes: int,
    terms: Terms,
) -> Plan:
    """Plan a prediction (`model` an ONNX file or a shipped name) or a training run (a TOML file).

    Parameters
    ----------
    sources
        The simulation, or those to train on.
    cells, snapshots, boxes
        In place of `sources`: cells along a side, snapshots of a box, and boxes to train on.

    Raises
    ------
    InputError
        If there are neither sources nor cells, or both; as `plan_predict` and `load_config` do.
    """
    from reion.config import load_config
    from reion.prediction.cost import plan_predict
    from reion.prediction.emulator import Emulator
    from reion.readers import open_each, open_simulation
    from reion.simulation.contract import shape_of

    if bool(sources) == (cells is not None):
        raise InputError("expected either a simulation or --cells", hint="--cells 1024 --snapshots 50")
    training = model.endswith(".toml")
    if training:
        from reion.training.cost import plan_train

        config = load_config(Path(model))
        if cells is not None:
            return plan_train(config, boxes=boxes, snapshots=snapshots, cells=cells, terms=terms)
        return plan_train(config, open_each(sources), sources, terms=terms)
    emulator = Emulator(model)
    if cells is not None:
        shape = (cells, cells, cells)
        return plan_predict(emulator, shape, snapshots, memory_bytes=memory_bytes, terms=terms)
    sim = open_simulation(sources)
    return plan_predict(
        emulator,
        shape_of(sim),
        sim.sizes["redshift"],
        sim=sim,
        sources=sources,
        memory_bytes=memory_bytes,
        terms=terms,
    )


def _print_plans(plans: Sequence[Plan], *, json: bool) -> None:
    from reion.jobs.plan import render
    from reion.terminal import print_json, print_table

    if json:
        print_json({"plans": [found.to_json() for found in plans]})
        return
    for found in plans:
        print_table(render(found))


def _bytes(text: str, option: str) -> int:
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError as error:
        raise InputError(f"expected {option} such as 2GiB or 500MB; received {text!r}") from error


def _settings(settings: list[str] | None) -> dict[str, Any]:
    pairs = [(text, *text.partition("=")) for text in settings or []]
    for text, key, equals, _ in pairs:
        if not equals or not key:
            raise InputError(f"expected --set key=value; received {text!r}")
    return {key.strip(): value.strip() for _, key, _, value in pairs}
