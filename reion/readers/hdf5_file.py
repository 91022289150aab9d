"""HDF5 datasets read without trusting the file.

Links to other files, external and virtual storage are refused. Nothing is allocated for a shape that the
bytes in the file cannot fill: contiguous data must be complete, and deflated chunks are expanded under a
bound before the HDF5 library sees them, in any order of their filters. Filters other than deflate, shuffle
and Fletcher-32 are refused. So are texts in attributes that claim to be longer than the file (see
`reion.readers.object_header`). Texts of variable length are left out if an object has so many attributes
that HDF5 stores them outside its header (more than eight in files of the "latest" version). Chunks that were
never written are counted (`unwritten`); their meaning depends on the field.
"""

from __future__ import annotations

import contextlib
import errno
import math
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reion.errors import InputError
from reion.readers.compressed import DEFLATE_LIMIT
from reion.readers.filenames import ending_of
from reion.readers.object_header import ObjectHeader
from reion.readers.records import member_type, members_of

SIGNATURE = b"\x89HDF\r\n\x1a\n"
ENDINGS = (".h5", ".hdf5")
"""A file with such an ending counts as HDF5 even if it is damaged; any other file by its first bytes."""
_LEAST_USER_BLOCK = 512
_TAR, _TAR_PLACE = b"ustar", 257
MOST_NUMBERS = 1000
"""Most numbers in an attribute that is read, such as the redshifts of a series."""
_MOST_TEXTS, _MOST_TEXT = 16, 4096
_MOST_LOOKED_AT, _DEEPEST = 10_000, 8
"""Most names in a file, and deepest nesting of groups, that are searched: a hostile file may have no end."""
_DEFLATE, _SHUFFLE, _FLETCHER32 = 1, 2, 3
_FILTERS = {
    4: "szip",
    5: "n-bit",
    6: "scale-offset",
    32000: "LZF",
    32001: "Blosc",
    32004: "LZ4",
    32008: "bitshuffle",
    32013: "ZFP",
    32015: "Zstandard",
    32026: "Blosc2",
}
"""Names of filters that are not read, by their codes in HDF5's registry."""
_FLETCHER32_BYTES = 4
_SPARSE_LIMIT = 1000
"""A snapshot with chunks that were never written has at most this many times the bytes of its file."""
_SCALE_WITHOUT_DATA = "This is a netCDF dimension but not a netCDF variable"


def is_hdf5(path: Path) -> bool:
    """Whether a file is named as HDF5 or has its signature, at the start or behind a block of the user.

    The block, such as MATLAB's of 512 bytes, has 512 bytes or 2, 4, 8 ... times as many. An archive by tar
    begins with 512 bytes of its own.
    """
    if not path.is_file():
        return False
    if ending_of(path.name) in ENDINGS and not path.name.lower().endswith(".gz"):
        return True
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(_LEAST_USER_BLOCK)
        if head.startswith(SIGNATURE) or head[_TAR_PLACE : _TAR_PLACE + len(_TAR)] == _TAR:
            return head.startswith(SIGNATURE)
        start = _LEAST_USER_BLOCK
        while start < size:
            stream.seek(start)
            if stream.read(len(SIGNATURE)) == SIGNATURE:
                return True
            start *= 2
    return False


@contextlib.contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """Open the file as an `h5py.File`. Any error in the block counts as damage: an `InputError`."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            yield file
    except InputError:
        raise
    except (PermissionError, FileNotFoundError) as error:
        raise InputError(f"cannot be read: {error}", file=path) from error
    except Exception as error:  # h5py may raise any error for a damaged file
        if _is_locked(error):
            raise InputError(
                f"cannot be locked for reading: {error}",
                file=path,
                hint="another process is writing it: wait until it is finished. Where the file system knows "
                "no locks, set the environment variable HDF5_USE_FILE_LOCKING=FALSE",
            ) from error
        raise InputError(f"the HDF5 file is damaged: {error}", file=path) from error


def _is_locked(error: Exception) -> bool:
    text = str(error).lower()
    return (
        isinstance(error, BlockingIOError)
        or (isinstance(error, OSError) and error.errno in (errno.ENOLCK, errno.EWOULDBLOCK))
        or "unable to lock file" in text
        or "already open for write" in text
        or "already open for swmr" in text
    )


def find(file: Any, name: str, path: Path) -> Any | None:
    """The group or dataset `name` (a path with slashes), or None.

    Raises
    ------
    InputError
        If a link on the way leads out of the file or nowhere.
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
        if isinstance(link, h5py.SoftLink) and here.get(part) is None:
            raise InputError(f"{name}: the link to {link.path!r} leads nowhere", file=path)
        here = here[part]
    return here


def find_column(file: Any, name: str, path: Path) -> tuple[Any | None, str | None]:
    """The dataset `name` and None; for `table/member`, the dataset of records and the member's name."""
    dataset = find(file, name, path)
    table, _, member = name.rpartition("/")
    if dataset is not None or not table:
        return dataset, None
    records = find(file, table, path)
    there = records is not None and member_type(getattr(records, "dtype", np.dtype("f8")), member) is not None
    return (records, member) if there else (None, None)


