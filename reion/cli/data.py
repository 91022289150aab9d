"""Commands that read simulations: convert, inspect."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reion.cli.app import app, example
from reion.cli.environment import announce_compilation
from reion.cli.joining import opened
from reion.cli.options import (
    DryRun,
    Force,
    Format,
    Json,
    Resume,
    Scheduler,
    Settings,
    Sources,
    WorkerCount,
    parse_settings,
)
from reion.cli.output import check_place, print_plans, print_result, resumable
from reion.errors import InputError

if TYPE_CHECKING:
    import xarray as xr


@app.command(epilog=example("reion convert c2ray_run --out sim.zarr --set preset=500/h"))
def convert(
    sources: Sources,
    out: Annotated[
        Path,
        typer.Option(
            help="The Zarr store to write; a file if it ends in .h5, .nc or .npz; a folder for several "
            "simulations."
        ),
    ],
    format_: Format = None,
    settings: Settings = None,
    cell_size: Annotated[
        float | None, typer.Option(help="Regrid to cells of about this size, in comoving Mpc.")
    ] = None,
    scheduler: Scheduler = None,
    workers: WorkerCount = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Convert a simulation to Zarr. Units and every value are checked."""
    from reion.jobs.workers import reachable, started
    from reion.storage.conversion import convert as run_convert
    from reion.terminal import progress_bar

    announce_compilation()
    if dry_run:
        from reion.storage.cost import plan_each

        check_place(out, sources)
        print_plans(plan_each(sources, format_, parse_settings(settings), cell_size), json=json)
        return
    with resumable(out), started(scheduler, workers) as team, progress_bar("converting") as progress:
        result = run_convert(
            reachable(sources, scheduler),
            reachable([out], scheduler)[0],
            format=format_,
            settings=parse_settings(settings),
            cell_size_mpc=cell_size,
            resume=resume,
            force=force,
            workers=team,
            progress=progress,
        )
    print_result(result, lambda: "\n".join(map(_store_in_words, result["stores"])), json=json)


def _store_in_words(store: Mapping[str, Any]) -> str:
    fields = ", ".join(f"{name} [{units}]" for name, units in store["fields"].items())
    line = f"{store['path']}: {len(store['redshifts'])} snapshots of {store['shape']}, {fields}"
    lines = [line, *(f"  {doubt}" for doubt in store["doubts"])]
    cosmology = store["cosmology"]
    if cosmology.get("assumed"):
        values = ", ".join(f"{name} = {cosmology[name]:g}" for name in ("H0", "Om0", "Ob0"))
        lines.append(f"  cosmology assumed: flat LCDM, {values}; --set gives another")
    return "\n".join(lines)


@app.command(epilog=example("reion inspect sim.zarr --plot pictures"))
def inspect(
    sources: Sources,
    format_: Format = None,
    settings: Settings = None,
    plot: Annotated[Path | None, typer.Option(help="Folder to write pictures into.")] = None,
    model: Annotated[
        str | None,
        typer.Option("--for", metavar="MODEL", help="Say too what a model would say of this simulation."),
    ] = None,
    scheduler: Scheduler = None,
    workers: WorkerCount = None,
    dry_run: DryRun = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Look at every value of a simulation once.

    Prints moments, axis profiles, the history, and what looks wrong. Of two sources the first may be a store
    with xi, which is joined to the gas of the second.
    """
    from reion.inspection.look import inspect as run_inspect
    from reion.inspection.table import render
    from reion.jobs.workers import reachable, started
    from reion.terminal import progress_bar

    sim = opened(reachable(sources, scheduler), format_, settings)
    # First, so that a model that cannot be opened fails before every value is read.
    fit = None if model is None else _fit(model, sim)
    announce_compilation()
    if dry_run:
        from reion.inspection.cost import plan_inspect

        print_plans([plan_inspect(sim, sources)], json=json)
        return
    with started(scheduler, workers) as team, progress_bar("reading") as progress:
        inspection = run_inspect(sim, plot=plot, force=force, workers=team, progress=progress)
    from rich.console import Group

    print_result(
        {**inspection.to_json(), **({} if fit is None else {"for": fit})},
        lambda: render(inspection) if fit is None else Group(render(inspection), _fit_in_words(fit)),
        json=json,
    )


def _fit(model: str, sim: xr.Dataset) -> dict[str, Any]:
    """How a model judges a simulation: the error with which it refuses it, if any, and its warnings."""
    from reion.prediction.emulator import Emulator
    from reion.prediction.warned import collected_warnings

    emulator = Emulator(model, device="cpu")
    refused = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are printed with the answer
        with collected_warnings() as said:
            try:
                emulator.check(sim)
            except InputError as error:
                refused = str(error)
    return {"model": model, "refused": refused, "warnings": said}


def _fit_in_words(fit: Mapping[str, Any]) -> str:
    lines = [*([fit["refused"]] if fit["refused"] else []), *fit["warnings"]]
    found = "".join(f"\n  {line}" for line in lines) or " nothing, it lies within what the model learnt."
    return f"{fit['model']} says of it:{found}"
