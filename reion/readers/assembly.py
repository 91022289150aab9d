"""Assembles the snapshots of one box to a lazy Simulation: units are converted and settings applied."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from reion.errors import InputError
from reion.physics.mean_free_path import MASK, MODELS, max_mfp_mpc, with_propagation_mask
from reion.readers.series import nearest_redshift, series_of
from reion.readers.settings import MASS_SETTINGS, Settings
from reion.readers.snapshot import Box, FieldInFiles, Snapshot
from reion.simulation import contract
from reion.simulation.contract import (
    DEFAULT_COSMOLOGY,
    PHOTON_RATE_UNITS,
    SOURCE_UNITS,
    check_simulation,
    make_simulation,
    n_ion_units,
    with_max_mfp,
)
from reion.simulation.recombinations import CLUMPING, with_clumping
from reion.simulation.units import UNIT_SETTINGS, Conversion, field_conversion


def assemble(box: Box, settings: Settings) -> xr.Dataset:
    """Assemble the snapshots of one box to a lazy Simulation.

    Raises
    ------
    InputError
        If the snapshots do not fit together (shapes, redshifts, units), or if neither the files nor the
        settings give a fact that is needed.
    """
    series = series_of(box, settings)
    first = next(iter(series.values()))[0]
    _require(box, series, settings)
    cosmology = settings.cosmology(box.cosmology, file=first.file)
    box_size = settings.box_size(box.box_size, cosmology, file=first.file)
    cell_volume_mpc3 = float(np.prod(np.broadcast_to(box_size, 3) / np.asarray(first.shape)))
    fields: dict[str, Any] = {}
    units: dict[str, str] = {}
    for name, snapshots in series.items():
        conversions = _conversions(
            name, snapshots, settings, box, cosmology or DEFAULT_COSMOLOGY, cell_volume_mpc3
        )
        units[name] = conversions[0].units
        fields[name] = FieldInFiles(snapshots, conversions).as_variable_data()
    sim = make_simulation(
        fields,
        redshift=[snapshot.redshift for snapshot in next(iter(series.values()))],
        box_size=box_size,
        n_src_units=_source_units(units, series),
        cosmology=cosmology,
        source_code=box.source_code,
        check_values=False,
    )
    if box.centres:
        found = sim.assign_coords({axis: (axis, values) for axis, values in box.centres.items()})
        check_simulation(found, values=False, file=str(first.file))
    sim = _with_reaches(sim, box, settings, first.file)
    mask = settings.text(MASK)
    if mask is not None:
        sim = with_propagation_mask(sim, mask)
    sim = sim.assign_attrs({**box.attrs, **settings.attrs()})
    clumping = settings.text(CLUMPING)
    return sim if clumping is None else with_clumping(sim, clumping)


def _require(box: Box, series: Mapping[str, Sequence[Snapshot]], settings: Settings) -> None:
    """Ask in one error for all facts that the files lack and that a setting can give."""
    settings.require(
        [
            *(["box_size"] if box.box_size is None else []),
            *(
                UNIT_SETTINGS[name]
                for name, snapshots in series.items()
                if name in UNIT_SETTINGS and not all(snapshot.units for snapshot in snapshots)
            ),
        ],
        file=next(iter(series.values()))[0].file,
    )


def _conversions(
    name: str,
    snapshots: Sequence[Snapshot],
    settings: Settings,
    box: Box,
    cosmology: Mapping[str, float],
    cell_volume_mpc3: float,
) -> list[Conversion]:
    """The conversion of each snapshot of a field to the unit of the Simulation.

    Raises
    ------
    InputError
        If a unit is not known, or two snapshots have different kinds of units.
    """
    conversions = [
        field_conversion(
            name,
            settings.field_units(name, snapshot.units, file=snapshot.file),
            redshift=snapshot.redshift,
            cosmology=cosmology,
            cell_volume_mpc3=cell_volume_mpc3,
            file=snapshot.file,
        ).times(snapshot.scale)
        for snapshot in snapshots
    ]
    if name == "n_src" and not any(snapshot.of_masses for snapshot in snapshots):
        _check_of_use(conversions[0], settings)
    if settings.text("f_gamma") is not None and settings.text("sources") != "mass":
        conversions = [
            _shining(conversion, settings, box, cosmology, snapshots[0].file) for conversion in conversions
        ]
    for snapshot, conversion in zip(snapshots, conversions, strict=True):
        if conversion.units != conversions[0].units:
            raise InputError(
                f"{name}: expected one kind of unit, that of {snapshots[0].file.name} "
                f"({conversions[0].units}); received {snapshot.units!r}",
                file=snapshot.file,
            )
    return conversions


def _check_of_use(conversion: Conversion, settings: Settings) -> None:
    """Check the settings that convert masses to photons: warn if the sources are no masses.

    Raises
    ------
    InputError
        If the sources are masses and such settings are given without f_gamma.
    """
    given = [key for key in (*MASS_SETTINGS, "f_gamma_low") if settings.text(key) is not None]
    kept = settings.text("sources") == "mass"
    if given and (kept or conversion.units != "Msun Mpc-3"):
        why = (
            "--set sources=mass keeps the mass in haloes"
            if kept
            else f"the sources are in {conversion.units}, and no masses"
        )
        warnings.warn(f"--set {', '.join(given)}: not used: {why}", stacklevel=2)
    elif given and "f_gamma" not in given:
        raise InputError(
            f"--set {', '.join(given)}: expected f_gamma as well",
            hint="give --set f_gamma=... --set lifetime_myr=...",
        )


def _shining(
    conversion: Conversion, settings: Settings, box: Box, cosmology: Mapping[str, float], file: Path
) -> Conversion:
    """The conversion, if it gives masses in haloes (or masses times 1e18 s), extended to photons."""
    masses = "Msun Mpc-3"
    photon_units = {masses: PHOTON_RATE_UNITS, n_ion_units(masses): n_ion_units(PHOTON_RATE_UNITS)}
    if conversion.units not in photon_units:
        return conversion
    per_msun = settings.photons_per_msun(
        cosmology, file=file, mean_molecular_weight=box.mean_molecular_weight
    )
    photons = per_msun / 1e48
    return Conversion(photon_units[conversion.units], conversion.scale * photons, conversion.offset * photons)


def _source_units(units: Mapping[str, str], series: Mapping[str, Sequence[Snapshot]]) -> str:
    """The unit of n_src, from the units of n_src, n_ion and propagation_mask.

    Raises
    ------
    InputError
        If these fields mix photons, masses and numbers.
    """
    n_src_units = {n_ion_units(unit): unit for unit in SOURCE_UNITS}
    said = {
        name: n_src_units.get(units[name], units[name]) for name in ("n_src", "n_ion", MASK) if name in units
    }
    if not said:
        return PHOTON_RATE_UNITS
    reference, wanted = next(iter(said.items()))
    for name, unit in said.items():
        if unit != wanted:
            expected = n_ion_units(wanted) if name == "n_ion" else wanted
            raise InputError(
                f"expected {name} in {expected!r}, to match {reference} in {units[reference]!r}; "
                f"received {units[name]!r}",
                file=series[name][0].file,
            )
    return wanted


def _with_reaches(sim: xr.Dataset, box: Box, settings: Settings, file: Path) -> xr.Dataset:
    """The Simulation with the reach of photons (max_mfp) of the settings or the files, if either gives it.

    Raises
    ------
    InputError
        If the files give the reach for some of the redshifts only.
    """
    given = settings.text(contract.MAX_MFP)
    redshifts = sim["redshift"].values.tolist()
    if given is not None:
        model = contract.cosmology(sim) if given in MODELS else None  # astropy's takes half a second to load
        return with_max_mfp(sim, [max_mfp_mpc(given, redshift, model) for redshift in redshifts])
    if not box.max_mfp_mpc:
        return sim
    nearest = [nearest_redshift(redshift, box.max_mfp_mpc) for redshift in redshifts]
    lacking = [redshift for redshift, near in zip(redshifts, nearest, strict=True) if near is None]
    if lacking:
        raise InputError(
            f"expected max_mfp in the file of every snapshot or of none; there is none at "
            f"z = {', '.join(f'{z:g}' for z in lacking)}",
            file=file,
            hint="give it for all: --set max_mfp=30, in comoving Mpc",
        )
    return with_max_mfp(sim, [box.max_mfp_mpc[near] for near in nearest if near is not None])
