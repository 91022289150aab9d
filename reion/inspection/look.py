"""`reion inspect`: the first look at a simulation, in one streaming pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from reion.errors import InputError
from reion.inspection.checks import boundary_steps, plausibility, xi_at_sources
from reion.jobs.outputs import claimed, whole_folder
from reion.jobs.resources import peak_memory_bytes, thread_limit
from reion.jobs.workers import Job, ThisProcess, Workers
from reion.simulation.contract import (
    AXES,
    DEFAULT_COSMOLOGY,
    FIELDS,
    N_ION_TIME_S,
    PHOTON_UNITS,
    box_size_mpc,
    cell_size_mpc,
    check_simulation,
    cosmology,
    hydrogen_per_density,
    intervals_s,
    n_ion_units,
    shape_of,
)
from reion.simulation.units import grams_per_cubic_parsec
from reion.storage.store import Block, Progress, blocks_of

if TYPE_CHECKING:
    from rich.console import RenderableType

    from reion.inspection.pictures import Pictures
    from reion_kernels import Moments

_PARTLY = (0.01, 0.9)
"""Mean xi of a snapshot that shows whether sources lie in bubbles."""


class FieldStatistics:
    """What one pass collects of one field in one snapshot, block by block.

    Attributes
    ----------
    moments
        Of all values.
    empty
        Number of cells that are exactly zero.
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        from reion_kernels import Moments

        self._middle = [n // 2 for n in shape]
        self._parts: dict[str, dict[int, np.ndarray]] = {axis: {} for axis in AXES}
        self.moments: Moments = Moments.empty()
        self.empty = 0

    @property
    def lines(self) -> dict[str, np.ndarray]:
        """For each axis, float64 values along it through the middle cell.

        That is index n // 2 on the other two axes, the centre of gravity of the cube.
        """
        return {
            axis: np.concatenate([part for _, part in sorted(parts.items())])
            for axis, parts in self._parts.items()
        }

    def add(self, values: np.ndarray, block: Block) -> None:
        """Add the cells of a block."""
        from reion_kernels import moments

        here = moments(values, threads=thread_limit())
        self.moments = self.moments.merge(here)
        if here.minimum == 0:
            self.empty += values.size - int(np.count_nonzero(values))
        for along, axis in enumerate(AXES):
            across = [
                (m, cells) for i, (m, cells) in enumerate(zip(self._middle, block, strict=True)) if i != along
            ]
            if all(cells.start <= middle < cells.stop for middle, cells in across):
                at: list[int | slice] = [middle - cells.start for middle, cells in across]
                at.insert(along, slice(None))
                self._parts[axis][block[along].start] = values[tuple(at)].astype(np.float64)

    def merge(self, other: FieldStatistics) -> None:
        """Add what was collected of another block of the same snapshot."""
        self.moments = self.moments.merge(other.moments)
        self.empty += other.empty
        for axis, parts in other._parts.items():
            self._parts[axis] |= parts


def inspect(
    sim: xr.Dataset,
    *,
    plot: str | Path | None = None,
    force: bool = False,
    workers: Workers | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Look at every value of a simulation once.

    Parameters
    ----------
    sim
        A Simulation; any of its fields may be missing.
    plot
        A folder to write pictures into (see `reion.inspection.pictures`).
    force
        Replace that folder if it exists.
    workers
        Who looks at the pieces, snapshots and blocks of them; this process where it is None.
    progress
        Called with the pieces done and the pieces there are.

    Returns
    -------
    dict
        Ready for JSON; what is undefined is None:

        - `shape`, `box_size_mpc`, `cell_size_mpc`, `redshifts`, `cosmology`, `source_code`;
        - `fields`: for each its `units`, `snapshots` (for each `redshift`: `mean`, `std`, `min`, `max`,
          `skewness`, `empty_fraction`, `axis_means` along x, y and z through the middle cell, and
          `normalised`: min and max after subtracting the mean and dividing by σ), and `pooled`: the same over
          all snapshots, without `axis_means`; for `n_igm` also `mean_g_pc3`;
        - `history`: for each `redshift` the `age_myr`, `mean_xi` (by volume), `mean_xi_mass` (by mass),
          `mean_xi_at_sources` (by photons emitted), `photons_per_hydrogen` (emitted so far);
        - `checks`: `name`, `ok` and, in words, `message`;
        - `plots`: the pictures written; `peak_memory_bytes`.

    Raises
    ------
    InputError
        If a value is out of range (the reader's message: which file, which cell), or the folder for the
        pictures exists already.
    """
    check_simulation(sim, values=False)
    shape = shape_of(sim)
    present = [name for name in FIELDS if name in sim.data_vars]
    pictures = None
    if plot is not None:
        from reion.inspection.pictures import Pictures

        if Path(plot).exists() and not force:
            raise InputError("exists already", file=plot, hint="--force replaces it")
        pictures = Pictures(sim)
    count = sim.sizes["redshift"]
    blocks = len(blocks_of(shape))
    pieces = [(index, block) for index in range(count) for block in range(blocks)]
    found: list[Seen | None] = [None] * len(pieces)
    looked = (workers or ThisProcess()).map(Look(sim, pictures), pieces)
    for done, (number, seen) in enumerate(looked, start=1):
        found[number] = seen
        if progress is not None:
            progress(done, len(pieces))
    # In the order of the pieces, whoever did them: sums round the same way whatever the number of workers.
    snapshots: dict[str, list[FieldStatistics]] = {name: [] for name in present}
    weighted: list[dict[str, float | None]] = []
    steps: list[float] = []
    at_sources: dict[str, float] = {}
    for index in range(count):
        statistics = {name: FieldStatistics(shape) for name in present}
        means = _WeightedXi()
        for seen in filter(None, found[index * blocks : (index + 1) * blocks]):
            for name in present:
                statistics[name].merge(seen.statistics[name])
            means.merge(seen.weighted)
            if seen.step is not None:
                steps.append(seen.step)
            if pictures is not None and seen.pictures is not None:
                pictures.merge(seen.pictures)
            at_sources = at_sources or seen.at_sources
        weighted.append(means.means(statistics))
        for name in present:
            snapshots[name].append(statistics[name])
    fields = {name: _field_result(sim, name, snapshots[name]) for name in present}
    history = _history(sim, snapshots, weighted)
    result: dict[str, Any] = {
        "shape": list(shape),
        "box_size_mpc": list(box_size_mpc(sim)),
        "cell_size_mpc": list(cell_size_mpc(sim)),
        "redshifts": sim["redshift"].values.tolist(),
        "source_code": sim.attrs.get("source_code"),
        "cosmology": {
            **{key: sim.attrs.get(key, value) for key, value in DEFAULT_COSMOLOGY.items()},
            "assumed": bool(sim.attrs.get("cosmology_assumed", True)),
        },
        "fields": fields,
        "history": history,
        "checks": plausibility(sim, fields, history, boundary_steps=steps, at_sources=at_sources),
        "plots": [],
    }
    if pictures is not None and plot is not None:
        lines = {name: [one.lines for one in series] for name, series in snapshots.items()}
        with claimed(plot, force=force) as place, whole_folder(place) as folder:
            names = pictures.write(folder, result, lines)
        result["plots"] = [str(Path(plot) / name) for name in names]
    result["peak_memory_bytes"] = peak_memory_bytes()
    return result


@dataclass(frozen=True)
class Seen:
    """What is seen of one block of a snapshot."""

    statistics: dict[str, FieldStatistics]
    weighted: dict[str, float]
    step: float | None
    at_sources: dict[str, float]
    pictures: Pictures | None


class Look(Job[tuple[int, int], Seen]):
    """Looks at a block of a snapshot."""

    def __init__(self, sim: xr.Dataset, pictures: Pictures | None) -> None:
        self._sim = sim
        self._pictures = pictures
        self._blocks = blocks_of(shape_of(sim))

    def __call__(self, piece: tuple[int, int]) -> Seen:
        """Look at one block."""
        index, number = piece
        sim, shape = self._sim, shape_of(self._sim)
        block = self._blocks[number]
        statistics = {}
        values: dict[str, np.ndarray] = {}
        pictures = None if self._pictures is None else self._pictures.empty()
        for name in FIELDS:
            if name in sim.data_vars:
                values[name] = sim[name][(index, *block)].values
                statistics[name] = FieldStatistics(shape)
                statistics[name].add(values[name], block)
                if pictures is not None:
                    pictures.add(name, index, values[name], block)
        whole = len(self._blocks) == 1
        step = boundary_steps(values["n_igm"]) if whole and "n_igm" in values else None
        at_sources = {}
        if whole and "n_src" in values and "xi" in values:
            low, high = _PARTLY
            if low < statistics["xi"].moments.mean < high:
                at_sources = xi_at_sources(values["xi"], values["n_src"])
        return Seen(statistics, _weighted_sums(values), step, at_sources, pictures)


def _weighted_sums(values: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Sums of xi weighted by mass and by photons."""
    return {
        name: _sum_of_products(values["xi"], values[name])
        for name in ("n_igm", "n_ion", "n_src")
        if name in values and "xi" in values
    }


class _WeightedXi:
    """Means of xi weighted by mass and by photons, from the sums of every block."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}

    def merge(self, sums: Mapping[str, float]) -> None:
        for name, value in sums.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def means(self, statistics: Mapping[str, FieldStatistics]) -> dict[str, float | None]:
        by: dict[str, float | None] = {}
        for name, total in self._sums.items():
            weight = statistics[name].moments.mean * statistics[name].moments.count
            by[name] = float(total / weight) if weight > 0 else None
        photons = by.get("n_ion")
        return {"mass": by.get("n_igm"), "photons": photons if photons is not None else by.get("n_src")}


def _sum_of_products(x: np.ndarray, y: np.ndarray) -> float:
    """Summed in float64, plane by plane: whatever the memory orders are, without a large intermediate."""
    return sum(float(np.multiply(a, b).sum(dtype=np.float64)) for a, b in zip(x, y, strict=True))


def _statistics(moments: Moments, empty: int) -> dict[str, Any]:
    std = float(moments.std)
    defined = std > 0
    return {
        "mean": float(moments.mean),
        "std": std,
        "min": float(moments.minimum),
        "max": float(moments.maximum),
        "skewness": float(moments.skewness) if defined else None,
        "empty_fraction": empty / moments.count,
        "normalised": {
            "min": float((moments.minimum - moments.mean) / std) if defined else None,
            "max": float((moments.maximum - moments.mean) / std) if defined else None,
        },
    }


def _field_result(sim: xr.Dataset, name: str, series: list[FieldStatistics]) -> dict[str, Any]:
    pooled = series[0].moments
    for one in series[1:]:
        pooled = pooled.merge(one.moments)
    result = {
        "units": sim[name].attrs["units"],
        "snapshots": [
            {
                "redshift": float(redshift),
                **_statistics(one.moments, one.empty),
                "axis_means": {axis: float(line.mean()) for axis, line in one.lines.items()},
            }
            for redshift, one in zip(sim["redshift"].values, series, strict=True)
        ],
        "pooled": _statistics(pooled, sum(one.empty for one in series)),
    }
    if name == "n_igm":
        result["pooled"]["mean_g_pc3"] = float(grams_per_cubic_parsec(np.asarray(pooled.mean)))
    return result


def _history(
    sim: xr.Dataset,
    snapshots: Mapping[str, list[FieldStatistics]],
    weighted: list[dict[str, float | None]],
) -> list[dict[str, float | None]]:
    ages = cosmology(sim).age(sim["redshift"].values).to_value("Myr")
    photons = _photons_per_hydrogen(sim, snapshots)
    return [
        {
            "redshift": float(redshift),
            "age_myr": float(ages[index]),
            "mean_xi": float(snapshots["xi"][index].moments.mean) if "xi" in snapshots else None,
            "mean_xi_mass": weighted[index]["mass"],
            "mean_xi_at_sources": weighted[index]["photons"],
            "photons_per_hydrogen": photons[index],
        }
        for index, redshift in enumerate(sim["redshift"].values)
    ]


def _photons_per_hydrogen(
    sim: xr.Dataset, snapshots: Mapping[str, list[FieldStatistics]]
) -> list[float | None]:
    """Mean photons emitted so far over mean hydrogen atoms, None where sources are not photons."""
    count = sim.sizes["redshift"]
    if "n_ion" in snapshots:
        units = sim["n_ion"].attrs["units"]
        emitted = [one.moments.mean for one in snapshots["n_ion"]]
    elif "n_src" in snapshots:
        units = n_ion_units(sim["n_src"].attrs["units"])
        rates = np.array([one.moments.mean for one in snapshots["n_src"]])
        emitted = [0.0, *np.cumsum(rates[:-1] * intervals_s(sim) / N_ION_TIME_S)]
    else:
        return [None] * count
    if units != PHOTON_UNITS or "n_igm" not in snapshots:
        return [None] * count
    atoms = [one.moments.mean * hydrogen_per_density() for one in snapshots["n_igm"]]
    return [float(e / a) if a > 0 else None for e, a in zip(emitted, atoms, strict=True)]


def render(result: Mapping[str, Any]) -> RenderableType:
    """The result of `inspect` as tables for a terminal."""
    from rich.console import Group
    from rich.table import Table

    parts: list[RenderableType] = [_headline(result)]
    for name, one in result["fields"].items():
        table = Table(title=f"{name} ({one['units']})", title_justify="left")
        columns = ("z", "mean", "σ", "min", "max", "skewness", "empty", "x line", "y line", "z line")
        for column in (*columns, "norm. min", "norm. max"):
            table.add_column(column, justify="right")
        for row in one["snapshots"]:
            table.add_row(f"{row['redshift']:g}", *_cells(row))
        if len(one["snapshots"]) > 1:
            table.add_row("all", *_cells(one["pooled"]), style="bold")
        parts.append(table)
    history = Table(title="history", title_justify="left")
    for column in ("z", "age / Myr", "mean xi", "by mass", "at sources", "photons per H"):
        history.add_column(column, justify="right")
    for row in result["history"]:
        history.add_row(
            f"{row['redshift']:g}", f"{row['age_myr']:.0f}", *(_text(v) for v in list(row.values())[2:])
        )
    parts.append(history)
    checks = Table(title="checks", title_justify="left", show_header=False, box=None)
    for check in result["checks"]:
        mark = "[green]ok[/]" if check["ok"] else "[yellow]look[/]"
        checks.add_row(mark, check["name"], check["message"])
    parts.append(checks)
    return Group(*parts)


def _headline(result: Mapping[str, Any]) -> str:
    cells = " x ".join(str(n) for n in result["shape"])
    sides = " x ".join(f"{length:g}" for length in result["box_size_mpc"])
    redshifts = result["redshifts"]
    return (
        f"{cells} cells, {sides} Mpc (comoving), cell {result['cell_size_mpc'][0]:.4g} Mpc, "
        f"{len(redshifts)} redshifts from {redshifts[0]:g} to {redshifts[-1]:g}, from {result['source_code']}"
    )


def _cells(row: Mapping[str, Any]) -> list[str]:
    lines = row.get("axis_means", {})
    values = [row[key] for key in ("mean", "std", "min", "max", "skewness", "empty_fraction")]
    values += [lines.get(axis) for axis in AXES]
    return [_text(value) for value in (*values, row["normalised"]["min"], row["normalised"]["max"])]


def _text(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
