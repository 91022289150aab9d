"""Checks of the inputs of a model, made once, before anything is predicted."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from reion.errors import InputError
from reion.models.coverage import TOLERANCE, Coverage, Outside, quantities
from reion.models.transport import REFERENCE_DENSITY
from reion.physics.mean_free_path import require_max_mfp
from reion.simulation.arrays import plain_values
from reion.simulation.contract import (
    AXES,
    CELL_SIZE_TOLERANCE,
    FIELDS,
    MAX_MFP,
    cell_size_mpc,
    check_redshifts,
    check_values,
    cubic_cell_size_mpc,
    n_ion_units,
    require_fields,
)
from reion.simulation.photons import FIRST_LIGHT_REDSHIFT, late_start_is_known, warn_if_late
from reion.simulation.plausible_density import require_cosmic_density, require_cosmic_mean
from reion.simulation.recombinations import clumping_of, with_photons_left
from reion.simulation.regridding import how_to_regrid
from reion_exports.card import ModelCard

_SPARSE_TRAINING = frozenset({"rt64-history", "rt64-instant"})
"""Shipped models, by name, whose training boxes had sources in 0.1 to 0.6 % of the cells."""

_MOST_SOURCES = 0.1
"""Share of cells with sources above which such a model refuses a simulation; far above the training's."""

_COVERAGE_CELLS = 128
"""Side of the corner of a box that is compared with the coverage of the training."""

_CORNER = {axis: slice(_COVERAGE_CELLS) for axis in AXES}

_SAMPLE_CELLS = 64
"""Side of the corner of a box in which cells with sources are counted."""


def check_fit(card: ModelCard, sim: xr.Dataset) -> list[Outside]:
    """Check that a model can predict a Simulation: fields, units, cells, sources and redshifts.

    n_ion may be missing if n_src is there, from which it can be derived.

    Returns
    -------
    The quantities that the training did not cover, see `outside_training`.

    Raises
    ------
    InputError
        If fields are missing, units or cell size differ from those of the training, the cells are no cubes,
        the mean of n_igm is one that no box has, n_ion is zero in the whole series, or sources are in far
        more cells than in the training.

    Warns
    -----
    UserWarning
        If a redshift lies outside the range of the training; if n_ion lacks the photons of sources that shone
        before the first snapshot; for every quantity that is returned.
    """
    _check_units(card, sim)
    sides = cell_size_mpc(sim)
    if card.conditions:
        require_max_mfp(sim, purpose=f"the model {card.name}")
    if card.trunk_radius_cells is None and any(
        abs(side / card.cell_size_mpc - 1.0) > CELL_SIZE_TOLERANCE for side in sides
    ):
        received_sides = " x ".join(dict.fromkeys(f"{side:g}" for side in sides))
        raise InputError(
            f"the model {card.name} was trained on cells of {card.cell_size_mpc:g} Mpc; "
            f"received cells of {received_sides} Mpc",
            hint=how_to_regrid(sim, card.cell_size_mpc),
        )
    _check_cells(card, sim)
    require_cosmic_density(sim)
    if "n_ion" in card.inputs:
        _check_history(card, sim)
    if "n_src" in card.inputs and card.name in _SPARSE_TRAINING:
        _check_sources(card, sim)
    _warn_of_redshifts(card, sim["redshift"].values.tolist(), stacklevel=5)
    missed = outside_training(card, sim)
    for item in missed:
        warnings.warn(str(item), stacklevel=4)
    return missed


def outside_training(card: ModelCard, sim: xr.Dataset) -> list[Outside]:
    """The quantities that the training of a model did not cover, each at its most distant snapshot.

    Only a corner of a large box is examined, of `_COVERAGE_CELLS` cells along a side.
    """
    coverage = Coverage.from_json(card.coverage)
    if not coverage.ranges:
        return []
    corner = sim.isel(_CORNER)
    photon_field = _photon_field(card)
    if photon_field == "n_ion":
        with late_start_is_known():
            corner = with_photons_left(corner)
    return coverage.furthest_outside(
        (
            redshift,
            _measured(
                card,
                {name: corner[name][index].values for name in ("n_igm", photon_field)},
                cell_size_mpc=cubic_cell_size_mpc(sim),
                max_mfp=float(sim[MAX_MFP][index]) if MAX_MFP in sim.variables else None,
                clumping=clumping_of(corner.attrs, redshift),
            ),
        )
        for index, redshift in enumerate(sim["redshift"].values.tolist())
    )


