"""Two sides of a comparison, run in turns, so that whatever else the machine does happens to both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Result:
    """One figure of a benchmark.

    Attributes
    ----------
    name
        What was measured.
    ratio
        Larger is better.
    against
        What it was measured against.
    target
        The ratio that is asked for.
    spread
        Smallest and largest ratio seen.
    extra
        Further figures, by name.
    """

    name: str
    ratio: float
    against: str
    target: float
    spread: tuple[float, float]
    extra: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the figure as a mapping that JSON can hold."""
        return {
            "name": self.name,
            "ratio": self.ratio,
            "against": self.against,
            "target": self.target,
            "spread": list(self.spread),
            **self.extra,
        }


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How many times faster one callable is than another.

    Attributes
    ----------
    ratio
        Median over the rounds of the other's time divided by its own.
    spread
        Smallest and largest of those ratios.
    seconds
        Median time of the first callable.
    """

    ratio: float
    spread: tuple[float, float]
    seconds: float


def interleaved(
    ours: Callable[[], object], other: Callable[[], object], *, rounds: int = 15, at_least_s: float = 0.002
) -> Comparison:
    """Run two callables in turns and compare their times round by round.

    Parameters
    ----------
    ours, other
        What to compare. Both are called once before the clock starts.
    rounds
        How many times each is measured.
    at_least_s
        What is faster than this is called several times in a row, to be measured as one.

    Returns
    -------
    Comparison
        Larger ratios: `ours` is faster.
    """
    repeats = [_repeats(call, at_least_s) for call in (ours, other)]
    ratios, seconds = [], []
    for _ in range(rounds):
        mine, theirs = (_time(call, n) for call, n in zip((ours, other), repeats, strict=True))
        ratios.append(theirs / mine)
        seconds.append(mine)
    return Comparison(
        ratio=statistics.median(ratios),
        spread=(min(ratios), max(ratios)),
        seconds=statistics.median(seconds),
    )


def fastest(*calls: Callable[[], object], rounds: int = 7) -> Callable[[], object]:
    """Return the callable with the smallest median time, of several that do the same.

    One thread or all, for example: which is faster depends on what else the machine is doing.
    """
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, seconds in zip(calls, times, strict=True):
            seconds.append(_time(call, 1))
    medians = [statistics.median(seconds) for seconds in times]
    return calls[medians.index(min(medians))]


def _repeats(call: Callable[[], object], at_least_s: float) -> int:
    call()
    return max(1, round(at_least_s / max(_time(call, 1), 1e-9)))


def _time(call: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats
