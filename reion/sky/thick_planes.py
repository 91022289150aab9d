"""A light cone whose planes are thicker than the cells of its box: means of thinner planes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def write_means(thin: Any, thick: Any, names: Iterable[str], parts: int) -> None:
    """Write every plane of a light cone as the mean of `parts` planes of a cone with thinner planes.

    Quantities that depend on several fields, such as the 21-cm signal, are averaged themselves. Computed from
    the means of these fields they would lack the correlations of the fields within a plane.

    Parameters
    ----------
    thin, thick
        Zarr groups with arrays of shape (x, y, planes * parts) and (x, y, planes), float32.
    names
        Names of the arrays.
    parts
        Number of planes of `thin` in one plane of `thick`. As many planes are in memory, or those of a chunk
        if these are more.
    """
    for name in names:
        source, target = thin[name], thick[name]
        group, chunk = max(1, source.chunks[2] // parts), target.chunks[2]
        for start in range(0, target.shape[2], chunk):
            stop = min(start + chunk, target.shape[2])
            values = target[..., start:stop]
            for first in range(start, stop, group):
                last = min(first + group, stop)
                planes = source[..., first * parts : last * parts]
                planes = planes.reshape(*planes.shape[:2], last - first, parts)
                values[..., first - start : last - start] = planes.mean(axis=3, dtype="f8")
            target[..., start:stop] = values
