"""C2-Ray: ionised fractions, CUBEP3M densities and source lists of one simulation.

Byte level, little-endian (`--set byte_order=big` for the other), x fastest:

- `xfrac3d_8.397.bin` (also `xfrac3D_`): Fortran sequential records. int32 12, nx, ny, nz, 12; then int32 n, n
  bytes of float64 (or float32) numbers, int32 n. Records of 2^31 bytes and more are split as by gfortran:
  pieces of at most 2147483639 bytes, each between two lengths. The first length is negative if another piece
  follows, the second if a piece precedes.
- `8.397n_all.dat`: int32 nx, ny, nz, then float32 numbers: mass in N-body grid masses (comoving baryons in
  g cm-3 are number x critical density today x Omega_b x (nx / nbox_fine)^3).
- `8.397-coarsest_wsubgrid_sources.dat`: text. The number of sources; then for each, on one line or wrapped
  over two, i, j, k (from 1), mass in haloes above the atomic cooling limit, and mass in smaller ones, both in
  N-body grid masses. Photons per second are mass x Omega_b / (Omega_m m_p) x photons per baryon / lifetime.

All of them may be gzipped (`8.397n_all.dat.gz`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reion.errors import InputError
from reion.readers.binary import BinaryCube
from reion.readers.compressed import could_hold, open_plain
from reion.readers.folders import is_part_of_run
from reion.readers.format import Format
from reion.readers.settings import DEFAULT_MEAN_MOLECULAR_WEIGHT, Settings
from reion.readers.snapshot import Box, Snapshot
from reion.readers.source_list import SourceList
from reion.simulation.contract import DEFAULT_COSMOLOGY, mean_density
from reion.simulation.units import field_conversion, photon_rate_per_msun

XFRAC = re.compile(r"xfrac3[dD]_(\d+\.\d+)\.(?i:bin(?:\.gz)?)")
DENSITY = re.compile(r"(\d+\.\d+)n_all\.(?i:dat(?:\.gz)?)")
SOURCES = re.compile(r"(\d+\.\d+)-coarsest\w*_sources\.(?i:dat(?:\.gz)?)")

C2RAY_COSMOLOGY = {"H0": 70.0, "Om0": 0.27, "Ob0": 0.044}
PRESETS: dict[str, dict[str, float]] = {
    "500/h": {"box_size": 500 / 0.7, "nbox_fine": 13824},
    "244/h": {"box_size": 244 / 0.7, "nbox_fine": 8000},
}
"""Box size (comoving Mpc) and cells along the N-body mesh of known boxes, with `C2RAY_COSMOLOGY`."""

SETTINGS = {
    "preset": "500/h or 244/h: box size, N-body mesh and cosmology (H0 = 70, Om0 = 0.27, Ob0 = 0.044)",
    "nbox_fine": "cells along a side of the N-body mesh, 13824 in the 500/h box",
    "sources": "photons (the default), or mass to keep the mass in haloes instead",
    "f_gamma_low": "f_gamma of haloes below the atomic cooling limit; 0 where it is not given",
    "byte_order": "little (the default) or big",
}
_HEADER_BYTES = 20


def claim(paths: Sequence[Path]) -> list[Path]:
    """The files that are named like C2-Ray's ionised fractions, densities or source lists."""
    return [path for path in paths if any(name.fullmatch(path.name) for name in (XFRAC, DENSITY, SOURCES))]


def scan(paths: Sequence[Path], settings: Settings) -> list[Box]:
    """All files as one box."""
    order = byte_order(settings)
    xi = fractions(paths, XFRAC, lambda path: xfrac_cube(path, order))
    return [
        box_of(paths, xi, settings, source_code="C2-Ray", mean_molecular_weight=DEFAULT_MEAN_MOLECULAR_WEIGHT)
    ]


