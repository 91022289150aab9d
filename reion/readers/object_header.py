"""Finds the lengths that texts in the attributes of an HDF5 object claim to have.

HDF5 allocates the length that a text of variable length claims before it reads the text, and has no call that
returns the claim: four damaged bytes can cost four gibibytes. So claims are read from the object header. Its
layout is (HDF5 File Format Specification 3.0, section IV.A; little-endian, numbers of bytes in brackets):

- version 1: version (1), reserved (1), number of messages (2), references (4), size of the messages (4),
  reserved (4); then messages: type (2), size (2), flags (1), reserved (3), data;
- version 2: `OHDR`, version (1), flags (1), times (16, with flag 0x20), phase changes (4, with flag 0x10),
  size of the messages (1, 2, 4 or 8); then messages: type (1), size (2), flags (1), creation order (2, with
  flag 0x04), data; then a checksum (4);
- a continuation (type 16): address and length of more messages, in version 2 between `OCHK` and a checksum;
- an attribute (type 12): version (1), flags (1), sizes of name, datatype and dataspace (2 each), character
  set (1, from version 3 on); then name, datatype and dataspace, each padded to 8 bytes in version 1; then the
  values. A text of variable length is its length (4), the address of a heap and a number in that heap (4).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

_ATTRIBUTE, _CONTINUATION, _ATTRIBUTE_INFO = 12, 16, 21
_SHARED = 0x02


class ObjectHeader:
    """The object header of an h5py group or dataset."""

    def __init__(self, item: Any) -> None:
        import h5py

        created = item.file.id.get_create_plist()
        self._file = Path(item.file.filename)
        self._base = int(created.get_userblock())
        self._address_bytes, self._length_bytes = map(int, created.get_sizes())
        self._address = int(h5py.h5o.get_info(item.id).addr)

    def text_bytes(self, name: str, count: int) -> int | None:
        """Bytes that the longest of `count` texts of variable length in attribute `name` claims.

        None if the header lacks the attribute: in files of the "latest" version, HDF5 stores the attributes
        of an object elsewhere if they are many.

        Raises
        ------
        ValueError
            If the header is damaged.
        """
        width = 4 + self._address_bytes + 4
        claims = []
        for kind, flags, data in self._messages():
            if kind == _ATTRIBUTE_INFO and self._has_heap(data):
                return None
            if kind == _ATTRIBUTE and not flags & _SHARED:
                stored_name, values = _attribute(data)
                # HDF5 may take any of several attributes with one name.
                if stored_name == name.encode():
                    if len(values) < count * width:
                        msg = f"the attribute {name} is cut short"
                        raise ValueError(msg)
                    claims += [_number(values, start, 4) for start in range(0, count * width, width)]
        return max(claims, default=None)

    def _messages(self) -> Iterator[tuple[int, int, bytes]]:
        """Type, flags and data of every message."""
        with self._file.open("rb") as stream:
            head = self._read(stream, self._address, 16)
            modern = head[:4] == b"OHDR"
            prefix = 8
            address, size = self._address + 16, _number(head, 8, 4)
            if modern:
                start = 6 + (16 if head[5] & 0x20 else 0) + (4 if head[5] & 0x10 else 0)
                width = 1 << (head[5] & 3)
                size = _number(self._read(stream, self._address + start, width), 0, width)
                address = self._address + start + width
                prefix = 6 if head[5] & 0x04 else 4
            blocks = [(address, size)]
            left = self._file.stat().st_size
            for number, (address, size) in enumerate(blocks):
                left -= size
                if left < 0:
                    msg = "an object header is larger than the file"
                    raise ValueError(msg)
                block = self._read(stream, address, size)
                for kind, flags, data in _split(block[4:-4] if modern and number else block, prefix, modern):
                    if kind == _CONTINUATION:
                        blocks.append(
                            (
                                _number(data, 0, self._address_bytes),
                                _number(data, self._address_bytes, self._length_bytes),
                            )
                        )
                    yield kind, flags, data

    def _read(self, stream: IO[bytes], address: int, size: int) -> bytes:
        start = self._base + address
        if start + size > self._file.stat().st_size:
            msg = f"an object header at byte {start} lies beyond the end"
            raise ValueError(msg)
        stream.seek(start)
        return stream.read(size)

    def _has_heap(self, attribute_info: bytes) -> bool:
        """Whether attributes are stored elsewhere: in a heap whose address is not all ones."""
        start = 4 if _number(attribute_info, 1, 1) & 1 else 2
        return attribute_info[start : start + self._address_bytes] != b"\xff" * self._address_bytes


def _split(block: bytes, prefix: int, modern: bool) -> Iterator[tuple[int, int, bytes]]:
    """Type, flags and data of the messages in a block."""
    start = 0
    while start + prefix <= len(block):
        kind, size, flags = (
            (block[start], _number(block, start + 1, 2), block[start + 3])
            if modern
            else (_number(block, start, 2), _number(block, start + 2, 2), block[start + 4])
        )
        start += prefix + size
        yield kind, flags, block[start - size : start]


def _attribute(data: bytes) -> tuple[bytes, bytes]:
    """Name and values of an attribute message."""
    version = _number(data, 0, 1)
    sizes = [_number(data, start, 2) for start in (2, 4, 6)]
    if version == 1:
        padded = [-(-size // 8) * 8 for size in sizes]
        start = 8
    else:
        padded = sizes
        start = 9 if version > 2 else 8
    return data[start : start + sizes[0]].split(b"\0", 1)[0], data[start + sum(padded) :]


def _number(data: bytes, start: int, size: int) -> int:
    if start + size > len(data):
        msg = "an object header is cut short"
        raise ValueError(msg)
    return int.from_bytes(data[start : start + size], "little")
