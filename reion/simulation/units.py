"""Converts values in files to the units of the Simulation, through astropy.

A unit is a unit string of astropy, with additional words where they are needed:

- `comoving` (the default) or `proper` for quantities per volume; for velocities `proper` is the default;
- `h` for the Hubble constant in 100 km s-1 Mpc-1, as in `Msun/h` or `h2 Msun Mpc-3`;
- `per cell` for a total in each cell (also assumed for a rate, a mass or a number without a volume);
- `overdensity` (rho / mean - 1), `1 + overdensity`, `hydrogen cm-3`, `baryon cm-3`, `neutral fraction`.

Factors are multiplied in float64 and applied once, because photon rates and the factor from g cm-3 to g pc-3
do not fit float32.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from reion.errors import InputError
from reion.simulation.contract import (
    DENSITY_UNITS,
    FIELDS,
    MEAN_MOLECULAR_WEIGHT,
    RATE_UNITS,
    SOURCE_UNITS,
    TEMPERATURE_UNITS,
    VELOCITY_UNITS,
    mean_density,
    n_ion_units,
)

EXAMPLES = {
    "n_igm": "'g cm-3', 'proper g cm-3', 'h2 Msun Mpc-3', 'Msun per cell', 'hydrogen cm-3', 'overdensity'",
    "n_src": "'1e48 s-1 Mpc-3', 's-1 per cell', 'Msun Mpc-3', 'Msun/h per cell', 'Mpc-3', 'per cell'",
    "propagation_mask": "that of n_src",
    "n_ion": "'1e66 Mpc-3', 'cm-3', 'per cell'",
    "xi": "'1', 'neutral fraction', '%'",
    **dict.fromkeys(("velocity_x", "velocity_y", "velocity_z"), "'km s-1', 'cm s-1', 'comoving Mpc s-1'"),
    "t_spin": "'K', 'mK'",
    "ionisation_rate": "'s-1', '1e-12 s-1', 'Myr-1'",
}
"""Examples of units for each field, for messages."""
UNIT_SETTINGS = {name: f"{name}_unit" for name in ("n_igm", "n_src", "n_ion", "xi")}
"""The settings that give the unit of a field. A mapping gives the units of all other fields."""
_PLAIN = {
    **dict.fromkeys(("velocity_x", "velocity_y", "velocity_z"), (VELOCITY_UNITS, "a velocity")),
    "t_spin": (TEMPERATURE_UNITS, "a temperature"),
    "ionisation_rate": (RATE_UNITS, "a number a second"),
}
"""Fields that are neither per volume nor a fraction: their unit, and the quantity that it measures."""
_BLOCK_CELLS = 65536


@dataclass(frozen=True)
class Conversion:
    """Converts values in a file to `units`: `raw * scale + offset`, computed in float64, as float32."""

    units: str
    scale: float = 1.0
    offset: float = 0.0

    def times(self, factor: float) -> Conversion:
        """The conversion of values that are in `factor` times the unit."""
        return replace(self, scale=self.scale * factor)

    def __call__(self, raw: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Convert an array of any shape, memory order, byte order and number type.

        Returns float32 of the same shape in the same memory order, in `out` if it is given. An array of
        float32 that needs no conversion is returned itself.
        """
        if self.scale == 1.0 and self.offset == 0.0 and out is None and raw.dtype == np.float32:
            return raw
        if out is None:
            out = np.empty_like(raw, dtype=np.float32, subok=False)
        blocks = np.nditer(
            [raw, out],
            flags=["external_loop", "buffered", "zerosize_ok"],
            op_flags=[["readonly"], ["writeonly"]],
            op_dtypes=[np.float64, np.float32],
            casting="unsafe",
            order="K",
            buffersize=_BLOCK_CELLS,
        )
        # A number that does not fit float32 becomes inf, which the check of values refuses.
        with blocks, np.errstate(over="ignore", invalid="ignore"):
            for x, y in blocks:
                y[...] = x * self.scale + self.offset
        return out