def dataset_names(file: Any) -> list[str]:
    """Paths of the datasets of floating-point numbers, and `table/member` for such columns of tables."""
    import h5py

    names: list[str] = []
    looked = 0
    groups = [(file, "", 0)]
    while groups:
        group, prefix, depth = groups.pop()
        for name in group:
            looked += 1
            if looked > _MOST_LOOKED_AT:
                return names
            # A dataset that cannot be read does not matter to the others.
            with contextlib.suppress(Exception):
                if isinstance(group.get(name, getlink=True), h5py.HardLink):
                    item = group[name]
                    if isinstance(item, h5py.Group) and depth < _DEEPEST:
                        groups.append((item, f"{prefix}{name}/", depth + 1))
                    elif isinstance(item, h5py.Dataset) and item.shape is not None:
                        names += [prefix + name] if item.dtype.kind == "f" else []
                        names += [f"{prefix}{name}/{member}" for member in members_of(item.dtype)]
    return names


def attributes(item: Any) -> Mapping[str, Any]:
    """The attributes of a group or dataset that are texts or a few numbers, as Python values.

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
            or math.prod(shape) > (_MOST_TEXTS if kind.get_class() == h5t.STRING else MOST_NUMBERS)
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
        found[name] = _plain(item.attrs[name])
    return found


def _plain(value: Any) -> Any:
    """An attribute as a Python value: text for bytes, one value for a list of one."""
    plain = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(plain, list):
        return _plain(plain[0]) if len(plain) == 1 else [_plain(part) for part in plain]
    return plain.decode("utf-8", "replace") if isinstance(plain, bytes) else plain


def dimension_names(dataset: Any) -> list[str | None]:
    """Name of each axis of a dataset, from the dimension scale attached to it; None where there is none."""
    names: list[str | None] = [None] * len(dataset.shape)
    if "DIMENSION_LIST" not in dataset.attrs:
        return names
    # HDF5 allocates the length that a list of variable length claims, so the claim is looked up first.
    claimed = ObjectHeader(dataset).text_bytes("DIMENSION_LIST", len(names))
    if claimed is None or claimed > _MOST_TEXTS:
        return names
    for number, references in enumerate(dataset.attrs["DIMENSION_LIST"]):
        if len(references) and references[0]:
            scale = dataset.file[references[0]]
            names[number] = None if scale.name is None else scale.name.rpartition("/")[2]
    return names


def is_scale_without_data(dataset: Any) -> bool:
    """Whether a dataset only names a dimension, as NetCDF writes it, and has no data."""
    import h5py

    if not isinstance(dataset, h5py.Dataset) or "CLASS" not in dataset.attrs:
        return False
    found = attributes(dataset)
    return found.get("CLASS") == "DIMENSION_SCALE" and (
        str(found.get("NAME", "")).startswith(_SCALE_WITHOUT_DATA) or dataset.id.get_storage_size() == 0
    )


def shape_of(
    dataset: Any, name: str, path: Path, *, whole: bool = True, member: str | None = None
) -> tuple[int, ...]:
    """The shape of a dataset of numbers.

    Parameters
    ----------
    whole
        Whether all data must be there. Otherwise chunks (or all data) may never have been written.
    member
        A member of the records, whose own shape follows that of the dataset.

    Raises
    ------
    InputError
        If this is no dataset of numbers, or larger than the file can hold.
    """
    import h5py

    is_dataset = isinstance(dataset, h5py.Dataset) and dataset.shape is not None
    numbers = dataset.dtype if is_dataset else np.dtype("V")
    inner: tuple[int, ...] = ()
    if member is not None:
        numbers, inner = member_type(numbers, member) or (numbers, ())
    if numbers.kind not in "fiu" or numbers.itemsize > 8:
        kind = dataset.dtype if isinstance(dataset, h5py.Dataset) else "a group"
        raise InputError(
            f"{name}: expected a dataset of numbers; received {kind}",
            file=path,
            hint="write it as float32 or float64",
        )
    if dataset.external or dataset.is_virtual:
        raise InputError(
            f"{name}: expected data in this file; received storage in other files, which are not followed",
            file=path,
        )
    shape = tuple(int(n) for n in dataset.shape)
    size = path.stat().st_size
    if dataset.chunks is not None:
        _check_chunks(dataset, name, path)
    missing, pieces = unwritten(dataset)
    held_bytes = int(dataset.id.get_storage_size())
    needed = math.prod(shape) * dataset.dtype.itemsize
    if missing and whole:
        raise InputError(
            f"{name}: shape {shape} of {dataset.dtype} needs {pieces} chunks, {needed} bytes; the file of "
            f"{size} bytes holds {pieces - missing}, {held_bytes} bytes",
            file=path,
        )
    snapshot_bytes = math.prod(shape[-3:]) * dataset.dtype.itemsize
    if missing and snapshot_bytes > _SPARSE_LIMIT * size:
        raise InputError(
            f"{name}: shape {shape} needs {snapshot_bytes} bytes a snapshot; the whole file has {size}",
            file=path,
        )
    if dataset.chunks is None and not missing and (held_bytes != needed or needed > size):
        raise InputError(
            f"{name}: shape {shape} of {dataset.dtype} needs {needed} bytes; the file holds {held_bytes}",
            file=path,
        )
    return (*shape, *inner)


def unwritten(dataset: Any) -> tuple[int, int]:
    """Number of chunks that were never written, and number of all; contiguous data are one chunk."""
    if dataset.chunks is None:
        return int(dataset.id.get_storage_size() == 0 and math.prod(dataset.shape) > 0), 1
    expected = math.prod(-(-n // int(size)) for n, size in zip(dataset.shape, dataset.chunks, strict=True))
    return expected - int(dataset.id.get_num_chunks()), expected


def read(
    dataset: Any, key: tuple[int | slice, ...], name: str, path: Path, *, member: str | None = None
) -> np.ndarray:
    """The numbers of `dataset` (checked by `shape_of`) at `key`, in the file's number type.

    With `member`, the numbers of this member of the records. Its own axes are the last ones of `key`.

    Raises
    ------
    InputError
        If a chunk expands to more or less than its shape needs.
    """
    if dataset.chunks is not None and _DEFLATE in _filters(dataset):
        _check_expansion(dataset, key[: len(dataset.shape)], name, path)
    if member is None:
        return np.asarray(dataset[key])
    inner = key[len(dataset.shape) :]
    return np.asarray(dataset.fields(member)[key[: len(dataset.shape)]])[(..., *inner)]


def _filters(dataset: Any) -> list[int]:
    """Codes of the filters, in the order in which they are applied when a chunk is written."""
    created = dataset.id.get_create_plist()
    return [created.get_filter(number)[0] for number in range(created.get_nfilters())]


def _check_chunks(dataset: Any, name: str, path: Path) -> None:
    filters = _filters(dataset)
    unknown = [code for code in filters if code not in (_DEFLATE, _SHUFFLE, _FLETCHER32)]
    if unknown or filters.count(_DEFLATE) > 1:
        received = ", ".join(_FILTERS.get(code, f"filter {code}") for code in unknown) or "deflate twice"
        raise InputError(
            f"{name}: expected an array stored with the filters deflate (gzip), shuffle and fletcher32, or "
            f"none; received {received}",
            file=path,
            hint=f"`h5repack -f GZIP=4 {path.name} new.h5` rewrites it, or h5py with compression='gzip'",
        )
    # Each chunk holds at most its share of bytes, so that this also bounds the declared shape.
    held = int(dataset.id.get_num_chunks())
    missing, expected = unwritten(dataset)
    chunk_bytes = math.prod(map(int, dataset.chunks)) * dataset.dtype.itemsize
    size = path.stat().st_size
    if missing < 0 or (not filters and held * chunk_bytes > size):
        raise InputError(
            f"{name}: shape {dataset.shape} needs {expected} chunks of {chunk_bytes} bytes; the file of "
            f"{size} bytes holds {held}",
            file=path,
        )
    if chunk_bytes > DEFLATE_LIMIT * size:
        raise InputError(
            f"{name}: a chunk of {chunk_bytes} bytes cannot be held by a file of {size} bytes", file=path
        )


def _check_expansion(dataset: Any, key: tuple[int | slice, ...], name: str, path: Path) -> None:
    """Expand each deflated chunk that `key` touches under a bound, and check its size.

    A checksum (Fletcher-32) adds four bytes. If its filter comes before deflate, they are compressed with the
    data; otherwise they follow the compressed bytes.
    """
    sizes = dataset.chunks
    filters = _filters(dataset)
    deflate = filters.index(_DEFLATE)
    data_bytes = math.prod(map(int, sizes)) * dataset.dtype.itemsize
    ranges = []
    for k, n, size in zip(key, dataset.shape, sizes, strict=True):
        cells = range(n)[k]
        if not isinstance(cells, int) and not cells:
            return
        first, last = (cells, cells) if isinstance(cells, int) else (cells[0], cells[-1])
        ranges.append(range(first // size, last // size + 1))
    for corner in np.ndindex(*(len(r) for r in ranges)):
        offset = tuple(int(r[c]) * size for r, c, size in zip(ranges, corner, sizes, strict=True))
        info = dataset.id.get_chunk_info_by_coord(offset)
        if info.byte_offset is None:  # never written
            continue
        if int(info.size) > path.stat().st_size:
            raise InputError(
                f"{name}: the chunk at {offset} claims {int(info.size)} bytes of a smaller file", file=path
            )
        mask, raw = dataset.id.read_direct_chunk(offset)
        if mask & 1 << deflate:
            continue
        sums = [code == _FLETCHER32 and not mask & 1 << place for place, code in enumerate(filters)]
        expected = data_bytes + _FLETCHER32_BYTES * sum(sums[:deflate])
        raw = raw[: len(raw) - _FLETCHER32_BYTES * sum(sums[deflate:])]
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
