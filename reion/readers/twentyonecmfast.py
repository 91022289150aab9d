"""21cmFAST 4: coeval boxes as `Coeval.save` writes them, and the cache of a run.

A coeval file holds every struct at one redshift; a cache has a file for each struct, in folders
`{hash}/{seed}/{zgrid}/{z}/PerturbedField.h5`. Both have a group for each struct, with the attribute
`redshift`, `OutputFields` (arrays of shape x, y, z, float32) and `InputParameters` (parameters as attributes;
those that were not set may be missing). These structs are read:

- `PerturbedField`: `density`, the overdensity; `velocity_x`, `velocity_y`, `velocity_z`, in comoving Mpc s-1;
- `EmissivityFields` (4.3) or `HaloBox` (4.0 to 4.2), the sources. `fesc_weighted_sfrd` (`whalo_sfr`): star
  formation rate density times escape fraction times photons per baryon, in Msun s-1 Mpc-3. Times the baryons
  in a solar mass, 1.98892e33 / 1.6726e-24 with 21cmFAST's own constants, it is photons s-1 Mpc-3. Only runs
  with inhomogeneous recombinations have it. `n_ion`: ionising photons emitted so far, in 4.3 per baryon of
  the mean density; before 4.3 times the mean baryon density, in Msun Mpc-3. For development versions of 4.3
  the size of the numbers decides between the two;
- `IonizedBox`: `neutral_fraction`; xi is one minus it;
- `TsBox`, in runs with spin-temperature fluctuations: `spin_temperature`, in K.

`cosmo_params` has hlittle, OMm, OMb (by default those of Planck 2018), `simulation_options` has HII_DIM,
NON_CUBIC_FACTOR (the z axis has that many times the cells and the length) and BOX_LEN (Mpc), without which
the side is HII_DIM times LOWRES_CELL_SIZE_MPC (1.5 by default).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from reion.errors import InputError
from reion.readers.filenames import label_of
from reion.readers.format import Format
from reion.readers.hdf5_file import attributes, find, is_hdf5, open_hdf5, read, shape_of
from reion.readers.settings import Settings
from reion.readers.snapshot import Box, Snapshot
from reion.readers.unused import looks_like_a_field, warn_unused
from reion.simulation.constants import CM_PER_MPC
from reion.simulation.contract import mean_density
from reion.simulation.lazy import Region
from reion.simulation.units import Conversion

PROTON_G = 1.6726e-24
BARYONS_PER_MSUN = 1.98892e33 / PROTON_G
"""Baryons in a solar mass, with 21cmFAST's own constants."""
_DEFAULTS = {"hlittle": 0.6766, "OMm": 0.30964144154550644, "OMb": 0.04897468161869667}
"""The values in 21cmFAST 4 of parameters that were not set."""
_LOWRES_CELL_SIZE_MPC = 1.5
_MOST_PHOTONS_PER_BARYON = 1e3
"""No cell has emitted more photons per baryon. Numbers in Msun Mpc-3 are a billion times larger."""

_SPIN_STRUCT = "TsBox"
STRUCTS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "PerturbedField": {
        "density": ("n_igm", "overdensity"),
        **{f"velocity_{axis}": (f"velocity_{axis}", "comoving Mpc s-1") for axis in "xyz"},
    },
    "EmissivityFields": {"fesc_weighted_sfrd": ("n_src", "s-1 Mpc-3"), "n_ion": ("n_ion", "Mpc-3")},
    "HaloBox": {"whalo_sfr": ("n_src", "s-1 Mpc-3"), "n_ion": ("n_ion", "Mpc-3")},
    "IonizedBox": {"neutral_fraction": ("xi", "neutral fraction")},
    _SPIN_STRUCT: {"spin_temperature": ("t_spin", "K")},
}
"""The arrays of each struct that are read: their field, and the unit of their values times `_scale`."""
_OTHER_STRUCTS = {
    "InitialConditions",
    "BrightnessTemp",
    "XraySourceBox",
    "RadiationFields",
    "HaloField",
    "HaloCatalog",
    "PerturbHaloField",
    "PerturbedHaloCatalog",
    "photon_nonconservation_data",
}
"""Structs that no command uses; halo catalogues are read through `[halos]` in a mapping."""
_SOURCE_STRUCTS = ("EmissivityFields", "HaloBox")
_DENSITY_PARAMETERS = ("cosmo_params", "matter_options", "matter_params", "simulation_options", "user_params")
_SOURCE_PARAMETERS = ("astro_params", "astro_options", "astro_flags")
_OF_NO_MATTER = {"N_THREADS", "USE_FFTW_WISDOM", "MINIMIZE_MEMORY", "KEEP_3D_VELOCITIES", "NO_RNG"}
"""Parameters in which two files of one run may differ."""
_LIGHT_CONE = ("lightcones", "lightcone", "lightcone_redshifts", "lightcone_distances")


