"""Calibration of a predicted ionised fraction and of its error bar, and the error by density."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Self

import numpy as np

from reion.errors import InputError
from reion.metrics.fields import Curve, Field, checked_pair

RELIABILITY_BINS = 20
DENSITY_BINS = 10
SPREAD_BINS = 10
LARGEST_SPREAD = 0.5
"""Largest standard deviation of a distribution between 0 and 1 (Popoviciu's inequality)."""

_ONE_SIGMA = 0.683
"""Share of the values of a Gaussian within one standard deviation."""


def one_standard_deviation(errors: Sequence[float]) -> float:
    """The value that 68.3 % of the absolute values of some errors stay below."""
    return float(np.quantile(np.abs(errors), _ONE_SIGMA))


def _zeros(size: int) -> Curve:
    return np.zeros(size)


@dataclass(frozen=True)
class _PooledBins:
    """Sums over the cells of each bin; the sum of two objects pools their cells."""

    def __add__(self, other: Self) -> Self:
        names = [item.name for item in fields(self)]
        return type(self)(*(getattr(self, name) + getattr(other, name) for name in names))


@dataclass(frozen=True)
class Reliability(_PooledBins):
    """Cells in equal bins of their predicted xi from 0 to 1; the sum of two objects pools their cells.

    cells, pred, true: number of cells, sum of prediction and sum of truth in each bin, float64.
    """

    cells: Curve = field(default_factory=lambda: _zeros(RELIABILITY_BINS))
    pred: Curve = field(default_factory=lambda: _zeros(RELIABILITY_BINS))
    true: Curve = field(default_factory=lambda: _zeros(RELIABILITY_BINS))

    @property
    def mean_pred(self) -> Curve:
        """Mean prediction in each bin; NaN in empty bins."""
        return _ratio(self.pred, self.cells)

    @property
    def mean_true(self) -> Curve:
        """Mean truth in each bin; NaN in empty bins. A calibrated prediction has it equal to `mean_pred`."""
        return _ratio(self.true, self.cells)

    @property
    def error(self) -> float | None:
        """Calibration error: |mean prediction - mean truth| averaged over cells; None without cells.

        The expected calibration error of Naeini, Cooper & Hauskrecht 2015 (AAAI), for a fraction.
        """
        total = float(self.cells.sum())
        return float(np.abs(self.pred - self.true).sum() / total) if total else None


def reliability(pred: Field, true: Field) -> Reliability:
    """Reliability curve of a predicted ionised fraction, in 20 bins of the prediction.

    Parameters
    ----------
    pred, true
        Fields of shape (x, y, z); predictions outside 0 to 1 count in the outermost bins.

    Raises
    ------
    InputError
        If the shapes differ or a value is not finite.
    """
    pred, true = checked_pair(pred, true)
    bins = np.clip((pred * RELIABILITY_BINS).astype(np.intp), 0, RELIABILITY_BINS - 1).reshape(-1)
    return Reliability(*_sums(bins, RELIABILITY_BINS, pred, true))


@dataclass(frozen=True)
class SpreadCalibration(_PooledBins):
    """Cells in ten equal bins of their xi_std, from 0 to 0.5; the sum of two objects pools their cells.

    xi_std is the predicted standard deviation of the error. cells, variance, squared_error: number of cells,
    sum of xi_std squared, and sum of (prediction - truth) squared in each bin, float64.
    """

    cells: Curve = field(default_factory=lambda: _zeros(SPREAD_BINS))
    variance: Curve = field(default_factory=lambda: _zeros(SPREAD_BINS))
    squared_error: Curve = field(default_factory=lambda: _zeros(SPREAD_BINS))

    @property
    def predicted(self) -> Curve:
        """Root mean square of xi_std in each bin; NaN in empty bins."""
        rms: Curve = np.sqrt(_ratio(self.variance, self.cells))
        return rms

    @property
    def found(self) -> Curve:
        """Root mean square error in each bin; NaN in empty bins. Calibrated error bars equal `predicted`."""
        rms: Curve = np.sqrt(_ratio(self.squared_error, self.cells))
        return rms


def spread_calibration(pred: Field, spread: Field, true: Field) -> SpreadCalibration:
    """Compare the error of a prediction with its predicted standard deviation.

    Parameters
    ----------
    pred, spread, true
        Prediction, its xi_std, and truth, each of shape (x, y, z). A spread above 0.5 counts in the last bin.

    Raises
    ------
    InputError
        If the shapes differ, a value is not finite, or a spread is negative.
    """
    pred, true = checked_pair(pred, true)
    spread, _ = checked_pair(spread, true)
    if spread.min() < 0:
        raise InputError(f"expected standard deviations of at least 0; received {float(spread.min()):g}")
    bins = (spread * (SPREAD_BINS / LARGEST_SPREAD)).astype(np.intp).reshape(-1)
    error = pred.astype(np.float64) - true
    wide = spread.astype(np.float64)
    return SpreadCalibration(
        *_sums(np.minimum(bins, SPREAD_BINS - 1), SPREAD_BINS, np.square(wide), np.square(error))
    )


@dataclass(frozen=True)
class DensityErrors(_PooledBins):
    """Cells in ten bins of density with equal volume; the sum of two objects pools their cells.

    cells, overdensity, error, squared_error, true: number of cells and sums in each bin (float64) of density
    over its mean, prediction - truth, its square, and the truth.
    """

    cells: Curve = field(default_factory=lambda: _zeros(DENSITY_BINS))
    overdensity: Curve = field(default_factory=lambda: _zeros(DENSITY_BINS))
    error: Curve = field(default_factory=lambda: _zeros(DENSITY_BINS))
    squared_error: Curve = field(default_factory=lambda: _zeros(DENSITY_BINS))
    true: Curve = field(default_factory=lambda: _zeros(DENSITY_BINS))

    @property
    def mean_overdensity(self) -> Curve:
        """Mean of density over its mean in each bin; NaN in empty bins."""
        return _ratio(self.overdensity, self.cells)

    @property
    def bias(self) -> Curve:
        """Mean of prediction - truth in each bin; NaN in empty bins."""
        return _ratio(self.error, self.cells)

    @property
    def mse(self) -> Curve:
        """Mean squared error in each bin; NaN in empty bins."""
        return _ratio(self.squared_error, self.cells)


def error_by_density(pred: Field, true: Field, density: Field) -> DensityErrors:
    """The error of a prediction by density, from the emptiest tenth of the volume to the densest.

    Parameters
    ----------
    pred, true, density
        Fields of shape (x, y, z); the density in any unit.

    Raises
    ------
    InputError
        If the shapes differ, a value is not finite, or the mean density is not positive.
    """
    pred, true = checked_pair(pred, true)
    density, _ = checked_pair(density, true)
    mean = float(density.mean(dtype=np.float64))
    if mean <= 0:
        raise InputError("expected a density above zero; received an empty box")
    edges = np.quantile(density, np.arange(1, DENSITY_BINS) / DENSITY_BINS)
    bins = np.searchsorted(edges, density.reshape(-1), side="right")
    error = pred.astype(np.float64) - true
    return DensityErrors(*_sums(bins, DENSITY_BINS, density / mean, error, np.square(error), true))


def _sums(bins: np.ndarray, count: int, *fields: Field) -> list[Curve]:
    """Number of cells and sum of each field in each of `count` bins; `bins` has that of each cell, flat."""
    sums: list[Curve] = [np.bincount(bins, minlength=count).astype(np.float64)]
    sums += [np.bincount(bins, weights=values.reshape(-1), minlength=count) for values in fields]
    return sums


def _ratio(sums: Curve, cells: Curve) -> Curve:
    """Mean in each bin; NaN in empty bins."""
    out = np.full(cells.shape, np.nan)
    np.divide(sums, cells, out=out, where=cells > 0)
    return out
