"""`reion inspect`: the first look at a simulation, in one streaming pass."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from reion.inspection.blocks import Findings, InspectBlock, merged
from reion.inspection.checks import plausibility
from reion.inspection.result import FieldInspection, FieldSnapshot, HistoryPoint, Inspection, Statistics
from reion.jobs.outputs import whole_folder
from reion.jobs.places import claimed, output_path, refuse_existing
from reion.jobs.resources import peak_memory_bytes
from reion.jobs.workers import Progress, Workers, in_order
from reion.simulation.contract import (
    FIELDS,
    PHOTON_UNITS,
    box_size_mpc,
    cell_size_mpc,
    check_simulation,
    cosmological_parameters,
    cosmology,
    hydrogen_per_density,
    n_ion_units,
    shape_of,
)
from reion.simulation.photons import photon_weights
from reion.storage.store import blocks_of


def inspect(
    sim: xr.Dataset,
    *,
    plot: str | Path | None = None,
    force: bool = False,
    workers: Workers | None = None,
    progress: Progress | None = None,
) -> Inspection:
    """Look at every value of a simulation once.

    Parameters
    ----------
    sim
        A Simulation; any of its fields may be missing.
    plot
        A folder to write pictures into (see `reion.inspection.pictures`).
    force
        Replace this folder if it exists and holds nothing but such pictures.
    workers
        Who does the pieces, which are the blocks of all snapshots; this process if None.
    progress
        Called with the numbers of pieces done and of all pieces.

    Raises
    ------
    InputError
        If a value is out of range (the message names the file and the cell), or the folder for the pictures
        exists already.
    """
    check_simulation(sim, values=False)
    pictures = None
    if plot is not None:
        from reion.inspection.pictures import PICTURES, Pictures

        refuse_existing(output_path(plot, PICTURES), PICTURES, force=force)
        pictures = Pictures(sim)
    blocks = len(blocks_of(shape_of(sim)))
    pieces = [(index, block) for index in range(sim.sizes["redshift"]) for block in range(blocks)]
    found = in_order(workers, InspectBlock(sim, pictures), pieces, progress)
    snapshots = [
        merged(found[start : start + blocks], shape_of(sim)) for start in range(0, len(pieces), blocks)
    ]
    inspection = _inspection(sim, snapshots)
    if pictures is not None and plot is not None:
        for findings in found:
            if findings.pictures is not None:
                pictures.merge(findings.pictures)
        with claimed(plot, PICTURES, force=force) as place, whole_folder(place) as folder:
            names = pictures.write(folder, inspection)
        inspection = dataclasses.replace(inspection, plots=[str(Path(plot) / name) for name in names])
    return dataclasses.replace(inspection, peak_memory_bytes=peak_memory_bytes())


def _inspection(sim: xr.Dataset, snapshots: Sequence[Findings]) -> Inspection:
    """The inspection of a simulation, from the findings in each of its snapshots."""
    fields = {name: _field_inspection(sim, name, snapshots) for name in FIELDS if name in sim.data_vars}
    history = _history(sim, snapshots)
    checks = plausibility(
        sim,
        fields,
        history,
        boundary_ratios=[found.boundary_ratio for found in snapshots if found.boundary_ratio is not None],
        xi_by_axis_order=next((found.xi_by_axis_order for found in snapshots if found.xi_by_axis_order), {}),
        density_at_sources=[found.density_at_sources for found in snapshots if found.density_at_sources],
        occupied=[found.occupied for found in snapshots if found.occupied],
        cells=math.prod(shape_of(sim)),
    )
    return Inspection(
        shape=shape_of(sim),
        box_size_mpc=box_size_mpc(sim),
        cell_size_mpc=cell_size_mpc(sim),
        redshifts=sim["redshift"].values.tolist(),
        source_code=sim.attrs.get("source_code"),
        cosmology=cosmological_parameters(sim),
        cosmology_assumed=bool(sim.attrs.get("cosmology_assumed", True)),
        fields=fields,
        history=history,
        checks=checks,
    )


def _field_inspection(sim: xr.Dataset, name: str, snapshots: Sequence[Findings]) -> FieldInspection:
    of_field = [findings.fields[name] for findings in snapshots]
    pooled = of_field[0].moments
    for findings in of_field[1:]:
        pooled = pooled.merge(findings.moments)
    return FieldInspection(
        name=name,
        units=sim[name].attrs["units"],
        snapshots=[
            FieldSnapshot(
                redshift=float(redshift),
                statistics=Statistics.from_moments(findings.moments, findings.empty_cells),
                axis_lines=findings.axis_lines,
            )
            for redshift, findings in zip(sim["redshift"].values, of_field, strict=True)
        ],
        pooled=Statistics.from_moments(pooled, sum(findings.empty_cells for findings in of_field)),
    )


def _history(sim: xr.Dataset, snapshots: Sequence[Findings]) -> list[HistoryPoint]:
    ages = cosmology(sim).age(sim["redshift"].values).to_value("Myr")
    photons = _photons_per_hydrogen(sim, snapshots)
    points = []
    for index, (redshift, findings) in enumerate(zip(sim["redshift"].values, snapshots, strict=True)):
        by_photons = findings.mean_xi("n_ion")
        points.append(
            HistoryPoint(
                redshift=float(redshift),
                age_myr=float(ages[index]),
                mean_xi=float(findings.fields["xi"].moments.mean) if "xi" in findings.fields else None,
                mean_xi_mass=findings.mean_xi("n_igm"),
                mean_xi_at_sources=findings.mean_xi("n_src") if by_photons is None else by_photons,
                photons_per_hydrogen=photons[index],
            )
        )
    return points


def _photons_per_hydrogen(sim: xr.Dataset, snapshots: Sequence[Findings]) -> list[float | None]:
    """For each snapshot, photons emitted so far per hydrogen atom; None if the sources are not in photons."""
    unknown: list[float | None] = [None] * len(snapshots)
    if "n_ion" in sim.data_vars:
        units = sim["n_ion"].attrs["units"]
        emitted = _means(snapshots, "n_ion")
    elif "n_src" in sim.data_vars:
        units = n_ion_units(sim["n_src"].attrs["units"])
        rates = np.array(_means(snapshots, "n_src"))
        emitted = [0.0, *np.cumsum(rates * photon_weights(sim))[:-1]]
    else:
        return unknown
    if units != PHOTON_UNITS or "n_igm" not in sim.data_vars:
        return unknown
    atoms = [mean * hydrogen_per_density() for mean in _means(snapshots, "n_igm")]
    return [float(e / a) if a > 0 else None for e, a in zip(emitted, atoms, strict=True)]


def _means(snapshots: Sequence[Findings], name: str) -> list[float]:
    """Mean of a field in every snapshot."""
    return [findings.fields[name].moments.mean for findings in snapshots]
