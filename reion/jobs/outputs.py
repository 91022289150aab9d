"""One process at a time for an output: the second is refused, and a killed one is in nobody's way."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from reion.errors import InputError


@contextlib.contextmanager
def alone_at(out: Path) -> Iterator[None]:
    """Hold the lock `.OUT.lock` beside an output while the block runs.

    The system gives a lock back when its process ends, however it ends: what a killed process leaves is a
    file that the next one takes over. Where a file system has no locks, and on Windows, nothing is held.

    Raises
    ------
    InputError
        If another process holds it, or no file can be written there.
    """
    if sys.platform == "win32":
        yield
        return
    path = out.with_name(f".{out.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _locked(path)
    except BlockingIOError as error:
        holder = ""
        with contextlib.suppress(OSError):
            holder = path.read_text(encoding="utf-8").strip()
        raise InputError(
            f"another command is writing this output: {holder or 'it does not say which'}",
            file=out,
            hint="wait until it is done, or give another --out",
        ) from error
    except OSError as error:
        raise InputError(f"cannot be written: {error}", file=out) from error
    with file:
        try:
            yield
        finally:
            # Before it is given back: whoever waits for this file finds that it is no longer the one.
            path.unlink(missing_ok=True)


def _locked(path: Path) -> IO[str]:
    """The file at `path`, open and locked, with who holds it written in."""
    import fcntl

    while True:
        file = path.open("a", encoding="utf-8")
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise
            except OSError:
                return file  # no locks on this file system
            if _is_at(file, path):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
                file.flush()
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # removed by the process that held it, between the two lines above


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
