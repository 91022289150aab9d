"""The statistics of one method against the truth: snapshot by snapshot, and pooled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from reion.metrics.bubbles import bubble_sizes, granulometry, granulometry_radii_mpc, size_edges_mpc
from reion.metrics.calibration import DensityErrors, Reliability, error_by_density, reliability
from reion.metrics.history import mass_mean, optical_depth
from reion.metrics.pointwise import ErrorSums
from reion.metrics.spectra import BANDS, BandSums, Modes, coefficient, dimensionless_factor
from reion.metrics.topology import betti_numbers, euler_characteristic, largest_cluster_fraction
from reion.metrics.twenty_one_cm import brightness_temperature
from reion.simulation.contract import check_values

if TYPE_CHECKING:
    from astropy.cosmology import FlatLambdaCDM

POOLED_REDSHIFT = 11.5
POOLED_MEAN_XI = (1e-3, 1 - 1e-3)
"""Pooled are the snapshots at or below this redshift whose true mean xi lies within these bounds."""

FEATURELESS_STD = 1e-3
"""A snapshot whose true xi scatters less than this has no structure to compare: R2 and spectra are null."""


@dataclass(frozen=True)
class Morphology:
    """What one field of xi looks like by itself: sizes and topology of its ionised regions."""

    mean_size_mpc: float | None
    size_probability: np.ndarray | None
    unbounded: float | None
    opened: np.ndarray | None
    largest_cluster: float | None
    euler: int
    betti: tuple[int, int, int]

    @classmethod
    def of(cls, xi: np.ndarray, box_size_mpc: Sequence[float]) -> Morphology:
        """Measure a field of shape (x, y, z)."""
        sizes = bubble_sizes(xi, box_size_mpc)
        openings = granulometry(xi, box_size_mpc)
        return cls(
            mean_size_mpc=sizes.mean_mpc if sizes else None,
            size_probability=sizes.probability if sizes else None,
            unbounded=sizes.unbounded if sizes else None,
            opened=openings[1] if openings else None,
            largest_cluster=largest_cluster_fraction(xi),
            euler=euler_characteristic(xi),
            betti=betti_numbers(xi),
        )


@dataclass(frozen=True)
class Truth:
    """One true snapshot and what every method is compared with."""

    redshift: float
    xi: np.ndarray
    modes: Modes
    transform: np.ndarray
    pooled: bool
    featureless: bool
    morphology: Morphology
    density: np.ndarray | None
    density_transform: np.ndarray | None

    @classmethod
    def read(cls, true: xr.Dataset, index: int, modes: Modes) -> Truth:
        """Read snapshot `index` of a Simulation with xi, and n_igm if it has that.

        Raises
        ------
        InputError
            If a value is not finite or out of range.
        """
        redshift = float(true["redshift"][index])
        xi = true["xi"][index].values
        check_values("xi", xi, redshift=redshift, file="truth")
        density = None
        if "n_igm" in true.data_vars:
            n_igm = true["n_igm"][index].values
            check_values("n_igm", n_igm, redshift=redshift, file="truth")
            mean_density = float(n_igm.mean(dtype=np.float64))
            density = n_igm / mean_density if mean_density > 0 else None
        mean = float(xi.mean(dtype=np.float64))
        low, high = POOLED_MEAN_XI
        return cls(
            redshift=redshift,
            xi=xi,
            modes=modes,
            transform=modes.transform(xi),
            pooled=redshift <= POOLED_REDSHIFT and low <= mean <= high,
            featureless=float(xi.std(dtype=np.float64)) < FEATURELESS_STD,
            morphology=Morphology.of(xi, modes.box_size_mpc),
            density=density,
            density_transform=None if density is None else modes.transform(density),
        )


@dataclass(frozen=True)
class SnapshotScores:
    """One method's statistics in one snapshot, and the sums that pooling needs."""

    row: dict[str, Any]
    pooled: bool
    errors: ErrorSums
    bands: Mapping[str, BandSums]
    reliability: Reliability
    density_errors: DensityErrors | None

    @classmethod
    def of(cls, pred: np.ndarray, truth: Truth, cosmology: FlatLambdaCDM) -> SnapshotScores:
        """Compare one predicted snapshot (x, y, z) with the true one."""
        errors = ErrorSums.of(pred, truth.xi)
        transform = truth.modes.transform(pred)
        bands = truth.modes.band_sums(transform, truth.transform)
        curve = reliability(pred, truth.xi)
        in_density = None if truth.density is None else error_by_density(pred, truth.xi, truth.density)
        defined = not truth.featureless
        row: dict[str, Any] = {
            "redshift": truth.redshift,
            **_errors(errors, defined=defined),
            "calibration_error": curve.error,
            "mass_weighted_xi_true": None if truth.density is None else mass_mean(truth.xi, truth.density),
            "mass_weighted_xi_pred": None if truth.density is None else mass_mean(pred, truth.density),
            **_bands(bands, defined=defined),
            **_morphology(Morphology.of(pred, truth.modes.box_size_mpc), truth),
            "spectrum": _spectrum(pred, transform, truth, cosmology) if defined else None,
            "reliability": _reliability(curve),
            "error_by_density": None if in_density is None else _density_errors(in_density),
        }
        return cls(row, truth.pooled, errors, bands, curve, in_density)


