"""The 21-cm signal of a light cone, computed from the fields in its store."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from reion.metrics.fields import Field
from reion.metrics.twenty_one_cm import brightness_temperature
from reion.sky.geometry import LineOfSight
from reion.sky.signal import displacement_mpc, distorted

if TYPE_CHECKING:
    from astropy.cosmology import FlatLambdaCDM


def signal_of(
    group: Any, line: LineOfSight, chunk: int, cosmology: FlatLambdaCDM
) -> Callable[[range], Field]:
    """Return a function that computes planes of the signal, in mK.

    Parameters
    ----------
    group
        A Zarr group with `xi` and `overdensity`, shape (x, y, planes). If it has `velocity`, the signal is in
        redshift space; if it has `spin_temperature`, the signal is that of this temperature.
    line
        The planes. They must be as thin as the cells of the fields, because the signal is not a function of
        means.
    chunk
        Number of planes that are read at once.

    Returns
    -------
    callable
        Takes a range of planes and returns the signal in them, float32 (x, y, planes).
    """
    moves, has_spin = "velocity" in group, "spin_temperature" in group

    def read(name: str, planes: slice) -> Field:
        values: Field = group[name][..., planes]
        return values

    margin = 0
    if moves:
        fastest = max(
            float(np.abs(read("velocity", slice(start, start + chunk))).max())
            for start in range(0, line.planes, chunk)
        )
        farthest = displacement_mpc(np.array(fastest), line.redshift, cosmology).max()
        margin = int(farthest / line.cell_mpc) + 2

    def make(planes: range) -> Field:
        # The planes on either side are read too, because signal moves in from them.
        wide = slice(max(0, planes.start - margin), min(line.planes, planes.stop + margin))
        redshift = line.redshift[wide]
        found = brightness_temperature(
            read("xi", wide),
            read("overdensity", wide),
            redshift,
            cosmology,
            spin_temperature_k=read("spin_temperature", wide) if has_spin else None,
        ).astype(np.float32)
        if moves:
            velocity = read("velocity", wide)
            found = distorted(found, velocity, redshift, cosmology, line.cell_mpc, periodic=False)
        return found[..., planes.start - wide.start : planes.stop - wide.start]

    return make
