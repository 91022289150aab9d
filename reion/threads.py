"""How many threads the work of this process may take: every core it may use, unless it shares them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

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
