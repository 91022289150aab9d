"""The usual picture of a light cone: frequency along the line of sight, comoving Mpc or degrees across."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from reion.errors import InputError
from reion.jobs.figures import own_settings
from reion.jobs.outputs import whole_file
from reion.jobs.places import Kind, output_path, refuse_existing
from reion.metrics.twenty_one_cm import LINE_MHZ

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROWS = {
    "xi": ("ionised fraction", "viridis", (0.0, 1.0)),
    "overdensity": ("density / mean", "cividis", None),
    "brightness_temperature": ("21-cm signal [mK]", "magma", None),
}
_KEYS = {".png": "Software", ".pdf": "Creator"}
"""Key of the metadata that names the program, for each file ending."""

_KINDS = {
    ending: Kind(name="a picture of a light cone", ending=ending, is_ours=lambda path: is_our_picture(path))
    for ending in _KEYS
}
_SHORTEST = 0.12
"""Shortest range for which marks are computed; a shorter scale, such as that of one plane, uses it too."""

_LARGEST = 2000
"""Most planes along the picture; more planes are averaged."""


def strip(cone: xr.Dataset) -> Figure:
    """Draw a slice through a light cone: one row for each field, the nearest plane at the left.

    Parameters
    ----------
    cone
        A store of `reion.sky.light_cone.light_cone`, opened with `xarray.open_zarr`.

    Returns
    -------
    matplotlib.figure.Figure
        Frequency of the 21-cm line below, redshift above. At the left comoving Mpc, the width of all planes;
        degrees on the sky if the cone has a field of view.
    """
    from matplotlib.figure import Figure

    rows = [name for name in _ROWS if name in cone.data_vars]
    redshift = cone["redshift"].values
    if "field_of_view_degrees" in cone.attrs:
        width, unit = float(cone.attrs["field_of_view_degrees"]), "degrees"
    else:
        across = cone[cone[rows[0]].dims[1]].values
        width, unit = float(across[-1] + across[0]), "Mpc (comoving)"
    figure = Figure(figsize=(10.0, 0.9 + 1.6 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), 1, squeeze=False, sharex=True)[:, 0]
    for panel, name in zip(axes, rows, strict=True):
        label, colours, limits = _ROWS[name]
        values = cone[name][cone[name].shape[0] // 2].values
        step = -(-values.shape[1] // _LARGEST)
        values = values[:, : values.shape[1] // step * step].reshape(values.shape[0], -1, step).mean(axis=2)
        if name == "overdensity":
            values = np.log10(np.maximum(1 + values, 1e-2))
            limits = (-0.5, 0.5)
        low, high = limits or (0.0 if values.min() >= 0 else float(np.percentile(values, 1)), None)
        image = panel.imshow(
            values,
            aspect="auto",
            origin="lower",
            extent=(0, redshift.size, 0, width),
            cmap=colours,
            vmin=low,
            vmax=float(np.percentile(values, 99.5)) if high is None else high,
            interpolation="nearest",
        )
        bar = figure.colorbar(image, ax=panel, pad=0.01, aspect=12)
        bar.set_label(label, fontsize=8)
        bar.ax.tick_params(labelsize=7)
        if name == "overdensity":
            bar.set_ticks([-0.5, 0, 0.5], labels=["0.32", "1", "3.2"])
        panel.set_ylabel(unit, fontsize=8)
        panel.tick_params(labelsize=7, direction="out")
    _scales(axes, redshift)
    return figure


def _scales(axes: np.ndarray, redshift: np.ndarray) -> None:
    """Mark frequencies below the lowest row and redshifts above the highest, each at round numbers."""
    planes = np.arange(redshift.size) + 0.5
    frequency = LINE_MHZ / (1 + redshift)
    step = _step(np.ptp(frequency))
    at = np.arange(np.ceil(frequency[-1] / step), np.floor(frequency[0] / step) + 1) * step
    axes[-1].set_xticks(np.interp(at, frequency[::-1], planes[::-1]), [f"{f:g}" for f in at])
    axes[-1].set_xlabel("frequency [MHz]", fontsize=8)
    above = axes[0].secondary_xaxis("top")
    step = _step(np.ptp(redshift))
    at = np.arange(np.ceil(redshift[0] / step), np.floor(redshift[-1] / step) + 1) * step
    above.set_xticks(np.interp(at, redshift, planes), [f"{z:g}" for z in np.round(at, 6)])
    above.set_xlabel("redshift", fontsize=8)
    above.tick_params(labelsize=7)


def _step(span: float) -> float:
    """Step between marks: the smallest 1, 2 or 5 times a power of ten with at most 12 steps in the span."""
    power = 10.0 ** np.floor(np.log10(max(span, _SHORTEST) / 12))
    return float(next(number * power for number in (1, 2, 5, 10, 20) if span / (number * power) <= 12))


def is_our_picture(path: Path) -> bool:
    """Whether a file is a picture that `write_strip` drew."""
    return path.is_file() and b"reion light cone" in path.read_bytes()


def picture_path(path: Path, *, sources: Sequence[str | Path], force: bool) -> Path:
    """Return the path of a picture after checking that it may be written.

    Raises
    ------
    InputError
        If the path ends in neither .png nor .pdf, lies in one of `sources`, exists and `force` is not given,
        or its folder cannot be made.
    """
    kind = _KINDS.get(path.suffix.lower())
    if kind is None:
        raise InputError("expected a name that ends in .png or .pdf for the picture", file=path)
    place = output_path(path, kind, sources=sources)
    real = place.resolve()
    for source in sources:
        if Path(source).expanduser().resolve() in real.parents:  # also a source that is yet to be written
            raise InputError(f"lies in {source}", file=path, hint="give another place for the picture")
    refuse_existing(place, kind, force=force)
    return place


def write_strip(cone: Path, path: Path) -> None:
    """Draw the picture of the light cone in a Zarr store into a file, PNG or PDF by its ending.

    The folder of the file is made if it is not there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with own_settings(), xr.open_zarr(cone) as opened, whole_file(path) as partial:
        strip(opened).savefig(partial, dpi=150, metadata={_KEYS[path.suffix.lower()]: "reion light cone"})