def fractions(
    paths: Sequence[Path], name: re.Pattern[str], cube_of: Callable[[Path], BinaryCube]
) -> list[Snapshot]:
    """Snapshots of xi in the files whose names match `name`, whose first group is the redshift."""
    snapshots = []
    for path in paths:
        match = name.fullmatch(path.name)
        if match:
            cube = cube_of(path)
            snapshots.append(
                Snapshot(
                    name="xi",
                    redshift=float(match.group(1)),
                    file=path,
                    shape=cube.shape,
                    units="1",
                    read=cube.read,
                )
            )
    return snapshots


def box_of(
    paths: Sequence[Path],
    xi: Sequence[Snapshot],
    settings: Settings,
    *,
    source_code: str,
    mean_molecular_weight: float,
    more_sources: Callable[[tuple[int, int, int]], list[Snapshot]] = lambda _: [],
) -> Box:
    """The snapshots of xi with the densities and source lists among `paths` as one box.

    `more_sources` is called with the shape of the mesh and returns further snapshots of sources.
    """
    preset = PRESETS.get(settings.choice("preset", list(PRESETS)) or "", {})
    _require(paths, settings, preset)
    density = [_density(path, settings, preset) for path in paths if DENSITY.fullmatch(path.name)]
    shape = next((snapshot.shape for snapshot in [*xi, *density]), None) or settings.mesh_shape(file=paths[0])
    masses = [path for path in paths if is_mass_list(path)]
    weights: tuple[float, ...] = ()
    units = ""
    if masses:
        weights, units = _source_weights(
            settings, preset, settings.positive("mean_molecular_weight", mean_molecular_weight), masses[0]
        )
    sources = [
        Snapshot(
            name="n_src",
            redshift=float(match.group(1)),
            file=path,
            shape=shape,
            units=units,
            read=SourceList(path, shape, weights).read,
            of_masses=shines(settings),
        )
        for path in masses
        if (match := SOURCES.fullmatch(path.name))
    ]
    return Box(
        label=run_name(paths[0]),
        snapshots=[*density, *sources, *more_sources(shape), *xi],
        box_size=_preset_box_size(settings, preset),
        cosmology=known_cosmology(settings, paths[0]) if preset else None,
        source_code=source_code,
        mean_molecular_weight=mean_molecular_weight,
    )


def _require(paths: Sequence[Path], settings: Settings, preset: Mapping[str, float]) -> None:
    """Ask in one error for all facts that C2-Ray's inputs among `paths` need and the settings lack.

    Raises
    ------
    InputError
        If a fact is missing.
    """
    masses = [path for path in paths if is_mass_list(path)]
    shine = bool(masses) and shines(settings)
    densities = any(DENSITY.fullmatch(path.name) for path in paths) and settings.text("n_igm_unit") is None
    needed = []
    if not preset:
        needed += ["nbox_fine"] if densities or masses else []
        needed += ["box_size"]
    needed += ["f_gamma", "lifetime_myr"] if shine else []
    others = [] if preset else ["--set preset=500/h"]
    others += ["--set sources=mass to keep the mass in haloes"] if shine else []
    settings.require(needed, file=(masses or list(paths))[0], otherwise=" and ".join(others) or None)


def run_name(path: Path) -> str:
    """The name of a file's run: that of its folder, or of the folder above one such as `results`."""
    folder = path.resolve().parent
    return folder.parent.name if is_part_of_run(folder) else folder.name


def byte_order(settings: Settings) -> str:
    """The byte order of the settings, as NumPy writes it."""
    return ">" if settings.choice("byte_order", ("little", "big")) == "big" else "<"


