"""Standard streams that lose nothing: closed ones, readers that leave, characters an encoding lacks."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO


class _LastingStream(io.TextIOWrapper):
    """A text stream on a descriptor. Where that takes nothing more, what follows is dropped.

    An exception there would end the work whose result is written to a file.

    Attributes
    ----------
    error
        Why it took nothing more; None also where its reader has left, as `| head` does, which is no error.
    """

    error: OSError | None = None

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        """Send what is still in the buffer, and all that follows, to the null device."""
        if not isinstance(error, BrokenPipeError):
            self.error = error
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())
        os.close(null)


@contextlib.contextmanager
def lasting_streams() -> Iterator[None]:
    """Make stdout and stderr such that what is printed can stop no command, while the block runs.

    Closed streams become the null device. Characters that the encoding of a stream lacks, such as σ in
    ASCII, are written as escapes. Streams that are not the interpreter's own, such as those of a notebook,
    are left alone.
    """
    # A file opened while descriptor 1 or 2 is free would get all that libraries print.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    before = sys.stdout, sys.stderr
    sys.stdout = _lasting(sys.stdout, 1)
    sys.stderr = _lasting(sys.stderr, 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


def write_error(stream: TextIO) -> OSError | None:
    """Write what is in the buffer of a stream, and return why the stream could not take all it was given."""
    stream.flush()
    return stream.error if isinstance(stream, _LastingStream) else None


def _lasting(stream: TextIO | None, descriptor: int) -> TextIO:
    if stream is None:
        encoding = "utf-8"
    elif type(stream) is io.TextIOWrapper:
        encoding = stream.encoding
    else:
        return stream
    return _LastingStream(
        open(descriptor, "wb", closefd=False),
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=descriptor == 2 or os.isatty(descriptor),
    )
