"""Commands that turn an ionised fraction into results for a paper: report, history, lightcone."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from reion.cli.app import app, example
from reion.cli.environment import announce_compilation
from reion.cli.joining import joined
from reion.cli.options import (
    Force,
    Format,
    Json,
    Memory,
    Scheduler,
    Settings,
    WorkerCount,
    Xi,
    XiFormat,
    XiSettings,
    parse_bytes,
    parse_settings,
)
from reion.cli.output import print_result

if TYPE_CHECKING:
    import xarray as xr

    from reion.sky.history import History
    from reion.sky.light_cone import LightCone

Gas = Annotated[
    list[Path] | None,
    typer.Argument(metavar="[SIM...]", help="The simulation that xi belongs to, for its gas."),
]


@app.command(epilog=example("reion report xi.zarr sim.zarr --report report"))
def report(
    xi: Xi,
    sources: Gas = None,
    *,
    report: Annotated[Path, typer.Option(help="Folder to write report.html into, or a file NAME.html.")],
    against: Annotated[
        list[Path] | None, typer.Option(help="Another xi of the same simulation; repeatable.")
    ] = None,
    format_: Format = None,
    settings: Settings = None,
    xi_format: XiFormat = None,
    xi_set: XiSettings = None,
    scheduler: Scheduler = None,
    workers: WorkerCount = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Report on an ionised fraction without a truth.

    Slices, history, optical depth, spectra of xi and of the 21-cm signal, bubble sizes, topology.
    """
    from reion.evaluation.report.page import report_kind
    from reion.evaluation.report.survey_page import survey_headline, write_survey_report
    from reion.evaluation.stored import attributes_of_xi, error_bar_is_used, spread_of, warnings_in
    from reion.evaluation.survey import survey
    from reion.jobs.places import output_path, refuse_existing
    from reion.jobs.workers import reachable, started
    from reion.readers import open_simulation
    from reion.simulation.contract import require_fields
    from reion.simulation.joining import named_apart, require_same_box
    from reion.terminal import progress_bar, say

    kind = report_kind(report)
    places = [xi, *(against or [])]
    refuse_existing(output_path(report, kind, sources=[*places, *(sources or [])]), kind, force=force)
    facts = parse_settings(xi_set)
    with error_bar_is_used():
        stores = [
            open_simulation(place, format=xi_format, settings=facts) for place in reachable(places, scheduler)
        ]
    for place, store in zip(places, stores, strict=True):
        require_fields(store, ["xi"], purpose="a report on xi", file=str(place))
    sim = stores[0]
    if sources:
        sim = open_simulation(
            reachable(sources, scheduler), format=format_, settings=parse_settings(settings)
        )
    for place, store in zip(places, stores, strict=True):
        require_same_box(sim, store, file=str(place))
    fields = {name: store["xi"] for name, store in zip(named_apart(places), stores, strict=True)}
    with started(scheduler, workers) as team, progress_bar("measuring") as progress:
        found = survey(fields, sim, workers=team, progress=progress)
    attributes = {name: attributes_of_xi(place) for name, place in zip(fields, places, strict=True)}
    provenance: dict[str, Any] = {
        name: {"file": str(place), **attributes[name]} for name, place in zip(fields, places, strict=True)
    }
    provenance["command"] = {"line": " ".join(sys.argv)}
    spreads = {name: spread_of(place) for name, place in zip(fields, places, strict=True)}
    page = write_survey_report(
        found,
        sim,
        fields,
        report,
        spreads={name: spread for name, spread in spreads.items() if spread is not None},
        warned={name: warnings_in(said) for name, said in attributes.items()},
        provenance=provenance,
        force=force,
    )
    say(f"report {page}")
    print_result({"report": str(page), **found.to_json()}, lambda: survey_headline(found), json=json)


