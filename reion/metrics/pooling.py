"""The snapshots that count in pooled scores: those in which reionisation is under way."""

from __future__ import annotations

POOLED_REDSHIFT = 11.5
"""Snapshots at higher redshifts are left out of pooled scores."""

POOLED_MEAN_XI = (1e-3, 1 - 1e-3)
"""Snapshots whose true mean xi is below the first or above the second are left out of pooled scores."""

POOLED_SNAPSHOTS = (
    f"snapshots at z ≤ {POOLED_REDSHIFT:g} with a true mean xi from {POOLED_MEAN_XI[0]:g} to "
    f"{POOLED_MEAN_XI[1]:g}"
)
"""The rule in words."""


def is_partly_ionised(mean_xi: float) -> bool:
    """Whether a snapshot of this mean xi is neither neutral nor ionised as a whole."""
    low, high = POOLED_MEAN_XI
    return low <= mean_xi <= high


def is_pooled(redshift: float, mean_xi: float) -> bool:
    """Whether the cells of a snapshot with this redshift and true mean xi count in pooled scores."""
    return redshift <= POOLED_REDSHIFT and is_partly_ionised(mean_xi)
