"""What this process may use, and what it has used: threads and memory."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_LIMIT: ContextVar[int | None] = ContextVar("threads", default=None)


def cores() -> frozenset[int]:
    """Numbers of the cores that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)  # not on every system
    return frozenset(allowed(0) if allowed else range(os.cpu_count() or 1))


def thread_limit() -> int | None:
    """Threads that work may take here; None where it need not share, which is every core."""
    return _LIMIT.get()


def fft_threads() -> int:
    """The same as `scipy.fft` wants it."""
    return _LIMIT.get() or -1


@contextmanager
def limited_threads(count: int | None) -> Iterator[None]:
    """Within this block, work takes so many threads: for processes that share their cores with others."""
    token = _LIMIT.set(count)
    try:
        yield
    finally:
        _LIMIT.reset(token)


def peak_memory_bytes() -> int | None:
    """Largest resident size of this process so far in bytes; None where the system does not tell."""
    # What getrusage says on Linux includes the process that started this one.
    peak = _from_linux("VmHWM:")
    if peak is not None:
        return peak
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def resident_memory_bytes() -> int | None:
    """Resident size of this process now in bytes; its peak, or None, where the system tells no more."""
    resident = _from_linux("VmRSS:")
    return peak_memory_bytes() if resident is None else resident


def _from_linux(key: str) -> int | None:
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    for line in status.read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    return None
