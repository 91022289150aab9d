"""The text for a score of several trainings: its mean and standard deviation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def mean_and_spread(values: Sequence[float], digits: int) -> str:
    """The text `mean ± standard deviation (n - 1)`; for one value the value alone, for none a dash."""
    if not len(values):
        return "–"
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.{digits}f}"
