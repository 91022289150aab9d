"""From single files to a lazy Simulation: what a reader finds, and how it is put together.

A reader only says which field of which redshift lies where and how to read it (`Snapshot`). Putting
snapshots in order, checking that they fit together, converting units and checking values happens here, the
same for every format.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from reion.errors import InputError
from reion.physics.mean_free_path import max_mfp_mpc, with_propagation_mask
from reion.readers.filenames import lacks_a_point
from reion.readers.settings import COMMON, Settings
from reion.simulation import contract
from reion.simulation.contract import (
    DEFAULT_COSMOLOGY,
    PHOTON_RATE_UNITS,
    PHOTON_UNITS,
    SOURCE_UNITS,
    check_simulation,
    check_values,
    make_simulation,
    n_ion_units,
    with_max_mfp,
)
from reion.simulation.lazy import CellKey, LazyField
from reion.simulation.units import Conversion, field_conversion, photon_rate_per_msun

SAME_REDSHIFT = 1e-3
"""Redshifts that differ by less are one."""
_HIGHEST = 200.0
"""No simulation of galaxies begins earlier."""
_WIDEST_STEP, _WIDEST_ONLY_STEP, _UNUSUAL = np.log(1.3), np.log(2.5), 4.0
"""A step in ln(1 + z) is implausible above this, if it is also so many times the usual one of its series."""

Region = tuple[slice, slice, slice]
"""Cells along x, y and z: slices with a start and a stop, step 1."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One field at one redshift, as one file holds it: values in `scale` times `units`.

    `read(region, conversion)` returns the cells of `region` as an array indexed (x, y, z), converted:
    most readers return `conversion(raw)`; those of large files convert block by block.
    """

    name: str
    redshift: float
    file: Path
    shape: tuple[int, int, int]
    units: str
    read: Callable[[Region, Conversion], np.ndarray]
    scale: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Box:
    """Everything a reader found that belongs to one simulation.

    `box_size` (comoving Mpc) and `cosmology` (H0, Om0, Ob0) are None where the files do not say. `centres`
    are cell centres along axes (comoving Mpc), and `max_mfp_mpc` the comoving radius that photons reach from
    each redshift on, where the files have them.
    """

    label: str
    snapshots: Sequence[Snapshot]
    source_code: str
    box_size: float | Sequence[float] | None = None
    cosmology: Mapping[str, float] | None = None
    attrs: Mapping[str, Any] = field(default_factory=dict)
    centres: Mapping[str, np.ndarray] = field(default_factory=dict)
    max_mfp_mpc: Mapping[float, float] | None = None


class FieldInFiles(LazyField):
    """The snapshots of one field in files.

    Every value that is read is converted and checked on its way: what comes out is finite and within the
    field's range, or an `InputError` names the file and the cell.
    """

    def __init__(self, snapshots: Sequence[Snapshot], conversions: Sequence[Conversion]) -> None:
        super().__init__((len(snapshots), *snapshots[0].shape))
        self._files = tuple(snapshots)
        self._conversions = tuple(conversions)

    def snapshot(self, index: int, key: CellKey) -> np.ndarray:
        """The cells `key` of snapshot `index`, read from the smallest region that holds them."""
        region, rest = _bounding_region(key, self.shape[1:])
        return self._read_one(index, region)[rest]

    def _read_one(self, index: int, region: Region) -> np.ndarray:
        snapshot = self._files[index]
        try:
            values = snapshot.read(region, self._conversions[index])
        except OSError as error:
            raise InputError(f"cannot be read: {error}", file=snapshot.file) from error
        check_values(
            snapshot.name,
            values,
            redshift=snapshot.redshift,
            file=str(snapshot.file),
            origin=[axis.start for axis in region],
            whole=values.shape == self.shape[1:],
        )
        return np.clip(values, 0.0, 1.0, out=values) if snapshot.name == "xi" else values


def _bounding_region(key: CellKey, shape: Sequence[int]) -> tuple[Region, tuple[int | slice, ...]]:
    """Split a key into the smallest region of step 1 that holds it and the key within that region."""
    region: list[slice] = []
    rest: list[int | slice] = []
    for axis, size in zip(key, shape, strict=True):
        cells = range(size)[axis]
        if isinstance(cells, int):
            region.append(slice(cells, cells + 1))
            rest.append(0)
        elif len(cells) == 0:
            region.append(slice(0, 1))
            rest.append(slice(0, 0))
        else:
            start = min(cells[0], cells[-1])
            region.append(slice(start, max(cells[0], cells[-1]) + 1))
            rest.append(slice(None, None, cells.step))
    return (region[0], region[1], region[2]), tuple(rest)


def join_boxes(boxes: Sequence[Box]) -> list[Box]:
    """Put boxes of the same label together.

    Raises
    ------
    InputError
        If their sizes or cosmologies differ.
    """
    joined: dict[str, Box] = {}
    for box in boxes:
        first = joined.setdefault(box.label, box)
        if first is box:
            continue
        if first.box_size != box.box_size or first.cosmology != box.cosmology:
            files = [item.snapshots[0].file if item.snapshots else None for item in (first, box)]
            raise InputError(
                f"expected the box size and cosmology of {files[0].name if files[0] else first.label}: "
                f"{first.box_size} Mpc, {first.cosmology}; received {box.box_size} Mpc, {box.cosmology}",
                file=files[1],
            )
        joined[box.label] = replace(first, snapshots=[*first.snapshots, *box.snapshots])
    return list(joined.values())


def assemble(box: Box, settings: Settings) -> xr.Dataset:
    """Put the snapshots of one box together into a lazy Simulation.

    Raises
    ------
    InputError
        If the snapshots do not fit together (shapes, redshifts), or if what the files lack is not among
        the settings.
    """
    series = _series(box, settings)
    first = next(iter(series.values()))[0]
    shape = first.shape
    settings.require(
        [
            *(["box_size"] if box.box_size is None else []),
            *(
                f"{name}_unit"
                for name, snapshots in series.items()
                if f"{name}_unit" in COMMON and not all(snapshot.units for snapshot in snapshots)
            ),
        ],
        file=first.file,
    )
    cosmology = settings.cosmology(box.cosmology, file=first.file)
    box_size = settings.box_size(box.box_size, cosmology, file=first.file)
    cell_volume_mpc3 = float(np.prod(np.broadcast_to(box_size, 3) / np.asarray(shape)))
    fields: dict[str, Any] = {}
    units: dict[str, str] = {}
    known_cosmology = cosmology or DEFAULT_COSMOLOGY
    for name, snapshots in series.items():
        conversions = [
            field_conversion(
                name,
                settings.field_units(name, snapshot.units, file=snapshot.file),
                redshift=snapshot.redshift,
                cosmology=known_cosmology,
                cell_volume_mpc3=cell_volume_mpc3,
                file=snapshot.file,
            ).times(snapshot.scale)
            for snapshot in snapshots
        ]
        if name == "n_src" and settings.text("f_gamma") is not None and settings.text("sources") != "mass":
            conversions = [
                _shining(conversion, settings, known_cosmology, first.file) for conversion in conversions
            ]
        units[name] = conversions[0].units
        for snapshot, conversion in zip(snapshots, conversions, strict=True):
            if conversion.units != units[name]:
                raise InputError(
                    f"{name}: expected one kind of unit, that of {snapshots[0].file.name} ({units[name]}); "
                    f"received {snapshot.units!r}",
                    file=snapshot.file,
                )
        fields[name] = FieldInFiles(snapshots, conversions).as_variable_data()
    n_src_units = {n_ion_units(unit): unit for unit in SOURCE_UNITS}
    sim = make_simulation(
        fields,
        redshift=[snapshot.redshift for snapshot in next(iter(series.values()))],
        box_size=box_size,
        n_src_units=units.get("n_src") or n_src_units[units.get("n_ion", PHOTON_UNITS)],
        cosmology=cosmology,
        source_code=box.source_code,
        check_values=False,
    )
    if "n_ion" in units and sim["n_ion"].attrs["units"] != units["n_ion"]:
        raise InputError(
            f"expected n_ion in {sim['n_ion'].attrs['units']!r}, to match n_src in {units['n_src']!r}; "
            f"received {units['n_ion']!r}",
            file=series["n_ion"][0].file,
        )
    if box.centres:
        found = sim.assign_coords({axis: (axis, values) for axis, values in box.centres.items()})
        check_simulation(found, values=False, file=str(first.file))
    max_mfp = settings.text("max_mfp")
    if max_mfp is not None:
        model = contract.cosmology(sim)
        sim = with_max_mfp(sim, [max_mfp_mpc(max_mfp, float(z), model) for z in sim["redshift"].values])
    elif box.max_mfp_mpc is not None:
        sim = with_max_mfp(sim, [box.max_mfp_mpc[float(z)] for z in sim["redshift"].values])
    mask = settings.text("propagation_mask")
    if mask is not None:
        sim = with_propagation_mask(sim, mask)
    return sim.assign_attrs({**box.attrs, **settings.attrs()})


def _shining(
    conversion: Conversion, settings: Settings, cosmology: Mapping[str, float], file: Path
) -> Conversion:
    """The conversion to photons of what is a mass in haloes; any other as it is."""
    if conversion.units != "Msun Mpc-3":
        return conversion
    f_gamma, lifetime_myr = settings.required_numbers("f_gamma", "lifetime_myr", file=file)
    weight = settings.number("mean_molecular_weight") or 1.0
    photons = photon_rate_per_msun(cosmology, f_gamma, lifetime_myr, weight) / 1e48
    return Conversion(PHOTON_RATE_UNITS, conversion.scale * photons, conversion.offset * photons)


def _series(box: Box, settings: Settings) -> dict[str, list[Snapshot]]:
    """Field to its snapshots in order of time, every field with the same redshifts and shape."""
    series: dict[str, list[Snapshot]] = {}
    for snapshot in box.snapshots:
        series.setdefault(snapshot.name, []).append(snapshot)
    for name, snapshots in series.items():
        snapshots.sort(key=lambda snapshot: -snapshot.redshift)
        for earlier, later in itertools.pairwise(snapshots):
            if earlier.redshift == later.redshift:
                raise InputError(
                    f"{name}: expected each redshift once; z = {later.redshift:g} is also in {earlier.file}",
                    file=later.file,
                )
    series = _selected(series, settings.redshifts())
    _check_plausible(series)
    _warn_of_odd_redshifts(series)
    reference = next(iter(series))
    expected = {snapshot.redshift for snapshot in series[reference]}
    for name, snapshots in series.items():
        found = {snapshot.redshift for snapshot in snapshots}
        if found != expected:
            lacking = {name: sorted(expected - found), reference: sorted(found - expected)}
            what = "; ".join(
                f"{field} lacks z = {', '.join(f'{z:g}' for z in missing)}"
                for field, missing in lacking.items()
                if missing
            )
            raise InputError(
                f"expected every field at every redshift; {what}",
                file=snapshots[0].file.parent,
                hint="choose the redshifts that all fields have: --set redshifts="
                + (",".join(f"{z:g}" for z in sorted(expected & found)) or "Z1,Z2"),
            )
    shape = series[reference][0].shape
    for name, snapshots in series.items():
        for snapshot in snapshots:
            if snapshot.shape != shape:
                raise InputError(
                    f"{name} at z = {snapshot.redshift:g}: expected the shape {shape} of "
                    f"{series[reference][0].file.name}; received {snapshot.shape}",
                    file=snapshot.file,
                )
    return series


def _selected(
    series: Mapping[str, list[Snapshot]], redshifts: Sequence[float] | None
) -> dict[str, list[Snapshot]]:
    """The snapshots at these redshifts (within 0.001), in order of time; all, where none are given.

    Raises
    ------
    InputError
        If a field has no snapshot at one of them.
    """
    if redshifts is None:
        return dict(series)
    selected: dict[str, list[Snapshot]] = {name: [] for name in series}
    for redshift in redshifts:
        for name, snapshots in series.items():
            matching = [s for s in snapshots if abs(s.redshift - redshift) < SAME_REDSHIFT]
            if not matching:
                have = ", ".join(f"{snapshot.redshift:g}" for snapshot in snapshots)
                raise InputError(f"--set redshifts: {name} has no z = {redshift:g}; it has {have}")
            selected[name] += matching
    for snapshots in selected.values():
        snapshots.sort(key=lambda snapshot: -snapshot.redshift)
    return selected


def _check_plausible(series: Mapping[str, list[Snapshot]]) -> None:
    """Refuse redshifts that no simulation of galaxies has, and those that a name gives without their point.

    Raises
    ------
    InputError
        Naming the first of them and its file.
    """
    for snapshot in itertools.chain.from_iterable(series.values()):
        redshift = snapshot.redshift
        from_name = lacks_a_point(snapshot.file, redshift)
        if from_name or not 0 <= redshift <= _HIGHEST:
            raise InputError(
                f"{snapshot.name}: expected a redshift between 0 and {_HIGHEST:g}; received z = {redshift:g}"
                + (", a whole number from the file's name: does it lack its point?" if from_name else ""),
                file=snapshot.file,
                hint="name the file like xi_z8.500 for 8.5, or say it in a mapping: [redshift] value = 8.5; "
                "--set redshifts=9,8.5 leaves other snapshots out",
            )


def _warn_of_odd_redshifts(series: Mapping[str, list[Snapshot]]) -> None:
    """Say where two snapshots are at almost one redshift, or one lies far from all others."""
    snapshots = max(series.values(), key=len)
    if snapshots and snapshots[0].redshift < 1:
        warnings.warn(
            f"all redshifts are below 1, the first is z = {snapshots[0].redshift:g} "
            f"({snapshots[0].file.name}): are they scale factors? A mapping says so: "
            "[redshift] unit = 'scale factor'",
            stacklevel=2,
        )
    steps = [
        (np.log1p(earlier.redshift) - np.log1p(later.redshift), earlier, later)
        for earlier, later in itertools.pairwise(snapshots)
    ]
    usual = float(np.median([step for step, _, _ in steps])) if steps else 0.0
    widest = _WIDEST_STEP if len(steps) > 1 else _WIDEST_ONLY_STEP
    for step, earlier, later in steps:
        pair = (
            f"z = {earlier.redshift:g} ({earlier.file.name}) and z = {later.redshift:g} ({later.file.name})"
        )
        if earlier.redshift - later.redshift < SAME_REDSHIFT:
            warnings.warn(f"{pair} are almost the same redshift: is one a copy?", stacklevel=2)
        elif step > widest and (len(steps) == 1 or step > _UNUSUAL * usual):
            warnings.warn(
                f"nothing lies between {pair}: is a redshift misread, are files missing?", stacklevel=2
            )
