"""The pictures of `reion inspect --plot`: histograms, slices, axis profiles, history."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from reion.inspection.result import FieldInspection, HistoryPoint, Inspection
from reion.jobs.figures import own_settings
from reion.jobs.places import Kind, holds_only
from reion.simulation.contract import AXES, FIELDS, box_size_mpc, mean_baryon_density
from reion.simulation.lazy import Region

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LOG_BINS = np.linspace(-12.0, 12.0, 481)
"""Edges of the bins of log10 of densities, sources, photons and temperatures."""

_LOG_RATE_BINS = np.linspace(-36.0, -6.0, 601)
"""Edges of the bins of log10 of photo-ionisations a second."""

_XI_BINS = np.linspace(0.0, 1.0, 51)
"""Edges of the bins of xi."""

_VELOCITY_BINS = np.linspace(-2000.0, 2000.0, 801)
"""Edges of the bins of velocities in km s-1."""

_PROJECTED = ("n_src", "n_ion")
"""Fields that are zero in most cells of a plane, so that the brightest cell along z is drawn instead."""

_MAX_SNAPSHOTS = 5
"""Most redshifts that are drawn as slices and profiles: the first, the last and some between."""

_NAMES = ("histograms.png", "slices.png", "profiles.png", "history.png")


def are_our_pictures(folder: Path) -> bool:
    """Whether a folder holds pictures that `Pictures.write` drew, and nothing else."""
    return holds_only(folder, _NAMES) and all(
        b"Software\0reion" in path.read_bytes()[:1024] for path in folder.iterdir()
    )


PICTURES = Kind(name="a folder of pictures", is_ours=are_our_pictures)


class Pictures:
    """Collects histograms and slices during the pass, and draws the pictures at its end.

    Histograms count all cells: by log10 of the density over the cosmic mean, by xi, by velocities, and by
    log10 of any other field in its units where it is not zero. The first and the last bin also count all
    values beyond them. A slice is the plane across the z axis through the middle of the box; for sources and
    photons it is the brightest cell along z, because most cells have none.
    """

    def __init__(self, sim: xr.Dataset) -> None:
        self._redshift = sim["redshift"].values
        self._shape = (sim.sizes["x"], sim.sizes["y"])
        self._middle = sim.sizes["z"] // 2
        self._box = box_size_mpc(sim)
        self._scale = {"n_igm": 1.0 / mean_baryon_density(sim)}
        self._units = {name: sim[name].attrs["units"] for name in sim.data_vars}
        self._drawn = np.unique(np.linspace(0, len(self._redshift) - 1, _MAX_SNAPSHOTS).round().astype(int))
        self._counts: dict[tuple[str, int], np.ndarray] = {}
        self._slices: dict[tuple[str, int], dict[tuple[int, int], np.ndarray]] = {}

    def empty(self) -> Pictures:
        """Pictures of the same simulation that have seen no cell yet."""
        other = copy.copy(self)
        other._counts, other._slices = {}, {}
        return other

    def merge(self, other: Pictures) -> None:
        """Add the cells of other pictures of the same simulation."""
        for key, counts in other._counts.items():
            self._counts[key] = self._counts.get(key, 0) + counts
        for key, parts in other._slices.items():
            self._add_to_slice(key, parts)

    def add(self, name: str, index: int, values: np.ndarray, block: Region) -> None:
        """Add the cells, (x, y, z), of a block of snapshot `index`."""
        bins = _bins(name)
        if _is_logarithmic(name):
            binned = np.log10(values[values > 0] * np.float64(self._scale.get(name, 1.0)))
        else:
            binned = values
        counts = np.histogram(np.clip(binned, bins[0], bins[-1]), bins)[0]
        self._counts[name, index] = self._counts.get((name, index), 0) + counts
        if index not in self._drawn:
            return
        x, y, z = block
        if name in _PROJECTED:
            self._add_to_slice((name, index), {(x.start, y.start): values.max(axis=2)})
        elif z.start <= self._middle < z.stop:
            self._add_to_slice(
                (name, index), {(x.start, y.start): values[:, :, self._middle - z.start].copy()}
            )

    def _add_to_slice(self, key: tuple[str, int], parts: Mapping[tuple[int, int], np.ndarray]) -> None:
        """Add parts (x, y) of a slice, by their first cell. Where two overlap, the larger value is kept."""
        plane = self._slices.setdefault(key, {})
        for corner, part in parts.items():
            plane[corner] = np.maximum(plane[corner], part) if corner in plane else part

    def counts(self, name: str, index: int) -> np.ndarray:
        """Cells of snapshot `index` in each bin of the field's histogram."""
        return self._counts[name, index]

    def plane(self, name: str, index: int) -> np.ndarray:
        """Slice of snapshot `index`, which must be one that is drawn: (x, y) float32."""
        values = np.zeros(self._shape, dtype=np.float32)
        for (x, y), part in self._slices[name, index].items():
            values[x : x + part.shape[0], y : y + part.shape[1]] = part
        return values

    @own_settings()
    def write(self, folder: Path, inspection: Inspection) -> list[str]:
        """Draw into `folder` and return the names of the files."""
        figures = {
            "histograms.png": self._histograms(),
            "slices.png": self._slices_figure(),
            "profiles.png": self._profiles(inspection.fields),
            "history.png": self._history(inspection.history),
        }
        for name, figure in figures.items():
            figure.savefig(folder / name, dpi=150, metadata={"Software": "reion"})
        return list(figures)

    def _names(self) -> list[str]:
        """The names of the fields, in the order in which they were added."""
        return list(dict.fromkeys(name for name, _ in self._counts))

    def _quantity(self, name: str) -> str:
        """The label of a field: the quantity that is drawn, with its unit."""
        if name == "xi":
            return name
        return f"{'log10 ' if _is_logarithmic(name) else ''}{name} / ({self._units[name]})"

    def _histograms(self) -> Figure:
        names = self._names()
        figure, rows = _figure(1, len(names))
        drawn: dict[int, Any] = {}  # of each snapshot one curve, because not all panels have all
        for axes, name in zip(rows[0], names, strict=True):
            bins = _bins(name)
            for index, redshift in enumerate(self._redshift):
                counts = self.counts(name, index)
                density = counts / max(int(counts.sum()), 1) / np.diff(bins)
                filled = np.flatnonzero(density)
                if filled.size:
                    first, last = filled[0], filled[-1]
                    drawn[index] = axes.stairs(
                        density[first : last + 1],
                        bins[first : last + 2],
                        label=f"z = {redshift:g}",
                        color=_colour(index, len(self._redshift)),
                    )
            axes.set_yscale("log")
            axes.set_xlabel("log10 n_igm / cosmic mean" if name == "n_igm" else self._quantity(name))
            axes.set_ylabel("fraction of cells per unit")
        figure.legend(
            handles=[drawn[index] for index in sorted(drawn)], loc="outside right upper", fontsize=6
        )
        return figure

    def _slices_figure(self) -> Figure:
        names = self._names()
        figure, rows = _figure(len(names), len(self._drawn))
        for row, name in zip(rows, names, strict=True):
            planes = [self.plane(name, int(index)).T for index in self._drawn]
            if _is_logarithmic(name):
                planes = [np.log10(np.where(plane > 0, plane, np.nan)) for plane in planes]
            low, high = _colour_range(name, planes)
            for axes, index, plane in zip(row, self._drawn, planes, strict=True):
                image = axes.imshow(
                    plane,
                    origin="lower",
                    extent=(0, self._box[0], 0, self._box[1]),
                    vmin=low,
                    vmax=high,
                    interpolation="nearest",
                )
                axes.set_title(f"z = {self._redshift[index]:g}", fontsize=8)
                axes.set_xlabel("x / Mpc")
                axes.set_ylabel("y / Mpc")
            cut = "brightest along z" if name in _PROJECTED else "middle plane"
            figure.colorbar(image, ax=row).set_label(f"{self._quantity(name)}\n{cut}", fontsize=8)
        return figure

    def _profiles(self, fields: Mapping[str, FieldInspection]) -> Figure:
        figure, rows = _figure(len(fields), len(AXES))
        for row, field in zip(rows, fields.values(), strict=True):
            for axes, axis, length in zip(row, AXES, self._box, strict=True):
                for index in self._drawn:
                    values = field.snapshots[index].axis_lines[axis]
                    position = (np.arange(values.size) + 0.5) * (length / values.size)
                    axes.plot(
                        position,
                        values,
                        linewidth=0.8,
                        color=_colour(int(index), len(self._redshift)),
                        label=f"z = {self._redshift[index]:g}",
                    )
                axes.set_xlabel(f"{axis} / Mpc")
                axes.set_ylabel("xi" if field.name == "xi" else f"{field.name} / ({field.units})")
        rows[0][-1].legend(fontsize=6)
        return figure

    def _history(self, history: Sequence[HistoryPoint]) -> Figure:
        mean_xi = {
            "by volume": [point.mean_xi for point in history],
            "by mass": [point.mean_xi_mass for point in history],
        }
        photons = {"": [point.photons_per_hydrogen for point in history]}
        panels = [
            (quantity, curves)
            for quantity, curves in (("mean xi", mean_xi), ("photons per hydrogen atom", photons))
            if any(value is not None for series in curves.values() for value in series)
        ]
        figure, rows = _figure(1, max(1, len(panels)))
        for axes, (quantity, curves) in zip(rows[0], panels, strict=False):
            for label, series in curves.items():
                values = np.array(series, dtype=np.float64)
                axes.plot(self._redshift, values, marker="o", markersize=3, label=label)
            axes.set_ylabel(quantity)
            axes.set_ylim(0, 1.02 if quantity == "mean xi" else None)
            if len(curves) > 1:
                axes.legend(fontsize=7)
        for axes in rows[0]:
            axes.set_xlabel("redshift")
            axes.invert_xaxis()
        return figure


