"""Slices through the boxes, packed so small that one page can hold all of them."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import xarray as xr

from reion.evaluation.result import Evaluation
from reion.evaluation.survey import Survey
from reion.metrics.fields import Field
from reion.physics import excursion_set
from reion.simulation.contract import (
    PHOTON_RATE_UNITS,
    PHOTON_UNITS,
    box_size_mpc,
    hydrogen_density,
    shape_of,
)
from reion.simulation.joining import matching_snapshots

LARGEST_SIDE = 160
"""Most cells along the longer side of a picture; a larger box is averaged in blocks."""

PLANES_BYTES = 3_000_000
"""Most bytes of one field before packing; a box with more planes shows every n-th plane."""

COLOURS = {"density": "cividis", "sources": "magma", "xi": "viridis", "difference": "PuOr_r"}
"""Colour maps that are distinct for the colour-blind and keep their order in grey."""


class Slicer:
    """Cuts planes across z out of boxes of one shape and writes them as bytes from 0 to 255.

    Parameters
    ----------
    shape
        Cells along x, y, z.
    snapshots
        Number of snapshots that are shown.
    """

    def __init__(self, shape: tuple[int, int, int], snapshots: int) -> None:
        nx, ny, nz = shape
        self._block = max(1, -(-max(nx, ny) // LARGEST_SIDE))
        self.columns, self.rows = -(-nx // self._block), -(-ny // self._block)
        planes = max(1, PLANES_BYTES // (self.columns * self.rows * snapshots))
        step = -(-nz // planes)
        self.depths = list(range(step // 2, nz, step))

    def planes(self, box: Field) -> np.ndarray:
        """The shown planes of a box (x, y, z): shape (depth, row, column), y upwards, blocks averaged."""
        planes = np.moveaxis(box[:, :, self.depths], 2, 0)
        for axis in (1, 2):
            starts = np.arange(0, planes.shape[axis], self._block)
            counts = np.diff(np.append(starts, planes.shape[axis]))
            sums = np.add.reduceat(planes, starts, axis=axis)
            planes = sums / np.expand_dims(counts, tuple({0, 1, 2} - {axis}))
        return planes.transpose(0, 2, 1)[:, ::-1]

    def cut(self, boxes: Iterable[Field]) -> np.ndarray:
        """The shown planes of every snapshot, float32, shape (snapshot, depth, row, column)."""
        return np.stack([self.planes(box).astype(np.float32) for box in boxes])


def pack(planes: np.ndarray, low: float, high: float) -> str:
    """Planes as bytes from 0 (`low`) to 255 (`high`), gzipped and in base64, which the page unpacks."""
    levels = np.clip((planes - low) / (high - low), 0, 1)
    levels = np.rint(levels * 255).astype(np.uint8)
    return base64.b64encode(gzip.compress(levels.tobytes(), compresslevel=6, mtime=0)).decode()


def colour_tables() -> Mapping[str, str]:
    """The 256 colours of each colour map as RGB bytes in base64."""
    import matplotlib as mpl

    tables = {}
    for use, name in COLOURS.items():
        colours = np.rint(mpl.colormaps[name](np.linspace(0, 1, 256))[:, :3] * 255).astype(np.uint8)
        tables[use] = base64.b64encode(colours.tobytes()).decode()
    return tables


@dataclass(frozen=True)
class Scale:
    """The values that the bytes 0 (`low`) and 255 (`high`) of a packed field stand for.

    With `log` the two are powers of ten. `units` are as the page shows them; `colours` is a key of `COLOURS`.
    """

    low: float
    high: float
    log: bool
    units: str
    colours: str


_XI = Scale(0, 1, log=False, units="ionised fraction", colours="xi")
_DIFFERENCE = Scale(-1, 1, log=False, units="difference", colours="difference")


def slices_json(
    evaluation: Evaluation,
    true: xr.Dataset,
    predictions: Mapping[str, xr.DataArray],
    spreads: Mapping[str, xr.DataArray],
) -> dict[str, Any]:
    """All slices of the page as JSON: the fields of the simulation, true xi, and xi of every method.

    Parameters
    ----------
    true, predictions, spreads
        The arguments of `reion.evaluation.evaluate.evaluate` that gave `evaluation`.
    """
    indices = snapshots_shown(evaluation, true)
    slicer = Slicer(shape_of(true), len(indices))
    fields, scales = _of_the_simulation(slicer, true, indices)
    fields["true"] = pack(slicer.cut(true["xi"][index].values for index in indices), 0, 1)
    scales |= {"true": _XI, "pred": _XI, "difference": _DIFFERENCE}
    methods = []
    for method in evaluation.drawn_methods:
        if method.is_baseline:
            boxes = _excursion_set(evaluation, true, indices)
        else:
            boxes = _predicted(method.label, predictions[method.label], true, indices)
        methods.append({"name": method.label, "packed": pack(slicer.cut(boxes), 0, 1)})
    _add_error_bars(slicer, methods, scales, spreads, true, indices)
    means = [snapshot.true.mean_xi for snapshot in evaluation.snapshots]
    return _page_slices(evaluation, true, slicer, means, fields=fields, methods=methods, scales=scales)


def survey_slices_json(
    found: Survey,
    sim: xr.Dataset,
    xi: Mapping[str, xr.DataArray],
    spreads: Mapping[str, xr.DataArray],
) -> dict[str, Any]:
    """All slices of a page without truth as JSON: the fields of the simulation, each xi and its error bar."""
    indices = snapshots_shown(found, sim)
    slicer = Slicer(shape_of(sim), len(indices))
    fields, scales = _of_the_simulation(slicer, sim, indices)
    scales["pred"] = _XI
    methods = [
        {"name": name, "packed": pack(slicer.cut(_predicted(name, field, sim, indices)), 0, 1)}
        for name, field in xi.items()
    ]
    _add_error_bars(slicer, methods, scales, spreads, sim, indices)
    means = [snapshot.pred.mean_xi for snapshot in found.snapshots]
    return _page_slices(found, sim, slicer, means, fields=fields, methods=methods, scales=scales)


def _add_error_bars(
    slicer: Slicer,
    methods: Sequence[dict[str, str]],
    scales: dict[str, Scale],
    spreads: Mapping[str, xr.DataArray],
    sim: xr.Dataset,
    indices: Sequence[int],
) -> None:
    """Add the packed error bars to the methods that have them, all on one scale."""
    planes = {name: slicer.cut(_predicted(name, field, sim, indices)) for name, field in spreads.items()}
    if not planes:
        return
    high = max(1e-3, *(float(values.max()) for values in planes.values()))
    scales["spread"] = Scale(0, high, log=False, units="standard deviation", colours="sources")
    for method in methods:
        if method["name"] in planes:
            method["spread"] = pack(planes[method["name"]], 0, high)


def _of_the_simulation(
    slicer: Slicer, sim: xr.Dataset, indices: Sequence[int]
) -> tuple[dict[str, str], dict[str, Scale]]:
    """The packed slices of density and sources, and their scales."""
    fields: dict[str, str] = {}
    scales: dict[str, Scale] = {}
    if "n_igm" in sim.data_vars:
        fields["density"], scales["density"] = _density(slicer, sim, indices)
    if {"n_src", "n_ion"} & set(sim.data_vars):
        fields["sources"], scales["sources"] = _sources(slicer, sim, indices)
    return fields, scales


def _page_slices(
    found: Evaluation | Survey,
    sim: xr.Dataset,
    slicer: Slicer,
    means: Sequence[float],
    *,
    fields: Mapping[str, str],
    methods: Sequence[Mapping[str, str]],
    scales: Mapping[str, Scale],
) -> dict[str, Any]:
    """The data for the slices of the page, which opens at the snapshot whose mean xi is nearest to a half."""
    lx, ly, lz = box_size_mpc(sim)
    return {
        "redshifts": [snapshot.redshift for snapshot in found.snapshots],
        "first": int(np.argmin(np.abs(np.array(means) - 0.5))),
        "depths": [(depth + 0.5) * lz / sim.sizes["z"] for depth in slicer.depths],
        "rows": slicer.rows,
        "columns": slicer.columns,
        "side_mpc": [lx, ly],
        "fields": fields,
        "methods": methods,
        "scales": {name: asdict(scale) for name, scale in scales.items()},
        "colours": colour_tables(),
    }


def middle_planes(
    found: Evaluation | Survey,
    sim: xr.Dataset,
    pred: xr.DataArray,
    *,
    judged: bool = True,
    spread: xr.DataArray | None = None,
) -> dict[str, np.ndarray]:
    """The plane half-way along z of every snapshot, float32, shape (snapshot, row, column).

    Returns
    -------
    dict
        `pred`; `true` if `judged`; `spread` (xi_std) if the prediction has it; and `density` (over its mean)
        if the simulation has n_igm. Rows are from the top.
    """
    indices = snapshots_shown(found, sim)
    snapshot_of = matching_snapshots(found.name, pred, sim)
    slicer = Slicer((sim.sizes["x"], sim.sizes["y"], 1), len(indices))
    middle = slice(sim.sizes["z"] // 2, sim.sizes["z"] // 2 + 1)
    planes = {"pred": slicer.cut(pred[snapshot_of[index], :, :, middle].values for index in indices)[:, 0]}
    if judged:
        planes["true"] = slicer.cut(sim["xi"][index, :, :, middle].values for index in indices)[:, 0]
    if spread is not None:
        at = matching_snapshots(found.name, spread, sim)
        planes["spread"] = slicer.cut(spread[at[index], :, :, middle].values for index in indices)[:, 0]
    if "n_igm" in sim.data_vars:
        boxes = (_density_over_mean(sim["n_igm"][index].values)[:, :, middle] for index in indices)
        planes["density"] = slicer.cut(boxes)[:, 0]
    return planes


def snapshots_shown(found: Evaluation | Survey, sim: xr.Dataset) -> list[int]:
    """Indices in `sim` of the snapshots that were evaluated."""
    distance = [np.abs(sim["redshift"].values - snapshot.redshift) for snapshot in found.snapshots]
    return [int(each.argmin()) for each in distance]


def _density(slicer: Slicer, true: xr.Dataset, indices: Sequence[int]) -> tuple[str, Scale]:
    density = slicer.cut(_density_over_mean(true["n_igm"][index].values) for index in indices)
    density = np.log10(np.maximum(density, 1e-3))
    low, high = (float(edge) for edge in np.percentile(density, [0.5, 99.5]))
    high = max(high, low + 1e-3)
    return pack(density, low, high), Scale(low, high, log=True, units="density / mean", colours="density")


def _sources(slicer: Slicer, true: xr.Dataset, indices: Sequence[int]) -> tuple[str, Scale]:
    field = true["n_src" if "n_src" in true.data_vars else "n_ion"]
    rate = slicer.cut(field[index].values for index in indices)
    brightest = float(rate.max())
    high = float(np.log10(brightest)) if brightest > 0 else 0.0
    low = high - 4.0
    units = field.attrs["units"]
    shown = {PHOTON_RATE_UNITS: "10⁴⁸ s⁻¹ Mpc⁻³", PHOTON_UNITS: "10⁶⁶ Mpc⁻³"}.get(units, units)
    packed = pack(np.log10(np.maximum(rate, 10**low)), low, high)
    return packed, Scale(low, high, log=True, units=shown, colours="sources")


def _predicted(name: str, pred: xr.DataArray, true: xr.Dataset, indices: Sequence[int]) -> Iterator[Field]:
    """Predicted xi at each of the snapshots `indices` of the truth."""
    snapshot_of = matching_snapshots(name, pred, true)
    for index in indices:
        yield pred[snapshot_of[index]].values


def _excursion_set(evaluation: Evaluation, true: xr.Dataset, indices: Sequence[int]) -> Iterator[Field]:
    """The xi of the excursion set at each of the snapshots `indices`, float32."""
    for index, photons in enumerate(excursion_set.photons(true, evaluation.excursion_inputs)):
        if index in indices:
            atoms = hydrogen_density(true["n_igm"][index].values)
            ionised = excursion_set.ionised(photons, atoms, threshold=evaluation.excursion_threshold)
            yield ionised.astype(np.float32)


def _density_over_mean(n_igm: Field) -> Field:
    mean = n_igm.mean(dtype=np.float64)
    density: np.ndarray = n_igm / (mean if mean > 0 else 1.0)
    return density
