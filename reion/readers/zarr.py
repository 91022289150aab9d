"""Our native format: a Zarr group, as `reion convert` writes it.

Layout: arrays `n_igm`, `n_src`, `n_ion`, `xi` (any of them) of shape (redshift, x, y, z) with `units` in
their attributes; coordinates `redshift`, `x`, `y`, `z`; group attributes `box_size` (comoving Mpc), `H0`,
`Om0`, `Ob0`, `cosmology_assumed`, `source_code` and where everything came from.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reion.errors import InputError
from reion.readers.format import Format
from reion.readers.settings import Settings
from reion.readers.snapshot import Box, Region, Snapshot
from reion.simulation import AXES, DEFAULT_COSMOLOGY, FIELDS
from reion.units import Conversion


def is_store(path: Path) -> bool:
    """Whether a folder is a Zarr group (either version of the format)."""
    return (path / "zarr.json").is_file() or (path / ".zgroup").is_file()


def claim(paths: Sequence[Path]) -> list[Path]:
    """Folders that are Zarr groups with one of our fields."""
    return [path for path in paths if is_store(path) and any((path / name).is_dir() for name in FIELDS)]


def scan(paths: Sequence[Path], settings: Settings) -> list[Box]:  # noqa: ARG001 (the store says it all)
    """One box for each store."""
    return [_scan_store(path) for path in paths]


def _scan_store(path: Path) -> Box:
    import zarr

    try:
        group = zarr.open_group(path, mode="r")
        arrays = {name: array for name, array in group.arrays() if name in (*FIELDS, "redshift", *AXES)}
        attrs: dict[str, Any] = dict(group.attrs)
        if "redshift" not in arrays:
            raise InputError("expected an array 'redshift'", file=path)
        redshift = np.asarray(arrays["redshift"][:], dtype=np.float64).reshape(-1)
    except InputError:
        raise
    except Exception as error:  # whatever it raises, the store is damaged
        raise InputError(f"the Zarr store cannot be opened: {error}", file=path) from error
    snapshots = []
    for name in FIELDS:
        if name not in arrays:
            continue
        array = arrays[name]
        if len(array.shape) != 4 or array.shape[0] != redshift.size or array.dtype.kind != "f":
            raise InputError(
                f"{name}: expected floating-point numbers of shape ({redshift.size}, x, y, z); "
                f"received {array.dtype} of shape {array.shape}",
                file=path,
            )
        for index, z in enumerate(redshift):

            def read(
                region: Region, conversion: Conversion, array: Any = array, index: int = index
            ) -> np.ndarray:
                return conversion(_cells(array, (index, *region), path))

            snapshots.append(
                Snapshot(
                    name=name,
                    redshift=float(z),
                    file=path,
                    shape=(array.shape[1], array.shape[2], array.shape[3]),
                    units=str(array.attrs.get("units", "")),
                    read=read,
                )
            )
    known = all(key in attrs for key in DEFAULT_COSMOLOGY) and not attrs.get("cosmology_assumed")
    own = {"box_size", "cosmology_assumed", "source_code", *DEFAULT_COSMOLOGY}
    return Box(
        label=path.name.removesuffix(".zarr"),
        snapshots=snapshots,
        box_size=attrs.get("box_size"),
        cosmology={key: float(attrs[key]) for key in DEFAULT_COSMOLOGY} if known else None,
        source_code=str(attrs.get("source_code", "unknown")),
        attrs={key: value for key, value in attrs.items() if key not in own},
    )


def _cells(array: Any, key: tuple[int | slice, ...], path: Path) -> np.ndarray:
    try:
        return np.asarray(array[key])
    except Exception as error:  # whatever a damaged chunk raises, the store is damaged
        raise InputError(f"{array.basename}: a chunk cannot be read: {error}", file=path) from error


FORMAT = Format(
    name="zarr",
    description="our Zarr stores, as reion convert writes them",
    claim=claim,
    scan=scan,
)
