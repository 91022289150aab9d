"""What this process may use, and what it has used: threads and memory."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_PROC_CGROUP = Path("/proc/self/cgroup")
_CGROUP_ROOT = Path("/sys/fs/cgroup")

_LIMIT: ContextVar[int | None] = ContextVar("threads", default=None)


def cores() -> frozenset[int]:
    """Numbers of the cores that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)  # not on every system
    return frozenset(allowed(0) if allowed else range(os.cpu_count() or 1))


def threads_to_use() -> int:
    """How many threads work may take here: its share of the cores, and no more than the container's quota."""
    quotas = (_cpu_quota(folder) for folder in _control_groups("cpu"))
    allowed = min([float(len(cores())), *(quota for quota in quotas if quota is not None)])
    return min(_LIMIT.get() or sys.maxsize, max(1, math.ceil(allowed)))


def thread_limit() -> int | None:
    """Threads that work may take here; None where it need not share, which is every core."""
    return _LIMIT.get()


def fft_threads() -> int:
    """The same for `scipy.fft`, which takes every core of the machine where it is not told."""
    return threads_to_use()


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


def return_free_memory() -> None:
    """Give memory that nothing holds back to the system, where the C library can (glibc).

    What the threads of Zarr decode into is kept for each thread otherwise: a hundred MiB and more for chunks
    just below the 32 MiB from which on glibc returns memory by itself.
    """
    if sys.platform != "win32":
        import ctypes

        with contextlib.suppress(AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def memory_limit_bytes() -> int | None:
    """What all processes here may take together; None where the system does not tell.

    The least of the memory of the machine and the limits of the control groups (cgroup v1 or v2) that a
    container or a batch job puts this process in.
    """
    limits = [limit for folder in _control_groups("memory") if (limit := _memory_limit(folder)) is not None]
    with contextlib.suppress(AttributeError, OSError, ValueError):  # not on every system
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(limits, default=None)


def _control_groups(controller: str) -> Iterator[Path]:
    """Folders of the control groups (cgroup v1 and v2) that this process is in, the innermost first."""
    with contextlib.suppress(OSError, ValueError):
        for line in _PROC_CGROUP.read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            if number == "0":
                root = _CGROUP_ROOT
            elif controller in controllers.split(","):
                root = _CGROUP_ROOT / controller
            else:
                continue
            group = root / path.lstrip("/")
            # In a container the path may be that of the host, of which only the root is there.
            yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(root))


def _cpu_quota(group: Path) -> float | None:
    """How many cores' worth of time a control group may use; None where that is not bounded."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = (group / "cpu.max").read_text().split()
        return float(quota) / float(period)
    with contextlib.suppress(OSError, ValueError):
        quota = (group / "cpu.cfs_quota_us").read_text()
        if int(quota) > 0:
            return int(quota) / int((group / "cpu.cfs_period_us").read_text())
    return None


def _memory_limit(group: Path) -> int | None:
    """Bytes that a control group may use; None where that is not bounded."""
    for name in ("memory.max", "memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            return int((group / name).read_text())
    return None


def _from_linux(key: str) -> int | None:
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    for line in status.read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    return None
