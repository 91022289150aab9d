"""What a caller gives for a Simulation besides its fields: the cosmology, the box size and the redshifts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from reion.errors import InputError
from reion.simulation.arguments import described
from reion.simulation.arrays import plain_values

if TYPE_CHECKING:
    from astropy.cosmology import FlatLambdaCDM

_UNITS = {"H0": "km s-1 Mpc-1", "Om0": None, "Ob0": None}
"""The parameters of a cosmology, with their units; None for a pure number."""


def given_cosmology(cosmology: Mapping[str, Any] | FlatLambdaCDM) -> dict[str, float]:
    """H0 (km s-1 Mpc-1), Om0 and Ob0 of a cosmology of astropy, or of a mapping, as numbers.

    Raises
    ------
    InputError
        If the cosmology is no flat LCDM, lacks one of the three parameters, or has others.
    """
    if isinstance(cosmology, Mapping):
        said: Mapping[str, Any] = cosmology
        unknown = [str(key) for key in said if key not in _UNITS]
        if unknown:
            raise InputError(
                f"cosmology: expected {_listed(_UNITS)}; received {', '.join(unknown)} as well",
                hint=f"leave out {', '.join(unknown)}: reion uses no other parameter",
            )
    else:
        said = _of_astropy(cosmology)
    missing = [key for key in _UNITS if said.get(key) is None]
    if missing:
        raise InputError(
            f"cosmology: expected {_listed(_UNITS)}; received no {' and no '.join(missing)}",
            hint=f"give the rest: cosmology={{{', '.join(f'{key!r}: ...' for key in _UNITS)}}}",
        )
    return {key: _number(key, said[key], units) for key, units in _UNITS.items()}


def _of_astropy(cosmology: Any) -> dict[str, Any]:
    """The parameters of a cosmology of astropy; None for one that it does not say."""
    from astropy.cosmology import FlatLambdaCDM

    if not isinstance(cosmology, FlatLambdaCDM):
        raise InputError(
            f"cosmology: expected {_listed(_UNITS)} of a flat LCDM; received {described(cosmology)}",
            hint='give cosmology={"H0": ..., "Om0": ..., "Ob0": ...}, or an astropy.cosmology.FlatLambdaCDM',
        )
    # Versions of astropy differ in whether a density of baryons that was not given is None or zero.
    return {"H0": cosmology.H0, "Om0": cosmology.Om0, "Ob0": cosmology.Ob0 or None}


def _number(key: str, value: Any, units: str | None) -> float:
    numbers = numbers_given(f"cosmology: {key}", value, units)
    if numbers.size != 1 or not np.isfinite(numbers).all() or numbers[0] < 0:
        raise InputError(f"cosmology: {key}: expected one number that is not negative; received {value!r}")
    return float(numbers[0])


def box_sides(box_size: Any) -> float | list[float]:
    """The comoving sides of a box in Mpc, one number or three.

    Raises
    ------
    InputError
        If they are no lengths, or neither one nor three.
    """
    lengths = numbers_given("box_size", box_size, "Mpc")
    if lengths.size not in (1, 3):
        raise InputError(
            f"box_size: expected one length in comoving Mpc, or three; received {lengths.size}: {box_size!r}"
        )
    sides: list[float] = lengths.tolist()
    is_one = not isinstance(box_size, list | tuple) and not np.ndim(box_size)
    return sides[0] if is_one else sides


def numbers_given(name: str, values: Any, units: str | None) -> np.ndarray:
    """Numbers that a caller gives, with or without a unit, in `units`: float64, one axis.

    If `units` is None, the numbers have no unit, and what they say of one is not looked at.

    Raises
    ------
    InputError
        If they are no numbers, or have a unit that cannot be converted.
    """
    parts = values if isinstance(values, list | tuple) else [values]
    try:
        parts = parts if units is None else [plain_values(name, part, units) for part in parts]
        plain = [np.asarray(part, dtype=np.float64).reshape(-1) for part in parts]
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        wanted = "numbers" if units is None else f"numbers in {units}"
        raise InputError(f"{name}: expected {wanted}; received {values!r}") from error
    return np.concatenate(plain) if plain else np.empty(0)


def _listed(names: Sequence[str] | Mapping[str, Any]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}"
