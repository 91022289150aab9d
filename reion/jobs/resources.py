"""Threads and memory: how much this process may use, and how much it has used."""

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
    """Number of threads for work in this context: within its share of the cores and the container's quota."""
    quotas = (_cpu_quota(folder) for folder in _control_groups("cpu"))
    allowed = min([float(len(cores())), *(quota for quota in quotas if quota is not None)])
    return min(_LIMIT.get() or sys.maxsize, max(1, math.ceil(allowed)))


def thread_limit() -> int | None:
    """The number that `limited_threads` sets in this context; None where work may take every core."""
    return _LIMIT.get()


def fft_threads() -> int:
    """`threads_to_use`, for `scipy.fft`, which otherwise takes every core of the machine."""
    return threads_to_use()


@contextmanager
def limited_threads(count: int | None) -> Iterator[None]:
    """Limit work in this block to `count` threads, for processes that share their cores with others."""
    token = _LIMIT.set(count)
    try:
        yield
    finally:
        _LIMIT.reset(token)


def peak_memory_bytes() -> int | None:
    """Largest resident size of this process so far in bytes; None where the system does not tell."""
    # On Linux, getrusage includes the memory of the process that started this one.
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
    """Present resident size of this process in bytes; its peak, or None, where the system does not tell."""
    resident = _from_linux("VmRSS:")
    return peak_memory_bytes() if resident is None else resident


def return_free_memory() -> None:
    """Return free memory to the system, where the C library can (glibc).

    Otherwise glibc keeps the buffers in which Zarr's threads decode, for each thread: a hundred MiB and more
    for chunks just below 32 MiB, from which on glibc returns memory by itself.
    """
    if sys.platform != "win32":
        import ctypes

        with contextlib.suppress(AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def memory_limit_bytes() -> int | None:
    """Bytes that all processes here may take together; None where the system does not tell.

    The least of the memory of the machine and the limits of the control groups (cgroup v1 or v2) in which a
    container or a batch job has put this process.
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
            # In a container this may be a path of the host, of which only the root exists here.
            yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(root))


def _cpu_quota(group: Path) -> float | None:
    """Number of cores whose time a control group may use; None where it is not bounded."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = (group / "cpu.max").read_text().split()
        return float(quota) / float(period)
    with contextlib.suppress(OSError, ValueError):
        quota = (group / "cpu.cfs_quota_us").read_text()
        if int(quota) > 0:
            return int(quota) / int((group / "cpu.cfs_period_us").read_text())
    return None


def _memory_limit(group: Path) -> int | None:
    """Bytes that a control group may use; None where they are not bounded."""
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
