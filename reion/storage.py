"""Simulations on disk: one Zarr store each, written whole or not at all."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import shutil
import socket
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from reion.errors import InputError
from reion.simulation import (
    AXES,
    DIMS,
    FIELDS,
    N_ION_TIME_S,
    check_simulation,
    intervals_s,
    n_ion_units,
    warn_if_late,
)

_CHUNK_BYTES = 32 << 20
_SLAB_BYTES = 64 << 20
"""Snapshots up to this size (float32) are handled in one piece, larger ones in slabs along z."""

Progress = Callable[[int, int], None]
"""Called with the pieces done and the pieces there are."""


def write_simulation(
    sim: xr.Dataset,
    path: str | Path,
    *,
    force: bool = False,
    attrs: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write a Simulation as a Zarr store that `xarray.open_zarr(path)` opens.

    One snapshot (or one slab of a large one) is in memory at a time. Where there is `n_src` and no `n_ion`,
    `n_ion` is integrated on the way (see `reion.simulation.with_n_ion`). Chunks hold one snapshot, or blocks
    of at most 32 MiB of it, compressed (Blosc, Zstandard) and each with its CRC-32C; a chunk that is missing
    reads as NaN, which no reader of ours lets pass. Every field's `sha256` is that of its chunks' sha256
    digests (of little-endian float32 in C order), chunk by chunk in C order of the chunk grid.

    Parameters
    ----------
    force
        Replace what is at `path`.
    attrs
        Further attributes of the store.

    Raises
    ------
    InputError
        If there is something at `path` (and no `force`), or if a value that is read is out of range: then
        nothing is written.
    """
    check_simulation(sim, values=False)
    with whole_folder(path, force=force) as folder:
        _write(sim, folder, attrs or {}, progress)
    return Path(path)


