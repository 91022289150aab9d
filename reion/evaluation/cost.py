"""What an evaluation costs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from reion.evaluation.evaluate import Judge, matching_snapshots
from reion.evaluation.methods import predict_with
from reion.jobs.plan import TERMS, Measurement, Plan, Terms, time_pieces
from reion.physics.excursion_set import Photons
from reion.prediction.predict import prediction_bytes
from reion.simulation.contract import AXES, box_size_mpc, cells_of, few_of, require_fields
from reion.storage.cost import field_bytes

_MEBIBYTE = 1 << 20
_EVALUATE_BYTES = 214 * _MEBIBYTE

_EVALUATE_BYTES_A_CELL = 144.0
"""The program; and of a snapshot the truth, a method at a time, and the transforms and distances of both."""

_EVALUATE_SIDE_CELLS = 128
"""A part of a snapshot is judged to measure how long that takes: the whole may be too large for that."""


def plan_evaluate(
    methods: Sequence[str],
    sim: xr.Dataset,
    sources: Sequence[Path],
    *,
    report: bool = False,
    terms: Terms = TERMS,
) -> Plan:
    """Plan an evaluation of `methods`, whose predictions are part of it.

    What a method may be: see `reion.evaluation.methods.predict_with`.

    The memory that Keras takes to predict with a run folder is not known.

    Raises
    ------
    InputError
        As `predict_with`: if there is no such model or file, or it does not fit the simulation.
    """
    require_fields(sim, ["xi"], purpose="evaluation")
    snapshots, cells = sim.sizes["redshift"], cells_of(sim)
    small = _part_of(sim)
    with warnings.catch_warnings(action="ignore"):
        judged = [predict_with(method, small) for method in methods]
        sources_there = "n_igm" in sim.data_vars and {"n_ion", "n_src"} & set(map(str, sim.data_vars))
        photons = Photons(small, judged[0].inputs) if sources_there else None

    def measure() -> Measurement:
        mesh = {axis: slice(small.sizes[axis]) for axis in AXES}
        predictions = {one.name: one.xi.isel(mesh) for one in judged}
        same = {name: matching_snapshots(name, xi, small) for name, xi in predictions.items()}
        common = [i for i in range(small.sizes["redshift"]) if all(i in found for found in same.values())]
        job = Judge(predictions, small, same, photons, 1.0)
        done, seconds = time_pieces(job, common or [0], at_least=1)
        return Measurement(cells=done * cells_of(small), seconds=seconds)

    emitted = "n_ion" if "n_ion" in sim.data_vars else "n_src"
    excursion_set = ["n_igm", emitted if judged[0].inputs == "history" else "n_src"] if photons else []
    read = ["xi", "n_igm", *excursion_set]
    if report:
        # The page shows planes of boxes that are whole chunks, and more of them than the figures do.
        read += [
            "xi",
            "xi",
            "n_igm",
            "n_igm",
            "n_src" if "n_src" in sim.data_vars else "n_ion",
            *excursion_set,
        ]
    read += [emitted if name == "n_ion" else name for one in judged for name in one.fields]
    bytes_read = sum(field_bytes(name, sim, sources) for name in read if name in sim.data_vars)
    for method, one in zip(methods, judged, strict=True):
        if one.stored is not None:
            bytes_read += field_bytes("xi", one.stored, [Path(method)])
    emulators = [one.emulator for one in judged if one.emulator is not None]
    return Plan(
        command="evaluate",
        cells=snapshots * cells,
        pieces=snapshots,
        bytes_read=round(bytes_read),
        # For the page, what is predicted is kept until it is written.
        bytes_written=4 * snapshots * cells * len(emulators) if report else 0,
        # A session keeps what its largest tile has taken.
        peak_memory_bytes=round(
            _EVALUATE_BYTES
            + _EVALUATE_BYTES_A_CELL * cells
            + sum(prediction_bytes(emulator, sim.sizes) for emulator in emulators)
        ),
        speed=terms.speed(measure),
    )


def _part_of(sim: xr.Dataset) -> xr.Dataset:
    """A few snapshots, of large ones a corner, as a box of their own."""
    corner: dict[str, Any] = {axis: slice(_EVALUATE_SIDE_CELLS) for axis in AXES}
    part = sim.isel({"redshift": few_of(sim.sizes["redshift"]), **corner})
    lengths = zip(box_size_mpc(sim), AXES, strict=True)
    return part.assign_attrs(
        box_size=[length * part.sizes[axis] / sim.sizes[axis] for length, axis in lengths]
    )
