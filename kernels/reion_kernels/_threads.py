"""Threads over pieces of an array.

Kernels release the GIL, and plain Python threads run them in parallel. Kernels without Numba's own parallel
loops compile in a tenth of the time. They also survive a fork of the process and calls from several threads
at once, at which Numba's threading layers end the process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

WORTH_A_THREAD = 1 << 18
"""Number of elements below which starting a thread costs more time than it saves."""


def thread_count(threads: int | None, work: int) -> int:
    """Return the number of threads for `work` elements; None means every core this process may use."""
    if threads is None:
        allowed = getattr(os, "sched_getaffinity", None)  # not on every system
        threads = len(allowed(0)) if allowed else os.cpu_count() or 1
        return max(1, min(threads, work // WORTH_A_THREAD))
    if threads < 1:
        message = f"threads: expected a positive number or None for every core. Received: {threads}"
        raise ValueError(message)
    return threads


def run(task: Callable[..., Any], pieces: Iterable[tuple[Any, ...]], threads: int) -> None:
    """Call ``task(*piece)`` for every piece, on `threads` threads; the first exception is raised here."""
    if threads == 1:
        for piece in pieces:
            task(*piece)
        return
    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(task, *piece) for piece in pieces]:
            future.result()
