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

    [box_size]                          # the same, with a unit of length; left out: `box_size`
    attribute = "Header/BoxSize"
    unit = "kpc/h"

    [cosmology]                         # left out: attributes H0, Om0, Ob0
    H0 = 67.7
    Om0 = 0.31
    Ob0 = 0.049

Arrays have three axes, or four with the redshift first. Without a mapping the names are those of the
Simulation.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from reion.errors import InputError
from reion.readers.filenames import label_of, redshift_of
from reion.readers.settings import Settings
from reion.readers.snapshot import Box, Region, Snapshot
from reion.simulation.contract import AXES, DEFAULT_COSMOLOGY, FIELDS
from reion.simulation.units import Conversion, length_mpc

SETTINGS = {"mapping": "a TOML file with the names and units of the arrays"}
_OWN_ATTRIBUTES = {"box_size", "cosmology_assumed", "source_code", "redshift", *DEFAULT_COSMOLOGY}


class Tree(Protocol):
    """A file of named arrays and attributes."""

    @property
    def path(self) -> Path:
        """The file or folder."""

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of the array of floating-point numbers `name`, checked; None if there is none."""

    def read(self, name: str, key: tuple[int | slice, ...]) -> np.ndarray:
        """Numbers of array `name`."""

    def attribute(self, name: str) -> Any | None:
        """Value of the attribute `group/name` (or `name`, of the whole file, or `array/name`), or None."""

    def attributes(self) -> dict[str, Any]:
        """The attributes of the whole file."""

    def names(self) -> list[str]:
        """Arrays of floating-point numbers, the first ones of many, to be shown to a person."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ArrayPlace(_Strict):
    """Where an array is and what its unit is."""

    array: str
    unit: str | None = None


class NumberPlace(_Strict):
    """Where a number is: right here, in an attribute, or in an array."""

    value: float | list[float] | None = None
    attribute: str | None = None
    array: str | None = None
    unit: str = "Mpc"


class Cosmology(_Strict):
    """Parameters of a flat LCDM."""

    H0: float
    Om0: float
    Ob0: float


class Names(_Strict):
    """A mapping: see the module's text."""

    axes: Literal["xyz", "zyx"] = "xyz"
    n_igm: ArrayPlace | None = None
    n_src: ArrayPlace | None = None
    n_ion: ArrayPlace | None = None
    propagation_mask: ArrayPlace | None = None
    xi: ArrayPlace | None = None
    redshift: NumberPlace | None = None
    box_size: NumberPlace | None = None
    cosmology: Cosmology | None = None

    def arrays(self) -> dict[str, ArrayPlace]:
        """Field to its place; those of the Simulation's own names where none is given."""
        given = {name: place for name in FIELDS if (place := getattr(self, name)) is not None}
        return given or {name: ArrayPlace(array=name) for name in FIELDS}


def names_from(settings: Settings) -> Names:
    """The mapping that is set, or the one of our own names.

    Raises
    ------
    InputError
        If the file is no mapping: with the key at fault.
    """
    text = settings.text("mapping")
    if text is None:
        return Names()
    path = Path(text).expanduser()
    try:
        return Names.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"cannot be read: {error}", file=path) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"expected TOML; {error}", file=path) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{where}: {first['msg']}; received {first['input']!r}", file=path) from error


def boxes_from(trees: Iterable[Tree], settings: Settings) -> list[Box]:
    """What the mapping that is set finds in each file; files of one name but for the redshift are one box."""
    names = names_from(settings)
    return [box_from(tree, names, settings) for tree in trees]


