"""HDF5 datasets read without trusting the file.

Links to other files, external and virtual storage are refused. Nothing is allocated for a shape that the
bytes in the file cannot fill: contiguous data must be there in full, every chunk must be there, and deflated
chunks are expanded under a bound before the HDF5 library sees them. Filters other than deflate, shuffle and
Fletcher-32 are refused. So are texts in attributes that claim to be longer than the file (see
`reion.readers.object_header`); a text of variable length is left out where an object has so many attributes
that they are not in its header (more than eight in files of the "latest" version).
"""

from __future__ import annotations

import contextlib
import math
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reion.errors import InputError
from reion.readers.object_header import ObjectHeader

SIGNATURE = b"\x89HDF\r\n\x1a\n"
_MOST_NUMBERS, _MOST_TEXT = 16, 4096
_MOST_NAMES, _MOST_LOOKED_AT, _DEEPEST = 20, 1000, 8
_DEFLATE, _SHUFFLE, _FLETCHER32 = 1, 2, 3


def is_hdf5(path: Path) -> bool:
    """Whether a file is named as HDF5 or starts with its signature."""
    if not path.is_file():
        return False
    if path.suffix in (".h5", ".hdf5"):
        return True
    with path.open("rb") as stream:
        return stream.read(len(SIGNATURE)) == SIGNATURE