@app.command(epilog=example("reion history xi.zarr sim.zarr --out z_reion.zarr"))
def history(
    xi: Xi,
    sources: Gas = None,
    *,
    out: Annotated[Path, typer.Option(help="The Zarr store to write.")],
    format_: Format = None,
    settings: Settings = None,
    xi_format: XiFormat = None,
    xi_set: XiSettings = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Find when each cell is ionised.

    Writes z_reion, the redshift at which xi reaches one half, and the history of the whole box.
    """
    from reion.sky.history import history as run_history
    from reion.terminal import progress_bar

    sim = joined(xi, xi_format, xi_set, sources, format_, settings)
    with progress_bar("reading") as progress:
        found = run_history(
            sim,
            out,
            attrs={"xi_from": str(xi)},
            sources=[xi, *(sources or [])],
            force=force,
            progress=progress,
        )
    print_result(found.to_json(), lambda: _history_in_words(found), json=json)


@app.command(epilog=example("reion lightcone sim.zarr xi.zarr --out cone.zarr --frequency 110 180"))
def lightcone(
    sim: Annotated[Path, typer.Argument(metavar="SIM", help="A simulation: file, folder, pattern or store.")],
    xi: Annotated[
        Path | None, typer.Argument(metavar="[XI]", help="Its ionised fraction, where that lies elsewhere.")
    ] = None,
    *,
    out: Annotated[Path, typer.Option(help="The Zarr store to write.")],
    redshift: Annotated[
        tuple[float, float] | None, typer.Option(help="Lowest and highest redshift; by default all.")
    ] = None,
    frequency: Annotated[
        tuple[float, float] | None,
        typer.Option(help="Lowest and highest frequency of the 21-cm line in MHz, instead of redshifts."),
    ] = None,
    axis: Annotated[Literal["x", "y", "z"], typer.Option(help="Axis of the box to look along.")] = "z",
    cell_size: Annotated[
        float | None,
        typer.Option(help="Thickness of a plane in comoving Mpc; by default the side of a cell."),
    ] = None,
    interpolation: Annotated[
        Literal["fronts", "linear"],
        typer.Option(help="Between snapshots: fronts of xi move, or every cell changes linearly in time."),
    ] = "fronts",
    turns: Annotated[
        bool, typer.Option(help="Turn and shift the copies of the box, so that no structure repeats.")
    ] = True,
    distortions: Annotated[
        bool | None,
        typer.Option(help="Signal in redshift space; by default where there are velocities."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the turns and shifts.")] = 0,
    field_of_view: Annotated[
        float | None,
        typer.Option(help="Degrees on the sky, the same at every distance, instead of the box's width."),
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Draw a slice of the cone into this PNG or PDF file too.")
    ] = None,
    format_: Format = None,
    settings: Settings = None,
    xi_format: XiFormat = None,
    xi_set: XiSettings = None,
    memory: Memory = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Make a light cone: xi, density and 21-cm signal along the line of sight."""
    from reion.sky.light_cone import MEMORY_BYTES, light_cone
    from reion.sky.light_cone import Settings as ConeSettings
    from reion.sky.strip import picture_path, write_strip
    from reion.terminal import progress_bar

    sources = [sim, *([xi] if xi else [])]
    drawn = None if picture is None else picture_path(picture, sources=[*sources, out], force=force)
    box = _with_xi(sim, format_, settings, xi, xi_format, xi_set)
    announce_compilation()
    with progress_bar("light cone") as progress:
        found = light_cone(
            box,
            out,
            ConeSettings(
                redshift=_redshifts(redshift, frequency),
                line_of_sight=axis,
                cell_mpc=cell_size,
                interpolation=interpolation,
                turns=turns,
                distortions=distortions,
                seed=seed,
                field_of_view_degrees=field_of_view,
            ),
            memory_bytes=MEMORY_BYTES if memory is None else parse_bytes(memory, "--memory"),
            attrs={"xi_from": str(xi or sim)},
            sources=sources,
            force=force,
            progress=progress,
        )
    if drawn is not None:
        write_strip(found.output, drawn)
    print_result(found.to_json(), lambda: _cone_in_words(found, drawn), json=json)


def _redshifts(
    redshift: tuple[float, float] | None, frequency: tuple[float, float] | None
) -> tuple[float, float] | None:
    """The lowest and the highest redshift that --redshift or --frequency ask for; None without both."""
    from reion.errors import InputError
    from reion.sky.geometry import redshift_of

    if frequency is None:
        return redshift
    if redshift is not None:
        raise InputError("expected --redshift or --frequency; received both")
    return redshift_of(max(frequency)), redshift_of(min(frequency))


def _with_xi(
    sim: Path,
    format_: str | None,
    settings: Sequence[str] | None,
    xi: Path | None,
    xi_format: str | None,
    xi_settings: Sequence[str] | None,
) -> xr.Dataset:
    """The Simulation at `sim`, with the ionised fraction at `xi` where that is given."""
    from reion.readers import open_simulation

    if xi is not None:
        return joined(xi, xi_format, xi_settings, [sim], format_, settings)
    return open_simulation(sim, format=format_, settings=parse_settings(settings))


def _history_in_words(found: History) -> str:
    from reion.metrics.crossings import BACKWARDS

    lines = [f"{found.output}: z_reion of {found.oddities.cells} cells"]
    masses = found.mass_weighted_xi
    for index, (z, xi) in enumerate(zip(found.redshift, found.mean_xi, strict=True)):
        weighted = "" if masses is None else f", of the mass {masses[index]:.4f}"
        lines.append(f"  z = {z:g}: mean xi {xi:.4f}{weighted}")
    lines.append(f"  optical depth {found.optical_depth:.4f}")
    if found.mean_z_reion is not None:
        lines.append(f"  mean z_reion {found.mean_z_reion:.3f}")
    odd = found.oddities
    lines.append(f"  {odd.never} cells ({odd.never / odd.cells:.2%}) never reach xi = 0.5: z_reion is NaN")
    if odd.backwards:
        lines.append(
            f"  {odd.backwards} cells ({odd.backwards / odd.cells:.2%}) go backwards: xi falls by more than "
            f"{BACKWARDS:g} between two snapshots; {odd.recombined} of them fall below 0.5 again"
        )
    return "\n".join(lines)


def _cone_in_words(found: LightCone, picture: Path | None) -> str:
    shape = " x ".join(map(str, found.shape))
    (near, far), (high, low) = found.redshift, found.frequency_mhz
    lines = [
        f"{found.output}: {', '.join(found.fields)} in {shape} cells, z = {near:.3f} to {far:.3f}, "
        f"{high:.1f} to {low:.1f} MHz",
        f"  {found.copies} copies of the box, {found.seconds:.1f} s",
    ]
    return "\n".join([*lines, *([] if picture is None else [f"picture {picture}"])])