@dataclass(frozen=True)
class _Struct:
    """One struct of a file: its name, redshift and parameters."""

    path: Path
    name: str
    redshift: float
    seed: Any
    version: str
    parameters: Mapping[str, Mapping[str, Any]]

    def parameter(self, key: str) -> float | None:
        """A parameter by its name, whichever group it is in; None if it was not set."""
        for group in self.parameters.values():
            if key in group:
                try:
                    value = float(group[key])
                except (TypeError, ValueError):
                    continue
                if np.isfinite(value):
                    return value
        return None

    def cosmology(self) -> dict[str, float]:
        """H0, Om0 and Ob0."""
        h, matter, baryons = (self.parameter(key) or default for key, default in _DEFAULTS.items())
        return {"H0": 100 * h, "Om0": matter, "Ob0": baryons}


def claim(paths: Sequence[Path]) -> list[Path]:
    """HDF5 files of 21cmFAST and, if there are any, also HDF5 files that are too damaged to tell."""
    claimed, damaged = [], []
    for path in paths:
        if is_hdf5(path):
            try:
                with open_hdf5(path) as file:
                    if _is_ours(file):
                        claimed.append(path)
            except InputError:
                damaged.append(path)
    return claimed + damaged if claimed else []


def scan(paths: Sequence[Path], settings: Settings) -> list[Box]:  # noqa: ARG001 (the files say it all)
    """One snapshot of one box for each file; boxes of different random seeds are different boxes."""
    first: dict[tuple[str, str, str], _Struct] = {}
    boxes = []
    unused: list[str] = []
    for path in paths:
        with open_hdf5(path) as file:
            _refuse_other_kinds(file, path)
            structs = _structs(file, path)
            found = [_snapshots(file, struct) for struct in structs]
            unused += [f"{name} in {path.name}" for name in _unknown_groups(file) + _dropped_arrays(file)]
        snapshots = [snapshot for group in found for snapshot in group]
        read_structs = [struct for struct, group in zip(structs, found, strict=True) if group]
        if not snapshots:
            if all(struct.name in {*_OTHER_STRUCTS, _SPIN_STRUCT} for struct in structs):
                continue  # a cache has files of structs that are not read
            names = ", ".join(
                f"{name}/OutputFields/{field}" for name, group in STRUCTS.items() for field in group
            )
            raise InputError(
                f"expected any of the datasets {names}; received {[struct.name for struct in structs]}",
                file=path,
            )
        for struct in read_structs:
            _check_same_run(struct, first)
        boxes.append(_box(path, read_structs, snapshots))
    if not boxes:
        raise InputError(f"expected any of the structs {', '.join(STRUCTS)}; received none", file=paths[0])
    boxes, left_out = _without_lone_spin_temperatures(boxes)
    warn_unused(unused + left_out)
    return boxes


def _without_lone_spin_temperatures(boxes: Sequence[Box]) -> tuple[list[Box], list[str]]:
    """The boxes without the spin temperatures that do not fit the other fields, and the names of these.

    A cache may hold spin temperatures at fewer redshifts than the other fields, or at more.
    """
    others: dict[str, set[float]] = {}
    spins: dict[str, set[float]] = {}
    for box in boxes:
        for snapshot in box.snapshots:
            found = spins if snapshot.name == "t_spin" else others
            found.setdefault(box.label, set()).add(snapshot.redshift)
    kept, left_out = [], []
    for box in boxes:
        wanted = others.get(box.label, spins.get(box.label, set()))
        complete = wanted <= spins.get(box.label, set())
        dropped = [
            snapshot
            for snapshot in box.snapshots
            if snapshot.name == "t_spin" and not (complete and snapshot.redshift in wanted)
        ]
        left_out += [
            f"{_SPIN_STRUCT} in {snapshot.file.name}, at z = {snapshot.redshift:g}, as "
            + ("other fields are not there" if complete else "other redshifts have none")
            for snapshot in dropped
        ]
        snapshots = [snapshot for snapshot in box.snapshots if snapshot not in dropped]
        kept.append(replace(box, snapshots=snapshots))
    return kept, left_out


