r"""`.npy` bytes, alone or in a zip archive, read without trusting them.

Byte level of `.npy`: `\x93NUMPY`, version (2 bytes), header length (2 or 4 bytes, little-endian), a Python
dictionary as text with `descr`, `fortran_order` and `shape`, then the numbers. Object arrays (pickles) are
refused, and nothing is allocated before the declared shape has been compared with the bytes that are there.
"""

from __future__ import annotations

import ast
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from reion.errors import InputError

MAGIC = b"\x93NUMPY"
_MAX_HEADER_BYTES = 10_000
_DEFLATE_LIMIT = 1032
"""Deflate cannot compress by more than this factor (zlib's documentation)."""
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Header:
    """What an `.npy` header declares; the numbers start at byte `start`."""

    dtype: np.dtype
    shape: tuple[int, ...]
    fortran_order: bool
    start: int

    @property
    def nbytes(self) -> int:
        """Bytes of the numbers, as a Python integer that cannot overflow."""
        count = 1
        for size in self.shape:
            count *= size
        return count * self.dtype.itemsize


def read_header(stream: IO[bytes], *, file: Path, name: str) -> Header:
    """Read the header at the start of `stream`; `name` says which array it is in messages.

    Raises
    ------
    InputError
        If it is not the header of an array of plain numbers.
    """
    start = stream.read(8)
    if len(start) < 8 or start[:6] != MAGIC:
        raise InputError(
            f"{name}: expected .npy data starting with {MAGIC!r}; received {start[:6]!r}", file=file
        )
    width = 2 if start[6] == 1 else 4
    size = int.from_bytes(stream.read(width), "little")
    if start[6] not in (1, 2, 3) or size > _MAX_HEADER_BYTES:
        raise InputError(
            f"{name}: expected an .npy header of version 1 to 3 and at most {_MAX_HEADER_BYTES} bytes; "
            f"received version {start[6]} and {size} bytes",
            file=file,
        )
    text = stream.read(size).decode("latin-1")
    try:
        header = ast.literal_eval(text.strip())
        dtype = np.dtype(header["descr"])
        shape = tuple(header["shape"])
        fortran_order = header["fortran_order"]
    except Exception as error:  # whatever it raises, the header is damaged
        raise InputError(f"{name}: the .npy header is damaged: {text[:80]!r}", file=file) from error
    if dtype.hasobject:
        raise InputError(
            f"{name}: expected numbers; received pickled Python objects, which are never loaded", file=file
        )
    if dtype.kind not in "fiu" or dtype.itemsize > 8:
        raise InputError(f"{name}: expected numbers; received {dtype}", file=file)
    if not all(type(n) is int and n >= 0 for n in shape) or not isinstance(fortran_order, bool):
        raise InputError(f"{name}: the .npy header is damaged: {text[:80]!r}", file=file)
    return Header(dtype, shape, fortran_order, 8 + width + size)


class Archive:
    """The arrays of an `.npz` archive."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
                self._headers = {
                    name: self._header(archive, name, entry)
                    for name, entry in entries.items()
                    if entry.filename.endswith(".npy")
                }
        except _ZIP_ERRORS as error:
            raise InputError(f"the archive is damaged: {error}", file=path) from error

    @property
    def members(self) -> list[str]:
        """Names of the arrays."""
        return list(self._headers)

    def shape(self, name: str) -> tuple[int, int, int]:
        """Shape of the cube `name`.

        Raises
        ------
        InputError
            If it is not a cube.
        """
        return cube_shape(self._headers[name], file=self.path, name=name)

    def array(self, name: str) -> np.ndarray:
        """The whole array `name`, decompressed and checked against its checksum."""
        header = self._headers[name]
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(name + ".npy") as stream:
                stream.read(header.start)
                raw = bytearray(header.nbytes)
                view = memoryview(raw)
                filled = 0
                while filled < header.nbytes:
                    count = stream.readinto(view[filled : filled + _BLOCK_BYTES])  # type: ignore[attr-defined]
                    if not count:
                        raise InputError(
                            f"{name}: expected {header.nbytes} bytes; received {filled}", file=self.path
                        )
                    filled += count
                if stream.read(1):
                    raise InputError(f"{name}: more data than its shape {header.shape} needs", file=self.path)
        except _ZIP_ERRORS as error:
            raise InputError(f"{name}: the archive is damaged: {error}", file=self.path) from error
        order = "F" if header.fortran_order else "C"
        return np.frombuffer(raw, header.dtype).reshape(header.shape, order=order)  # type: ignore[call-overload, no-any-return]

    def numbers(self, name: str, *, sizes: tuple[int, ...]) -> np.ndarray | None:
        """The few numbers of `name` as float64, or None if there is no such member.

        Raises
        ------
        InputError
            If their count is not one of `sizes`.
        """
        if name not in self._headers:
            return None
        shape = self._headers[name].shape
        if int(np.prod(shape, dtype=object)) not in sizes:
            raise InputError(
                f"{name}: expected {' or '.join(map(str, sizes))} numbers; received shape {shape}",
                file=self.path,
            )
        return self.array(name).astype(np.float64).reshape(-1)

    def _header(self, archive: zipfile.ZipFile, name: str, entry: zipfile.ZipInfo) -> Header:
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or entry.flag_bits & 1:
            raise InputError(f"{name}: expected a stored or deflated, unencrypted member", file=self.path)
        with archive.open(entry) as stream:
            header = read_header(stream, file=self.path, name=name)
        if header.start + header.nbytes != entry.file_size:
            raise InputError(
                f"{name}: shape {header.shape} of {header.dtype} needs {header.start + header.nbytes} bytes; "
                f"the archive declares {entry.file_size}",
                file=self.path,
            )
        if entry.file_size > _DEFLATE_LIMIT * (entry.compress_size + 1):
            raise InputError(
                f"{name}: {entry.compress_size} compressed bytes cannot hold the declared {entry.file_size}",
                file=self.path,
            )
        return header


_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    KeyError,
    UnicodeDecodeError,
    OverflowError,
)
"""What zipfile raises for damaged archives."""


def cube_shape(header: Header, *, file: Path, name: str) -> tuple[int, int, int]:
    """The shape in `header` as three numbers of cells.

    Raises
    ------
    InputError
        If the array is not three-dimensional, empty, or not of floating-point numbers.
    """
    if len(header.shape) != 3 or 0 in header.shape or header.dtype.kind != "f":
        raise InputError(
            f"{name}: expected floating-point numbers of shape (x, y, z); received {header.dtype} of shape "
            f"{header.shape}",
            file=file,
        )
    return header.shape[0], header.shape[1], header.shape[2]
