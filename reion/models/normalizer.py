"""Constants that a run measures in its boxes before it trains: mean and σ per channel, photons per source."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from reion.errors import InputError
from reion.models.shapes import BoxChannels, BoxField
from reion.simulation.contract import hydrogen_density
from reion.simulation.recombinations import with_photons_left
from reion_kernels import Moments, Transform, affine, moments


@dataclass(frozen=True, kw_only=True)
class Normalizer:
    """Constants of the normalisation y = (transform(x · scale) − mean) / σ of each channel.

    Attributes
    ----------
    channels
        Names of the channels, in order.
    scale, transform, mean, std
        One entry per channel; `transform` is none, log1p or asinh, `std` is always positive.
    redshift_mean, redshift_std
        Mean and σ of the redshift.
    xi_mean, xi_std
        Mean and σ of xi, for networks that predict xi normalised.
    """

    channels: tuple[str, ...]
    scale: tuple[float, ...]
    transform: tuple[Transform, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    redshift_mean: float
    redshift_std: float
    xi_mean: float
    xi_std: float

    def __post_init__(self) -> None:
        """Raise ValueError for lists of different lengths or a σ that is not positive."""
        lengths = {len(values) for values in (self.scale, self.transform, self.mean, self.std)}
        if lengths != {len(self.channels)}:
            raise ValueError(f"expected a scale, transform, mean and std for each of {self.channels}")
        if not min(*self.std, self.redshift_std, self.xi_std) > 0:
            raise ValueError("expected every std to be positive")

    @classmethod
    def unfitted(
        cls, channels: Sequence[str], scale: Sequence[float], transform: Sequence[Transform]
    ) -> Normalizer:
        """Constants of a sensible size, for a network whose cost is measured without data."""
        return cls(
            channels=tuple(channels),
            scale=tuple(scale),
            transform=tuple(transform),
            mean=(0.0,) * len(channels),
            std=(3.0,) * len(channels),
            redshift_mean=8.0,
            redshift_std=2.0,
            xi_mean=0.5,
            xi_std=0.4,
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in vars(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Normalizer:
        """Inverse of `to_dict`."""
        lists_as_tuples: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        return cls(**lists_as_tuples)


def fit_normalizer(
    channels: Sequence[str],
    scale: Sequence[float],
    transform: Sequence[Transform],
    snapshots: Iterable[tuple[float, BoxChannels, BoxField]],
) -> Normalizer:
    """Measure mean and σ over snapshots in one pass.

    Parameters
    ----------
    channels, scale, transform
        One entry per channel.
    snapshots
        Triples of redshift, channels before they are scaled (channel, x, y, z), and xi (x, y, z).
    """
    totals = [Moments.empty() for _ in channels]
    target = Moments.empty()
    redshifts = []
    for redshift, values, xi in snapshots:
        redshifts.append(redshift)
        target = target.merge(moments(xi))
        for index, field in enumerate(values):
            if scale[index] != 1.0 or transform[index] != "none":
                field = affine(field, scale=scale[index], transform=transform[index])
            totals[index] = totals[index].merge(moments(field))
    spread = float(np.std(redshifts))
    return Normalizer(
        channels=tuple(channels),
        scale=tuple(scale),
        transform=tuple(transform),
        mean=tuple(float(total.mean) for total in totals),
        std=tuple(float(total.std) or 1.0 for total in totals),
        redshift_mean=float(np.mean(redshifts)),
        redshift_std=spread or 1.0,
        xi_mean=float(target.mean),
        xi_std=float(target.std) or 1.0,
    )


def fit_photons_per_source(simulations: Iterable[xr.Dataset], *, shining_time: float | None) -> float:
    """Fit the ionising photons, in 1e66, for each unit of a source field that is not a photon rate.

    The result is the slope of the straight line through the origin that fits the density of ionised atoms
    against that of the sources, with one point for each snapshot that is less than 80 per cent ionised.

    Parameters
    ----------
    simulations
        Simulations with n_igm, xi and the sources.
    shining_time
        None for the history (n_ion); else the shining time by which n_src is multiplied (`SHINING_TIME`).

    Raises
    ------
    InputError
        If no snapshot has sources and ionised gas.
    """
    products = squares = 0.0
    for sim in simulations:
        field = with_photons_left(sim)["n_ion"] if shining_time is None else sim["n_src"] * shining_time
        for index in range(sim.sizes["redshift"]):
            xi = sim["xi"][index].values.astype(np.float64)
            if xi.mean() > 0.8:
                continue
            sources = float(field[index].values.mean(dtype=np.float64))
            products += sources * float((xi * hydrogen_density(sim["n_igm"][index].values)).mean())
            squares += sources**2
    if not products > 0:
        raise InputError(
            "expected training boxes with sources and ionised gas, less than 80 per cent of it",
            hint="give the photons per unit of the sources with --set model.photons_per_source",
        )
    return products / squares
