"""Checks the size of Zarr chunks before they are expanded, and counts chunks that were never written.

A chunk may be uncompressed or compressed with Blosc, Zstandard, gzip or zlib, with or without a CRC-32C at
its end. It is a file of its own or a part of a shard, whose index must be as Zarr writes it: offset and
length of each chunk as two uint64 (all ones if it is missing), and a CRC-32C. The size that a chunk declares
must be that of its shape. gzip, zlib and some Zstandard frames declare no size and are expanded under a
bound. Axes may be transposed. Other codecs are refused.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from reion.errors import InputError

_HEADER_BYTES = 32
_CRC_BYTES = 4
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_BLOCK_BYTES = 128 << 10
"""Most bytes to which a block of a Zstandard frame expands (RFC 8878, section 3.1.1.2.4)."""
_ZSTD_SLACK = 8
"""The blocks of a frame that declares no size may have room for at most this many times the chunk."""
_EXPANSION = 1000
"""A snapshot is at most this many times as large as its whole store."""
_NOTHING = 2**64 - 1
"""Offset and length in the index for a chunk that a shard does not hold."""


def check_size(array: Any, shape: Sequence[int], store: Path) -> None:
    """Refuse an array if one snapshot of it is far larger than the store that should hold it.

    Missing chunks are legal (they read as the fill value), so that a snapshot may be larger than the store.

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


@dataclass(frozen=True)
class _Codecs:
    """How chunks are stored: compressor ("" for none), bytes of checksum at the end, place of the index."""

    compressor: str
    trailing: int
    shard_index_first: bool | None

    @property
    def sharded(self) -> bool:
        return self.shard_index_first is not None


def check_chunks(array: Any, key: tuple[int | slice, ...], store: Path) -> None:
    """Refuse chunks that would expand to another size than their shape has.

    Parameters
    ----------
    array
        A `zarr.Array` in the folder `store`.
    key
        The cells that will be read.

    Raises
    ------
    InputError
        If there is such a chunk. The message names it.
    """
    codecs = _codecs(array, store)
    expected = math.prod(array.chunks) * array.dtype.itemsize
    for file, chunks in _touched(array, key, store):
        with file.open("rb") as stream:
            size = file.stat().st_size
            places = (
                [(0, size)]
                if not codecs.sharded
                else _shard_index(array, stream, size, codecs, chunks, store)
            )
            for start, length in places:
                found = _expanded_bytes(stream, start, length - codecs.trailing, codecs.compressor, expected)
                if found != expected:
                    raise InputError(
                        f"{array.path}: expected chunk {file.relative_to(store / array.path)} to expand to "
                        f"{expected} bytes; it declares {'none or more' if found is None else found}",
                        file=store,
                    )