def field_conversion(
    name: str,
    unit: str,
    *,
    redshift: float,
    cosmology: Mapping[str, float],
    cell_volume_mpc3: float,
    file: Path | str | None = None,
) -> Conversion:
    """The conversion of values of field `name` in `unit` to those of a Simulation.

    Parameters
    ----------
    unit
        A unit as the text of this module describes it.
    redshift
        Redshift of the snapshot, for proper volumes and comoving velocities.
    cosmology
        H0 (km s-1 Mpc-1), Om0 and Ob0, for h and the mean density.
    cell_volume_mpc3
        Comoving volume of a cell, for units per cell.

    Raises
    ------
    InputError
        If the unit is unknown or is not one of this field.
    """
    text = " ".join(unit.replace("comoving", " ").split())
    if name in _PLAIN:
        return _plain_conversion(name, unit, text, redshift, cosmology, file)
    if text == FIELDS[name].units[0]:
        return Conversion(text)
    if name == "n_igm":
        mean = mean_density(cosmology)
        if text.replace(" ", "") in ("overdensity", "delta"):
            return Conversion(DENSITY_UNITS, mean, mean)
        if text.replace(" ", "") in ("1+overdensity", "1+delta"):
            return Conversion(DENSITY_UNITS, mean)
    if name == "xi":
        if text in ("neutral fraction", "neutral"):
            return Conversion("1", -1.0, 1.0)
        if text in ("", "ionised fraction", "ionized fraction"):
            return Conversion("1")
        if text == "%":
            return Conversion("1", 0.01)
        raise _unknown(name, unit, "expected a fraction", file)
    quantity, per_cell = _parse(name, text, cosmology, file)
    factor = (1.0 + redshift) ** -3 if "proper" in text.split() else 1.0
    if per_cell:
        factor /= cell_volume_mpc3
    for target, value in _targets(name, quantity):
        return Conversion(target, value * factor)
    raise _unknown(name, unit, f"understood as {quantity.unit}, which is {quantity.unit.physical_type}", file)


def _plain_conversion(
    name: str,
    unit: str,
    text: str,
    redshift: float,
    cosmology: Mapping[str, float],
    file: Path | str | None,
) -> Conversion:
    """The conversion of a field of `_PLAIN`; `text` is its unit without the word comoving."""
    target, what = _PLAIN[name]
    is_velocity = target == VELOCITY_UNITS
    value = _value_in(text.replace("proper", " ") if is_velocity else text, target, cosmology)
    if value is None:
        raise _unknown(name, unit, f"expected {what}", file)
    # A comoving velocity is the change of a comoving position.
    comoving = is_velocity and "comoving" in unit
    return Conversion(target, value / (1.0 + redshift) if comoving else value)


def length_mpc(unit: str, cosmology: Mapping[str, float]) -> float | None:
    """Mpc in a unit of length such as `kpc/h`; None if it is no unit of length."""
    if unit == "Mpc":  # the unit of reion's own stores, which are read without loading astropy
        return 1.0
    return _value_in(unit, "Mpc", cosmology)


def mass_msun(unit: str, cosmology: Mapping[str, float]) -> float | None:
    """Solar masses in a unit of mass such as `1e10 Msun/h`; None if it is no unit of mass."""
    return _value_in(unit, "Msun", cosmology)


def _value_in(unit: str, target: str, cosmology: Mapping[str, float]) -> float | None:
    """The value of one `unit` in `target`; None if it is no unit, or measures something else."""
    from astropy import units

    try:
        return float(_without_h(unit, cosmology).to_value(target))
    except (ValueError, TypeError, KeyError, OverflowError, ZeroDivisionError, units.UnitConversionError):
        return None


def photon_rate_per_msun(
    cosmology: Mapping[str, float], f_gamma: float, lifetime_myr: float, mean_molecular_weight: float
) -> float:
    """Ionising photons per second of a solar mass of halo, as C2-Ray counts them.

    Ob0 / Om0 of the mass are baryons of `mean_molecular_weight` proton masses each. Every baryon emits
    `f_gamma` photons in `lifetime_myr`.
    """
    from astropy import constants, units

    baryons = units.Msun * cosmology["Ob0"] / cosmology["Om0"] / (mean_molecular_weight * constants.m_p)
    return float(f_gamma * (baryons / (lifetime_myr * units.Myr)).to_value("s-1"))


