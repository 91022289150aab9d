"""A mapping, `--set mapping=mine.toml`, gives names and units of the arrays in files of any layout.

.. code-block:: toml

    axes = "xyz"                        # order of the axes of the arrays, any of the six

    [n_igm]
    array = "gas/density"               # path in the file
    unit = "proper g cm-3"              # left out: the array's attribute `units`

    [xi]
    array = "gas/neutral_fraction"
    unit = "neutral fraction"

    [redshift]                          # a value, an attribute or an array; left out: an array or attribute
    attribute = "Header/Redshift"       # `redshift`, or a single number `z`, or z8.397 in the file's name
                                        # (unit = "scale factor" where it is 1 / (1 + z))

    [box_size]                          # the same, with a unit of length; left out: `box_size`
    attribute = "Header/BoxSize"
    unit = "kpc/h"

    [max_mfp]                           # how far photons get, the same way, one for all snapshots or one for
    value = 30                          # each; left out: an array or attribute `max_mfp`, if there is one

    [cosmology]                         # left out: attributes H0, Om0, Ob0
    H0 = 67.7
    Om0 = 0.31
    Ob0 = 0.049

Arrays have three axes, or four with the snapshots along one of them. Where the file names the dimensions
(NetCDF, xarray), their names give the order, and `axes` is left out. Packed numbers (`scale_factor`,
`add_offset`, `_FillValue`: `reion.readers.packing`) are unpacked. Without a mapping, arrays have the names of
the Simulation's fields. Files may hold one field each, if their names differ only in that of the field:
`density_z8.h5`, `xHII_z8.h5`. `[halos]` reads sources from a catalogue: `reion.readers.halos`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from reion.errors import InputError
from reion.readers.filenames import another_in_name, label_of, redshift_of, why_no_redshift
from reion.readers.hdf5_file import MOST_NUMBERS
from reion.readers.joining import are_apart
from reion.readers.names import Names, NumberPlace, names_from
from reion.readers.settings import Settings, why_not_cosmological
from reion.readers.snapshot import Box, Snapshot
from reion.readers.tree import StoredArray, Tree, shown
from reion.readers.unused import warn_unused_arrays, without_field
from reion.simulation.contract import AXES, DEFAULT_COSMOLOGY, MAX_MFP
from reion.simulation.units import length_mpc

_OWN_ATTRIBUTES = {"box_size", "cosmology_assumed", "source_code", "redshift", *DEFAULT_COSMOLOGY}
_SCALE_FACTOR = ("scale factor", "scale_factor", "a")


def boxes_from(trees: Iterable[Tree], settings: Settings) -> list[Box]:
    """One box for each file, by the mapping of the settings; names that differ in redshift get one label."""
    names = names_from(settings)
    looked_at = list(trees)
    boxes = [
        box_from(tree, of_tree, settings)
        for tree, of_tree in zip(looked_at, _names_of_each(looked_at, names), strict=True)
    ]
    used = {name_in_file(place.array) for place in names.arrays().values()}
    warn_unused_arrays(looked_at, used, catalogues_used=names.halos is not None)
    return boxes


def _names_of_each(trees: Sequence[Tree], names: Names) -> list[Names]:
    """The mapping for each file; where files hold one field each, with the fields that are in its files only.

    That is so where the labels differ only in the name of a field, as `density_z8.h5` and `xHII_z8.h5` do.
    """
    places = names.given()
    held: dict[str, dict[str, set[str]]] = {}
    labels = [label_of(tree.path) for tree in trees]
    for tree, label in zip(trees, labels, strict=True) if len(set(labels)) > 1 else ():
        own = {name for name, place in places.items() if tree.shape(place.array) is not None}
        held.setdefault(without_field(label), {}).setdefault(label, set()).update(own)
    each = []
    for label in labels:
        fields = held.get(without_field(label), {})
        whole = set().union(*fields.values()) == set(places)
        apart = len(fields) > 1 and whole and are_apart(list(fields.values()))
        left_out = set(places) - fields[label] if apart else set()
        each.append(names.model_copy(update=dict.fromkeys(left_out)))
    return each


def name_in_file(array: str) -> str:
    """An array's name as its file lists it: `gas/density` for `/gas/density`, `density` for `density.npy`."""
    return "/".join(part for part in array.split("/") if part).removesuffix(".npy")