def _is_ours(file: Any) -> bool:
    """Whether a file is 21cmFAST's, of any version."""
    if "21cmFAST-version" in file.attrs or any(name in file for name in STRUCTS):
        return True
    return _is_version_3(file)


def _is_version_3(file: Any) -> bool:
    return "user_params" in file and "flag_options" in file


def _refuse_other_kinds(file: Any, path: Path) -> None:
    """Raise `InputError` for a light cone, and for a file of 21cmFAST 3."""
    version = str(attributes(file).get("21cmFAST-version", attributes(file).get("version", "")))
    cones = [name for name in _LIGHT_CONE if name in file or name in file.attrs]
    if cones or str(attributes(file).get("kind", "")).lower().endswith("lightcone"):
        raise InputError(
            "expected coeval boxes, each at one redshift; received a light cone of 21cmFAST",
            file=path,
            hint="write the coeval boxes of the same run: run_coeval(out_redshifts=...), then Coeval.save",
        )
    if _is_version_3(file) or version.startswith("3."):
        raise InputError(
            f"expected a file of 21cmFAST 4; received one of version {version or 3}",
            file=path,
            hint="read its arrays by a mapping (--set mapping=mine.toml), or run it again with version 4",
        )


def _structs(file: Any, path: Path) -> list[_Struct]:
    """The structs in a file that have a redshift."""
    import h5py

    structs = []
    version = str(attributes(file).get("21cmFAST-version", ""))
    for name in file:
        group = find(file, name, path)
        if not isinstance(group, h5py.Group) or name not in {*STRUCTS, *_OTHER_STRUCTS}:
            continue
        needed = name in STRUCTS
        inputs = find(group, "InputParameters", path)
        if inputs is None and needed:
            raise InputError(f"{name}: expected a group InputParameters", file=path)
        parameters = {} if inputs is None else _parameters(inputs, path)
        structs.append(
            _Struct(
                path=path,
                name=name,
                redshift=_redshift(attributes(group), name, path) if needed else np.nan,
                seed=None if inputs is None else attributes(inputs).get("random_seed"),
                version=version,
                parameters=parameters,
            )
        )
    redshifts = {struct.name: struct.redshift for struct in structs if np.isfinite(struct.redshift)}
    if len(set(redshifts.values())) > 1:
        raise InputError(f"expected one redshift; received {redshifts}", file=path)
    return structs


def _parameters(inputs: Any, path: Path) -> dict[str, Mapping[str, Any]]:
    """The parameters in each group of parameters that exists, by the name of the group."""
    groups = {name: find(inputs, name, path) for name in (*_DENSITY_PARAMETERS, *_SOURCE_PARAMETERS)}
    return {name: attributes(group) for name, group in groups.items() if group is not None}


def _snapshots(file: Any, struct: _Struct) -> list[Snapshot]:
    """The fields of a struct."""
    snapshots = []
    for name, (field, units) in STRUCTS.get(struct.name, {}).items():
        dataset_name = f"{struct.name}/OutputFields/{name}"
        dataset = find(file, dataset_name, struct.path)
        if dataset is None:
            continue
        shape = shape_of(dataset, dataset_name, struct.path)
        if len(shape) != 3 or 0 in shape:
            raise InputError(f"{dataset_name}: expected shape (x, y, z); received {shape}", file=struct.path)
        snapshots.append(
            Snapshot(
                name=field,
                redshift=struct.redshift,
                file=struct.path,
                shape=(shape[0], shape[1], shape[2]),
                units=units,
                read=partial(_read, struct.path, dataset_name),
                scale=_scale(field, dataset, dataset_name, struct),
            )
        )
    return snapshots


def _scale(field: str, dataset: Any, name: str, struct: _Struct) -> float:
    """The factor from the numbers of an array to its unit in `STRUCTS`."""
    if field == "n_src":
        return BARYONS_PER_MSUN
    if field != "n_ion":
        return 1.0
    per_baryon = struct.name == "EmissivityFields"
    if _is_development(struct.version):
        whole = (slice(None),) * len(dataset.shape)
        per_baryon = float(np.max(read(dataset, whole, name, struct.path))) < _MOST_PHOTONS_PER_BARYON
    baryons_mpc3 = mean_density(struct.cosmology()) * CM_PER_MPC**3 / PROTON_G
    return baryons_mpc3 if per_baryon else BARYONS_PER_MSUN