def _photon_field(card: ModelCard) -> str:
    """The input of a model beside n_igm: n_src or n_ion."""
    return next(name for name in card.inputs if name != "n_igm")


def _measured(
    card: ModelCard,
    fields: Mapping[str, np.ndarray],
    *,
    cell_size_mpc: float,
    max_mfp: float | None,
    clumping: float | None = None,
) -> dict[str, float]:
    """The quantities of a snapshot (x, y, z) that are compared with the coverage; see `quantities`."""
    photon_field = _photon_field(card)
    return quantities(
        fields["n_igm"],
        fields[photon_field],
        photon_units=card.inputs[photon_field],
        photons_per_source=card.provenance.get("config", {}).get("model", {}).get("photons_per_source"),
        cell_size_mpc=cell_size_mpc,
        max_mfp=max_mfp,
        clumping=clumping,
    )


def warn_of_arrays(
    card: ModelCard, arrays: Mapping[str, np.ndarray], numbers: Mapping[str, np.ndarray]
) -> None:
    """Warn of plain arrays as `check_fit` warns of a Simulation, of which they could be snapshots.

    Parameters
    ----------
    arrays, numbers
        As `check_arrays` returns them.

    Warns
    -----
    UserWarning
        If a redshift lies outside the range of the training; if a box has no photons although sources shone
        before its redshift; for every quantity that the training did not cover.
    """
    redshifts = numbers["redshift"].astype(np.float64).tolist()
    _warn_of_redshifts(card, redshifts, stacklevel=4)
    if _photon_field(card) == "n_ion":
        dark = {z for z, n_ion in zip(redshifts, arrays["n_ion"], strict=True) if not n_ion.any()}
        late = sorted(z for z in dark if z < FIRST_LIGHT_REDSHIFT)
        if late:
            warnings.warn(
                f"n_ion is zero everywhere at z = {', '.join(f'{z:g}' for z in late)}: it holds the photons "
                f"emitted before, and the model {card.name} predicts that none were",
                stacklevel=3,
            )
    coverage = Coverage.from_json(card.coverage)
    if not coverage.ranges:
        return
    corner = tuple(_CORNER.values())
    snapshots = (
        (
            redshift,
            _measured(
                card,
                {name: arrays[name][index][corner] for name in card.inputs},
                cell_size_mpc=card.cell_size_mpc,
                max_mfp=float(numbers[MAX_MFP][index]) if MAX_MFP in numbers else None,
            ),
        )
        for index, redshift in enumerate(redshifts)
    )
    for item in coverage.furthest_outside(snapshots):
        warnings.warn(str(item), stacklevel=3)


def _warn_of_redshifts(card: ModelCard, redshifts: Sequence[float], *, stacklevel: int) -> None:
    lowest, highest = card.redshift_range
    outside = sorted({z for z in redshifts if not lowest <= z <= highest}, reverse=True)
    if outside:
        warnings.warn(
            f"the model {card.name} was trained at z = {lowest:g} to {highest:g}; its answer at "
            f"z = {', '.join(f'{z:g}' for z in outside)} is an extrapolation",
            stacklevel=stacklevel,
        )


def _check_cells(card: ModelCard, sim: xr.Dataset) -> None:
    """Refuse cells that are no cubes or, for a model of any cell size, far outside the training's sizes."""
    cell_size = cubic_cell_size_mpc(sim)
    trained = Coverage.from_json(card.coverage).range_of("cell_size")
    if card.trunk_radius_cells is None or trained is None:
        return
    low, high = trained
    if not low / TOLERANCE <= cell_size <= high * TOLERANCE:
        raise InputError(
            f"the model {card.name} was trained on cells of {low:g} to {high:g} Mpc; received cells of "
            f"{cell_size:g} Mpc",
            hint=how_to_regrid(sim, min(max(cell_size, low), high)),
        )