def grams_per_cubic_parsec(n_igm: np.ndarray) -> np.ndarray:
    """Density in g pc-3, the unit of the original EPFL project, from n_igm in g cm-3.

    The factor is 2.93799895e55 (a parsec is 3.0856775814913673e18 cm), which does not fit float32. It is
    applied in float64; the result, about 1e25, has the number type of `n_igm`.
    """
    from astropy import units

    factor = float((1 * units.g / units.cm**3).to_value(units.g / units.pc**3))
    return (n_igm.astype(np.float64) * factor).astype(n_igm.dtype)


def _parse(name: str, text: str, cosmology: Mapping[str, float], file: Path | str | None) -> tuple[Any, bool]:
    """Value of one unit, as a Quantity per comoving Mpc3, without h; and whether it is per cell."""
    from astropy import constants, units

    words = re.sub(r"\b(proper|photons?|atoms?|halo(?:e?s)?|sources?|per cell)\b", " ", text)
    per_cell = "per cell" in text
    mass = 1.0
    if name == "n_igm":
        words, hydrogen = re.subn(r"\bhydrogen\b", " ", words)
        words, baryons = re.subn(r"\bbaryons?\b", " ", words)
        if hydrogen:
            mass = MEAN_MOLECULAR_WEIGHT * constants.m_p
        elif baryons:
            mass = constants.m_p
    try:
        quantity = _without_h(words, cosmology) * mass
    except (ValueError, TypeError, KeyError, OverflowError, ZeroDivisionError) as error:
        raise _unknown(name, text, f"astropy says: {str(error).split(' If this')[0]}", file) from error
    if name == "n_igm" and quantity.unit.is_equivalent("cm-3"):
        quantity = quantity * MEAN_MOLECULAR_WEIGHT * constants.m_p
    volumes = "per cell" not in text and _has_no_volume(quantity)
    if per_cell or volumes:
        return quantity / units.Mpc**3, True
    return quantity, False


def _without_h(text: str, cosmology: Mapping[str, float]) -> Any:
    """One unit as a Quantity without h, which is the Hubble constant here and an hour in astropy."""
    import astropy.cosmology.units as cosmology_units
    from astropy import units

    words, count = re.subn(r"(?<![A-Za-z])h(?![A-Za-z])", "littleh", text)
    with units.add_enabled_units([cosmology_units.littleh]):
        unit = units.Unit(words.strip() or "1")
    if count:
        power = dict(zip(unit.bases, unit.powers, strict=True)).get(cosmology_units.littleh, 0)
        return (cosmology["H0"] / 100.0) ** float(power) * (unit / cosmology_units.littleh**power)
    return 1.0 * unit


def _has_no_volume(quantity: Any) -> bool:
    return any(quantity.unit.is_equivalent(unit) for unit in ("", "s-1", "g", "s", "g s"))


def _targets(name: str, quantity: Any) -> list[tuple[str, float]]:
    """The units of field `name` that the quantity can have, with its value in each."""
    from astropy import units

    if name == "n_igm":
        candidates = {DENSITY_UNITS: DENSITY_UNITS}
    elif name in ("n_src", "propagation_mask"):
        candidates = {unit: unit for unit in SOURCE_UNITS}
    else:
        candidates = {n_ion_units(unit): n_ion_units(unit) for unit in SOURCE_UNITS}
    return [
        (target, float(quantity.to_value(units.Unit(unit))))
        for target, unit in candidates.items()
        if quantity.unit.is_equivalent(unit)
    ]


def _unknown(name: str, unit: str, why: str, file: Path | str | None) -> InputError:
    return InputError(
        f"{name}: expected a unit such as {EXAMPLES[name]}; received {unit!r} ({why})",
        file=file,
        hint=f"give the unit with --set {UNIT_SETTINGS[name]}=..."
        if name in UNIT_SETTINGS
        else f'give the unit in a mapping, under [{name}]: unit = "..."',
    )
