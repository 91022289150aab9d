"""The statistics that papers on reionisation report, of plain arrays with the box size in comoving Mpc.

Fields are arrays of shape (x, y, z) of a periodic box. A statistic that is not defined (R² of a uniform
field, bubble sizes without ionised cells) is None, or NaN within an array: never a made-up number or a
warning.
"""

from reion.metrics.bubbles import BubbleSizes, bubble_sizes, granulometry
from reion.metrics.calibration import DensityErrors, Reliability, error_by_density, reliability
from reion.metrics.history import mass_mean, optical_depth, volume_mean
from reion.metrics.pointwise import mae, mse, r2
from reion.metrics.spectra import (
    BANDS,
    PowerSpectrum,
    cross_coefficient,
    cross_correlation,
    power_ratio,
    power_spectrum,
    transfer_function,
)
from reion.metrics.topology import betti_numbers, euler_characteristic, largest_cluster_fraction
from reion.metrics.twenty_one_cm import brightness_temperature

__all__ = [
    "BANDS",
    "BubbleSizes",
    "DensityErrors",
    "PowerSpectrum",
    "Reliability",
    "betti_numbers",
    "brightness_temperature",
    "bubble_sizes",
    "cross_coefficient",
    "cross_correlation",
    "error_by_density",
    "euler_characteristic",
    "granulometry",
    "largest_cluster_fraction",
    "mae",
    "mass_mean",
    "mse",
    "optical_depth",
    "power_ratio",
    "power_spectrum",
    "r2",
    "reliability",
    "transfer_function",
    "volume_mean",
]