def box_from(tree: Tree, names: Names, settings: Settings, *, label: str | None = None) -> Box:
    """The box in one file, with the arrays and numbers that `names` gives.

    Raises
    ------
    InputError
        If a named array is missing or has a wrong shape.
    """
    path = tree.path
    arrays = _arrays(tree, names)
    redshifts = _redshifts(tree, names)
    cosmology = _cosmology(tree, names, settings)
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
    known_cosmology = settings.cosmology(cosmology, file=path) or DEFAULT_COSMOLOGY
    box_size = _box_size(tree, names, known_cosmology)
    own_names = bool(snapshots) and not names.given()
    return Box(
        label=label or label_of(path),
        snapshots=snapshots,
        box_size=box_size,
        cosmology=cosmology,
        source_code=str(tree.attribute("source_code") or "unknown"),
        attrs={key: value for key, value in tree.attributes().items() if key not in _OWN_ATTRIBUTES},
        centres=_centres(tree, snapshots[0].shape, box_size, known_cosmology) if own_names else {},
        # A setting replaces the value in the file.
        max_mfp_mpc=None if settings.text(MAX_MFP) else _reaches_mpc(tree, names, redshifts, known_cosmology),
    )


def _arrays(tree: Tree, names: Names) -> dict[str, StoredArray]:
    """The arrays of the fields that the file holds, by field."""
    places = names.arrays()
    found = {name: tree.shape(place.array) is not None for name, place in places.items()}
    missing = [place.array for name, place in names.given().items() if not found[name]]
    # A file may hold haloes without any field, unless the haloes are in other files.
    fields_needed = names.halos is None or names.halos.file is not None
    if missing or (fields_needed and not any(found.values())):
        raise InputError(
            f"expected arrays named {', '.join(missing or [place.array for place in places.values()])}; "
            f"received {shown(tree.names(), 'none of floating-point numbers')}",
            file=tree.path,
            hint="say in a TOML file which array is what, and give it with --set mapping=mine.toml; for a "
            'density that is\n  [n_igm]\n  array = "path/in/the/file"\n  unit = "g cm-3"',
        )
    return {name: StoredArray(tree, place.array, names.axes) for name, place in places.items() if found[name]}


def _cells(array: StoredArray, snapshots: int) -> tuple[int, int, int]:
    """Cells of an array along x, y, z; InputError unless it has these axes and this number of snapshots."""
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
    if redshifts is None and not names.given():
        redshifts = _single_z(tree)
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


def _single_z(tree: Tree) -> np.ndarray | None:
    """The redshift in an array or an attribute `z` of one number, (1,) float64; None without it."""
    if tree.shape("z") == ():
        return _numbers(tree, NumberPlace(array="z"), "redshift")
    is_number = isinstance(tree.attribute("z"), int | float)
    return _numbers(tree, NumberPlace(attribute="z"), "redshift") if is_number else None


def _centres(
    tree: Tree,
    shape: Sequence[int],
    box_size: float | Sequence[float] | None,
    cosmology: Mapping[str, float],
) -> dict[str, np.ndarray]:
    """Cell centres in the file, in comoving Mpc, along axes where their spacing does not fit the box size.

    The first centre does not matter in a periodic box, only the spacing. Coordinates that number the cells
    are ignored. Without a box size the centres are returned for every axis that has them.
    """
    centres: dict[str, np.ndarray] = {}
    sides = [None] * len(AXES) if box_size is None else np.broadcast_to(box_size, len(AXES)).tolist()
    for axis, n, side in zip(AXES, shape, sides, strict=True):
        found = tree.shape(axis)
        if found is None or found == ():  # a number `z` is a redshift
            continue
        if found != (n,):
            raise InputError(f"{axis}: expected {n} cell centres; received shape {found}", file=tree.path)
        array = StoredArray(tree, axis)
        values = array.numbers()
        factor = length_mpc(array.units, cosmology) if array.units else None
        if factor is None and np.allclose(np.diff(values), 1.0):
            continue
        values = values * (factor or 1.0)
        if side is None or n == 1 or not np.allclose(np.diff(values), side / n, rtol=1e-3):
            centres[axis] = values
    return centres


