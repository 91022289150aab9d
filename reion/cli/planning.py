"""Commands that look ahead: plan (what a prediction or a training costs), plan-run (how to train on data)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reion.cli.app import app, example
from reion.cli.environment import need_training
from reion.cli.options import (
    Force,
    Format,
    Json,
    Memory,
    Settings,
    Sources,
    ValuesAndFacts,
    parse_bytes,
    parse_settings,
    split_settings,
)
from reion.cli.output import print_plans, print_result
from reion.errors import InputError

if TYPE_CHECKING:
    from reion.jobs.plan import Plan, Terms


@app.command(epilog=example("reion plan rt64-history --cells 1024 --snapshots 50 --memory 8GiB"))
def plan(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="An ONNX file, the name of a model that comes with reion, or the TOML file of a run.",
        ),
    ],
    sources: Annotated[
        list[Path] | None, typer.Argument(metavar="[SIM...]", help="The data, where they exist already.")
    ] = None,
    format_: Format = None,
    settings: ValuesAndFacts = None,
    cells: Annotated[
        int | None, typer.Option(min=1, help="Cells along a side of the box, instead of SIM.")
    ] = None,
    snapshots: Annotated[
        int | None, typer.Option(min=1, help="Snapshots of a box, with --cells; 1 by default.")
    ] = None,
    boxes: Annotated[
        int | None,
        typer.Option(min=1, help="Boxes to train on, with --cells and the file of a run; 1 by default."),
    ] = None,
    memory: Memory = None,
    machines: Annotated[int, typer.Option(min=1, help="Machines that share the work.")] = 1,
    rate: Annotated[
        float | None,
        typer.Option(min=1e-9, help="Cells a second of one machine, instead of a measurement here."),
    ] = None,
    bandwidth: Annotated[
        str | None,
        typer.Option(help="Bytes a second from and to the disk, all machines together, such as 2GB."),
    ] = None,
    json: Json = False,
) -> None:
    """Say what predicting or training will cost."""
    from reion.jobs.plan import Terms

    terms = Terms(
        rate=rate,
        bandwidth=None if bandwidth is None else float(parse_bytes(bandwidth, "--bandwidth")),
        machines=machines,
    )
    if bool(sources) == (cells is not None):
        raise InputError("expected either a simulation or --cells", hint="--cells 1024 --snapshots 50")
    is_run = model.endswith(".toml")
    _refuse_without_meaning(is_run, cells=cells, snapshots=snapshots, boxes=boxes, memory=memory)
    if is_run:
        need_training("planning a training run")
        found = _plan_training(
            Path(model),
            sources or [],
            format_,
            settings or [],
            cells=cells,
            snapshots=snapshots or 1,
            boxes=boxes or 1,
            terms=terms,
        )
    else:
        found = _plan_prediction(
            model,
            sources or [],
            format_,
            parse_settings(settings),
            cells=cells,
            snapshots=snapshots or 1,
            memory_bytes=None if memory is None else parse_bytes(memory, "--memory"),
            terms=terms,
        )
    print_plans([found], json=json)


def _refuse_without_meaning(
    is_run: bool, *, cells: int | None, snapshots: int | None, boxes: int | None, memory: str | None
) -> None:
    """Raise `InputError` for an option that has no effect on what is planned."""
    if is_run and memory is not None:
        raise InputError(
            "--memory: expected a model, whose tiles are cut to fit; received the file of a run",
            hint="leave it out: batch and crop of the run decide what training takes",
        )
    if not is_run and boxes is not None:
        raise InputError(
            "--boxes: expected the TOML file of a run; received a model, which predicts box by box",
            hint="leave it out: every box costs the same",
        )
    for option, value in (("--snapshots", snapshots), ("--boxes", boxes)):
        if value is not None and cells is None:
            raise InputError(
                f"{option}: expected --cells; received a simulation, which has its own",
                hint="leave one of the two out",
            )


def _plan_training(
    config_file: Path,
    sources: Sequence[Path],
    format_: str | None,
    settings: Sequence[str],
    *,
    cells: int | None,
    snapshots: int,
    boxes: int,
    terms: Terms,
) -> Plan:
    """Plan the training run of a TOML file: on `sources`, or on `boxes` of `cells` along a side."""
    from reion.config import RunConfig, load_config
    from reion.readers import open_each
    from reion.training.cost import plan_train

    values, facts = split_settings(settings, RunConfig.model_fields)
    config = load_config(config_file, values)
    if cells is not None:
        return plan_train(config, boxes=boxes, snapshots=snapshots, cells=cells, terms=terms)
    simulations = open_each(sources, format=format_, settings=facts)
    return plan_train(config, simulations, sources, terms=terms)


def _plan_prediction(
    model: str,
    sources: Sequence[Path],
    format_: str | None,
    facts: Mapping[str, str],
    *,
    cells: int | None,
    snapshots: int,
    memory_bytes: int | None,
    terms: Terms,
) -> Plan:
    """Plan the prediction of one simulation: `sources`, or `snapshots` of `cells` along a side."""
    from reion.prediction.cost import plan_predict
    from reion.prediction.emulator import Emulator
    from reion.readers import open_simulation
    from reion.simulation.contract import shape_of

    emulator = Emulator(model)
    if cells is not None:
        shape = (cells, cells, cells)
        return plan_predict(emulator, shape, snapshots, memory_bytes=memory_bytes, terms=terms)
    sim = open_simulation(sources, format=format_, settings=facts)
    return plan_predict(
        emulator,
        shape_of(sim),
        sim.sizes["redshift"],
        sim=sim,
        sources=sources,
        memory_bytes=memory_bytes,
        terms=terms,
    )


@app.command("plan-run", epilog=example("reion plan-run box1.zarr box3.zarr --out run.toml"))
def plan_run(
    sources: Sources,
    out: Annotated[
        Path | None, typer.Option(help="The TOML file to write; it is printed where this is absent.")
    ] = None,
    format_: Format = None,
    settings: Settings = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Look at simulations and write how to train on them.

    The file has a reason for every value, and is there to be changed: `reion train --config` takes it.
    """
    from reion.readers import open_each

    simulations = open_each(sources, format=format_, settings=parse_settings(settings))
    need_training("reion plan-run")
    from reion.jobs.outputs import write_whole
    from reion.jobs.places import claimed
    from reion.training.run_plan import PLAN_FILE
    from reion.training.run_plan import plan_run as look

    with nullcontext() if out is None else claimed(out, PLAN_FILE, force=force, sources=sources) as place:
        planned = look(simulations, sources)
        if place is not None:
            write_whole(place, planned.to_toml())
    print_result(
        {"out": None if out is None else str(out), **planned.to_json()},
        lambda: planned.to_toml().rstrip() if out is None else f"{out}: train with --config {out}",
        json=json,
    )
