"""Mean and σ of what a network sees, measured in one pass over the training boxes and kept with the run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reion_kernels import Moments, Transform, affine, moments


@dataclass(frozen=True, kw_only=True)
class Normalizer:
    """Constants of the normalisation y = (transform(x · scale) − mean) / σ, one of each per channel.

    Attributes
    ----------
    channels
        Names of the channels, in order.
    scale, transform, mean, std
        Per channel; `transform` is none, log1p or asinh, `std` is never zero.
    redshift_mean, redshift_std
        The redshift's own normalisation.
    xi_mean, xi_std
        Mean and σ of the target, for networks that predict it normalised.
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
    snapshots: Iterable[tuple[float, np.ndarray, np.ndarray]],
) -> Normalizer:
    """Measure mean and σ over snapshots in one pass.

    Parameters
    ----------
    channels, scale, transform
        One entry per channel.
    snapshots
        Triples of redshift, the channels before scaling (channel, x, y, z) and xi (x, y, z), float32.
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
