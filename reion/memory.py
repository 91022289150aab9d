"""How much memory this process has needed."""

from __future__ import annotations

import sys


def peak_memory_bytes() -> int | None:
    """Largest resident size of this process so far in bytes; None where the system does not tell."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