def _check_units(card: ModelCard, sim: xr.Dataset) -> None:
    received = {name: sim[name].attrs["units"] for name in FIELDS if name in sim.data_vars}
    if "n_src" in received:
        received.setdefault("n_ion", n_ion_units(received["n_src"]))
    missing = [name for name in card.inputs if name not in received]
    require_fields(sim, missing, purpose=f"the model {card.name}")
    for name, units in card.inputs.items():
        if received[name] != units:
            raise InputError(
                f"{name}: the model {card.name} was trained on {units!r}; received {received[name]!r}",
                hint="convert the data to the units of the training, or train on these",
            )
        if name in sim.data_vars:
            _check_dtype(name, sim[name].dtype)


def _check_history(card: ModelCard, sim: xr.Dataset) -> None:
    """Refuse a series in which no photon is emitted before its last snapshot, unless it ends at first light.

    Warn of a series that starts with sources already shining, whose n_ion will lack the photons emitted
    before, and of one whose stored n_ion is zero at such a start.
    """
    first, last = (float(z) for z in sim["redshift"].values[[0, -1]])
    if last >= FIRST_LIGHT_REDSHIFT:
        return
    stored = "n_ion" in sim.data_vars
    shining = "n_src" not in sim.data_vars or _has_photons(sim["n_src"][0])
    if not stored:
        warn_if_late(sim, shining=shining)
    if not any(map(_has_photons, [sim["n_ion"][-1]] if stored else list(sim["n_src"][:-1]))):
        raise InputError(
            f"n_ion: the model {card.name} predicts from the photons emitted so far, and at z = {last:g} "
            f"this simulation has none in any cell; it has {sim.sizes['redshift']} snapshot(s)",
            hint="give the earlier snapshots too, from before the first sources on; for one snapshot with "
            "n_src there is rt64-instant",
        )
    if stored and first < FIRST_LIGHT_REDSHIFT and shining and not _has_photons(sim["n_ion"][0]):
        warnings.warn(
            f"n_ion is zero everywhere at z = {first:g}, with sources already shining: photons emitted "
            f"before are not in it, and the model {card.name} will predict too little ionised gas",
            stacklevel=5,
        )


def _check_sources(card: ModelCard, sim: xr.Dataset) -> None:
    """Refuse sources in a large share of the cells, for a model that was trained on few."""
    corner = sim["n_src"][-1].isel({axis: slice(_SAMPLE_CELLS) for axis in AXES}).values
    share = np.count_nonzero(corner) / corner.size
    if share > _MOST_SOURCES:
        raise InputError(
            f"n_src: the model {card.name} was trained on sources in 0.1 to 0.6 % of the cells; here "
            f"{100 * share:.0f} % of the cells have some, and its answer would mean nothing",
            hint="predict with a model that was trained on such sources, or from the history (n_ion)",
        )


def _has_photons(field: xr.DataArray) -> bool:
    """Whether any cell of a field (x, y, z) is above zero; slabs along x are read until one is found."""
    cells = field.sizes["x"]
    return any(
        bool((field[start : start + _SAMPLE_CELLS].values > 0).any())
        for start in range(0, cells, _SAMPLE_CELLS)
    )


def conditions_at(card: ModelCard, sim: xr.Dataset, index: int) -> dict[str, float]:
    """The conditions of a snapshot that the model takes besides the redshift."""
    return {name: float(sim[name][index]) for name in card.conditions}