def slabs_of(sim: xr.Dataset) -> list[slice]:
    """The z axis in pieces of whole chunks, so that a piece of a snapshot is at most 64 MiB of float32.

    One piece up to 256^3 cells: what streams through a simulation does so slab by slab.
    """
    nx, ny, nz = (sim.sizes[axis] for axis in AXES)
    depth = _chunk_shape((nx, ny, nz))[2]
    depth *= max(1, _SLAB_BYTES // (4 * nx * ny * depth))
    return [slice(start, min(start + depth, nz)) for start in range(0, nz, depth)]


@contextlib.contextmanager
def whole_folder(path: str | Path, *, force: bool = False) -> Iterator[Path]:
    """A folder to write into that appears at `path` when the block ends without an error, and not before.

    It lies beside its place, so that moving it in is one step. What a killed process left there is removed.

    Raises
    ------
    InputError
        If there is something at `path` and no `force`.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.partial")
    try:
        if path.exists() and not force:
            raise InputError("exists already", file=path, hint="--force replaces it")
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        partial.mkdir()
    except OSError as error:
        raise InputError(f"cannot be written: {error}", file=path) from error
    try:
        yield partial
        if path.exists():
            old = partial.with_suffix(".old")
            path.rename(old)
            partial.rename(path)
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        else:
            partial.rename(path)
    except OSError as error:
        raise InputError(f"cannot be written: {error}", file=path) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _remove_leftovers(path: Path) -> None:
    for left in path.parent.glob(f".{glob.escape(path.name)}.{glob.escape(socket.gethostname())}.*.partial"):
        process = left.name.split(".")[-2]
        if process.isdigit() and not _is_running(int(process)):
            shutil.rmtree(left, ignore_errors=True)


def _write(sim: xr.Dataset, folder: Path, attrs: Mapping[str, Any], progress: Progress | None) -> None:
    import zarr

    from reion_kernels import accumulate

    group = zarr.open_group(folder, mode="w", zarr_format=3)
    group.attrs.update({**_plain(sim.attrs), **_plain(attrs)})
    for dim in DIMS:
        values = np.asarray(sim[dim].values, dtype=np.float64)
        array = group.create_array(
            dim, shape=values.shape, dtype=values.dtype, chunks=values.shape, dimension_names=(dim,)
        )
        array[...] = values
        array.attrs.update(_plain(sim[dim].attrs))
    present = [name for name in FIELDS if name in sim.data_vars]
    arrays = {name: _create(group, name, sim[name]) for name in present}
    integrate = "n_src" in present and "n_ion" not in present
    if integrate:
        arrays["n_ion"] = _create(group, "n_ion", sim["n_src"])
        arrays["n_ion"].attrs.update(
            units=n_ion_units(sim["n_src"].attrs["units"]), long_name=FIELDS["n_ion"].long_name
        )
        seconds = np.append(intervals_s(sim), 0.0)
    digests: dict[str, dict[tuple[int, ...], bytes]] = {name: {} for name in arrays}
    slabs = slabs_of(sim)
    snapshots = sim.sizes["redshift"]
    done = 0
    warned = False
    for slab in slabs:
        total: np.ndarray | None = None
        for index in range(snapshots):
            for name in present:
                values = sim[name][index, :, :, slab].values
                _put(arrays[name], values, index, slab, digests[name])
                if integrate and name == "n_src":
                    if total is None:
                        total = np.zeros_like(values, dtype=np.float64)
                        if not warned and values.any():
                            warn_if_late(sim, shining=True)
                            warned = True
                    _put(arrays["n_ion"], total.astype(np.float32), index, slab, digests["n_ion"])
                    accumulate(total, values, float(seconds[index]) / N_ION_TIME_S)
                del values
            done += 1
            if progress is not None:
                progress(done, len(slabs) * snapshots)
    for name, array in arrays.items():
        joined = b"".join(digest for _, digest in sorted(digests[name].items()))
        array.attrs["sha256"] = hashlib.sha256(joined).hexdigest()
    with warnings.catch_warnings():
        # xarray.open_zarr warns where this is missing, zarr where it is written.
        warnings.filterwarnings("ignore", message="Consolidated metadata", category=UserWarning)
        zarr.consolidate_metadata(group.store)


def _create(group: Any, name: str, like: xr.DataArray) -> Any:
    from zarr.codecs import BloscCodec, Crc32cCodec

    array = group.create_array(
        name,
        shape=like.shape,
        dtype=np.float32,
        chunks=(1, *_chunk_shape(like.shape[1:])),
        compressors=[BloscCodec(cname="zstd", clevel=3, shuffle="shuffle"), Crc32cCodec()],
        fill_value=np.nan,
        dimension_names=DIMS,
        config={"write_empty_chunks": True},
    )
    array.attrs.update(_plain({key: value for key, value in like.attrs.items() if key != "sha256"}))
    return array


def _put(
    array: Any, values: np.ndarray, index: int, slab: slice, digests: dict[tuple[int, ...], bytes]
) -> None:
    """Write one slab of one snapshot chunk by chunk, noting each chunk's digest."""
    sizes = array.chunks[1:]
    for corner in np.ndindex(*(-(-n // size) for n, size in zip(values.shape, sizes, strict=True))):
        local = tuple(slice(c * n, (c + 1) * n) for c, n in zip(corner, sizes, strict=True))
        block = np.ascontiguousarray(values[local], dtype="<f4")
        x, y, z = corner[0] * sizes[0], corner[1] * sizes[1], slab.start + corner[2] * sizes[2]
        array[index, x : x + block.shape[0], y : y + block.shape[1], z : z + block.shape[2]] = block
        digests[(index, x, y, z)] = hashlib.sha256(block.data).digest()


def _chunk_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The snapshot's shape, halved along its longest axis (the last of equal ones) until small enough."""
    chunk = list(shape)
    while 4 * int(np.prod(chunk)) > _CHUNK_BYTES:
        longest = len(chunk) - 1 - int(np.argmax(chunk[::-1]))
        chunk[longest] = -(-chunk[longest] // 2)
    return tuple(chunk)


def _plain(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Attributes as JSON has them."""
    return {str(key): value.tolist() if hasattr(value, "tolist") else value for key, value in attrs.items()}


def _is_running(process: int) -> bool:
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