def box_from(tree: Tree, names: Names, settings: Settings) -> Box:
    """Everything that `names` finds in one file.

    Raises
    ------
    InputError
        If an array that is named is not there, or has another shape than it should.
    """
    path = tree.path
    named = {name: place for name in FIELDS if (place := getattr(names, name)) is not None}
    shapes = {place.array: tree.shape(place.array) for place in names.arrays().values()}
    missing = [place.array for place in named.values() if shapes[place.array] is None]
    if missing or not any(shapes.values()):
        raise InputError(
            f"expected arrays named {', '.join(missing or shapes)}; received "
            f"{', '.join(tree.names()) or 'none of floating-point numbers'}",
            file=path,
            hint="say in a TOML file which array is what, and give it with --set mapping=mine.toml; for a "
            'density that is\n  [n_igm]\n  array = "path/in/the/file"\n  unit = "g cm-3"',
        )
    redshifts = _numbers(tree, names.redshift, "redshift")
    if redshifts is None:
        from_name = redshift_of(path)
        if from_name is None:
            raise InputError(
                "the redshift is neither in the file nor in its name",
                file=path,
                hint="say where it is in the mapping, under [redshift], or name the file like sim_z8.397",
            )
        redshifts = np.array([from_name])
    cosmology = _cosmology(tree, names)
    snapshots = []
    for name, place in names.arrays().items():
        shape = shapes[place.array]
        if shape is None:
            continue
        cells = shape[-3:] if names.axes == "xyz" else shape[:-4:-1]
        if (
            len(cells) != 3
            or 0 in shape
            or shape[:-3] not in ((), (redshifts.size,))
            or (len(shape) == 3 and redshifts.size != 1)
        ):
            raise InputError(
                f"{place.array}: expected shape ({redshifts.size}, {', '.join(names.axes)}); "
                f"received {shape}",
                file=path,
            )
        units = place.unit if place.unit is not None else str(tree.attribute(f"{place.array}/units") or "")
        snapshots += [
            Snapshot(
                name=name,
                redshift=float(redshift),
                file=path,
                shape=(cells[0], cells[1], cells[2]),
                units=units,
                read=partial(_read, tree, place.array, index if len(shape) == 4 else None, names.axes),
            )
            for index, redshift in enumerate(redshifts)
        ]
    return Box(
        label=label_of(path),
        snapshots=snapshots,
        box_size=_box_size(tree, names, settings.cosmology(cosmology, file=path)),
        cosmology=cosmology,
        source_code=str(tree.attribute("source_code") or "unknown"),
        attrs={key: value for key, value in tree.attributes().items() if key not in _OWN_ATTRIBUTES},
        centres=_centres(tree, snapshots[0].shape) if names == Names() else {},
    )


def _read(
    tree: Tree, name: str, index: int | None, axes: str, region: Region, conversion: Conversion
) -> np.ndarray:
    key: tuple[int | slice, ...] = region if axes == "xyz" else region[::-1]
    values = tree.read(name, key if index is None else (index, *key))
    return conversion(values if axes == "xyz" else values.T)


def _centres(tree: Tree, shape: Sequence[int]) -> dict[str, np.ndarray]:
    """Cell centres along the axes that the file gives them for."""
    centres = {}
    for axis, n in zip(AXES, shape, strict=True):
        found = tree.shape(axis)
        if found is not None:
            if found != (n,):
                raise InputError(f"{axis}: expected {n} cell centres; received shape {found}", file=tree.path)
            centres[axis] = tree.read(axis, (slice(None),)).astype(np.float64)
    return centres


def _numbers(tree: Tree, place: NumberPlace | None, name: str) -> np.ndarray | None:
    """The numbers at `place`, by default an array or an attribute called `name`."""
    path = tree.path
    if place is None:
        place = NumberPlace(array=name) if tree.shape(name) is not None else NumberPlace(attribute=name)
        if place.array is None and tree.attribute(name) is None:
            return None
    found: Any = place.value
    if place.attribute is not None:
        found = tree.attribute(place.attribute)
    elif place.array is not None:
        shape = tree.shape(place.array)
        found = None if shape is None else tree.read(place.array, (slice(None),) * len(shape))
    try:
        numbers = np.asarray(found, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        numbers = np.array([np.nan])
    if numbers.size == 0 or not np.all(np.isfinite(numbers)):
        where = place.attribute or place.array or "value"
        raise InputError(f"{name}: expected finite numbers in {where!r}; received {found!r}", file=path)
    return numbers


def _cosmology(tree: Tree, names: Names) -> dict[str, float] | None:
    if names.cosmology is not None:
        return names.cosmology.model_dump()
    values = {key: _numbers(tree, None, key) for key in DEFAULT_COSMOLOGY}
    if tree.attribute("cosmology_assumed") or any(value is None for value in values.values()):
        return None
    return {key: float(value[0]) for key, value in values.items() if value is not None}


def _box_size(tree: Tree, names: Names, cosmology: Any) -> float | Sequence[float] | None:
    lengths = _numbers(tree, names.box_size, "box_size")
    if lengths is None:
        return None
    unit = names.box_size.unit if names.box_size is not None else "Mpc"
    factor = length_mpc(unit, cosmology or DEFAULT_COSMOLOGY)
    if factor is None or lengths.size not in (1, 3):
        raise InputError(
            f"box_size: expected one or three lengths in a unit such as Mpc or kpc/h; "
            f"received {lengths.tolist()} in {unit!r}",
            file=tree.path,
        )
    sides = [float(length) * factor for length in lengths]
    return sides[0] if len(sides) == 1 else sides