def unwritten(array: Any, store: Path) -> tuple[int, int]:
    """Number of chunks of an array that are not in its store, and number of all chunks of its shape.

    Raises
    ------
    InputError
        If the index of a shard is damaged.
    """
    codecs = _codecs(array, store)
    folder = store / array.path
    outer = array.shards or array.chunks
    grid = [-(-n // size) for n, size in zip(array.shape, outer, strict=True)]
    inner = [-(-n // size) for n, size in zip(array.shape, array.chunks, strict=True)]
    files = {
        Path(root, name).relative_to(folder).as_posix()
        for root, _, names in os.walk(folder)
        for name in names
    }
    if not codecs.sharded:
        keys = (array.metadata.encode_chunk_key(corner) for corner in np.ndindex(*grid))
        return sum(key not in files for key in keys), math.prod(grid)
    held = 0
    for file, chunks in _touched(array, (slice(None),) * len(array.shape), store):
        with file.open("rb") as stream:
            held += len(_shard_index(array, stream, file.stat().st_size, codecs, chunks, store))
    return math.prod(inner) - held, math.prod(inner)


def _touched(array: Any, key: tuple[int | slice, ...], store: Path) -> Iterator[tuple[Path, list[range]]]:
    """Each file with chunks that `key` touches, and the numbers of these along each axis in the file."""
    outer = array.shards or array.chunks
    inside = [size // chunk for size, chunk in zip(outer, array.chunks, strict=True)]
    touched = []
    for k, n, size in zip(key, array.shape, array.chunks, strict=True):
        cells = range(n)[k]
        if not isinstance(cells, int) and not cells:
            return
        first, last = (cells, cells) if isinstance(cells, int) else (cells[0], cells[-1])
        touched.append(range(min(first, last) // size, max(first, last) // size + 1))
    files = [range(r[0] // m, r[-1] // m + 1) for r, m in zip(touched, inside, strict=True)]
    for corner in np.ndindex(*(len(r) for r in files)):
        place = tuple(r[c] for r, c in zip(files, corner, strict=True))
        file = store / array.path / array.metadata.encode_chunk_key(place)
        if file.is_file():
            yield (
                file,
                [
                    range(max(r[0] - p * m, 0), min(r[-1] - p * m, m - 1) + 1)
                    for r, p, m in zip(touched, place, inside, strict=True)
                ],
            )


def _shard_index(
    array: Any, stream: IO[bytes], size: int, codecs: _Codecs, chunks: list[range], store: Path
) -> list[tuple[int, int]]:
    """First byte and length of each chunk that a shard holds, among those with these numbers."""
    inside = [outer // chunk for outer, chunk in zip(array.shards, array.chunks, strict=True)]
    index_bytes = 16 * math.prod(inside)
    if size < index_bytes + _CRC_BYTES:
        raise InputError(f"{array.path}: a shard of {size} bytes is shorter than its index", file=store)
    stream.seek(0 if codecs.shard_index_first else size - index_bytes - _CRC_BYTES)
    index = np.frombuffer(stream.read(index_bytes), "<u8").reshape(*inside, 2)
    found = [(int(start), int(length)) for start, length in index[np.ix_(*chunks)].reshape(-1, 2)]
    found = [place for place in found if place != (_NOTHING, _NOTHING)]
    for start, length in found:
        if start + length > size:
            raise InputError(f"{array.path}: the index of a shard points beyond its {size} bytes", file=store)
    return found


def _codecs(array: Any, store: Path) -> _Codecs:
    names = [_codec_name(codec) for codec in array.compressors]
    has_crc = bool(names) and names[-1] == "crc32c"
    names = names[:-1] if has_crc else names
    known = {"blosc", "zstd", "gzip", "zlib"}
    filters = [codec for codec in array.filters if _codec_name(codec) != "transpose"]
    shards = [codec for codec in getattr(array.metadata, "codecs", ()) if _codec_name(codec) == "sharding"]
    wrong_shards = array.shards is not None and (
        len(shards) != 1
        or [_codec_name(codec) for codec in shards[0].index_codecs] != ["bytes", "crc32c"]
        or any(_codec_name(codec) == "sharding" for codec in shards[0].codecs)
    )
    if len(names) > 1 or not set(names) <= known or filters or wrong_shards:
        raise InputError(
            f"{array.path}: expected chunks compressed with one of {', '.join(sorted(known))} or not, alone "
            f"or in shards whose index is not compressed; received "
            f"{[*array.filters, *array.compressors, *shards]}",
            file=store,
            hint="rewrite the array with Blosc or Zstandard",
        )
    return _Codecs(
        compressor=names[0] if names else "",
        trailing=_CRC_BYTES if has_crc else 0,
        shard_index_first=_index_is_first(shards[0]) if shards else None,
    )


def _index_is_first(shard: Any) -> bool:
    """Whether the index comes before the chunks: a text in zarr, before 3.2 a member of an Enum."""
    location = shard.index_location
    return str(getattr(location, "value", location)) == "start"


def _codec_name(codec: Any) -> str:
    name = getattr(codec, "codec_id", None) or type(codec).__name__.removesuffix("Codec")
    return str(name).lower()


def _expanded_bytes(stream: IO[bytes], start: int, size: int, codec: str, expected: int) -> int | None:
    """The size that the chunk at byte `start` expands to; None where it is unknown or too large.

    `size` is below 0 if the chunk was cut off and is shorter than its checksum.
    """
    if size < 0:
        return None
    stream.seek(start)
    header = stream.read(min(size, _HEADER_BYTES))
    if codec == "":
        return size
    if codec == "blosc":
        return int.from_bytes(header[4:8], "little") if len(header) >= 16 else None
    if codec == "zstd":
        declared = _zstd_content_bytes(header)
        if declared is not None:
            return declared
    stream.seek(start)
    raw = stream.read(size)
    if codec == "zstd":
        return _zstd_expanded_bytes(raw, expected)
    try:
        expanded = len(zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(raw, expected + 1))
    except zlib.error:
        return None
    return expanded if expanded <= expected else None


def _zstd_content_bytes(header: bytes) -> int | None:
    """Frame_Content_Size of a Zstandard frame (RFC 8878, section 3.1.1.1); None if the frame has none."""
    if len(header) < 6 or header[:4] != _ZSTD_MAGIC:
        return None
    start, width = _zstd_size_field(header[4])
    if width == 0 or len(header) < start + width:
        return None
    value = int.from_bytes(header[start : start + width], "little")
    return value + 256 if width == 2 else value


def _zstd_size_field(descriptor: int) -> tuple[int, int]:
    """First byte and bytes of Frame_Content_Size, from a frame's descriptor."""
    single_segment = bool(descriptor & 0x20)
    start = 5 + (0 if single_segment else 1) + (0, 1, 2, 4)[descriptor & 3]
    return start, (1 if single_segment else 0, 2, 4, 8)[descriptor >> 6]


def _zstd_expanded_bytes(raw: bytes, expected: int) -> int | None:
    """The size to which a Zstandard frame without a declared size expands; None if it could be far more.

    The header of a block (3 bytes) gives its kind and size: raw, one byte repeated, or compressed, which
    expands to at most 128 KiB.
    """
    from numcodecs.zstd import decompress

    if len(raw) < 9 or raw[:4] != _ZSTD_MAGIC:
        return None
    start, _ = _zstd_size_field(raw[4])
    room, last = 0, False
    while not last:
        header = int.from_bytes(raw[start : start + 3], "little")
        if start + 3 > len(raw):
            return None
        last, kind, size = bool(header & 1), header >> 1 & 3, header >> 3
        room += _ZSTD_BLOCK_BYTES if kind == 2 else size
        start += 3 + (1 if kind == 1 else size)
        if kind == 3 or room > _ZSTD_SLACK * expected + _ZSTD_BLOCK_BYTES:
            return None
    try:
        return len(decompress(raw))
    except (RuntimeError, ValueError):
        return None
