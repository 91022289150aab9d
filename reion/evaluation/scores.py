"""The scores of one method against the truth: in each snapshot, and pooled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from reion.evaluation.field_statistics import Bins, FieldStatistics, Gas
from reion.metrics.calibration import (
    DensityErrors,
    Reliability,
    SpreadCalibration,
    error_by_density,
    reliability,
    spread_calibration,
)
from reion.metrics.fields import Curve, Field, Transform
from reion.metrics.history import optical_depth
from reion.metrics.pointwise import ErrorSums
from reion.metrics.pooling import is_pooled
from reion.metrics.spectra import BANDS, BandSums, Modes, coefficient
from reion.simulation.contract import check_values

if TYPE_CHECKING:
    from astropy.cosmology import FlatLambdaCDM

FEATURELESS_STD = 1e-3
"""A snapshot whose true xi has a smaller standard deviation is featureless: it has no R² and no spectra."""


@dataclass(frozen=True)
class Truth:
    """The true xi of one snapshot, and the quantities that are measured from it once for all methods.

    Parameters
    ----------
    xi, transform
        The field (x, y, z) and its Fourier transform.
    featureless
        Whether the standard deviation of xi is below `FEATURELESS_STD`.
    """

    xi: Field
    transform: Transform
    gas: Gas
    bins: Bins
    statistics: FieldStatistics
    featureless: bool

    @classmethod
    def read(cls, sim: xr.Dataset, index: int, modes: Modes) -> Truth:
        """Read snapshot `index` of a Simulation: xi, and n_igm if the Simulation has it.

        Raises
        ------
        InputError
            If a value is not finite or out of range.
        """
        xi = sim["xi"][index].values
        check_values("xi", xi, redshift=float(sim["redshift"][index]), file="truth")
        gas = Gas.read(sim, index, modes)
        featureless = float(xi.std(dtype=np.float64)) < FEATURELESS_STD
        transform = modes.transform(xi)
        statistics = FieldStatistics.of(xi, transform, gas, spectrum=not featureless)
        return cls(xi, transform, gas, Bins.of(modes), statistics, featureless)


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Agreement of a prediction with the truth over the cells and modes of one or several snapshots.

    Parameters
    ----------
    bands
        The sums over the modes of each band of k (see `reion.metrics.spectra.BANDS`).
    density_errors
        Errors by density; None if no snapshot has a density.
    spread_calibration
        Calibration of xi_std; None if the prediction has none.
    """

    errors: ErrorSums
    bands: Mapping[str, BandSums]
    reliability: Reliability
    density_errors: DensityErrors | None
    spread_calibration: SpreadCalibration | None = None

    @property
    def r2(self) -> float | None:
        """R², the coefficient of determination; None if it is not defined."""
        return self.errors.r2

    @property
    def mse(self) -> float | None:
        """Mean squared error; None without cells."""
        return self.errors.mse

    @property
    def mae(self) -> float | None:
        """Mean absolute error; None without cells."""
        return self.errors.mae

    @property
    def mean_xi_true(self) -> float | None:
        """True mean ionised fraction by volume; None without cells."""
        return self.errors.mean_true

    @property
    def mean_xi_pred(self) -> float | None:
        """Predicted mean ionised fraction by volume; None without cells."""
        return self.errors.mean_pred

    @property
    def calibration_error(self) -> float | None:
        """See `reion.metrics.calibration.Reliability.error`; None without cells."""
        return self.reliability.error

    @property
    def power_ratio(self) -> Mapping[str, float | None]:
        """Predicted over true power in each band of k; None where it is not defined."""
        return {band: sums.power_ratio for band, sums in self.bands.items()}

    @property
    def cross_correlation(self) -> Mapping[str, float | None]:
        """Cross-correlation with the truth in each band of k; None where it is not defined."""
        return {band: sums.cross_correlation for band, sums in self.bands.items()}

    def _errors_json(self) -> dict[str, Any]:
        return {
            "r2": self.r2,
            "mse": self.mse,
            "mae": self.mae,
            "mean_xi_true": self.mean_xi_true,
            "mean_xi_pred": self.mean_xi_pred,
            "calibration_error": self.calibration_error,
        }

    def _bands_json(self) -> dict[str, Any]:
        return {"power_ratio": dict(self.power_ratio), "cross_correlation": dict(self.cross_correlation)}

    def _calibration_json(self) -> dict[str, Any]:
        errors, spread = self.density_errors, self.spread_calibration
        of_spread: dict[str, Any] = {}
        if spread is not None:
            of_spread["spread_calibration"] = {
                "cells": as_json(spread.cells),
                "predicted_spread": as_json(spread.predicted),
                "found_error": as_json(spread.found),
            }
        return {
            "reliability": {
                "cells": as_json(self.reliability.cells),
                "mean_xi_pred": as_json(self.reliability.mean_pred),
                "mean_xi_true": as_json(self.reliability.mean_true),
            },
            "error_by_density": None
            if errors is None
            else {
                "overdensity": as_json(errors.mean_overdensity),
                "bias": as_json(errors.bias),
                "mse": as_json(errors.mse),
            },
            **of_spread,
        }


