"""How much memory this process needs and has needed."""

from __future__ import annotations

import sys
from pathlib import Path


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