def _is_development(version: str) -> bool:
    """Whether a file is of a version that was never released (4.3.dev12), or gives no version."""
    return not re.fullmatch(r"\d+\.\d+(\.\d+)?", version)


def _box(path: Path, structs: Sequence[_Struct], snapshots: Sequence[Snapshot]) -> Box:
    """The snapshots of one file as a box."""
    one = structs[0]
    cells = int(one.parameter("HII_DIM") or snapshots[0].shape[0])
    stretch = one.parameter("NON_CUBIC_FACTOR") or 1.0
    expected = (cells, cells, round(cells * stretch))
    if any(snapshot.shape != expected for snapshot in snapshots):
        raise InputError(
            f"expected shape {expected} (HII_DIM, NON_CUBIC_FACTOR); "
            f"received {', '.join(str(snapshot.shape) for snapshot in snapshots)}",
            file=path,
        )
    side = one.parameter("BOX_LEN")
    if side is None:
        side = cells * (one.parameter("LOWRES_CELL_SIZE_MPC") or _LOWRES_CELL_SIZE_MPC)
    stem = _stem(path)
    return Box(
        label=stem if one.seed is None else f"{stem}_seed{one.seed}",
        snapshots=snapshots,
        box_size=side if stretch == 1.0 else (side, side, side * stretch),
        cosmology=one.cosmology(),
        source_code=f"21cmFAST {one.version}".strip(),
    )


def _stem(path: Path) -> str:
    """The name of the run that a file belongs to, without the seed.

    The files of a cache have names of structs: all files of one seed are one run.
    """
    return "21cmfast" if path.stem in {*STRUCTS, *_OTHER_STRUCTS} else label_of(path)


def _check_same_run(struct: _Struct, first: dict[tuple[str, str, str], _Struct]) -> None:
    """Refuse a struct whose parameters differ from those of the other structs of its run.

    Sources and ionised fractions depend on all parameters, the density only on some, so that runs may share
    the density in a cache.
    """
    for groups in (_DENSITY_PARAMETERS, _SOURCE_PARAMETERS):
        if groups is _SOURCE_PARAMETERS and struct.name == "PerturbedField":
            continue
        known = first.setdefault((_stem(struct.path), str(struct.seed), groups[0]), struct)
        for group in groups:
            ours, theirs = struct.parameters.get(group), known.parameters.get(group)
            if ours is None or theirs is None:
                continue
            for key in sorted({*ours, *theirs} - _OF_NO_MATTER):
                if ours.get(key) != theirs.get(key):
                    raise InputError(
                        f"expected the files of one run; {key} is {ours.get(key)!r} here and "
                        f"{theirs.get(key)!r} in {known.path}",
                        file=struct.path,
                        hint="name the files of one run",
                    )


def _unknown_groups(file: Any) -> list[str]:
    """Names of unknown groups that could hold fields."""
    return [
        name
        for name in file
        if name not in {*STRUCTS, *_OTHER_STRUCTS}
        and (f"{name}/OutputFields" in file or looks_like_a_field(name))
    ]


def _dropped_arrays(file: Any) -> list[str]:
    """Arrays in structs of sources or spin temperatures of which no array is read."""
    return [
        f"{struct}/OutputFields/{name}"
        for struct in (*_SOURCE_STRUCTS, _SPIN_STRUCT)
        if struct in file and f"{struct}/OutputFields" in file
        for name in file[f"{struct}/OutputFields"]
        if not any(read in file[f"{struct}/OutputFields"] for read in STRUCTS[struct])
    ]


def _read(path: Path, name: str, region: Region, conversion: Conversion) -> np.ndarray:
    with open_hdf5(path) as file:
        dataset = find(file, name, path)
        shape_of(dataset, name, path)
        return conversion(read(dataset, region, name, path))


def _redshift(attrs: Mapping[str, Any], group: str, path: Path) -> float:
    try:
        value = float(attrs["redshift"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"expected a number 'redshift' among the attributes of {group}", file=path
        ) from error
    if not np.isfinite(value):
        raise InputError(f"redshift of {group}: expected a finite number; received {value}", file=path)
    return value


FORMAT = Format(
    name="21cmfast",
    description="21cmFAST 4 coeval boxes (HDF5, as Coeval.save writes them) and caches",
    claim=claim,
    scan=scan,
)