def check_arrays(
    card: ModelCard, redshift: float | Sequence[float] | np.ndarray, fields: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Check plain arrays as the fields of a Simulation are checked.

    Parameters
    ----------
    redshift
        One number, or one for each box.
    fields
        The fields of the card, (x, y, z) or (batch, x, y, z), float32, float64 or integers; and the
        conditions of the card, each one number, or one for each box.

    Returns
    -------
    The fields in the card's order, (batch, x, y, z) float32; redshift and conditions, each (batch,) float32.

    Raises
    ------
    InputError
        If the fields are not those of the card or have different shapes; if a redshift or a value is
        impossible or not finite; if the mean of n_igm is one that no box has; if an array holds float16 or
        values that are no real numbers, has masked cells, or has another unit or order of axes than the card.
    """
    if set(fields) != {*card.inputs, *card.conditions}:
        wanted = ", ".join([*card.inputs, *card.conditions])
        raise InputError(f"the model {card.name} takes {wanted}; received {', '.join(fields) or 'nothing'}")
    shapes = {name: np.shape(fields[name]) for name in card.inputs}
    shape = next(iter(shapes.values()))
    if len(set(shapes.values())) != 1 or len(shape) not in (3, 4) or 0 in shape:
        raise InputError(
            "expected fields of one shape, (x, y, z) or (batch, x, y, z); received "
            + ", ".join(f"{name} {size}" for name, size in shapes.items())
        )
    batch = math.prod(shape[:-3])
    redshifts = _check_column("redshift", redshift, batch)
    check_redshifts(redshifts.astype(np.float64))
    numbers = {"redshift": redshifts}
    for name in card.conditions:
        numbers[name] = _check_column(name, fields[name], batch)
        if not (np.isfinite(numbers[name]).all() and (numbers[name] > 0).all()):
            raise InputError(f"{name}: expected positive lengths in Mpc; received {fields[name]!r}")
    arrays = {}
    for name in card.inputs:
        plain = plain_values(name, fields[name], card.inputs[name])
        values = _check_numbers(name, plain).reshape(batch, *shape[-3:])
        if name in FIELDS:
            for box, z in zip(values, redshifts, strict=True):
                check_values(name, box, redshift=float(z))
                if name == "n_igm":
                    require_cosmic_mean(box, redshift=float(z), cosmic_mean=REFERENCE_DENSITY)
        arrays[name] = values
    return arrays, numbers


def _check_column(name: str, values: float | Sequence[float] | np.ndarray, batch: int) -> np.ndarray:
    """One number for every box, (batch,) float32."""
    received = np.asarray(values)
    if received.dtype.kind not in "fiu" or np.ma.is_masked(values) or received.size not in (1, batch):
        raise InputError(f"expected one finite {name}, or one for each of {batch} boxes; received {values!r}")
    column = received.astype(np.float32).reshape(-1)
    return np.ascontiguousarray(np.broadcast_to(column, (batch,)))


def _check_numbers(name: str, values: Any) -> np.ndarray:
    """The values as float32; refuse values that are no real numbers, do not fit in float32 or are masked."""
    if np.ma.is_masked(values):
        raise InputError(
            f"{name}: expected a value in every cell; received an array that masks "
            f"{np.count_nonzero(np.ma.getmaskarray(values))} of them",
            hint="fill in what is missing: a periodic box has no holes",
        )
    received = np.asarray(values)
    _check_dtype(name, received.dtype)
    with np.errstate(over="ignore", under="ignore"):  # such values are refused below and by check_values
        array = received.astype(np.float32, copy=False)
    lost = np.count_nonzero((array == 0) & (received != 0)) if array is not received else 0
    if lost:
        raise InputError(
            f"{name}: expected values that float32 can hold; {lost} of those received become zero in it",
            hint="is this the unit that the model takes?",
        )
    return array


def _check_dtype(name: str, dtype: np.dtype[Any]) -> None:
    if dtype.kind not in "fiu" or dtype == np.float16:
        raise InputError(
            f"{name}: expected float32 or float64; received {dtype}",
            hint="float16 holds neither a density of 1e-31 g cm-3 nor a rate of 1e5"
            if dtype == np.float16
            else "if these are the numbers that are meant, convert them with numpy.asarray(..., dtype=float)",
        )
