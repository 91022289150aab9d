"""Recognises files that no reader takes by their first bytes, and says how to make them readable."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

_UNPACK = "unpack it and name what was in it"
_REWRITE = "write its arrays as HDF5 or .npy, which are read by a mapping (--set mapping=mine.toml)"
_KINDS = (
    (
        b"CDF\x01",
        "NetCDF 3",
        "`nccopy -k nc4 old.nc new.nc` makes NetCDF 4 of it, as does xarray's to_netcdf",
    ),
    (
        b"CDF\x02",
        "NetCDF 3",
        "`nccopy -k nc4 old.nc new.nc` makes NetCDF 4 of it, as does xarray's to_netcdf",
    ),
    (
        b"CDF\x05",
        "NetCDF 3",
        "`nccopy -k nc4 old.nc new.nc` makes NetCDF 4 of it, as does xarray's to_netcdf",
    ),
    (b"\x0e\x03\x13\x01", "HDF4", "`h4toh5 old.hdf new.h5` makes HDF5 of it"),
    (b"SIMPLE  =", "FITS", _REWRITE),
    (b"MATLAB 5.0", "MATLAB's before version 7.3", "in MATLAB save(..., '-v7.3') writes HDF5"),
    (b"# vtk", "VTK", _REWRITE),
    (b"PAR1", "Parquet", _REWRITE),
    (b"\x80\x02", "a Python pickle, which is never loaded", _REWRITE),
    (b"\x80\x03", "a Python pickle, which is never loaded", _REWRITE),
    (b"\x80\x04", "a Python pickle, which is never loaded", _REWRITE),
    (b"\x80\x05", "a Python pickle, which is never loaded", _REWRITE),
    (b"\x1f\x8b", "compressed by gzip", _UNPACK),
    (b"BZh", "compressed by bzip2", _UNPACK),
    (b"\xfd7zXZ\x00", "compressed by xz", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "compressed by Zstandard", _UNPACK),
    (b"PK\x03\x04", "a zip archive", _UNPACK),
)
"""First bytes of a file, the kind of the file, and what to do with it."""
_FEW = 5


def said_of_foreign(paths: Sequence[Path]) -> str:
    """A line for each known kind among the files: what it is and what to do; empty if no kind is known."""
    lines: dict[str, str] = {}
    for path in paths:
        if path.is_file() and len(lines) < _FEW:
            with path.open("rb") as stream:
                head = stream.read(max(len(start) for start, _, _ in _KINDS))
            found = next(((what, advice) for start, what, advice in _KINDS if head.startswith(start)), None)
            if found is not None:
                lines.setdefault(found[0], f"{path.name} is {found[0]}: {found[1]}")
    return "\n".join(lines.values())
