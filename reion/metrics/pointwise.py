"""Errors of a prediction cell by cell: R², mean squared and mean absolute error."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from reion.metrics.fields import Field, checked_pair, is_uniform_between


@dataclass(frozen=True)
class ErrorSums:
    """Sums over cells that give R², MSE and MAE; the sum of two objects pools their cells.

    `cells`, `true`, `true_squared`, `pred`, `squared_error`, `absolute_error`: float64 sums; `low` and
    `high` are the smallest and the largest true value.
    """

    cells: int = 0
    true: float = 0.0
    true_squared: float = 0.0
    pred: float = 0.0
    squared_error: float = 0.0
    absolute_error: float = 0.0
    low: float = field(default=np.inf)
    high: float = field(default=-np.inf)

    @classmethod
    def of(cls, pred: Field, true: Field) -> ErrorSums:
        """Sum over the cells of one pair of fields of shape (x, y, z).

        Raises
        ------
        InputError
            If the shapes differ or a value is not finite.
        """
        pred, true = checked_pair(pred, true)
        error = pred.astype(np.float64) - true
        return cls(
            cells=true.size,
            true=float(true.sum(dtype=np.float64)),
            true_squared=float(np.square(true, dtype=np.float64).sum()),
            pred=float(pred.sum(dtype=np.float64)),
            squared_error=float(np.square(error).sum()),
            absolute_error=float(np.abs(error).sum()),
            low=float(true.min()),
            high=float(true.max()),
        )

    def __add__(self, other: ErrorSums) -> ErrorSums:
        return ErrorSums(
            cells=self.cells + other.cells,
            true=self.true + other.true,
            true_squared=self.true_squared + other.true_squared,
            pred=self.pred + other.pred,
            squared_error=self.squared_error + other.squared_error,
            absolute_error=self.absolute_error + other.absolute_error,
            low=min(self.low, other.low),
            high=max(self.high, other.high),
        )

    @property
    def std_true(self) -> float | None:
        """Standard deviation of the truth; None without cells."""
        if not self.cells:
            return None
        return float(np.sqrt(max(self.true_squared / self.cells - (self.true / self.cells) ** 2, 0.0)))

    @property
    def r2(self) -> float | None:
        """R² = 1 - sum (p - t)^2 / sum (t - mean t)^2; None if the truth is uniform."""
        if not self.cells or is_uniform_between(self.low, self.high):
            return None
        scatter = self.true_squared - self.true**2 / self.cells
        return 1.0 - self.squared_error / scatter if scatter > 0 else None

    @property
    def mse(self) -> float | None:
        """Mean squared error; None without cells."""
        return self.squared_error / self.cells if self.cells else None

    @property
    def mae(self) -> float | None:
        """Mean absolute error; None without cells."""
        return self.absolute_error / self.cells if self.cells else None

    @property
    def mean_true(self) -> float | None:
        """Mean of the truth; None without cells."""
        return self.true / self.cells if self.cells else None

    @property
    def mean_pred(self) -> float | None:
        """Mean of the prediction; None without cells."""
        return self.pred / self.cells if self.cells else None


def r2(pred: Field, true: Field) -> float | None:
    """Coefficient of determination, R² = 1 - sum (p - t)^2 / sum (t - mean t)^2.

    Parameters
    ----------
    pred, true
        Fields of shape (x, y, z), any float dtype; sums are taken in float64.

    Returns
    -------
    float or None
        None if the truth is uniform (up to the rounding of float32), because R² is then not defined.

    Raises
    ------
    InputError
        If the shapes differ or a value is not finite.
    """
    return ErrorSums.of(pred, true).r2


def mse(pred: Field, true: Field) -> float:
    """Mean squared error of fields of shape (x, y, z); raises like `r2`."""
    sums = ErrorSums.of(pred, true)
    return sums.squared_error / sums.cells


def mae(pred: Field, true: Field) -> float:
    """Mean absolute error of fields of shape (x, y, z); raises like `r2`."""
    sums = ErrorSums.of(pred, true)
    return sums.absolute_error / sums.cells