@dataclass
class Scores:
    """One method's statistics: a row a snapshot, and the sums that pooling needs.

    Parameters
    ----------
    cosmology
        For the optical depth and the 21-cm signal.
    """

    cosmology: FlatLambdaCDM
    redshifts: list[dict[str, Any]] = field(default_factory=list)
    pooled: list[dict[str, Any]] = field(default_factory=list)
    errors: ErrorSums = field(default_factory=ErrorSums)
    bands: dict[str, BandSums] = field(default_factory=lambda: {name: BandSums() for name in BANDS})
    reliability: Reliability = field(default_factory=Reliability)
    density_errors: DensityErrors = field(default_factory=DensityErrors)

    def add(self, snapshot: SnapshotScores) -> None:
        """Add the next snapshot."""
        self.redshifts.append(snapshot.row)
        if snapshot.pooled:
            self.pooled.append(snapshot.row)
            self.errors += snapshot.errors
            self.bands = {name: self.bands[name] + snapshot.bands[name] for name in BANDS}
            self.reliability += snapshot.reliability
            if snapshot.density_errors is not None:
                self.density_errors += snapshot.density_errors

    def result(self) -> dict[str, Any]:
        """As JSON: `pooled` and `redshifts`."""
        pooled = {
            **_errors(self.errors),
            "calibration_error": self.reliability.error,
            **_bands(self.bands),
            **{
                name: _mean([row[name] for row in self.pooled])
                for name in ("bubble_size_mpc_true", "bubble_size_mpc_pred")
            },
            "optical_depth_true": self._optical_depth("true"),
            "optical_depth_pred": self._optical_depth("pred"),
            "reliability": _reliability(self.reliability),
            "error_by_density": _density_errors(self.density_errors)
            if self.density_errors.cells.any()
            else None,
        }
        return {"pooled": pooled, "redshifts": self.redshifts}

    def _optical_depth(self, which: str) -> float:
        """From the mass-weighted history of all snapshots; from the volume's where there is no density."""
        weighted, plain = f"mass_weighted_xi_{which}", f"mean_xi_{which}"
        history = [row[plain] if row[weighted] is None else row[weighted] for row in self.redshifts]
        return optical_depth(
            [row["redshift"] for row in self.redshifts], np.clip(history, 0, 1), self.cosmology
        )


def _spectrum(
    pred: np.ndarray, transform: np.ndarray, truth: Truth, cosmology: FlatLambdaCDM
) -> dict[str, Any]:
    """Dimensionless power of both and how they correlate, in shells of k; 21-cm power in mK^2."""
    modes = truth.modes
    factor = dimensionless_factor(modes.shell_k)
    power_true, power_pred = modes.power(truth.transform), modes.power(transform)
    cross = modes.power(transform, truth.transform)
    out = {
        "k": numbers(modes.shell_k),
        "modes": numbers(modes.shell_modes),
        "power_true": numbers(factor * power_true),
        "power_pred": numbers(factor * power_pred),
        "cross_correlation": numbers(coefficient(cross, power_true, power_pred)),
    }
    if truth.density is not None and truth.density_transform is not None:
        density_power = modes.power(truth.density_transform)
        for name, field_transform, power in (
            ("true", truth.transform, power_true),
            ("pred", transform, power_pred),
        ):
            with_density = modes.power(field_transform, truth.density_transform)
            out[f"density_correlation_{name}"] = numbers(coefficient(with_density, power, density_power))
        for name, xi in (("true", truth.xi), ("pred", pred)):
            signal = brightness_temperature(xi, truth.density - 1, truth.redshift, cosmology)
            out[f"brightness_power_{name}"] = numbers(factor * modes.power(modes.transform(signal)))
    return out


def numbers(values: np.ndarray) -> list[float | None]:
    """As JSON: floats, and None for what is not defined."""
    return [float(value) if np.isfinite(value) else None for value in values]


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def _errors(sums: ErrorSums, *, defined: bool = True) -> dict[str, float | None]:
    return {
        "r2": sums.r2 if defined else None,
        "mse": sums.mse,
        "mae": sums.mae,
        "mean_xi_true": sums.mean_true,
        "mean_xi_pred": sums.mean_pred,
    }


def _bands(sums: Mapping[str, BandSums], *, defined: bool = True) -> dict[str, dict[str, float | None]]:
    return {
        "power_ratio": {name: band.power_ratio if defined else None for name, band in sums.items()},
        "cross_correlation": {
            name: band.cross_correlation if defined else None for name, band in sums.items()
        },
    }


def _morphology(pred: Morphology, truth: Truth) -> dict[str, Any]:
    modes, true = truth.modes, truth.morphology
    edges = size_edges_mpc(modes.shape, modes.box_size_mpc)
    out: dict[str, Any] = {}
    for name, of in (("true", true), ("pred", pred)):
        out[f"bubble_size_mpc_{name}"] = of.mean_size_mpc
        out[f"largest_cluster_{name}"] = of.largest_cluster
        out[f"euler_characteristic_{name}"] = of.euler
        out[f"betti_{name}"] = list(of.betti)
    out["bubble_sizes"] = {
        "radius_mpc": numbers(np.sqrt(edges[1:] * edges[:-1])),
        **{
            f"probability_{name}": None if of.size_probability is None else numbers(of.size_probability)
            for name, of in (("true", true), ("pred", pred))
        },
        **{f"unbounded_{name}": of.unbounded for name, of in (("true", true), ("pred", pred))},
    }
    out["granulometry"] = {
        "radius_mpc": numbers(granulometry_radii_mpc(modes.shape, modes.box_size_mpc)),
        **{
            f"fraction_{name}": None if of.opened is None else numbers(of.opened)
            for name, of in (("true", true), ("pred", pred))
        },
    }
    return out


def _reliability(curve: Reliability) -> dict[str, list[float | None]]:
    return {
        "cells": numbers(curve.cells),
        "mean_xi_pred": numbers(curve.mean_pred),
        "mean_xi_true": numbers(curve.mean_true),
    }


def _density_errors(errors: DensityErrors) -> dict[str, list[float | None]]:
    return {
        "overdensity": numbers(errors.mean_overdensity),
        "bias": numbers(errors.bias),
        "mse": numbers(errors.mse),
    }
