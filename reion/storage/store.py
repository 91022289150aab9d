"""Writes a Simulation as a Zarr store, whole or not at all."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import reion
from reion.jobs.outputs import finite, whole_folder
from reion.jobs.places import Kind, claimed, is_by_reion
from reion.jobs.workers import Job, Progress, ThisProcess
from reion.simulation.contract import DIMS, FIELDS, MAX_MFP, check_simulation, n_ion_units, shape_of
from reion.simulation.lazy import Region
from reion.simulation.photons import PhotonSum, warn_if_late
from reion.simulation.plausible_density import falling_structure_doubt, mean_density_doubt

_CHUNK_BYTES = 32 << 20
"""Largest chunk of a store, in bytes of its float32 values."""

_BLOCK_BYTES = 64 << 20
"""Largest block, in bytes of its float32 values. A snapshot of at most this size is one block."""

HISTORY = -1
"""In place of the number of a snapshot: the piece writes n_src of all snapshots, and n_ion summed from it."""


def is_our_store(path: Path) -> bool:
    """Whether a folder is a Zarr store that reion wrote, and holds nothing else."""
    try:
        metadata = json.loads((path / "zarr.json").read_text(encoding="utf-8"))
        is_ours = is_by_reion(metadata["attributes"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return False
    entries = [entry for entry in path.iterdir() if entry.name != "zarr.json"]
    return is_ours and all((entry / "zarr.json").is_file() for entry in entries)


STORE = Kind(name="a Zarr store", ending=".zarr", is_ours=is_our_store)
"""The kind of output that `create_store` creates."""


def write_simulation(
    sim: xr.Dataset,
    path: str | Path,
    *,
    force: bool = False,
    attrs: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write a Simulation as a Zarr store that `xarray.open_zarr(path)` opens.

    One snapshot (or one block of a large one) is in memory at a time. Where there is `n_src` and no `n_ion`,
    `n_ion` is also computed and written (see `reion.simulation.photons.with_n_ion`). A chunk holds one
    snapshot, or a part of it of at most 32 MiB, compressed (Blosc, Zstandard) and with its CRC-32C. A missing
    chunk reads as NaN, which reion's readers refuse. The attribute `sha256` of a field is the SHA-256 of the
    SHA-256 digests of its chunks (little-endian float32 in C order), in C order of the chunk grid.

    Parameters
    ----------
    force
        Replace what is at `path`.
    attrs
        Further attributes of the store.

    Raises
    ------
    InputError
        If something is at `path` (and `force` is not given), or if a value is out of range. Nothing is then
        written.
    """
    check_simulation(sim, values=False)
    with claimed(path, STORE, force=force) as place, whole_folder(place) as folder:
        create_store(sim, folder, attrs or {})
        pieces = pieces_of(sim)
        results = []
        for number, result in ThisProcess().map(WriteFields(sim, folder), pieces):
            results.append(result)
            if progress is not None:
                progress(number + 1, len(pieces))
        finish_store(sim, folder, results)
    return place


def blocks_of(shape: Sequence[int]) -> list[Region]:
    """The blocks of a box of `shape` cells: whole chunks of its store, at most 64 MiB of float32 each.

    A box of up to 256^3 cells is one block. A block of a larger box holds as many chunks as fit, along x
    first, then along y and z. Functions that read a whole simulation do so block by block.
    """
    chunk = chunk_shape(tuple(shape))
    sides = list(chunk)
    for axis, n in enumerate(shape):
        room = _BLOCK_BYTES // (4 * math.prod(sides))
        sides[axis] = min(n, chunk[axis] * max(1, room))
    axes = [
        [slice(start, min(start + side, n)) for start in range(0, n, side)]
        for side, n in zip(sides, shape, strict=True)
    ]
    return [(x, y, z) for x, y, z in itertools.product(*axes)]


def _summed_up(sim: xr.Dataset) -> bool:
    """Whether n_ion is to be summed up from n_src."""
    return "n_src" in sim.data_vars and "n_ion" not in sim.data_vars


def create_store(sim: xr.Dataset, folder: Path, attrs: Mapping[str, Any]) -> None:
    """Create the store of a Simulation without the values of its fields; `attrs` are added to it."""
    group = create_group(sim, folder, attrs)
    for name in FIELDS:
        if name in sim.data_vars:
            _create(group, name, sim[name])
    if _summed_up(sim):
        _create(group, "n_ion", sim["n_src"]).attrs.update(
            units=n_ion_units(sim["n_src"].attrs["units"]), long_name=FIELDS["n_ion"].long_name
        )


