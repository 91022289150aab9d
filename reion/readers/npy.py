r"""`.npy` bytes, alone or in a zip archive, read without trusting them.

Byte level of `.npy`: `\x93NUMPY`, version (2 bytes), header length (2 or 4 bytes, little-endian), a Python
dictionary as text with `descr`, `fortran_order` and `shape`, then the numbers. NumPy reads the header
(`numpy.lib.format`). Object arrays (pickles) are refused, and nothing is allocated before the declared shape
has been compared with the bytes in the file. In an archive only the requested members are looked at.
"""

from __future__ import annotations

import io
import math
import warnings
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy_format

from reion.errors import InputError
from reion.readers.compressed import DEFLATE_LIMIT

MAGIC = npy_format.MAGIC_PREFIX
_MOST_HEADER_BYTES = 10_000
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Header:
    """The content of an `.npy` header. The numbers start at byte `start`."""

    dtype: np.dtype
    shape: tuple[int, ...]
    fortran_order: bool
    start: int

    @property
    def nbytes(self) -> int:
        """Bytes of the numbers, as a Python integer that cannot overflow."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(stream: IO[bytes], *, file: Path, name: str, records: bool = False) -> Header:
    """Read the header at the start of `stream`; `name` is the name of the array in messages.

    Raises
    ------
    InputError
        If it is not the header of an array of plain numbers, or, with `records`, of records.
    """
    # NumPy reads as many bytes as the header claims to have before it checks whether they are too many.
    head = io.BytesIO(stream.read(_MOST_HEADER_BYTES))
    try:
        version = npy_format.read_magic(head)
    except ValueError as error:
        raise InputError(f"{name}: expected .npy data starting with {MAGIC!r}: {error}", file=file) from error
    if version not in ((1, 0), (2, 0)):  # version 3 is for members of records with names that are not Latin
        raise InputError(f"{name}: expected an .npy header of version 1 or 2; received {version}", file=file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python 2 wrote whole numbers as 1L
            read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
            shape, fortran_order, dtype = read(head)
    except Exception as error:  # NumPy may raise any error for a damaged header
        raise InputError(f"{name}: the .npy header is damaged: {str(error)[:200]}", file=file) from error
    if dtype.hasobject:
        raise InputError(
            f"{name}: expected numbers; received pickled Python objects, which are never loaded", file=file
        )
    if not records:
        _check_plain(dtype, file=file, name=name)
    if not all(type(n) is int and n >= 0 for n in shape):
        raise InputError(f"{name}: the .npy header is damaged: it declares the shape {shape}", file=file)
    return Header(dtype, shape, fortran_order, head.tell())


def _check_plain(dtype: np.dtype, *, file: Path, name: str) -> None:
    if dtype.kind not in "fiu" or dtype.itemsize > 8:
        raise InputError(f"{name}: expected numbers; received {dtype}", file=file)


def file_header(path: Path, *, records: bool = False) -> Header:
    """The header of a `.npy` file, compared with the size of the file.

    Raises
    ------
    InputError
        If the file is damaged, its size does not fit its shape, or it holds no plain numbers (or `records`).
    """
    with path.open("rb") as stream:
        header = read_header(stream, file=path, name=path.name, records=records)
    size = path.stat().st_size
    if header.start + header.nbytes != size:
        raise InputError(
            f"shape {header.shape} of {header.dtype} needs {header.start + header.nbytes} bytes; "
            f"the file has {size}",
            file=path,
        )
    return header


class Archive:
    """The arrays of an `.npz` archive."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._headers: dict[str, Header] = {}
        try:
            with zipfile.ZipFile(path) as archive:
                self._entries = {
                    entry.filename.removesuffix(".npy"): entry
                    for entry in archive.infolist()
                    if entry.filename.endswith(".npy")
                }
        except _ZIP_ERRORS as error:
            raise InputError(f"the archive is damaged: {error}", file=path) from error

    @property
    def members(self) -> list[str]:
        """Names of all arrays, of numbers or not."""
        return list(self._entries)

    def header(self, name: str, *, records: bool = False) -> Header:
        """The header of the array `name`, compared with the bytes that the archive has for it.

        Raises
        ------
        InputError
            If the array is damaged, or holds no plain numbers (or `records`).
        """
        if name not in self._headers:
            try:
                with zipfile.ZipFile(self.path) as archive:
                    self._headers[name] = self._header(archive, name, self._entries[name])
            except _ZIP_ERRORS as error:
                raise InputError(f"{name}: the archive is damaged: {error}", file=self.path) from error
        if not records:
            _check_plain(self._headers[name].dtype, file=self.path, name=name)
        return self._headers[name]

    def array(self, name: str, *, records: bool = False) -> np.ndarray:
        """The whole array `name`, decompressed and compared with its checksum."""
        header = self.header(name, records=records)
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

    def _header(self, archive: zipfile.ZipFile, name: str, entry: zipfile.ZipInfo) -> Header:
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or entry.flag_bits & 1:
            raise InputError(f"{name}: expected a stored or deflated, unencrypted member", file=self.path)
        with archive.open(entry) as stream:
            header = read_header(stream, file=self.path, name=name, records=True)
        if header.start + header.nbytes != entry.file_size:
            raise InputError(
                f"{name}: shape {header.shape} of {header.dtype} needs {header.start + header.nbytes} bytes; "
                f"the archive declares {entry.file_size}",
                file=self.path,
            )
        if entry.file_size > DEFLATE_LIMIT * (entry.compress_size + 1):
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
"""The errors that zipfile raises for damaged archives."""


def cube_shape(header: Header, *, file: Path, name: str) -> tuple[int, int, int]:
    """The shape in `header` as three numbers of cells.

    Raises
    ------
    InputError
        If the array is not three-dimensional, or empty.
    """
    if len(header.shape) != 3 or 0 in header.shape:
        raise InputError(
            f"{name}: expected numbers of shape (x, y, z); received {header.dtype} of shape {header.shape}",
            file=file,
        )
    return header.shape[0], header.shape[1], header.shape[2]