def xfrac_cube(path: Path, order: str) -> BinaryCube:
    """The cube in an `xfrac3d` file.

    Raises
    ------
    InputError
        If markers, shape and size of the file do not fit together.
    """
    with open_plain(path) as stream:
        header = _integers(stream.read(_HEADER_BYTES), order)
        if header.size < 5 or header[0] != 12 or header[4] != 12:
            swapped = header.size == 5 and header[0].byteswap() == 12
            raise InputError(
                f"expected a Fortran record of 12 bytes (12, nx, ny, nz, 12); received {header.tolist()}",
                file=path,
                hint=_other_order_hint(order) if swapped else None,
            )
        shape = cube_shape(header[1:4], path)
        spans: list[tuple[int, int]] = []
        position = _HEADER_BYTES
        continues = True
        while continues:
            stream.seek(position)
            start = stream.read(4)
            length = abs(int.from_bytes(start, _endian(order), signed=True))
            continues = int.from_bytes(start, _endian(order), signed=True) < 0
            stream.seek(position + 4 + length)
            end = stream.read(4)
            marker = int.from_bytes(end, _endian(order), signed=True)
            if len(start) < 4 or len(end) < 4 or length == 0 or marker != (-length if spans else length):
                raise InputError(
                    f"expected a record between two markers at byte {position}; received {length} and "
                    f"{marker}: the file is truncated or damaged",
                    file=path,
                )
            spans.append((position + 4, length))
            position += length + 8
    cells = shape[0] * shape[1] * shape[2]
    dtype = {8 * cells: "f8", 4 * cells: "f4"}.get(sum(length for _, length in spans))
    if dtype is None or not could_hold(path, position):
        raise InputError(
            f"shape {shape} needs a record of {8 * cells} bytes (or {4 * cells}, float32) and nothing "
            f"behind; received {sum(length for _, length in spans)} in a file of {path.stat().st_size} bytes",
            file=path,
        )
    return BinaryCube(path, np.dtype(order + dtype), shape, "F", spans)


def raw_cube(path: Path, order: str, dtypes: Sequence[str]) -> BinaryCube:
    """The cube in a file of int32 nx, ny, nz and then numbers of one of `dtypes`, x fastest.

    Raises
    ------
    InputError
        If shape and size of the file do not fit together.
    """
    with open_plain(path) as stream:
        header = stream.read(12)
    for candidate in (order, "<" if order == ">" else ">"):
        numbers = _integers(header, candidate)
        cells = 1
        for n in numbers.tolist():
            cells *= n
        fitting = [dtype for dtype in dtypes if could_hold(path, 12 + cells * np.dtype(dtype).itemsize)]
        if numbers.size == 3 and min(numbers.tolist()) > 0 and fitting:
            if candidate != order:
                raise InputError(
                    "the bytes of the numbers are in the other order",
                    file=path,
                    hint=_other_order_hint(order),
                )
            dtype = np.dtype(order + fitting[0])
            return BinaryCube(path, dtype, cube_shape(numbers, path), "F", [(12, cells * dtype.itemsize)])
    numbers = _integers(header, order)
    raise InputError(
        f"expected nx, ny, nz and then that many numbers of {' or '.join(dtypes)}; received "
        f"{numbers.tolist()} in a file of {path.stat().st_size} bytes: it is truncated, damaged or "
        "something else",
        file=path,
    )