def _numbers(tree: Tree, place: NumberPlace | None, name: str) -> np.ndarray | None:
    """The numbers at `place`, by default an array or attribute called `name`: float64, one axis; or None."""
    if place is None:
        place = NumberPlace(array=name) if tree.shape(name) is not None else NumberPlace(attribute=name)
        if place.array is None and tree.attribute(name) is None:
            return None
    found: Any = place.value
    if place.attribute is not None:
        found = tree.attribute(place.attribute)
    elif place.array is not None:
        found = None if tree.shape(place.array) is None else StoredArray(tree, place.array).numbers()
    if found is None and (place.attribute or place.array):
        kind = "array" if place.attribute is None else "attribute"
        raise InputError(
            f"{name}: expected numbers in the {kind} {place.attribute or place.array!r}; there is none",
            file=tree.path,
            hint=f"an attribute of HDF5 with more than {MOST_NUMBERS} numbers is not read: write an array"
            if kind == "attribute"
            else None,
        )
    try:
        numbers = np.asarray(found, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        numbers = np.array([np.nan])
    if numbers.size == 0 or not np.all(np.isfinite(numbers)):
        where = place.attribute or place.array or "value"
        raise InputError(f"{name}: expected finite numbers in {where!r}; received {found!r}", file=tree.path)
    return numbers


def _cosmology(tree: Tree, names: Names, settings: Settings) -> dict[str, float] | None:
    """H0, Om0 and Ob0 from the mapping, or from the file, completed by settings; None if neither has any.

    Raises
    ------
    InputError
        If the file gives some of the three and the settings not the others, or a value is out of range.
    """
    if names.cosmology is not None:
        return names.cosmology.model_dump()
    numbers = {key: _numbers(tree, None, key) for key in DEFAULT_COSMOLOGY}
    said = {key: float(value[0]) for key, value in numbers.items() if value is not None}
    if tree.attribute("cosmology_assumed") or not said:
        return None
    for key, value in said.items():
        wrong = why_not_cosmological(key, value)
        if wrong:
            raise InputError(
                f"{key}: {wrong}; received {value:g}",
                file=tree.path,
                hint="correct it in the file, or give H0, Om0 and Ob0 in a mapping, under [cosmology]",
            )
    values = {**settings.given_cosmology(), **said}
    missing = [key for key in DEFAULT_COSMOLOGY if key not in values]
    if missing:
        raise InputError(
            f"expected H0, Om0 and Ob0; the file says {', '.join(said)} and not {', '.join(missing)}",
            file=tree.path,
            hint=f"give the rest: {' '.join(f'--set {key}=...' for key in missing)}",
        )
    return values


def _box_size(tree: Tree, names: Names, cosmology: Mapping[str, float]) -> float | Sequence[float] | None:
    """The sides of the box in comoving Mpc, one number or three; None if the file lacks them."""
    lengths = _lengths_mpc(tree, names.box_size, "box_size", cosmology)
    if lengths is None:
        return None
    if lengths.size not in (1, 3):
        raise InputError(f"box_size: expected one or three lengths; received {lengths.size}", file=tree.path)
    sides: list[float] = lengths.tolist()
    return sides[0] if len(sides) == 1 else sides


def _reaches_mpc(
    tree: Tree, names: Names, redshifts: np.ndarray, cosmology: Mapping[str, float]
) -> dict[float, float] | None:
    """The comoving radius in Mpc that photons reach from each redshift on, by redshift; None without any."""
    reaches = _lengths_mpc(tree, names.max_mfp, MAX_MFP, cosmology)
    if reaches is None:
        return None
    if reaches.size not in (1, redshifts.size):
        raise InputError(
            f"{MAX_MFP}: expected one length, or one for each of {redshifts.size} snapshots; received "
            f"{reaches.size}",
            file=tree.path,
        )
    return dict(zip(redshifts.tolist(), np.broadcast_to(reaches, redshifts.size).tolist(), strict=True))


def _lengths_mpc(
    tree: Tree, place: NumberPlace | None, name: str, cosmology: Mapping[str, float]
) -> np.ndarray | None:
    """The comoving lengths in Mpc at `place`, by default an array or an attribute called `name`; one axis.

    The unit is that of the mapping, or else that of the array, or else Mpc.
    """
    lengths = _numbers(tree, place, name)
    if lengths is None:
        return None
    unit = place.unit if place is not None else None
    array = place.array if place is not None else name
    if unit is None and array is not None and tree.shape(array) is not None:
        unit = StoredArray(tree, array).units
    factor = length_mpc((unit or "Mpc").replace("comoving", "").strip(), cosmology)
    if factor is None:
        raise InputError(
            f"{name}: expected comoving lengths in a unit such as Mpc or kpc/h; "
            f"received {lengths.tolist()} in {unit!r}",
            file=tree.path,
        )
    return lengths * factor
