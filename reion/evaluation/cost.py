"""The time, memory and bytes that an evaluation takes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from reion.evaluation.evaluate import ScoringJob
from reion.evaluation.methods import names_of, predict_with
from reion.evaluation.shared_snapshots import shared_snapshots
from reion.jobs.plan import TERMS, Measurement, Plan, Terms, few_of, time_pieces
from reion.physics.excursion_set import Photons
from reion.prediction.memory import prediction_bytes
from reion.simulation.contract import AXES, box_size_mpc, cells_of, require_fields, shape_of
from reion.storage.cost import field_bytes

_MEBIBYTE = 1 << 20
_EVALUATE_BYTES = 214 * _MEBIBYTE
"""Memory of the program without any field."""

_EVALUATE_BYTES_A_CELL = 144.0
"""Memory for each cell of a snapshot: truth and one method, with the transforms and distances of both."""

_EVALUATE_SIDE_CELLS = 128
"""The speed is measured on a corner of at most this side, because a whole snapshot may take too long."""


def plan_evaluate(
    methods: Sequence[str],
    sim: xr.Dataset,
    sources: Sequence[Path],
    *,
    xi_format: str | None = None,
    xi_settings: Mapping[str, str] | None = None,
    report: bool = False,
    terms: Terms = TERMS,
) -> Plan:
    """Plan an evaluation of `methods`, whose predictions are part of it.

    See `reion.evaluation.methods.predict_with` for the methods, `xi_format` and `xi_settings`.

    The memory that Keras takes to predict with a run folder is unknown and not counted.

    Raises
    ------
    InputError
        As `predict_with` does: if there is no such model or file, or it does not fit the simulation.
    """
    require_fields(sim, ["xi"], purpose="evaluation")
    snapshots, cells = sim.sizes["redshift"], cells_of(sim)
    small = _part_of(sim)
    with warnings.catch_warnings(action="ignore"):
        predictions = [
            predict_with(method, small, xi_format=xi_format, xi_settings=xi_settings) for method in methods
        ]
        for prediction in predictions:
            prediction.require_box_of(sim)
        has_sources = "n_igm" in sim.data_vars and {"n_ion", "n_src"} & set(map(str, sim.data_vars))
        photons = Photons(small, predictions[0].inputs) if has_sources else None

    def measure() -> Measurement:
        mesh = {axis: slice(small.sizes[axis]) for axis in AXES}
        named = zip(names_of(methods), predictions, strict=True)
        xi = {name: prediction.xi.isel(mesh) for name, prediction in named}
        indices, common = shared_snapshots(xi, small)
        job = ScoringJob(xi, small, indices, photons, 1.0)
        done, seconds = time_pieces(job, common or [0], at_least=1)
        return Measurement(cells=done * cells_of(small), seconds=seconds)

    emitted = "n_ion" if "n_ion" in sim.data_vars else "n_src"
    excursion_set = ["n_igm", emitted if predictions[0].inputs == "history" else "n_src"] if photons else []
    read = ["xi", "n_igm", *excursion_set]
    if report:
        # The planes of the page and the figures need more reads, each of whole chunks.
        read += [
            "xi",
            "xi",
            "n_igm",
            "n_igm",
            "n_src" if "n_src" in sim.data_vars else "n_ion",
            *excursion_set,
        ]
    read += [emitted if name == "n_ion" else name for prediction in predictions for name in prediction.fields]
    bytes_read = sum(field_bytes(name, sim, sources) for name in read if name in sim.data_vars)
    for method, prediction in zip(methods, predictions, strict=True):
        if prediction.stored is not None:
            bytes_read += field_bytes("xi", prediction.stored, [Path(method)])
    emulators = [prediction.emulator for prediction in predictions if prediction.emulator is not None]
    return Plan(
        command="evaluate",
        cells=snapshots * cells,
        pieces=snapshots,
        bytes_read=round(bytes_read),
        # For the report, the predictions are kept on disk until the page is written.
        bytes_written=4 * snapshots * cells * len(emulators) if report else 0,
        # A session keeps the memory that its largest tile has taken.
        peak_memory_bytes=round(
            _EVALUATE_BYTES
            + _EVALUATE_BYTES_A_CELL * cells
            + sum(prediction_bytes(emulator, shape_of(sim)) for emulator in emulators)
        ),
        speed=terms.speed(measure),
    )


def _part_of(sim: xr.Dataset) -> xr.Dataset:
    """A few snapshots, of a large box only a corner, as a simulation of a smaller box."""
    corner: dict[str, Any] = {axis: slice(_EVALUATE_SIDE_CELLS) for axis in AXES}
    part = sim.isel({"redshift": few_of(sim.sizes["redshift"]), **corner})
    lengths = zip(box_size_mpc(sim), AXES, strict=True)
    return part.assign_attrs(
        box_size=[length * part.sizes[axis] / sim.sizes[axis] for length, axis in lengths]
    )