@dataclass(frozen=True, kw_only=True)
class SnapshotScores(Agreement):
    """The scores of one method in one snapshot.

    Parameters
    ----------
    true, pred
        Statistics of the true and of the predicted field, each by itself.
    cross_correlation_spectrum
        Cross-correlation of prediction and truth in the shells of `bins`, shape (shells,), NaN where it is
        not defined. None if the truth is featureless.
    featureless
        Whether the truth is featureless, see `FEATURELESS_STD`: R² and the scores by band are then None.
    """

    redshift: float
    bins: Bins
    true: FieldStatistics
    pred: FieldStatistics
    cross_correlation_spectrum: Curve | None
    featureless: bool

    @classmethod
    def of(cls, pred: Field, truth: Truth, *, spread: Field | None = None) -> SnapshotScores:
        """Compare one predicted snapshot (x, y, z) with the truth; `spread` is its xi_std, (x, y, z)."""
        gas = truth.gas
        transform = gas.modes.transform(pred)
        statistics = FieldStatistics.of(pred, transform, gas, spectrum=not truth.featureless)
        correlation = None
        if not truth.featureless:
            powers = gas.modes.power(truth.transform), gas.modes.power(transform)
            correlation = coefficient(gas.modes.power(transform, truth.transform), *powers)
        return cls(
            errors=ErrorSums.of(pred, truth.xi),
            bands=gas.modes.band_sums(transform, truth.transform),
            reliability=reliability(pred, truth.xi),
            density_errors=None if gas.density is None else error_by_density(pred, truth.xi, gas.density),
            spread_calibration=None if spread is None else spread_calibration(pred, spread, truth.xi),
            redshift=gas.redshift,
            bins=truth.bins,
            true=truth.statistics,
            pred=statistics,
            cross_correlation_spectrum=correlation,
            featureless=truth.featureless,
        )

    @property
    def is_pooled(self) -> bool:
        """Whether the snapshot counts in pooled scores."""
        return is_pooled(self.redshift, self.true.mean_xi)

    @property
    def r2(self) -> float | None:
        """R², the coefficient of determination; None if the truth is featureless."""
        return None if self.featureless else super().r2

    @property
    def power_ratio(self) -> Mapping[str, float | None]:
        """Predicted over true power in each band of k; None if the truth is featureless."""
        return dict.fromkeys(self.bands) if self.featureless else super().power_ratio

    @property
    def cross_correlation(self) -> Mapping[str, float | None]:
        """Cross-correlation with the truth in each band of k; None if the truth is featureless."""
        return dict.fromkeys(self.bands) if self.featureless else super().cross_correlation

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values: an entry of `redshifts` in the JSON of an evaluation."""
        fields = {"true": self.true, "pred": self.pred}
        regions: dict[str, Any] = {}
        for name, field in fields.items():
            regions[f"bubble_size_mpc_{name}"] = field.bubble_size_mpc
            regions[f"largest_cluster_{name}"] = field.largest_cluster
            regions[f"euler_characteristic_{name}"] = field.euler_characteristic
            regions[f"betti_{name}"] = list(field.betti)
        sizes = {name: field.bubble_sizes for name, field in fields.items()}
        return {
            "redshift": self.redshift,
            **self._errors_json(),
            **{f"mass_weighted_xi_{name}": field.mass_weighted_xi for name, field in fields.items()},
            **self._bands_json(),
            **regions,
            "bubble_sizes": {
                "radius_mpc": as_json(self.bins.bubble_radius_mpc),
                **{f"probability_{name}": s and as_json(s.probability) for name, s in sizes.items()},
                **{f"unbounded_{name}": s and s.unbounded for name, s in sizes.items()},
            },
            "granulometry": {
                "radius_mpc": as_json(self.bins.ball_radius_mpc),
                **{f"fraction_{name}": as_json(field.ball_fraction) for name, field in fields.items()},
            },
            "spectrum": self._spectrum_json(),
            **self._calibration_json(),
        }

    def _spectrum_json(self) -> dict[str, Any] | None:
        true, pred = self.true.spectrum, self.pred.spectrum
        if true is None or pred is None:
            return None
        curves = {
            "k": self.bins.k,
            "modes": self.bins.modes,
            "power_true": true.power,
            "power_pred": pred.power,
            "cross_correlation": self.cross_correlation_spectrum,
            "density_correlation_true": true.density_correlation,
            "density_correlation_pred": pred.density_correlation,
            "brightness_power_true": true.brightness_power,
            "brightness_power_pred": pred.brightness_power,
        }
        return {name: as_json(curve) for name, curve in curves.items() if curve is not None}


@dataclass(frozen=True, kw_only=True)
class PooledScores(Agreement):
    """The scores of one method over all cells and modes of the pooled snapshots.

    Parameters
    ----------
    bubble_size_mpc_true, bubble_size_mpc_pred
        Means over the pooled snapshots in which both are defined; None if there are none.
    optical_depth_true, optical_depth_pred
        Optical depths from the mean xi of all snapshots, pooled or not.
    """

    bubble_size_mpc_true: float | None
    bubble_size_mpc_pred: float | None
    optical_depth_true: float
    optical_depth_pred: float

    @classmethod
    def of(cls, snapshots: Sequence[SnapshotScores], cosmology: FlatLambdaCDM) -> PooledScores:
        """Pool the snapshots of one method; the cosmology is for the optical depth."""
        pooled = [snapshot for snapshot in snapshots if snapshot.is_pooled]
        by_spread = [s.spread_calibration for s in pooled if s.spread_calibration is not None]
        by_density = [s.density_errors for s in pooled if s.density_errors is not None]
        both = [(s.true.bubble_size_mpc, s.pred.bubble_size_mpc) for s in pooled]
        sizes = [(true, pred) for true, pred in both if true is not None and pred is not None]
        redshift = [snapshot.redshift for snapshot in snapshots]
        true, pred = (
            np.clip([field.history_xi for field in fields], 0, 1)
            for fields in ([s.true for s in snapshots], [s.pred for s in snapshots])
        )
        return cls(
            errors=sum((s.errors for s in pooled), ErrorSums()),
            bands={band: sum((s.bands[band] for s in pooled), BandSums()) for band in BANDS},
            reliability=sum((s.reliability for s in pooled), Reliability()),
            density_errors=sum(by_density, DensityErrors()) if by_density else None,
            spread_calibration=sum(by_spread, SpreadCalibration()) if by_spread else None,
            bubble_size_mpc_true=None if not sizes else float(np.mean([true for true, _ in sizes])),
            bubble_size_mpc_pred=None if not sizes else float(np.mean([pred for _, pred in sizes])),
            optical_depth_true=optical_depth(redshift, true, cosmology),
            optical_depth_pred=optical_depth(redshift, pred, cosmology),
        )

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values: the entry `pooled` in the JSON of an evaluation."""
        return {
            **self._errors_json(),
            **self._bands_json(),
            "bubble_size_mpc_true": self.bubble_size_mpc_true,
            "bubble_size_mpc_pred": self.bubble_size_mpc_pred,
            "optical_depth_true": self.optical_depth_true,
            "optical_depth_pred": self.optical_depth_pred,
            **self._calibration_json(),
        }


@dataclass(frozen=True)
class MethodScores:
    """The scores of one method in every snapshot, in order of time, and pooled."""

    snapshots: tuple[SnapshotScores, ...]
    pooled: PooledScores

    @classmethod
    def of(cls, snapshots: Sequence[SnapshotScores], cosmology: FlatLambdaCDM) -> MethodScores:
        """Pool the snapshots and keep them."""
        return cls(tuple(snapshots), PooledScores.of(snapshots, cosmology))

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values: the entries `pooled` and `redshifts` in the JSON of an evaluation."""
        return {
            "pooled": self.pooled.to_json(),
            "redshifts": [snapshot.to_json() for snapshot in self.snapshots],
        }


def as_json(curve: Curve | None) -> list[float | None] | None:
    """A curve as a list for JSON: floats, and None for values that are not defined."""
    if curve is None:
        return None
    return [float(value) if np.isfinite(value) else None for value in curve]
