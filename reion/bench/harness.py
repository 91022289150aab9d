"""Comparing speeds: both sides run in turns, so that whatever else the machine does happens to both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Ratio:
    """A ratio of two speeds, measured several times. Larger is better.

    Attributes
    ----------
    value
        The ratio that counts, such as the median.
    smallest, largest
        Range of what was measured.
    """

    value: float
    smallest: float
    largest: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Ratio:
        """The median and the range of ratios."""
        measured = list(values)
        return cls(statistics.median(measured), min(measured), max(measured))

    def times(self, factor: float) -> Ratio:
        """The ratio multiplied by a factor."""
        return Ratio(self.value * factor, self.smallest * factor, self.largest * factor)


@dataclass(frozen=True, kw_only=True)
class Result:
    """One figure of a benchmark.

    Attributes
    ----------
    name
        Name of what was measured.
    ratio
        How much faster it is than what it is measured against.
    against
        What it is measured against, in words.
    target
        The ratio that is asked for.
    extra
        Further figures by name.
    """

    name: str
    ratio: Ratio
    against: str
    target: float
    extra: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The figure as JSON."""
        return {
            "name": self.name,
            "ratio": self.ratio.value,
            "against": self.against,
            "target": self.target,
            "spread": [self.ratio.smallest, self.ratio.largest],
            **self.extra,
        }


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How many times faster one callable is than another.

    Attributes
    ----------
    ratio
        Time of the other divided by the time of the first, round by round.
    seconds
        Median time of the first callable.
    """

    ratio: Ratio
    seconds: float


def interleaved(
    ours: Callable[[], object], other: Callable[[], object], *, rounds: int = 15, at_least_s: float = 0.002
) -> Comparison:
    """Run two callables in turns and compare their times, round by round.

    Parameters
    ----------
    ours, other
        The callables to compare. Both are called before the clock starts.
    rounds
        Number of times each is measured.
    at_least_s
        A callable that is faster than this is called several times in a row, as one measurement.

    Returns
    -------
    Comparison
        A ratio above 1 says that `ours` is faster.
    """
    repeats = [_repeats(call, at_least_s) for call in (ours, other)]
    ratios, seconds = [], []
    for _ in range(rounds):
        mine, theirs = (_time(call, n) for call, n in zip((ours, other), repeats, strict=True))
        ratios.append(theirs / mine)
        seconds.append(mine)
    return Comparison(ratio=Ratio.of(ratios), seconds=statistics.median(seconds))


class Timed(NamedTuple):
    """How long a call took by the clock, and on all processors together, in seconds."""

    seconds: float
    processor_seconds: float


def in_turn(calls: Mapping[str, Callable[[], object]], *, rounds: int) -> dict[str, list[Timed]]:
    """Run callables one after the other, round by round, and return how long each took in every round.

    Each is called once before the clock starts. The time on processors says what a call costs where others
    take the cores away from it.
    """
    for call in calls.values():
        call()
    times: dict[str, list[Timed]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            begin, begin_processor = time.perf_counter(), time.process_time()
            call()
            times[name].append(Timed(time.perf_counter() - begin, time.process_time() - begin_processor))
    return times


def fastest(*calls: Callable[[], object], rounds: int = 7) -> Callable[[], object]:
    """The callable with the smallest median time, of several that do the same.

    On one thread or on all, for example: which is faster depends on what else the machine is doing.
    """
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, seconds in zip(calls, times, strict=True):
            seconds.append(_time(call, 1))
    medians = [statistics.median(seconds) for seconds in times]
    return calls[medians.index(min(medians))]


def _repeats(call: Callable[[], object], at_least_s: float) -> int:
    """Number of calls that take at least so long together."""
    call()
    return max(1, round(at_least_s / max(_time(call, 1), 1e-9)))


def _time(call: Callable[[], object], repeats: int) -> float:
    """Seconds that one of `repeats` calls takes."""
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats
