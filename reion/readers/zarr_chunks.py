"""What a Zarr chunk expands to, known before it is expanded.

Chunks that are stored plainly, or compressed with Blosc, Zstandard, gzip or zlib, with or without a CRC-32C
behind, are taken; the size they declare must be that of the chunk's shape. gzip and zlib declare none and are
expanded under a bound. Sharded arrays and other codecs are refused.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reion.errors import InputError

_HEADER_BYTES = 32
_CRC_BYTES = 4
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_EXPANSION = 1000
"""A snapshot is at most so many times as large as its whole store."""


def check_size(array: Any, shape: Sequence[int], store: Path) -> None:
    """Refuse an array a snapshot of which is absurdly larger than the store that should hold it.

    Chunks that are missing are legal (they read as the fill value), so that a shape alone proves nothing.

    Raises
    ------
    InputError
        If the snapshot has more than 1000 times the bytes of the whole store.
    """
    needed = array.dtype.itemsize
    for n in shape[-3:]:
        needed *= n
    held = 0
    for file in store.rglob("*"):
        if held * _EXPANSION >= needed:
            return
        held += file.stat().st_size if file.is_file() else 0
    if held * _EXPANSION < needed:
        raise InputError(
            f"{array.path}: shape {tuple(shape)} needs {needed} bytes a snapshot; the whole store has {held}",
            file=store,
        )


def check_chunks(array: Any, key: tuple[int | slice, ...], store: Path) -> None:
    """Refuse chunks that would expand to another size than their shape has.

    Parameters
    ----------
    array
        A `zarr.Array` in the folder `store`.
    key
        What is about to be read.

    Raises
    ------
    InputError
        Naming the chunk.
    """
    codecs, has_crc = _codecs(array, store)
    expected = int(np.prod(array.chunks, dtype=object)) * array.dtype.itemsize
    ranges = []
    for k, n, size in zip(key, array.shape, array.chunks, strict=True):
        cells = range(n)[k]
        first, last = (cells, cells) if isinstance(cells, int) else (cells[0], cells[-1])
        ranges.append(range(first // size, last // size + 1))
    for corner in np.ndindex(*(len(r) for r in ranges)):
        name = array.metadata.encode_chunk_key(tuple(r[c] for r, c in zip(ranges, corner, strict=True)))
        chunk = store / array.path / name
        if not chunk.is_file():
            continue
        found = _expanded_bytes(chunk, codecs, expected, _CRC_BYTES if has_crc else 0)
        if found != expected:
            raise InputError(
                f"{array.path}: expected chunk {name} to expand to {expected} bytes; it declares "
                f"{'none or more' if found is None else found}",
                file=store,
            )


def _codecs(array: Any, store: Path) -> tuple[str, bool]:
    """Name of the compressor ("" for none) and whether a CRC-32C follows it."""
    names = [_codec_name(codec) for codec in array.compressors]
    has_crc = bool(names) and names[-1] == "crc32c"
    names = names[:-1] if has_crc else names
    known = {"blosc", "zstd", "gzip", "zlib"}
    if len(names) > 1 or not set(names) <= known or array.filters or array.shards is not None:
        raise InputError(
            f"{array.path}: expected chunks without shards and filters, compressed with one of "
            f"{', '.join(sorted(known))} or not; received {[*array.filters, *array.compressors]}",
            file=store,
            hint="rewrite the array with Blosc or Zstandard",
        )
    return (names[0] if names else ""), has_crc


def _codec_name(codec: Any) -> str:
    name = getattr(codec, "codec_id", None) or type(codec).__name__.removesuffix("Codec")
    return str(name).lower()


def _expanded_bytes(chunk: Path, codec: str, expected: int, trailing: int) -> int | None:
    """The size that a chunk expands to; None where it does not say or is larger than expected."""
    size = chunk.stat().st_size - trailing
    with chunk.open("rb") as stream:
        header = stream.read(_HEADER_BYTES)
        if codec == "":
            return size
        if codec == "blosc":
            return int.from_bytes(header[4:8], "little") if len(header) >= 16 else None
        if codec == "zstd":
            return _zstd_content_bytes(header)
        stream.seek(0)
        raw = stream.read(size)
    try:
        expanded = len(zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(raw, expected + 1))
    except zlib.error:
        return None
    return expanded if expanded <= expected else None


def _zstd_content_bytes(header: bytes) -> int | None:
    """Frame_Content_Size of a Zstandard frame (RFC 8878, section 3.1.1.1); None where it is not given."""
    if len(header) < 6 or header[:4] != _ZSTD_MAGIC:
        return None
    descriptor = header[4]
    single_segment = bool(descriptor & 0x20)
    start = 5 + (0 if single_segment else 1) + (0, 1, 2, 4)[descriptor & 3]
    width = (1 if single_segment else 0, 2, 4, 8)[descriptor >> 6]
    if width == 0 or len(header) < start + width:
        return None
    value = int.from_bytes(header[start : start + width], "little")
    return value + 256 if width == 2 else value
