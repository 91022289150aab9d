"""Standard streams that stop no command: if closed, if the reader has left, if the encoding is too small."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO


class _LastingStream(io.TextIOWrapper):
    """A text stream on a descriptor. When a write fails, this text and all further text are dropped.

    An exception would end work whose result goes to a file.

    Attributes
    ----------
    error
        The error of the first failed write; None if there was none, or if the reader left, as `| head` does.
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
        """Send the rest of the buffer and all further text to the null device."""
        if not isinstance(error, BrokenPipeError):
            self.error = error
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())
        os.close(null)


@contextlib.contextmanager
def lasting_streams() -> Iterator[None]:
    """Replace stdout and stderr, while the block runs, by streams on which printing cannot stop a command.

    Closed streams become the null device. Characters that the encoding of a stream lacks, such as σ in
    ASCII, are written as escapes. Streams that are not the interpreter's own, such as those of a notebook,
    are left alone.
    """
    # If descriptor 1 or 2 were free, the next file to be opened would receive what libraries print.
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
    """Flush a stream, and return the error that kept it from writing everything; None if there was none."""
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