def create_group(sim: xr.Dataset, folder: Path, attrs: Mapping[str, Any]) -> Any:
    """Create a Zarr group with the coordinates and attributes of a Simulation, and `attrs`; return it."""
    import zarr

    group = zarr.open_group(folder, mode="w", zarr_format=3)
    group.attrs.update(plain({**sim.attrs, **attrs, "written_by": f"reion {reion.__version__}"}))
    for name in (*DIMS, *([MAX_MFP] if MAX_MFP in sim.data_vars else [])):
        values = np.asarray(sim[name].values, dtype=np.float64)
        array = group.create_array(
            name,
            shape=values.shape,
            dtype=values.dtype,
            chunks=values.shape,
            compressors=_compressors(),
            dimension_names=tuple(map(str, sim[name].dims)),
        )
        array[...] = values
        array.attrs.update(plain(sim[name].attrs))
    return group


def consolidate(group: Any) -> None:
    """Copy the metadata of all arrays of a group into that of the group, where `xarray.open_zarr` looks."""
    import zarr

    with warnings.catch_warnings():
        # xarray.open_zarr warns if this is missing, zarr warns if it is written.
        warnings.filterwarnings("ignore", message="Consolidated metadata", category=UserWarning)
        zarr.consolidate_metadata(group.store)


def pieces_of(sim: xr.Dataset) -> list[tuple[int, int]]:
    """The pieces in which a Simulation is written: snapshot (or `HISTORY`) and block; the longest first."""
    blocks = range(len(blocks_of(shape_of(sim))))
    history = [(HISTORY, block) for block in blocks] if _summed_up(sim) else []
    other_fields = [name for name in FIELDS if name in sim.data_vars and not (history and name == "n_src")]
    snapshots = range(sim.sizes["redshift"]) if other_fields else ()
    return history + [(index, block) for index in snapshots for block in blocks]


class WriteFields(Job[tuple[int, int], dict[str, Any]]):
    """Writes a piece of a Simulation into its store (see `create_store`).

    No two pieces share a chunk. The result of a piece fits into JSON: `digests`, the value of `write_block`
    for each field; `shining`, whether the piece has sources in the first snapshot; and `density`, the sums of
    n_igm and of its square over the cells of the piece, empty if it has none.
    """

    def __init__(self, sim: xr.Dataset, folder: Path) -> None:
        self._sim = sim
        self._folder = folder
        self._blocks = blocks_of(shape_of(sim))

    @cached_property
    def _arrays(self) -> Any:
        import zarr

        return zarr.open_group(self._folder, mode="r+")

    def __call__(self, piece: tuple[int, int]) -> dict[str, Any]:
        """Write one piece."""
        index, number = piece
        block = self._blocks[number]
        if index == HISTORY:
            return self._write_history(block)
        digests: dict[str, dict[str, str]] = {}
        density: list[float] = []
        for name in FIELDS:
            if name in self._sim.data_vars and not (name == "n_src" and _summed_up(self._sim)):
                values = self._sim[name][(index, *block)].values
                digests[name] = write_block(self._arrays[name], values, index, block)
                if name == "n_igm":
                    density = _sums_of_density(values)
        return {"digests": digests, "shining": False, "density": density}

    def _write_history(self, block: Region) -> dict[str, Any]:
        digests: dict[str, dict[str, str]] = {"n_src": {}, "n_ion": {}}
        photons = PhotonSum(self._sim, [cells.stop - cells.start for cells in block])
        shining = False
        for index in range(self._sim.sizes["redshift"]):
            n_src = self._sim["n_src"][(index, *block)].values
            digests["n_src"] |= write_block(self._arrays["n_src"], n_src, index, block)
            digests["n_ion"] |= write_block(self._arrays["n_ion"], photons.n_ion, index, block)
            photons.add(n_src)
            shining = shining or (index == 0 and bool(n_src.any()))
            del n_src  # frees it before the next is read
        return {"digests": digests, "shining": shining, "density": []}


def _sums_of_density(values: np.ndarray) -> list[float]:
    """The sum of values (x, y, z) and that of their squares; plane by plane, for less memory."""
    total = sum(float(plane.sum(dtype=np.float64)) for plane in values)
    return [total, sum(float(np.square(plane, dtype=np.float64).sum()) for plane in values)]


