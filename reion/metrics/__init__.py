"""The statistics a reionisation paper reports, on plain arrays with the box size in comoving Mpc.

Fields are arrays of shape (x, y, z) of a periodic box. What is not defined (R2 of a uniform field, the
cross-correlation with one) is None, never a number and never a warning.
"""

from reion.metrics.pointwise import mae, mse, r2
from reion.metrics.spectra import BANDS, cross_correlation, power_ratio

__all__ = ["BANDS", "cross_correlation", "mae", "mse", "power_ratio", "r2"]
