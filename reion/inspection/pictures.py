"""The pictures of `reion inspect --plot`: histograms, slices, axis profiles, history."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from reion.simulation.contract import AXES, box_size_mpc, mean_baryon_density
from reion.storage.store import Block

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LOG_BINS = np.linspace(-12.0, 12.0, 481)
_XI_BINS = np.linspace(0.0, 1.0, 51)
_PROJECTED = ("n_src", "n_ion")
_MOST_SNAPSHOTS = 5
"""So many redshifts are drawn as slices and profiles: the first, the last and some between."""


class Pictures:
    """Collects during the pass what the pictures need, and draws them at its end.

    Histograms are of all cells: of log10 of the density in cosmic means, of log10 of what is not zero of
    sources and photons in their units, and of xi. Slices are the plane through the middle of the box across
    the z axis; sources and photons, which most of a plane lacks, are the brightest cell along z instead.
    """

    def __init__(self, sim: xr.Dataset) -> None:
        self._redshift = sim["redshift"].values
        self._shape = (sim.sizes["x"], sim.sizes["y"])
        self._middle = sim.sizes["z"] // 2
        self._box = box_size_mpc(sim)
        self._scale = {"n_igm": 1.0 / mean_baryon_density(sim)}
        self._units = {name: sim[name].attrs["units"] for name in sim.data_vars}
        self._drawn = np.unique(np.linspace(0, len(self._redshift) - 1, _MOST_SNAPSHOTS).round().astype(int))
        self._counts: dict[tuple[str, int], np.ndarray] = {}
        self._slices: dict[tuple[str, int], dict[tuple[int, int], np.ndarray]] = {}

    def empty(self) -> Pictures:
        """The same pictures, for which nothing was seen yet."""
        other = copy.copy(self)
        other._counts, other._slices = {}, {}
        return other

    def merge(self, other: Pictures) -> None:
        """Add what was seen of other cells."""
        for place, counts in other._counts.items():
            self._counts[place] = self._counts.get(place, 0) + counts
        for place, parts in other._slices.items():
            self._take(place, parts)

    def add(self, name: str, index: int, values: np.ndarray, block: Block) -> None:
        """Take note of the cells of a block of snapshot `index`."""
        bins = _XI_BINS if name == "xi" else _LOG_BINS
        if name == "xi":
            shown = values
        else:
            shown = np.log10(values[values > 0] * np.float64(self._scale.get(name, 1.0)))
        counts = np.histogram(np.clip(shown, bins[0], bins[-1]), bins)[0]
        self._counts[name, index] = self._counts.get((name, index), 0) + counts
        if index not in self._drawn:
            return
        x, y, z = block
        if name in _PROJECTED:
            self._take((name, index), {(x.start, y.start): values.max(axis=2)})
        elif z.start <= self._middle < z.stop:
            self._take((name, index), {(x.start, y.start): values[:, :, self._middle - z.start].copy()})

    def _take(self, place: tuple[str, int], parts: Mapping[tuple[int, int], np.ndarray]) -> None:
        """Add parts of a plane, by their first cell; where two overlap, the brighter cells count."""
        plane = self._slices.setdefault(place, {})
        for corner, part in parts.items():
            plane[corner] = np.maximum(plane[corner], part) if corner in plane else part

    def counts(self, name: str, index: int) -> np.ndarray:
        """Cells of snapshot `index` in each bin of the field's histogram."""
        return self._counts[name, index]

    def plane(self, name: str, index: int) -> np.ndarray:
        """What is drawn of snapshot `index`, one of those that are: (x, y), float32."""
        values = np.zeros(self._shape, dtype=np.float32)
        for (x, y), part in self._slices[name, index].items():
            values[x : x + part.shape[0], y : y + part.shape[1]] = part
        return values

    def write(
        self,
        folder: Path,
        result: Mapping[str, Any],
        lines: Mapping[str, Sequence[Mapping[str, np.ndarray]]],
    ) -> list[str]:
        """Draw into `folder` and return the names of the files.

        `result` is that of `reion.inspection.look.inspect`; `lines` the values along the axis lines, field to
        one mapping (axis to values) a snapshot.
        """
        figures = {
            "histograms.png": self._histograms(),
            "slices.png": self._slices_figure(),
            "profiles.png": self._profiles(lines),
            "history.png": self._history(result["history"]),
        }
        for name, figure in figures.items():
            figure.savefig(folder / name, dpi=150)
        return list(figures)

    def _names(self) -> list[str]:
        """The fields, in the order in which they were seen."""
        return list(dict.fromkeys(name for name, _ in self._counts))

    def _histograms(self) -> Figure:
        names = self._names()
        figure, rows = _figure(1, len(names))
        for axes, name in zip(rows[0], names, strict=True):
            bins = _XI_BINS if name == "xi" else _LOG_BINS
            for index, redshift in enumerate(self._redshift):
                counts = self.counts(name, index)
                density = counts / max(int(counts.sum()), 1) / np.diff(bins)
                shown = np.flatnonzero(density)
                if shown.size:
                    part = slice(shown[0], shown[-1] + 1)
                    axes.stairs(
                        density[part],
                        bins[shown[0] : shown[-1] + 2],
                        label=f"z = {redshift:g}",
                        color=_colour(index, len(self._redshift)),
                    )
            axes.set_yscale("log")
            axes.set_xlabel(
                {"n_igm": "log10 n_igm / cosmic mean", "xi": "xi"}.get(
                    name, f"log10 {name} / ({self._units[name]})"
                )
            )
            axes.set_ylabel("fraction of cells per unit")
        rows[0][-1].legend(fontsize=6)
        return figure

    def _slices_figure(self) -> Figure:
        names = self._names()
        figure, rows = _figure(len(names), len(self._drawn))
        for row, name in zip(rows, names, strict=True):
            planes = [self.plane(name, int(index)).T for index in self._drawn]
            if name == "xi":
                low, high = 0.0, 1.0
            else:
                planes = [np.log10(np.where(plane > 0, plane, np.nan)) for plane in planes]
                known = np.concatenate([plane[np.isfinite(plane)] for plane in planes])
                low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
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
            what = "brightest along z" if name in _PROJECTED else "middle plane"
            quantity = "xi" if name == "xi" else f"log10 {name} / ({self._units[name]})"
            figure.colorbar(image, ax=row).set_label(f"{quantity}\n{what}", fontsize=8)
        return figure

    def _profiles(self, lines: Mapping[str, Sequence[Mapping[str, np.ndarray]]]) -> Figure:
        figure, rows = _figure(len(lines), len(AXES))
        for row, (name, series) in zip(rows, lines.items(), strict=True):
            for axes, axis, length in zip(row, AXES, self._box, strict=True):
                for index in self._drawn:
                    values = series[index][axis]
                    position = (np.arange(values.size) + 0.5) * (length / values.size)
                    axes.plot(
                        position,
                        values,
                        linewidth=0.8,
                        color=_colour(int(index), len(self._redshift)),
                        label=f"z = {self._redshift[index]:g}",
                    )
                axes.set_xlabel(f"{axis} / Mpc")
                axes.set_ylabel("xi" if name == "xi" else f"{name} / ({self._units[name]})")
        rows[0][-1].legend(fontsize=6)
        return figure

    def _history(self, history: Sequence[Mapping[str, float | None]]) -> Figure:
        figure, rows = _figure(1, 1)
        axes = rows[0][0]
        for key, label in (
            ("mean_xi", "mean xi, by volume"),
            ("mean_xi_mass", "mean xi, by mass"),
            ("photons_per_hydrogen", "photons per hydrogen atom"),
        ):
            values = np.array([row[key] for row in history], dtype=np.float64)
            if not np.all(np.isnan(values)):
                axes.plot(self._redshift, values, marker="o", markersize=3, label=label)
        axes.set_xlabel("redshift")
        axes.invert_xaxis()
        axes.set_ylim(-0.02, 1.5)
        axes.legend(fontsize=7)
        return figure


def _figure(rows: int, columns: int) -> tuple[Figure, list[list[Axes]]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4 * columns, 2.8 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    return figure, [list(row) for row in grid]


def _colour(index: int, count: int) -> Any:
    import matplotlib

    return matplotlib.colormaps["viridis"](index / max(count - 1, 1))
