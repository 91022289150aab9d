"""Ways in which a command is broken off: at any step that changes the disk, or in the middle of a write.

The interpreter itself reports each step (`sys.addaudithook`): a file that is opened to be written, a rename,
a removal, a folder that is made or removed. What was hooked in cannot be taken out again, so a break is for a
child process (see `tests.endurance.works.in_child`).
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

KILLED = 99
"""Exit status of a child that was killed at a step; in the middle of a write it is `-SIGXFSZ`."""

_STEPS = {"os.rename": 2, "os.remove": 1, "os.rmdir": 1, "os.mkdir": 1, "os.truncate": 1}
"""What changes the disk, and how many of its arguments are paths."""

_TAKE_ROOM = ("open", "os.mkdir")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@dataclass(frozen=True)
class Break:
    """How a command is broken off.

    Attributes
    ----------
    kind
        `none`; `kill`: before a step; `torn`: killed in a write; `full`: from a step on there is no room;
        `cut`: the room ends in a write.
    at
        The number of the step, from 1; in a write, the bytes that still fit into a file.
    """

    kind: str = "none"
    at: int = 0

    @property
    def kills(self) -> bool:
        return self.kind in ("kill", "torn")

    def arm(self, below: Path) -> None:
        """Break this process at that step of what it does below a folder."""
        if self.kind in ("torn", "cut"):
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL if self.kind == "torn" else signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # pytest has it in a file, which has its limit too
            sys.stderr = sys.__stderr__
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.at, self.at))
        elif self.kind != "none":
            sys.addaudithook(self._hook(os.path.realpath(below)))

    def _hook(self, below: str) -> Any:
        left = self.at

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal left
            if not (event in _STEPS or event == "open") or not _is_step(event, arguments, below):
                return
            if self.kind == "kill":
                left -= 1
                if left == 0:
                    os._exit(KILLED)
            elif event in _TAKE_ROOM:
                left -= 1
                if left <= 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), arguments[0])

        return hook


def _is_step(event: str, arguments: tuple[Any, ...], below: str) -> bool:
    if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & _WRITING):
        return False
    paths = arguments[: _STEPS.get(event, 1)]
    # Removing a whole folder names its entries relative to it.
    return any(
        isinstance(path, str | Path) and (str(path).startswith(below) or not Path(path).is_absolute())
        for path in paths
    )


def breaks(steps: int, most_bytes: int) -> st.SearchStrategy[Break]:
    """Every way, at one of so many steps, or in the write of a file after so many bytes at most; or none."""
    return st.one_of(
        st.just(Break()),
        st.builds(Break, st.sampled_from(["kill", "full"]), st.integers(1, steps)),
        st.builds(Break, st.sampled_from(["torn", "cut"]), st.integers(1, most_bytes)),
    )