def density_doubts(sim: xr.Dataset, pieces: Iterable[tuple[int, int]], results: Iterable[Any]) -> list[str]:
    """What is wrong with the density that the pieces wrote: its mean, and the growth of its structure."""
    if "n_igm" not in sim.data_vars:
        return []
    sums = np.zeros((sim.sizes["redshift"], 2))
    for (index, _), result in zip(pieces, results, strict=True):
        if result["density"]:
            sums[index] += result["density"]
    means, squares = sums.T / math.prod(shape_of(sim))
    spreads = np.sqrt(np.maximum(squares - means**2, 0)) / means
    redshifts = sim["redshift"].values.tolist()
    doubts = [mean_density_doubt(sim, means), falling_structure_doubt(redshifts, spreads.tolist())]
    return [doubt for doubt in doubts if doubt is not None]


def write_block(array: Any, values: np.ndarray, index: int, block: Region) -> dict[str, str]:
    """Write a block (x, y, z) of one snapshot of a Zarr array, chunk by chunk.

    Returns
    -------
    dict
        The SHA-256 of each chunk, by its place `SNAPSHOT X Y Z`: the snapshot and the first cell.
    """
    sizes = array.chunks[1:]
    digests = {}
    for corner in np.ndindex(*(-(-n // size) for n, size in zip(values.shape, sizes, strict=True))):
        local = tuple(slice(c * n, (c + 1) * n) for c, n in zip(corner, sizes, strict=True))
        chunk = np.ascontiguousarray(values[local], dtype="<f4")
        x, y, z = (axis.start + c * n for axis, c, n in zip(block, corner, sizes, strict=True))
        nx, ny, nz = chunk.shape
        array[index, x : x + nx, y : y + ny, z : z + nz] = chunk
        digests[f"{index} {x} {y} {z}"] = hashlib.sha256(chunk.data).hexdigest()
    return digests


def finish_store(
    sim: xr.Dataset,
    folder: Path,
    results: Iterable[Mapping[str, Any]],
    *,
    attrs: Mapping[str, Any] | None = None,
) -> None:
    """Complete a store, all values of which are written, from the results of its pieces; add `attrs`."""
    import zarr

    group = zarr.open_group(folder, mode="r+")
    group.attrs.update(plain(attrs or {}))
    digests: dict[str, dict[tuple[int, ...], bytes]] = {}
    shining = False
    for result in results:
        shining = shining or result["shining"]
        for name, chunks in result["digests"].items():
            digests.setdefault(name, {}).update(
                {tuple(map(int, place.split())): bytes.fromhex(digest) for place, digest in chunks.items()}
            )
    warn_if_late(sim, shining=shining)
    for name, chunks_of_field in digests.items():
        joined = b"".join(digest for _, digest in sorted(chunks_of_field.items()))
        group[name].attrs["sha256"] = hashlib.sha256(joined).hexdigest()
    consolidate(group)


def _compressors() -> list[Any]:
    """The codecs of every chunk, of fields and of coordinates: compression and a checksum."""
    from zarr.codecs import BloscCodec, Crc32cCodec

    return [BloscCodec(cname="zstd", clevel=3, shuffle="shuffle"), Crc32cCodec()]


def _create(group: Any, name: str, like: xr.DataArray) -> Any:
    """Create the array of a field, with the shape and attributes of `like`."""
    array = group.create_array(
        name,
        shape=like.shape,
        dtype=np.float32,
        chunks=(1, *chunk_shape(like.shape[1:])),
        compressors=_compressors(),
        fill_value=np.nan,
        dimension_names=DIMS,
        config={"write_empty_chunks": True},
    )
    array.attrs.update(plain({key: value for key, value in like.attrs.items() if key != "sha256"}))
    return array


def volume(block: Region) -> int:
    """Number of cells in a block."""
    return math.prod(cells.stop - cells.start for cells in block)


def chunk_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a chunk: that of the snapshot, its longest side halved until it holds at most 32 MiB."""
    chunk = list(shape)
    while 4 * int(np.prod(chunk)) > _CHUNK_BYTES:
        longest = len(chunk) - 1 - int(np.argmax(chunk[::-1]))
        chunk[longest] = -(-chunk[longest] // 2)
    return tuple(chunk)


def plain(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Attributes as values for JSON: lists for arrays, and null for a number that is not finite."""
    values = {str(key): value.tolist() if hasattr(value, "tolist") else value for key, value in attrs.items()}
    return dict(finite(values))
