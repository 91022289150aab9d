"""The format of numbers on the page."""

from __future__ import annotations


def figure(value: float | None, digits: int = 3) -> str:
    """A number with fixed decimals; a dash if it is not defined, and no minus before a zero."""
    return "–" if value is None else f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")
