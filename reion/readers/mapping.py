"""Names and units of the arrays in anybody's HDF5 or Zarr files, as a TOML file: `--set mapping=mine.toml`.

.. code-block:: toml

    axes = "xyz"                        # order of the axes of the arrays, "xyz" or "zyx"

    [n_igm]
    array = "gas/density"               # path in the file
    unit = "proper g cm-3"              # left out: the array's attribute `units`

    [xi]
    array = "gas/neutral_fraction"
    unit = "neutral fraction"

    [redshift]                          # a value, an attribute or an array; left out: an array or
    attribute = "Header/Redshift"       # attribute `redshift`, or z8.397 in the file's name
                                        # (unit = "scale factor" where it is 1 / (1 + z))

    [box_size]                          # the same, with a unit of length; left out: `box_size`
    attribute = "Header/BoxSize"
    unit = "kpc/h"

    [cosmology]                         # left out: attributes H0, Om0, Ob0
    H0 = 67.7
    Om0 = 0.31
    Ob0 = 0.049

Arrays have three axes, or four with the snapshots along one. Where the file names the dimensions (NetCDF,
xarray), `axes` is left out: their names say the order. Attributes that say how numbers are packed
(`scale_factor`, `add_offset`, `_FillValue`: `reion.readers.packing`) are applied. Without a mapping the names
are those of the Simulation. `[halos]` reads sources from a catalogue: `reion.readers.halos`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from reion.errors import InputError
from reion.readers.filenames import another_in_name, label_of, redshift_of, why_no_redshift
from reion.readers.names import Names, NumberPlace, names_from
from reion.readers.settings import Settings
from reion.readers.snapshot import Box, Snapshot
from reion.readers.tree import StoredArray, Tree
from reion.readers.unused import warn_unused_arrays
from reion.simulation.contract import AXES, DEFAULT_COSMOLOGY, MAX_MFP
from reion.simulation.units import length_mpc

_OWN_ATTRIBUTES = {"box_size", "cosmology_assumed", "source_code", "redshift", *DEFAULT_COSMOLOGY}
_SCALE_FACTOR = ("scale factor", "scale_factor", "a")


def boxes_from(trees: Iterable[Tree], settings: Settings) -> list[Box]:
    """What the mapping that is set finds in each file; files of one name but for the redshift are one box."""
    names = names_from(settings)
    looked_at = list(trees)
    boxes = [box_from(tree, names, settings) for tree in looked_at]
    used = {place.array for place in names.arrays().values()}
    warn_unused_arrays(looked_at, used, catalogues_used=names.halos is not None)
    return boxes


def box_from(tree: Tree, names: Names, settings: Settings, *, label: str | None = None) -> Box:
    """Everything that `names` finds in one file.

    Raises
    ------
    InputError
        If an array that is named is not there, or has another shape than it should.
    """
    path = tree.path
    arrays = _arrays(tree, names)
    redshifts = _redshifts(tree, names)
    cosmology = _cosmology(tree, names)
    snapshots = []
    for name, array in arrays.items():
        place = names.arrays()[name]
        cells = _cells(array, redshifts.size)
        array.check_written(name)
        snapshots += [
            Snapshot(
                name=name,
                redshift=float(redshift),
                file=path,
                shape=cells,
                units=place.unit if place.unit is not None else array.units,
                read=partial(array.read, index),
            )
            for index, redshift in enumerate(redshifts)
        ]
    box_size = _box_size(tree, names, settings.cosmology(cosmology, file=path))
    return Box(
        label=label or label_of(path),
        snapshots=snapshots,
        box_size=box_size,
        cosmology=cosmology,
        source_code=str(tree.attribute("source_code") or "unknown"),
        attrs={key: value for key, value in tree.attributes().items() if key not in _OWN_ATTRIBUTES},
        centres=_centres(tree, snapshots[0].shape, box_size) if snapshots and not names.given() else {},
        max_mfp_mpc=_reaches_mpc(tree, redshifts),
    )


def _arrays(tree: Tree, names: Names) -> dict[str, StoredArray]:
    """Field to the array that holds it, of the fields that are there."""
    places = names.arrays()
    found = {name: tree.shape(place.array) is not None for name, place in places.items()}
    missing = [place.array for name, place in names.given().items() if not found[name]]
    # A file may hold haloes alone, but not where they are in other files.
    fields_needed = names.halos is None or names.halos.file is not None
    if missing or (fields_needed and not any(found.values())):
        raise InputError(
            f"expected arrays named {', '.join(missing or [place.array for place in places.values()])}; "
            f"received {', '.join(tree.names()) or 'none of floating-point numbers'}",
            file=tree.path,
            hint="say in a TOML file which array is what, and give it with --set mapping=mine.toml; for a "
            'density that is\n  [n_igm]\n  array = "path/in/the/file"\n  unit = "g cm-3"',
        )
    return {name: StoredArray(tree, place.array, names.axes) for name, place in places.items() if found[name]}


def _cells(array: StoredArray, snapshots: int) -> tuple[int, int, int]:
    """Cells of an array along x, y, z, once it is known to have these axes and so many snapshots."""
    shape = array.shape
    fits = len(shape) in (3, 4) and 0 not in shape and (array.snapshots() or 1) == snapshots
    if not fits:
        raise InputError(
            f"{array.name}: expected shape ({snapshots}, {', '.join(array.axes or AXES)}); received {shape}",
            file=array.tree.path,
        )
    nx, ny, nz = array.cells()
    return nx, ny, nz


def _redshifts(tree: Tree, names: Names) -> np.ndarray:
    """The redshift of each snapshot, (snapshots,) float64."""
    place = names.redshift
    redshifts = _numbers(tree, place, "redshift")
    if redshifts is None:
        from_name = redshift_of(tree.path)
        if from_name is None:
            raise InputError(
                f"the redshift is neither in the file nor in its name{why_no_redshift(tree.path)}",
                file=tree.path,
                hint="say where it is in the mapping, under [redshift], or name the file like sim_z8.397",
            )
        redshifts = np.array([from_name])
    if place is not None and place.unit in _SCALE_FACTOR:
        if np.any(redshifts <= 0):
            raise InputError(
                f"redshift: expected scale factors above 0; received {redshifts}", file=tree.path
            )
        redshifts = 1.0 / redshifts - 1.0
    named = another_in_name(tree.path, float(redshifts[0])) if redshifts.size == 1 else None
    if named is not None and (place is None or place.value is None):
        warnings.warn(
            f"{tree.path}: the file says z = {redshifts[0]:g}, its name z = {named:g}; the file's is taken",
            stacklevel=2,
        )
    return redshifts


def _centres(
    tree: Tree, shape: Sequence[int], box_size: float | Sequence[float] | None
) -> dict[str, np.ndarray]:
    """Cell centres along the axes that the file gives them for, in comoving Mpc.

    Numbers of cells in place of lengths say nothing, and where centres begin does not matter in a periodic
    box: what must be right is the distance from one to the next.
    """
    centres: dict[str, np.ndarray] = {}
    sides = [None] * len(AXES) if box_size is None else np.broadcast_to(box_size, len(AXES)).tolist()
    for axis, n, side in zip(AXES, shape, sides, strict=True):
        found = tree.shape(axis)
        if found is None:
            continue
        if found != (n,):
            raise InputError(f"{axis}: expected {n} cell centres; received shape {found}", file=tree.path)
        array = StoredArray(tree, axis)
        values = array.numbers()
        factor = length_mpc(array.units, DEFAULT_COSMOLOGY) if array.units else None
        if factor is None and np.allclose(np.diff(values), 1.0):
            continue
        values = values * (factor or 1.0)
        if side is None or n == 1 or not np.allclose(np.diff(values), side / n, rtol=1e-3):
            centres[axis] = values
    return centres


def _numbers(tree: Tree, place: NumberPlace | None, name: str) -> np.ndarray | None:
    """The numbers at `place`, by default an array or an attribute called `name`; float64, one axis."""
    if place is None:
        place = NumberPlace(array=name) if tree.shape(name) is not None else NumberPlace(attribute=name)
        if place.array is None and tree.attribute(name) is None:
            return None
    found: Any = place.value
    if place.attribute is not None:
        found = tree.attribute(place.attribute)
    elif place.array is not None:
        found = None if tree.shape(place.array) is None else StoredArray(tree, place.array).numbers()
    try:
        numbers = np.asarray(found, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        numbers = np.array([np.nan])
    if numbers.size == 0 or not np.all(np.isfinite(numbers)):
        where = place.attribute or place.array or "value"
        raise InputError(f"{name}: expected finite numbers in {where!r}; received {found!r}", file=tree.path)
    return numbers


def _cosmology(tree: Tree, names: Names) -> dict[str, float] | None:
    if names.cosmology is not None:
        return names.cosmology.model_dump()
    values = {key: _numbers(tree, None, key) for key in DEFAULT_COSMOLOGY}
    if tree.attribute("cosmology_assumed") or any(value is None for value in values.values()):
        return None
    return {key: float(value[0]) for key, value in values.items() if value is not None}


def _box_size(
    tree: Tree, names: Names, cosmology: Mapping[str, float] | None
) -> float | Sequence[float] | None:
    """Comoving Mpc, one number or three; None if the file does not say."""
    place = names.box_size
    lengths = _numbers(tree, place, "box_size")
    if lengths is None:
        return None
    unit = place.unit if place is not None else None
    array = place.array if place is not None else "box_size"
    if unit is None and array is not None and tree.shape(array) is not None:
        unit = StoredArray(tree, array).units
    factor = length_mpc(unit or "Mpc", cosmology or DEFAULT_COSMOLOGY)
    if factor is None or lengths.size not in (1, 3):
        raise InputError(
            f"box_size: expected one or three lengths in a unit such as Mpc or kpc/h; "
            f"received {lengths.tolist()} in {unit!r}",
            file=tree.path,
        )
    sides = [float(length) * factor for length in lengths]
    return sides[0] if len(sides) == 1 else sides


def _reaches_mpc(tree: Tree, redshifts: np.ndarray) -> dict[float, float] | None:
    """Redshift to the comoving radius in Mpc that photons reach from there on; None where it is not there."""
    if tree.shape(MAX_MFP) != redshifts.shape:
        return None
    return dict(zip(redshifts.tolist(), tree.read(MAX_MFP, (slice(None),)).tolist(), strict=True))