def _is_velocity(name: str) -> bool:
    return FIELDS[name].minimum < 0


def _is_logarithmic(name: str) -> bool:
    """Whether log10 of a field is drawn: it spans many powers of ten, and is never negative."""
    return name != "xi" and not _is_velocity(name)


def _bins(name: str) -> np.ndarray:
    """Edges of the bins of a field's histogram."""
    if _is_velocity(name):
        return _VELOCITY_BINS
    return {"xi": _XI_BINS, "ionisation_rate": _LOG_RATE_BINS}.get(name, _LOG_BINS)


def _colour_range(name: str, planes: Sequence[np.ndarray]) -> tuple[float, float]:
    """The values of the first and the last colour of the slices of a field."""
    if name == "xi":
        return 0.0, 1.0
    finite = np.concatenate([plane[np.isfinite(plane)] for plane in planes])
    if not finite.size:
        return 0.0, 1.0
    if _is_velocity(name):
        fastest = float(np.abs(finite).max())
        return -fastest, fastest
    return float(finite.min()), float(finite.max())


def _figure(rows: int, columns: int) -> tuple[Figure, list[list[Axes]]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4 * columns, 2.8 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    return figure, [list(row) for row in grid]


def _colour(index: int, count: int) -> Any:
    import matplotlib

    return matplotlib.colormaps["viridis"](index / max(count - 1, 1))
