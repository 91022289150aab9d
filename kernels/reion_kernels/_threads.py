"""Threads over pieces of an array.

Kernels release the GIL and plain Python threads run them side by side. That compiles in a tenth of the time
of Numba's own parallel loops, and neither forks of the process nor calls from several threads at once can
hurt it, both of which Numba's threading layers answer by ending the process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

WORTH_A_THREAD = 1 << 18
"""Elements below which starting a thread costs more than it saves."""


def thread_count(threads: int | None, work: int) -> int:
    """How many threads to use for so many elements of work, None meaning every core this process may use."""
    if threads is None:
        allowed = getattr(os, "sched_getaffinity", None)  # not on every system
        threads = len(allowed(0)) if allowed else os.cpu_count() or 1
        return max(1, min(threads, work // WORTH_A_THREAD))
    if threads < 1:
        message = f"threads: expected a positive number or None for every core. Received: {threads}"
        raise ValueError(message)
    return threads


def run(task: Callable[..., Any], pieces: Iterable[tuple[Any, ...]], threads: int) -> None:
    """Call ``task(*piece)`` for every piece, on so many threads; the first exception is raised here."""
    if threads == 1:
        for piece in pieces:
            task(*piece)
        return
    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(task, *piece) for piece in pieces]:
            future.result()
