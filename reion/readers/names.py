"""The schema of a mapping, the TOML file that says which array is what: `--set mapping=mine.toml`."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Literal

from pydantic import ValidationError, ValidationInfo, field_validator

from reion.errors import InputError
from reion.readers.dimensions import ORDERS
from reion.readers.settings import Settings, why_not_cosmological
from reion.schema import Schema
from reion.simulation.contract import FIELDS


class ArrayPlace(Schema):
    """The path of an array, and its unit."""

    array: str
    unit: str | None = None


class NumberPlace(Schema):
    """A number with its unit: the value itself, or the attribute or array that holds it."""

    value: float | list[float] | None = None
    attribute: str | None = None
    array: str | None = None
    unit: str | None = None


class Cosmology(Schema):
    """Parameters of a flat LCDM."""

    H0: float
    Om0: float
    Ob0: float

    @field_validator("*")
    @classmethod
    def _is_cosmological(cls, value: float, info: ValidationInfo) -> float:
        wrong = why_not_cosmological(str(info.field_name), value)
        if wrong:
            raise ValueError(wrong)
        return value


Column = str | int
"""An array's path, a column's name in the header of a text file, or its number, from 1."""


class Halos(Schema):
    """The file and the columns of a halo catalogue: see `reion.readers.halos`."""

    file: str | None = None
    positions: Column | None = None
    x: Column | None = None
    y: Column | None = None
    z: Column | None = None
    position_unit: str | None = None
    mass: Column | None = None
    mass_unit: str | None = None
    photons: Column | None = None
    deposit: Literal["nearest", "cloud_in_cell"] = "nearest"


class Names(Schema):
    """A mapping: see `reion.readers.mapping`."""

    axes: str | None = None
    n_igm: ArrayPlace | None = None
    n_src: ArrayPlace | None = None
    n_ion: ArrayPlace | None = None
    propagation_mask: ArrayPlace | None = None
    xi: ArrayPlace | None = None
    ionisation_rate: ArrayPlace | None = None
    velocity_x: ArrayPlace | None = None
    velocity_y: ArrayPlace | None = None
    velocity_z: ArrayPlace | None = None
    t_spin: ArrayPlace | None = None
    redshift: NumberPlace | None = None
    box_size: NumberPlace | None = None
    max_mfp: NumberPlace | None = None
    cosmology: Cosmology | None = None
    halos: Halos | None = None

    @field_validator("axes")
    @classmethod
    def _is_an_order(cls, axes: str | None) -> str | None:
        if axes is not None and axes not in ORDERS:
            message = f"expected one of {', '.join(ORDERS)}"
            raise ValueError(message)
        return axes

    def given(self) -> dict[str, ArrayPlace]:
        """The places in the mapping, by field."""
        return {name: place for name in FIELDS if (place := getattr(self, name, None)) is not None}

    def arrays(self) -> dict[str, ArrayPlace]:
        """The places in the mapping, by field; if it has none, arrays with the names of the fields."""
        return self.given() or {name: ArrayPlace(array=name) for name in FIELDS}


def names_from(settings: Settings) -> Names:
    """The mapping that the settings name, or an empty one, which stands for the names of the Simulation.

    Raises
    ------
    InputError
        If the file is no mapping. The message names the key at fault.
    """
    text = settings.text("mapping")
    if text is None:
        return Names()
    path = Path(text).expanduser()
    try:
        return Names.model_validate(tomllib.loads(path.read_text(encoding="utf-8-sig")))
    except OSError as error:
        raise InputError(f"cannot be read: {error}", file=path) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"expected TOML; {error}", file=path) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "model_type":
            message = f"expected a table, [{where}]; received {where} = {first['input']!r}"
            hint = f'[{where}]\narray = "path/in/the/file"'
            raise InputError(message, file=path, hint=hint) from error
        raise InputError(
            f"{where}: {first['msg'].removeprefix('Value error, ')}; received {first['input']!r}", file=path
        ) from error
