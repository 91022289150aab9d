"""A number of several trainings in words: its mean, and the standard deviation between them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def mean_and_spread(values: Sequence[float], digits: int) -> str:
    """`mean ± standard deviation (n - 1)`; of one value that value, of none a dash."""
    if not len(values):
        return "–"
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.{digits}f}"