@contextlib.contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """The file as an `h5py.File`; whatever damage raises inside the block becomes an `InputError`."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            yield file
    except InputError:
        raise
    except (PermissionError, FileNotFoundError) as error:
        raise InputError(f"cannot be read: {error}", file=path) from error
    except Exception as error:  # whatever a damaged file raises, the file is damaged
        raise InputError(f"the HDF5 file is damaged: {error}", file=path) from error


def find(file: Any, name: str, path: Path) -> Any | None:
    """The group or dataset `name` (a path with slashes), or None.

    Raises
    ------
    InputError
        If a link on the way leads out of the file.
    """
    import h5py

    here = file
    for part in (part for part in name.split("/") if part):
        if not isinstance(here, h5py.Group) or here.get(part, getlink=True) is None:
            return None
        link = here.get(part, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise InputError(
                f"{name}: expected data in this file; received a link to {link.filename!r}",
                file=path,
                hint="links to other files are not followed: copy the data into one file",
            )
        here = here[part]
    return here


def dataset_names(file: Any) -> list[str]:
    """Paths of the first datasets of floating-point numbers, to be shown to a person."""
    import h5py

    names: list[str] = []
    looked = 0
    groups = [(file, "", 0)]
    while groups:
        group, prefix, depth = groups.pop()
        for name in group:
            looked += 1
            if looked > _MOST_LOOKED_AT or len(names) == _MOST_NAMES:
                return names
            if isinstance(group.get(name, getlink=True), h5py.HardLink):
                item = group[name]
                if isinstance(item, h5py.Group) and depth < _DEEPEST:
                    groups.append((item, f"{prefix}{name}/", depth + 1))
                elif isinstance(item, h5py.Dataset) and item.dtype.kind == "f":
                    names.append(prefix + name)
    return names


def attributes(item: Any) -> Mapping[str, Any]:
    """The attributes of a group or dataset that are texts or a few numbers, as Python has them.

    Raises
    ------
    InputError
        If a text claims more bytes than the file has.
    """
    from h5py import h5t

    path = Path(item.file.filename)
    header = ObjectHeader(item)
    found: dict[str, Any] = {}
    for name in item.attrs:
        stored = item.attrs.get_id(name)
        kind, shape = stored.get_type(), stored.shape
        if (
            kind.get_class() not in (h5t.INTEGER, h5t.FLOAT, h5t.ENUM, h5t.STRING)
            or kind.get_size() > _MOST_TEXT
            or shape is None
            or math.prod(shape) > _MOST_NUMBERS
        ):
            continue
        if kind.get_class() == h5t.STRING and kind.is_variable_str():
            claimed = header.text_bytes(name, math.prod(shape))
            if claimed is None:
                continue
            if claimed > path.stat().st_size:
                raise InputError(
                    f"the attribute {name} claims {claimed} bytes of a smaller file: it is damaged", file=path
                )
        value = item.attrs[name]
        if isinstance(value, bytes):
            found[name] = value.decode("utf-8", "replace")
        else:
            plain = value.tolist() if hasattr(value, "tolist") else value
            found[name] = plain[0] if isinstance(plain, list) and len(plain) == 1 else plain
    return found


def shape_of(dataset: Any, name: str, path: Path) -> tuple[int, ...]:
    """The shape of a dataset of floating-point numbers that are all there.

    Raises
    ------
    InputError
        If it is something else, or larger than what the file holds.
    """
    import h5py

    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind != "f" or dataset.dtype.itemsize > 8:
        kind = dataset.dtype if isinstance(dataset, h5py.Dataset) else "a group"
        raise InputError(
            f"{name}: expected a dataset of floating-point numbers; received {kind}",
            file=path,
            hint="write it as float32 or float64",
        )
    if dataset.external or dataset.is_virtual:
        raise InputError(
            f"{name}: expected data in this file; received storage in other files, which are not followed",
            file=path,
        )
    shape = tuple(int(n) for n in dataset.shape)
    needed = dataset.dtype.itemsize
    for n in shape:
        needed *= n
    if dataset.chunks is None:
        held = int(dataset.id.get_storage_size())
        if held != needed or needed > path.stat().st_size:
            raise InputError(
                f"{name}: shape {shape} of {dataset.dtype} needs {needed} bytes; the file holds {held}",
                file=path,
            )
        return shape
    _check_chunks(dataset, shape, name, path)
    return shape


def read(dataset: Any, key: tuple[int | slice, ...], name: str, path: Path) -> np.ndarray:
    """The numbers of `dataset` (checked by `shape_of`) at `key`, in the file's number type.

    Raises
    ------
    InputError
        If a chunk expands to more or less than its shape needs.
    """
    if dataset.chunks is not None and dataset.compression == "gzip":
        _check_expansion(dataset, key, name, path)
    return np.asarray(dataset[key])


def _check_chunks(dataset: Any, shape: tuple[int, ...], name: str, path: Path) -> None:
    filters = dataset.id.get_create_plist()
    for number in range(filters.get_nfilters()):
        code = filters.get_filter(number)[0]
        if code not in (_DEFLATE, _SHUFFLE, _FLETCHER32):
            raise InputError(
                f"{name}: expected the filters deflate, shuffle or fletcher32; received filter {code}",
                file=path,
                hint="rewrite the dataset with compression='gzip', or none",
            )
    expected = 1
    for n, size in zip(shape, dataset.chunks, strict=True):
        expected *= -(-n // int(size))
    held = int(dataset.id.get_num_chunks())
    # Each chunk holds at most its share of bytes, so that this also bounds the declared shape.
    chunk_bytes = int(np.prod(dataset.chunks, dtype=object)) * dataset.dtype.itemsize
    size = path.stat().st_size
    if held != expected or (filters.get_nfilters() == 0 and held * chunk_bytes > size):
        raise InputError(
            f"{name}: shape {shape} needs {expected} chunks of {chunk_bytes} bytes; the file of {size} bytes "
            f"holds {held}",
            file=path,
        )
    if chunk_bytes > 1040 * size:
        raise InputError(
            f"{name}: a chunk of {chunk_bytes} bytes cannot be held by a file of {size} bytes", file=path
        )


def _check_expansion(dataset: Any, key: tuple[int | slice, ...], name: str, path: Path) -> None:
    sizes = dataset.chunks
    expected = int(np.prod(sizes, dtype=object)) * dataset.dtype.itemsize
    ranges = []
    for k, n, size in zip(key, dataset.shape, sizes, strict=True):
        cells = range(n)[k]
        first, last = (cells, cells) if isinstance(cells, int) else (cells[0], cells[-1])
        ranges.append(range(first // size, last // size + 1))
    for corner in np.ndindex(*(len(r) for r in ranges)):
        offset = tuple(int(r[c]) * size for r, c, size in zip(ranges, corner, sizes, strict=True))
        stored = int(dataset.id.get_chunk_info_by_coord(offset).size)
        if stored > path.stat().st_size:
            raise InputError(
                f"{name}: the chunk at {offset} claims {stored} bytes of a smaller file", file=path
            )
        mask, raw = dataset.id.read_direct_chunk(offset)
        if mask:
            continue
        fletcher = 4 if dataset.fletcher32 else 0
        raw = raw[: len(raw) - fletcher] if fletcher else raw
        expander = zlib.decompressobj()
        try:
            expanded = len(expander.decompress(raw, expected + 1))
        except zlib.error as error:
            raise InputError(f"{name}: the chunk at {offset} is damaged: {error}", file=path) from error
        if expanded != expected:
            raise InputError(
                f"{name}: expected the chunk at {offset} to expand to {expected} bytes; received "
                f"{'more' if expanded > expected else expanded}",
                file=path,
            )
