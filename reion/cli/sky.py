"""Commands that make of an ionised fraction what is published: history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reion.cli.app import app, example
from reion.cli.options import Force, Format, Json, Settings, Xi, XiFormat, XiSettings, parse_settings
from reion.cli.output import print_result

if TYPE_CHECKING:
    import xarray as xr

    from reion.sky.history import History

Gas = Annotated[
    list[Path] | None,
    typer.Argument(metavar="[SIM...]", help="The simulation that xi belongs to, for its gas."),
]


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

    sim = _joined(xi, xi_format, xi_set, sources, format_, settings)
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


def _joined(
    xi: Path,
    xi_format: str | None,
    xi_settings: Sequence[str] | None,
    sources: Sequence[Path] | None,
    format_: str | None,
    settings: Sequence[str] | None,
) -> xr.Dataset:
    """The Simulation of `sources` with the ionised fraction at `xi`; that at `xi` alone without any."""
    from reion.readers import open_simulation
    from reion.simulation.contract import require_fields
    from reion.simulation.joining import with_xi

    facts: Mapping[str, Any] = parse_settings(xi_settings)
    own = open_simulation(xi, format=xi_format, settings=facts)
    if not sources:
        require_fields(own, ["xi"], purpose="this command", file=str(xi))
        return own
    sim = open_simulation(sources, format=format_, settings=parse_settings(settings))
    return with_xi(sim, own, file=str(xi))


def _history_in_words(found: History) -> str:
    from reion.sky.crossings import BACKWARDS

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
