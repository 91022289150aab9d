"""Compare speeds: both sides run in turns, so that other work of the machine slows both."""

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
        The ratio that is reported, such as the median.
    smallest, largest
        Range of the measured ratios.
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
        Name of the measured operation.
    ratio
        Its speed divided by the speed of its reference.
    against
        The reference, in words.
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
        """JSON-ready values."""
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
    """The speed of one callable relative to another.

    Attributes
    ----------
    ratio
        Time of the second callable divided by that of the first, round by round.
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
        Number of measurements of each.
    at_least_s
        A callable that takes less time is called several times in a row, as one measurement.

    Returns
    -------
    Comparison
        Its ratio is above 1 if `ours` is faster.
    """
    repeats = [_repeats(call, at_least_s) for call in (ours, other)]
    ratios, seconds = [], []
    for _ in range(rounds):
        mine, theirs = (_time(call, n) for call, n in zip((ours, other), repeats, strict=True))
        ratios.append(theirs / mine)
        seconds.append(mine)
    return Comparison(ratio=Ratio.of(ratios), seconds=statistics.median(seconds))


class Timed(NamedTuple):
    """Wall time and processor time, all cores together, of a call in seconds."""

    seconds: float
    processor_seconds: float


def in_turn(calls: Mapping[str, Callable[[], object]], *, rounds: int) -> dict[str, list[Timed]]:
    """Run callables one after the other, round by round, and return the times of each in every round.

    Each is called once before the clock starts. The processor time is the cost of a call on a machine whose
    cores are shared with others.
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

    They may run on one thread and on all: the faster one depends on the other work of the machine.
    """
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, seconds in zip(calls, times, strict=True):
            seconds.append(_time(call, 1))
    medians = [statistics.median(seconds) for seconds in times]
    return calls[medians.index(min(medians))]


def _repeats(call: Callable[[], object], at_least_s: float) -> int:
    """Number of calls that together take at least `at_least_s` seconds."""
    call()
    return max(1, round(at_least_s / max(_time(call, 1), 1e-9)))


def _time(call: Callable[[], object], repeats: int) -> float:
    """Mean time of one of `repeats` calls, in seconds."""
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats
