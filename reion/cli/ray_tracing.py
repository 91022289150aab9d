"""Commands that compute the truth by ray tracing: simulate, worlds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reion.cli.app import app, example
from reion.cli.environment import announce_compilation
from reion.cli.options import (
    DryRun,
    Force,
    Format,
    Json,
    Resume,
    Scheduler,
    Sources,
    WorkerCount,
    split_settings,
)
from reion.cli.output import print_plans, print_result, resumable

if TYPE_CHECKING:
    from reion.ray_tracing.simulate import Simulated


@app.command(epilog=example("reion simulate density_and_sources --out sim.zarr --set max_mfp=30"))
def simulate(
    sources: Sources,
    out: Annotated[Path, typer.Option(help="The Zarr store to write.")],
    config: Annotated[Path | None, typer.Option(help="TOML file with the schema of the ray tracing.")] = None,
    format_: Format = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A value of the schema, such as max_mfp=30, or a fact that the files lack, such as "
            "box_size=100; repeatable.",
        ),
    ] = None,
    rates: Annotated[bool, typer.Option("--rates", help="Store the photo-ionisation rate too.")] = False,
    scheduler: Scheduler = None,
    workers: WorkerCount = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Compute the ionised fraction by ray tracing.

    The sources listed at a snapshot shine through its gas until the next one.
    """
    from reion.jobs.workers import reachable, started
    from reion.ray_tracing.settings import RayTracing
    from reion.ray_tracing.simulate import simulate as run_simulate
    from reion.schema import load_schema
    from reion.terminal import progress_bar

    own, facts = split_settings(settings, RayTracing.model_fields)
    tracing = load_schema(RayTracing, config, own)
    announce_compilation()
    if dry_run:
        from reion.ray_tracing.cost import plan_simulate
        from reion.readers import open_simulation

        sim = open_simulation(sources, format=format_, settings=facts)
        print_plans([plan_simulate(sim, sources, tracing, rates=rates)], json=json)
        return
    with resumable(out), started(scheduler, workers) as team, progress_bar("tracing rays") as progress:
        result = run_simulate(
            reachable(sources, scheduler),
            reachable([out], scheduler)[0],
            tracing,
            format=format_,
            settings=facts,
            rates=rates,
            force=force,
            resume=resume,
            workers=team,
            progress=progress,
        )
    print_result(result.to_json(), lambda: _in_words(result), json=json)


@app.command(epilog=example("reion worlds series --out worlds"))
def worlds(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="SERIES...", help="Series of density and sources: files or folders."),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the stores, one a world.")],
    config: Annotated[
        Path | None, typer.Option(help="TOML file with the list of worlds; by default that of reion.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Make this world and no others; repeatable.")
    ] = None,
    scheduler: Scheduler = None,
    workers: WorkerCount = None,
    json: Json = False,
) -> None:
    """Compute many worlds to train on.

    Each has other sources, other photons and another reach. Worlds that are there already are kept; the same
    command goes on after an interruption.
    """
    from reion.jobs.workers import reachable, started
    from reion.ray_tracing.worlds import load_worlds, make_worlds
    from reion.terminal import progress_bar, say

    listed = load_worlds(config)
    announce_compilation()
    with resumable(out), started(scheduler, workers) as team, progress_bar("tracing rays") as progress:
        made = make_worlds(
            reachable(sources, scheduler),
            reachable([out], scheduler)[0],
            listed,
            only=only or (),
            workers=team,
            say=say,
            progress=progress,
        )
    print_result(
        made.to_json(), lambda: "\n".join(_world_in_words(*item) for item in made.worlds.items()), json=json
    )


def _world_in_words(name: str, made: Simulated | None) -> str:
    if made is None:
        return f"{name}: there already"
    last = made.snapshots[-1]
    return f"{name}: mean xi {last.mean_xi:.4f} at z = {last.redshift:g}, {made.seconds:.0f} s"


def _in_words(result: Simulated) -> str:
    photons = result.photons
    lines = [f"{result.output}: {len(result.snapshots)} snapshots in {result.seconds:.0f} s"]
    lines += [
        f"  z = {snapshot.redshift:g}: mean xi {snapshot.mean_xi:.4f}, {snapshot.sources} sources, "
        f"{sum(snapshot.iterations)} rounds" + ("" if snapshot.converged else ", not converged")
        for snapshot in result.snapshots
    ]
    if photons.emitted:
        lines.append(
            f"  of {photons.emitted:.3e} photons {photons.absorbed / photons.emitted:.1%} were absorbed and "
            f"{photons.lost / photons.emitted:.1%} went farther than they are followed; "
            f"recombinations took {photons.recombinations / photons.emitted:.1%}"
        )
    return "\n".join(lines)
