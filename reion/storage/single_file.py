"""Writes a store as one file, where the name of an output ends in `.h5`, `.hdf5`, `.nc` or `.npz`.

An HDF5 file and a NetCDF 4 file are the same: they hold every array of the store with its attributes, fields
deflated, coordinates as dimension scales, so that h5py, xarray and the NetCDF library read them. A JSON text
(`IN_JSON`) holds those attributes of the store that HDF5 would change, such as a list of one text. An `.npz`
archive holds fields of shape (redshift, x, y, z) in the units of the Simulation, `redshift`, `box_size`, and
`H0`, `Om0`, `Ob0` where they are known. Its member `attributes` holds the attributes as JSON. reion reads all
of these files. One block is in memory at a time.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reion.errors import InputError
from reion.jobs.places import Kind, is_by_reion
from reion.readers.hdf5 import IN_JSON
from reion.readers.npy import Archive
from reion.readers.npz import attributes_in
from reion.simulation.contract import AXES, DEFAULT_COSMOLOGY, DIMS, FIELDS, MAX_MFP
from reion.storage.store import STORE, blocks_of

_HDF5_ENDINGS = (".h5", ".hdf5", ".nc")
_NPZ_ENDING = ".npz"
_OURS = {*DIMS, *FIELDS, "xi_std", "z_reion", MAX_MFP, *DEFAULT_COSMOLOGY, "box_size", "attributes"}
"""Names in a file that reion wrote. A file with any other name is not replaced."""

_LONGEST_ATTRIBUTE = 60_000
"""Largest attribute in bytes: HDF5 stores at most 64 KiB for each."""

_TEXT_BYTES = 16
"""Bytes that HDF5 stores in an attribute for each text in a list, and at most for each number."""


def kind_of(out: str | Path) -> Kind:
    """The kind of output at `out`: a file if its name ends in that way, a Zarr store otherwise."""
    ending = Path(out).suffix.lower()
    if ending in _HDF5_ENDINGS:
        return Kind(name="an HDF5 file", ending=ending, is_ours=is_our_hdf5)
    return Kind(name="an .npz archive", ending=ending, is_ours=is_our_npz) if ending == _NPZ_ENDING else STORE


def packing_of(out: str | Path) -> Callable[[Path, Path], None] | None:
    """The function that writes the file at `out` from a store, given both paths; None if `out` is a store."""
    ending = Path(out).suffix.lower()
    return _write_hdf5 if ending in _HDF5_ENDINGS else _write_npz if ending == _NPZ_ENDING else None


def check_packable(out: str | Path, units: Mapping[str, str]) -> None:
    """Refuse to write fields with units (by field name) that an `.npz` archive, which has none, cannot tell.

    Raises
    ------
    InputError
        If `out` is an `.npz` archive and a field is not in the first of its units, which a reader assumes.
    """
    for name, unit in units.items():
        if Path(out).suffix.lower() == _NPZ_ENDING and unit != FIELDS[name].units[0]:
            raise InputError(
                f"{name} is in {unit}, which an .npz archive cannot say: it would be read as "
                f"{FIELDS[name].units[0]}",
                file=out,
                hint="give a name that ends in .h5, .nc or .zarr",
            )


def digests_in(file: Path) -> dict[str, str]:
    """The `sha256` of each field in a file that reion wrote."""
    if file.suffix.lower() == _NPZ_ENDING:
        found = attributes_in_npz(file)["fields"]
        return {name: str(found[name]["sha256"]) for name in FIELDS if "sha256" in found.get(name, {})}
    import h5py

    with h5py.File(file, "r") as stored:
        return {
            name: str(stored[name].attrs["sha256"])
            for name in FIELDS
            if name in stored and "sha256" in stored[name].attrs
        }


def _write_hdf5(store: Path, file: Path) -> None:
    """Write the arrays and attributes of a store as HDF5 that is NetCDF 4 as well.

    The order of attributes is not tracked: otherwise HDF5 stores more than eight attributes where our reader
    takes no texts of variable length.
    """
    import h5py
    import zarr

    group = zarr.open_group(store, mode="r")
    try:
        with h5py.File(file, "w") as written:
            stored = dict(group.attrs)
            changed = {key: value for key, value in stored.items() if not _is_kept(value)}
            _set_attributes(written, {**stored, IN_JSON: json.dumps(changed)} if changed else stored)
            arrays = dict(group.arrays())
            for name in sorted(arrays, key=lambda name: (name not in DIMS, name)):
                array: Any = arrays[name]
                storage = (
                    {
                        "chunks": tuple(map(min, array.chunks, array.shape)),
                        "compression": "gzip",
                        "compression_opts": 1,
                        "shuffle": True,
                    }
                    if array.ndim > 1
                    else {}
                )
                dataset = written.create_dataset(
                    name, array.shape, array.dtype, fletcher32=array.ndim > 1, **storage
                )
                if name in DIMS:
                    dataset.make_scale(name)
                _set_attributes(dataset, array.attrs)
                for part in _parts(array):
                    dataset[part] = array[part]
            for name, array in arrays.items():
                dims: Any = array.metadata.dimension_names
                for number, dim in enumerate(dims if name not in DIMS else ()):
                    written[name].dims[number].attach_scale(written[dim])
    except (RuntimeError, ValueError) as error:  # how h5py says that the disk is full
        raise OSError(str(error)) from error


def _is_kept(value: Any) -> bool:
    """Whether an attribute of a store is the same when it is read from an HDF5 file.

    Text and numbers are, and lists of at least two texts, or two numbers of one type.
    """
    kinds = set(map(type, value)) if isinstance(value, list) and len(value) > 1 else {type(value)}
    return len(kinds) == 1 and kinds <= {str, int, float, bool}


def _set_attributes(item: Any, attrs: Any) -> None:
    for key, value in attrs.items():
        if value is None or value == []:
            continue
        items = value if isinstance(value, list) else [value]
        numbers = [number for number in items if isinstance(number, int | float)]
        if len(numbers) + items.count(None) == len(items):
            # In the JSON attributes of a store, null stands for a number that is not finite.
            value = [np.nan if number is None else number for number in value] if items is value else value
        elif not all(isinstance(text, str) for text in items):
            value = json.dumps(value)
        size = len(value.encode()) if isinstance(value, str) else _TEXT_BYTES * len(items)
        if size <= _LONGEST_ATTRIBUTE:
            item.attrs[key] = value


def _write_npz(store: Path, file: Path) -> None:
    """Write the arrays of a store as an `.npz` archive."""
    import zarr

    group = zarr.open_group(store, mode="r")
    arrays: dict[str, Any] = dict(group.arrays())
    attributes = {"store": dict(group.attrs), "fields": {name: dict(a.attrs) for name, a in arrays.items()}}
    known = () if group.attrs.get("cosmology_assumed") else tuple(DEFAULT_COSMOLOGY)
    scalars = {
        "attributes": np.array(json.dumps(attributes)),
        **{name: np.asarray(group.attrs[name], dtype=np.float64) for name in ("box_size", *known)},
    }
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, values in scalars.items():
            with archive.open(f"{name}.npy", "w") as stream:
                np.lib.format.write_array(stream, values, allow_pickle=False)
        for name, array in arrays.items():
            if name in AXES:
                continue
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                header = {"descr": array.dtype.str, "fortran_order": False, "shape": tuple(array.shape)}
                np.lib.format.write_array_header_1_0(stream, header)
                for part in _parts(array, whole_planes=True):
                    stream.write(np.ascontiguousarray(array[part]).tobytes())


def _parts(array: Any, *, whole_planes: bool = False) -> Iterator[tuple[int | slice, ...]]:
    """Keys of the parts of an array that are copied one after another.

    With `whole_planes` the parts are slabs of planes along x, which follow one another in C order.
    """
    if array.ndim != len(DIMS):
        yield (slice(None),) * array.ndim
        return
    planes = array.chunks[1]
    slabs = [
        (slice(start, start + planes), slice(None), slice(None)) for start in range(0, array.shape[1], planes)
    ]
    for index in range(array.shape[0]):
        for block in slabs if whole_planes else blocks_of(array.shape[1:]):
            yield (index, *block)


def is_our_hdf5(path: Path) -> bool:
    """Whether an HDF5 file says that reion wrote it, and holds nothing else."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return is_by_reion(file.attrs) and set(file) <= _OURS
    except (OSError, KeyError, RuntimeError, ValueError):
        return False


def is_our_npz(path: Path) -> bool:
    """Whether a file is an `.npz` archive that says that reion wrote it, and holds nothing else."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist()}
        return names <= _OURS and attributes_in(Archive(path)) is not None
    except (OSError, InputError, zipfile.BadZipFile):
        return False


def attributes_in_npz(path: Path) -> Mapping[str, Any]:
    """The attributes of the `store` and of its `fields`, by their names, in an archive that reion wrote.

    Raises
    ------
    InputError
        If reion did not write the archive, or it is damaged.
    """
    found = attributes_in(Archive(path))
    if found is None:
        raise InputError("expected an .npz archive that reion wrote; received another", file=path)
    return found