def _integers(header: bytes, order: str) -> np.ndarray:
    """The complete int32 numbers in a header, which may be cut short."""
    return np.frombuffer(header[: len(header) // 4 * 4], dtype=order + "i4")


def cube_shape(numbers: np.ndarray, path: Path) -> tuple[int, int, int]:
    """The numbers of cells along x, y and z in a header.

    Raises
    ------
    InputError
        If a number is not positive.
    """
    nx, ny, nz = (int(n) for n in numbers)
    if min(nx, ny, nz) < 1:
        raise InputError(f"expected three positive numbers of cells; received {[nx, ny, nz]}", file=path)
    return nx, ny, nz


def _density(path: Path, settings: Settings, preset: dict[str, float]) -> Snapshot:
    cube = raw_cube(path, byte_order(settings), ("f4",))
    match = DENSITY.fullmatch(path.name)
    scale = 1.0
    if settings.text("n_igm_unit") is None:
        scale = (cube.shape[0] / _nbox_fine(settings, preset, path)) ** 3
    return Snapshot(
        name="n_igm",
        redshift=float(match.group(1)) if match else np.nan,
        file=path,
        shape=cube.shape,
        units="1 + overdensity",
        read=cube.read,
        scale=scale,
    )


def _nbox_fine(settings: Settings, preset: dict[str, float], path: Path) -> float:
    value = settings.number("nbox_fine") or preset.get("nbox_fine")
    if value is not None:
        return value
    return settings.required_numbers("nbox_fine", file=path, otherwise="--set preset=500/h")[0]


def _source_weights(
    settings: Settings,
    preset: dict[str, float],
    mean_molecular_weight: float,
    path: Path,
) -> tuple[tuple[float, ...], str]:
    """The factors of the masses in large and in small haloes, and the unit of their weighted sum."""
    from astropy import units

    cosmology = known_cosmology(settings, path)
    low = settings.number("f_gamma_low") or 0.0
    unit = settings.text("n_src_unit")
    if unit is not None:
        # Masses in a unit that is given are made photons later, by f_gamma.
        photons = settings.text("sources") != "mass" and _is_mass(unit, cosmology, path)
        f_gamma = settings.number("f_gamma") if photons else None
        return (1.0, low / f_gamma if f_gamma else 1.0), ""
    box_size = settings.box_size(_preset_box_size(settings, preset), cosmology, file=path)
    side_mpc = float(np.atleast_1d(box_size)[0])
    matter = mean_density(cosmology) * cosmology["Om0"] / cosmology["Ob0"] * units.g / units.cm**3
    cell = (side_mpc * units.Mpc / _nbox_fine(settings, preset, path)) ** 3
    grid_mass = (matter * cell).to_value("Msun")
    if settings.choice("sources", ("photons", "mass")) == "mass":
        return (grid_mass, grid_mass), "Msun per cell"
    f_gamma, lifetime_myr = settings.required_numbers(
        "f_gamma", "lifetime_myr", file=path, otherwise="--set sources=mass to keep the mass in haloes"
    )
    settings.positive("lifetime_myr", lifetime_myr)
    rate = grid_mass * photon_rate_per_msun(cosmology, 1.0, lifetime_myr, mean_molecular_weight)
    return (rate * f_gamma, rate * low), "s-1 per cell"


def is_mass_list(path: Path) -> bool:
    """Whether a file is named like C2-Ray's lists of masses."""
    return bool(SOURCES.fullmatch(path.name))


def shines(settings: Settings) -> bool:
    """Whether the reader makes photons of the masses in a list: of those whose unit is that of the code."""
    return settings.text("sources") != "mass" and settings.text("n_src_unit") is None


def known_cosmology(settings: Settings, file: Path) -> Mapping[str, float]:
    """The cosmology of the settings, completed by that of the preset; without any, the default.

    Raises
    ------
    InputError
        If the settings give some of its parameters without a preset.
    """
    if settings.text("preset"):
        return {**C2RAY_COSMOLOGY, **settings.given_cosmology()}
    return settings.cosmology(None, file=file) or DEFAULT_COSMOLOGY


def _is_mass(unit: str, cosmology: Mapping[str, float], file: Path) -> bool:
    """Whether a unit of sources is one of mass."""
    conversion = field_conversion(
        "n_src", unit, redshift=0.0, cosmology=cosmology, cell_volume_mpc3=1.0, file=file
    )
    return conversion.units == "Msun Mpc-3"


def _preset_box_size(settings: Settings, preset: dict[str, float]) -> float | None:
    return None if settings.text("box_size") else preset.get("box_size")


def _other_order_hint(order: str) -> str:
    other = "big" if order == "<" else "little"
    return f"the file was written in the other byte order: --set byte_order={other}"


def _endian(order: str) -> Any:
    return "little" if order == "<" else "big"


FORMAT = Format(
    name="c2ray",
    description="C2-Ray: xfrac3d_*.bin, *n_all.dat, *-coarsest*_sources.dat",
    claim=claim,
    scan=scan,
    settings=SETTINGS,
)
