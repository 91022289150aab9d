"""Files that may be gzipped (`.gz`), read as if they were not.

A gzip file ends with its CRC-32 and the size of what it holds, modulo 2^32 (RFC 1952, section 2.3.1).
"""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from reion.errors import InputError

DEFLATE_LIMIT = 1032
"""Deflate cannot compress by more than this factor (zlib's documentation)."""


def is_gzip(path: Path) -> bool:
    """Whether a file's name says that it is gzipped."""
    return path.name.lower().endswith(".gz")


@contextlib.contextmanager
def open_plain(path: Path) -> Iterator[IO[bytes]]:
    """Open the bytes of a file, expanded if it is gzipped. Damage raises an `InputError`."""
    try:
        with gzip.open(path, "rb") if is_gzip(path) else path.open("rb", buffering=0) as stream:
            yield cast("IO[bytes]", stream)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"the gzip file is damaged: {error}", file=path) from error


def could_hold(path: Path, size: int) -> bool:
    """Whether a file can hold `size` bytes, as far as is known without expanding it."""
    stored = path.stat().st_size
    if not is_gzip(path):
        return stored == size
    with path.open("rb") as stream:
        stream.seek(-min(4, stored), 2)
        declared = int.from_bytes(stream.read(4), "little")
    return declared == size % 2**32 and size <= DEFLATE_LIMIT * stored


def read_plain(path: Path) -> bytes:
    """All bytes of a file, expanded if it is gzipped."""
    with open_plain(path) as stream:
        return stream.read(DEFLATE_LIMIT * path.stat().st_size) if is_gzip(path) else stream.read()
