"""Statistics in Fourier space: power, transfer function and cross-correlation of periodic boxes.

Wavenumbers are |k| of the cubic modes in comoving Mpc-1 (no h). No window is applied or corrected for,
because the boxes are periodic and prediction and truth share the mesh. The mean of each field is subtracted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from reion.jobs.resources import fft_threads
from reion.metrics.fields import (
    Curve,
    Field,
    Transform,
    checked_box_size,
    checked_field,
    checked_pair,
    is_uniform,
)

BANDS = ("0.1", "0.5", "1.0", "nyquist")
"""Bands of k in Mpc-1: from 0.8 k to 1.2 k; `nyquist` from 0.8 to 1.0 of pi / cell."""

SHELL_WIDTH = 1.25
"""Shells of k start at half the lowest wavenumber 2 pi / L, grow by this factor (at least by 2 pi / L)
and end at pi / cell. Empty shells are left out."""

EDGE_SLACK = 1e-9
"""Relative slack at the edge of a band, so that rounding does not decide whether it has the Nyquist mode."""


@dataclass(frozen=True)
class BandSums:
    """Sums over the modes of one band: |T|^2, |P|^2, Re T P*. The sum of two objects pools their modes."""

    true: float = 0.0
    pred: float = 0.0
    cross: float = 0.0

    def __add__(self, other: BandSums) -> BandSums:
        return BandSums(self.true + other.true, self.pred + other.pred, self.cross + other.cross)

    @property
    def power_ratio(self) -> float | None:
        """Power of the prediction over power of the truth; None if the truth has none."""
        return self.pred / self.true if self.true > 0 else None

    @property
    def cross_correlation(self) -> float | None:
        """Cross-correlation coefficient, -1 to 1; None if one of the two has no power."""
        norm = np.sqrt(self.true) * np.sqrt(self.pred)
        return float(self.cross / norm) if norm > 0 else None


@dataclass(frozen=True)
class Modes:
    """The Fourier modes of a periodic box, sorted into bands and shells once and used for every field.

    Parameters
    ----------
    shape
        Cells along x, y, z.
    box_size_mpc
        Comoving side lengths in Mpc.
    """

    shape: tuple[int, int, int]
    box_size_mpc: tuple[float, float, float]

    @classmethod
    def of(cls, field: Field, box_size_mpc: float | Sequence[float]) -> Modes:
        """Return the modes of the box that `field` of shape (x, y, z) fills."""
        x, y, z = field.shape
        return cls((x, y, z), checked_box_size(box_size_mpc))

    @property
    def cell_mpc(self) -> float:
        """The longest side of a cell in Mpc, which sets the Nyquist wavenumber pi / cell."""
        return max(length / n for length, n in zip(self.box_size_mpc, self.shape, strict=True))

    @property
    def volume_mpc3(self) -> float:
        """Comoving volume of the box in Mpc3."""
        return float(np.prod(self.box_size_mpc))

    @cached_property
    def k(self) -> np.ndarray:
        """|k| in Mpc-1 of the modes of a real transform, shape (x, y, z // 2 + 1)."""
        (nx, ny, nz), (lx, ly, lz) = self.shape, self.box_size_mpc
        kx = 2 * np.pi * np.fft.fftfreq(nx, lx / nx)
        ky = 2 * np.pi * np.fft.fftfreq(ny, ly / ny)
        kz = 2 * np.pi * np.fft.rfftfreq(nz, lz / nz)
        wavenumber: np.ndarray = np.sqrt(kx[:, None, None] ** 2 + ky[:, None] ** 2 + kz**2)
        return wavenumber

    @cached_property
    def weight(self) -> np.ndarray:
        """Number of modes of the full transform that each column along z stands for: one or two."""
        n = self.shape[2]
        weight = np.full(n // 2 + 1, 2.0)
        weight[0] = 1.0
        if n % 2 == 0:
            weight[-1] = 1.0
        return weight

    @cached_property
    def bands(self) -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
        """Flat indices and weights of the modes in each of `BANDS`."""
        nyquist = np.pi / self.cell_mpc
        bands = {}
        for name in BANDS:
            low, high = (0.8, 1.0) if name == "nyquist" else (0.8, 1.2)
            centre = nyquist if name == "nyquist" else float(name)
            inside = (self.k >= low * centre * (1 - EDGE_SLACK)) & (
                self.k <= high * centre * (1 + EDGE_SLACK)
            )
            index = np.flatnonzero(inside)
            bands[name] = (index, self.weight[index % self.k.shape[2]])
        return bands

    @cached_property
    def shell(self) -> np.ndarray:
        """Number of the shell of every mode, flat; the last number is for modes outside all shells."""
        lowest = 2 * np.pi / max(self.box_size_mpc)
        nyquist = np.pi / self.cell_mpc * (1 + EDGE_SLACK)
        edges = [0.5 * lowest]
        while edges[-1] < nyquist:
            edges.append(min(max(edges[-1] + lowest, edges[-1] * SHELL_WIDTH), nyquist))
        # The mean (k = 0) and the corners beyond the Nyquist wavenumber get the last number.
        index = np.searchsorted(edges, self.k.reshape(-1), side="right") - 1
        index[index < 0] = len(edges) - 1
        numbers: np.ndarray = np.unique(index, return_inverse=True)[1]
        return numbers

    @cached_property
    def shell_modes(self) -> Curve:
        """Number of modes of the full transform in each shell, twice the number of independent modes."""
        return self.shell_sums(np.ones(self.k.shape))

    @cached_property
    def shell_k(self) -> Curve:
        """Mean |k| of the modes in each shell, in Mpc-1."""
        mean: Curve = self.shell_sums(self.k) / self.shell_modes
        return mean

    def shell_sums(self, values: np.ndarray) -> Curve:
        """Sum of `values` (shape of `k`) over the modes of each shell, float64."""
        weighted = (values * self.weight).reshape(-1)
        sums: Curve = np.bincount(self.shell, weights=weighted)[:-1]
        return sums

    def power(self, transform: Transform, other: Transform | None = None) -> Curve:
        """Power spectrum in each shell, Mpc3 times the field's unit squared: V <|F|^2> / N^2.

        With `other`, the cross-power of the two: V <Re F G*> / N^2.
        """
        other = transform if other is None else other
        product = transform.real * other.real + transform.imag * other.imag
        cells = float(np.prod(self.shape))
        power: Curve = self.shell_sums(product) / self.shell_modes * (self.volume_mpc3 / cells**2)
        return power

    def transform(self, field: Field) -> Transform:
        """Fourier transform of `field` (x, y, z) less its mean: complex128, shape (x, y, z // 2 + 1).

        A uniform field gives exact zeros.
        """
        if is_uniform(field):
            return np.zeros(self.k.shape, dtype=np.complex128)
        values = field.astype(np.float64)
        values -= values.mean()
        import scipy.fft  # see `reion.metrics.bubbles`

        transformed: Transform = scipy.fft.rfftn(values, workers=fft_threads(), overwrite_x=True)
        return transformed

    def band_sums(self, pred: Transform, true: Transform) -> dict[str, BandSums]:
        """Sum over each of `BANDS` for two transforms (see `transform`)."""
        sums = {}
        flat_pred, flat_true = pred.reshape(-1), true.reshape(-1)
        for name, (index, weight) in self.bands.items():
            p, t = flat_pred[index], flat_true[index]
            sums[name] = BandSums(
                true=float(weight @ (t.real**2 + t.imag**2)),
                pred=float(weight @ (p.real**2 + p.imag**2)),
                cross=float(weight @ (t.real * p.real + t.imag * p.imag)),
            )
        return sums


def power_ratio(pred: Field, true: Field, box_size_mpc: float | Sequence[float]) -> dict[str, float | None]:
    """Power of the prediction over power of the truth, sum |P|^2 / sum |T|^2, in each of `BANDS`.

    Parameters
    ----------
    pred, true
        Fields of shape (x, y, z).
    box_size_mpc
        Comoving side length in Mpc, one number or three.

    Returns
    -------
    dict
        The ratio by band; None if the band has no modes or the truth is uniform.

    Raises
    ------
    InputError
        If the shapes differ, a value is not finite or the box size is invalid.
    """
    return {name: sums.power_ratio for name, sums in _band_sums(pred, true, box_size_mpc).items()}


def cross_correlation(
    pred: Field, true: Field, box_size_mpc: float | Sequence[float]
) -> dict[str, float | None]:
    """Cross-correlation Re sum T P* / sqrt(sum |T|^2 sum |P|^2) in each of `BANDS`.

    Parameters and errors are as in `power_ratio`; None if the band has no modes or a field is uniform.
    """
    return {name: sums.cross_correlation for name, sums in _band_sums(pred, true, box_size_mpc).items()}


@dataclass(frozen=True)
class PowerSpectrum:
    """Power spectrum of a field in shells of k; arrays of one shape (shells,), float64.

    k: mean |k| of the modes of each shell in Mpc-1. power: V <|F|^2> / N^2 in Mpc3 times the field's unit
    squared. modes: number of modes of the full transform in each shell, twice that of independent modes.
    """

    k: Curve
    power: Curve
    modes: Curve

    @property
    def dimensionless(self) -> Curve:
        """k^3 P / (2 pi^2): the variance per unit of ln k, in the field's unit squared."""
        variance: Curve = self.power * dimensionless_factor(self.k)
        return variance

    @property
    def relative_error(self) -> Curve:
        """Cosmic variance as a fraction of the power: one over the root of the number of independent modes.

        This holds for a Gaussian field (Feldman, Kaiser & Peacock 1994, ApJ 426, 23). An ionised fraction is
        not Gaussian: on small scales its true scatter is larger.
        """
        error: Curve = np.sqrt(2.0 / self.modes)
        return error


def dimensionless_factor(k: Curve) -> Curve:
    """The factor k^3 / (2 pi^2), which makes a power spectrum dimensionless."""
    factor: Curve = k**3 / (2 * np.pi**2)
    return factor


def power_spectrum(field: Field, box_size_mpc: float | Sequence[float]) -> PowerSpectrum:
    """Power spectrum of a field of shape (x, y, z), less its mean, in shells up to pi / cell.

    Raises
    ------
    InputError
        If a value is not finite or the box size is invalid.
    """
    field = checked_field(field)
    modes = Modes.of(field, box_size_mpc)
    return PowerSpectrum(modes.shell_k, modes.power(modes.transform(field)), modes.shell_modes)


def transfer_function(pred: Field, true: Field, box_size_mpc: float | Sequence[float]) -> tuple[Curve, Curve]:
    """Transfer function sqrt(P_pred / P_true) in shells of k.

    Returns
    -------
    tuple of numpy.ndarray
        k in Mpc-1 and the function, shape (shells,); NaN where the truth has no power.

    Raises
    ------
    InputError
        As `power_ratio` does.
    """
    modes, p, t = _transforms(pred, true, box_size_mpc)
    true_power = modes.power(t)
    ratio = np.full(true_power.shape, np.nan)
    np.divide(modes.power(p), true_power, out=ratio, where=true_power > 0)
    return modes.shell_k, np.sqrt(ratio)


def cross_coefficient(a: Field, b: Field, box_size_mpc: float | Sequence[float]) -> tuple[Curve, Curve]:
    """Cross-correlation coefficient r(k) = P_ab / sqrt(P_aa P_bb) in shells of k.

    The fields may be prediction and truth, or ionised fraction and density. Returns and errors are as in
    `transfer_function`; NaN where one of the fields has no power.
    """
    modes, fa, fb = _transforms(a, b, box_size_mpc)
    return modes.shell_k, coefficient(modes.power(fa, fb), modes.power(fa), modes.power(fb))


def coefficient(cross: Curve, a: Curve, b: Curve) -> Curve:
    """Cross-power over the root of the two powers; NaN where one of them is zero."""
    norm = np.sqrt(a) * np.sqrt(b)
    out = np.full(norm.shape, np.nan)
    np.divide(cross, norm, out=out, where=norm > 0)
    return out


def _transforms(
    pred: Field, true: Field, box_size_mpc: float | Sequence[float]
) -> tuple[Modes, Transform, Transform]:
    pred, true = checked_pair(pred, true)
    modes = Modes.of(true, box_size_mpc)
    return modes, modes.transform(pred), modes.transform(true)


def _band_sums(pred: Field, true: Field, box_size_mpc: float | Sequence[float]) -> dict[str, BandSums]:
    modes, p, t = _transforms(pred, true, box_size_mpc)
    return modes.band_sums(p, t)
