"""The settings `--set key=value`, which give facts that files lack."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reion.errors import InputError, did_you_mean
from reion.simulation.contract import DEFAULT_COSMOLOGY, MEAN_MOLECULAR_WEIGHT
from reion.simulation.units import EXAMPLES, UNIT_SETTINGS, length_mpc, photon_rate_per_msun

DEFAULT_MEAN_MOLECULAR_WEIGHT = 1.0
"""Baryon mass in proton masses that turns masses in haloes into photons, as in C2-Ray."""

COMMON = {
    "box_size": "side of the box, comoving: 714.2857 (Mpc), 500/h, or three: 128,128,256 or 100,100,200/h",
    "cosmology": "an astropy cosmology by name, such as Planck18",
    "H0": "Hubble constant in km s-1 Mpc-1",
    "Om0": "matter density parameter",
    "Ob0": "baryon density parameter",
    "n_igm_unit": "unit of the density, such as 'proper g cm-3' or overdensity",
    "n_src_unit": "unit of the sources, such as 's-1 per cell' or 'Msun Mpc-3'",
    "n_ion_unit": "unit of the photons emitted so far",
    "xi_unit": "'1', or 'neutral fraction' where files hold neutral fractions",
    "max_mfp": "the comoving radius in Mpc that photons reach, or a model of it such as worseck-2014",
    "clumping": "factor on recombinations: 2.5, or pairs of redshift and factor: [[12,1],[6,3]]",
    "propagation_mask": "adds the field of this name: such a radius or model",
    "redshifts": "the redshifts to read, such as 9,8,7; the default is all",
    "mapping": "a TOML file that says which array is what, or where a halo catalogue is",
    "f_gamma": "ionising photons per baryon in haloes: makes photons of sources that are masses",
    "lifetime_myr": "lifetime of sources in Myr: they emit their photons in this time",
    "mean_molecular_weight": f"baryon mass in proton masses; {DEFAULT_MEAN_MOLECULAR_WEIGHT:g}, as in "
    f"C2-Ray, but {MEAN_MOLECULAR_WEIGHT:g} in pyC2Ray",
    "mass_slope": "photons per baryon in haloes go with this power of their mass; 0",
    "mass_pivot_msun": "the mass at which they are f_gamma; 1e10",
    "mass_cut_off_msun": "they fall off as exp(-cut-off / mass); 0: not at all",
    "mass_minimum_msun": "haloes of less mass are dark; 0",
    "mesh": "cells along a side, where there are only lists of sources",
}
"""Settings that every format takes."""
MASS_SETTINGS = ("f_gamma", "lifetime_myr", "mean_molecular_weight")
"""Settings that convert masses to photons."""
HALO_SETTINGS = [key for key in COMMON if key.startswith("mass_")]
"""Settings of how photons depend on the mass of a halo, which need a list of haloes."""
_MOST_CELLS = 10_000
_EXAMPLE = {
    "box_size": "714.2857",
    "nbox_fine": "13824",
    "f_gamma": "30",
    "lifetime_myr": "10",
    "mesh": "256",
    "n_igm_unit": "'g cm-3'",
    "n_src_unit": "'s-1 per cell'",
    "n_ion_unit": "'1e66 Mpc-3'",
    "xi_unit": "1",
}
_WHAT = {
    "box_size": "the size of the box",
    **{key: f"the unit of {name}" for name, key in UNIT_SETTINGS.items()},
}


_COSMOLOGICAL = {"H0": (10.0, 1000.0), "Om0": (0.0, 2.0), "Ob0": (0.0, 2.0)}
"""Bounds of cosmological parameters. A Hubble constant below 10 is probably h."""


def why_not_cosmological(key: str, value: float) -> str:
    """What is expected of H0, Om0 or Ob0 if `value` is out of bounds; empty if it is within them."""
    low, high = _COSMOLOGICAL[key]
    if low < value < high:
        return ""
    unit = " km s-1 Mpc-1 (100 h)" if key == "H0" else ""
    return f"expected a number between {low:g} and {high:g}{unit}"


class Settings:
    """The `--set` values of one command, parsed when they are asked for.

    Parameters
    ----------
    given
        The values by key, both text.
    known
        The keys that the format takes besides `COMMON`, with their meaning.

    Raises
    ------
    InputError
        If a key is unknown. The hint lists the known keys.
    """

    def __init__(self, given: Mapping[str, str] | None, known: Mapping[str, str] | None = None) -> None:
        self._given = {key: str(value).strip() for key, value in (given or {}).items()}
        self._known = {**COMMON, **(known or {})}
        for key in self._given:
            if key not in self._known:
                lines = "\n".join(f"  {name}: {meaning}" for name, meaning in self._known.items())
                raise InputError(
                    f"--set {key}: expected one of the settings of this format; received {key!r}"
                    + did_you_mean(key, self._known),
                    hint=f"the settings are\n{lines}",
                )

    def text(self, key: str) -> str | None:
        """The value as it was given, or None."""
        return self._given.get(key)

    def number(self, key: str) -> float | None:
        """The value as a finite number, or None if it is not given."""
        text = self._given.get(key)
        if text is None:
            return None
        value = _number(text)
        if value is None:
            raise InputError(f"--set {key}: expected a number ({self._known[key]}); received {text!r}")
        return value

    def required_numbers(self, *keys: str, file: Path, otherwise: str | None = None) -> list[float]:
        """The values as finite numbers.

        Raises
        ------
        InputError
            If a value is not given. The message names all that are missing; the hint also says what could be
            given `otherwise`.
        """
        self.require(keys, file=file, otherwise=otherwise)
        return [value for key in keys if (value := self.number(key)) is not None]

    def require(self, keys: Sequence[str], *, file: Path, otherwise: str | None = None) -> None:
        """Ask in one error for all `keys` that are not set, with an example that can be copied.

        Raises
        ------
        InputError
            If a key is not set. The hint also says what could be given `otherwise`.
        """
        missing = [key for key in keys if self._given.get(key) is None]
        if missing:
            raise self.lacking(missing, file=file, otherwise=otherwise)

    def lacking(self, missing: Sequence[str], *, file: Path, otherwise: str | None = None) -> InputError:
        """The error that asks for the settings `missing`."""
        named = ", ".join(_WHAT.get(key, key) for key in missing)
        asked = "; ".join(f"{key}: {self._known[key]}" for key in missing)
        example = " ".join(f"--set {key}={_EXAMPLE.get(key, '...')}" for key in missing)
        units = "".join(
            f"\n{key}: such as {EXAMPLES[key.removesuffix('_unit')]}"
            for key in missing
            if key.endswith("_unit")
        )
        return InputError(
            f"the files do not say {named} ({asked})",
            file=file,
            hint=f"give it, for example: {example}{f', or {otherwise}' if otherwise else ''}{units}",
        )

    def photons_per_msun(
        self,
        cosmology: Mapping[str, float],
        *,
        file: Path,
        mean_molecular_weight: float = DEFAULT_MEAN_MOLECULAR_WEIGHT,
        otherwise: str | None = None,
    ) -> float:
        """Photons per second of a solar mass of halo, by f_gamma, lifetime_myr and mean_molecular_weight.

        Parameters
        ----------
        mean_molecular_weight
            Default of the baryon mass in proton masses.
        otherwise
            As for `required_numbers`.

        Raises
        ------
        InputError
            If f_gamma or lifetime_myr is not set, or one of the three is not positive.
        """
        self.require(["f_gamma", "lifetime_myr"], file=file, otherwise=otherwise)
        f_gamma, lifetime_myr = self.positive("f_gamma", 1.0), self.positive("lifetime_myr", 1.0)
        weight = self.positive("mean_molecular_weight", mean_molecular_weight)
        return photon_rate_per_msun(cosmology, f_gamma, lifetime_myr, weight)

    def positive(self, key: str, default: float) -> float:
        """The value as a number above zero; `default` if it is not given.

        Raises
        ------
        InputError
            If the value is not such a number.
        """
        value = self.number(key)
        if value is not None and value <= 0:
            raise InputError(f"--set {key}: expected a number above 0; received {value:g}")
        return default if value is None else value

    def choice(self, key: str, options: Sequence[str]) -> str | None:
        """The value as one of `options`, or None if it is not given."""
        text = self._given.get(key)
        if text is not None and text not in options:
            raise InputError(f"--set {key}: expected {' or '.join(options)}; received {text!r}")
        return text

    def field_units(self, name: str, units: str, *, file: Path) -> str:
        """Unit of field `name`: that of the settings, or else `units` from the file (empty if it has none).

        Raises
        ------
        InputError
            If neither gives it.
        """
        text = self._given.get(UNIT_SETTINGS[name]) if name in UNIT_SETTINGS else None
        if text is None and not units:
            if name not in UNIT_SETTINGS:
                raise InputError(
                    f"the files do not say the unit of {name}",
                    file=file,
                    hint=f"give it in the mapping, under [{name}], such as {EXAMPLES[name]}",
                )
            self.require([UNIT_SETTINGS[name]], file=file)
        return text if text is not None else units

    def cosmology(self, found: Mapping[str, float] | None, *, file: Path) -> Mapping[str, float] | None:
        """H0, Om0 and Ob0 from the files (`found`) or the settings; None if neither gives any.

        Raises
        ------
        InputError
            If both give a value and the values differ; if the settings alone give some of the three.
        """
        given = self.given_cosmology()
        if found is not None:
            for key, value in given.items():
                if not np.isclose(value, found[key], rtol=1e-3):
                    raise InputError(
                        f"--set gives {key} = {value:g}, the file says {found[key]:g}",
                        file=file,
                        hint=f"leave {key} out: the file's own cosmology is used",
                    )
            return found
        missing = [key for key in DEFAULT_COSMOLOGY if key not in given]
        if given and missing:
            raise InputError(
                f"expected H0, Om0 and Ob0; --set gives {', '.join(given)}, and neither --set nor the file "
                f"gives {', '.join(missing)}",
                file=file,
                hint=f"give the rest: {' '.join(f'--set {key}=...' for key in missing)}; or a cosmology by "
                "its name, such as --set cosmology=Planck18",
            )
        return given or None

    def given_cosmology(self) -> dict[str, float]:
        """The values of H0, Om0 and Ob0 that are set, as numbers or by the name of a cosmology.

        Raises
        ------
        InputError
            If the name is unknown, or a number is out of bounds.
        """
        given: dict[str, float] = {}
        name = self._given.get("cosmology")
        if name is not None:
            from astropy.cosmology import FlatLambdaCDM, realizations

            model = getattr(realizations, name, None) if name in realizations.available else None
            if not isinstance(model, FlatLambdaCDM):
                raise InputError(
                    f"--set cosmology: expected one of {', '.join(realizations.available)}; "
                    f"received {name!r}",
                    hint="or give its parameters: --set H0=70 --set Om0=0.27 --set Ob0=0.044",
                )
            given = {"H0": float(model.H0.value), "Om0": float(model.Om0), "Ob0": float(model.Ob0)}
        for key in DEFAULT_COSMOLOGY:
            value = self.number(key)
            if value is not None:
                wrong = why_not_cosmological(key, value)
                if wrong:
                    raise InputError(f"--set {key}: {wrong}; received {value:g}")
                given[key] = value
        return given

    def box_size(
        self,
        found: float | Sequence[float] | None,
        cosmology: Mapping[str, float] | None,
        *,
        file: Path,
    ) -> float | list[float]:
        """Comoving side lengths in Mpc, from the files (`found`) or the settings.

        Raises
        ------
        InputError
            If neither gives them, or both do and differ.
        """
        text = self._given.get("box_size")
        if text is None:
            if found is None:
                raise self.lacking(["box_size"], file=file)
            sides: float | list[float] = np.asarray(found, dtype=np.float64).tolist()
            return sides
        lengths = [
            _length_mpc(part, cosmology or DEFAULT_COSMOLOGY) for part in _with_one_unit(text.split(","))
        ]
        if len(lengths) not in (1, 3) or any(length is None for length in lengths):
            raise InputError(
                f"--set box_size: expected {COMMON['box_size']}; received {text!r}",
                hint="a unit behind the last of three numbers is that of all; or each has the same one",
            )
        sizes = [float(length) for length in lengths if length is not None]
        if found is not None and not np.allclose(sizes, found, rtol=1e-3):
            raise InputError(
                f"--set gives box_size = {text}, the file says {found} Mpc",
                file=file,
                hint="leave box_size out: the file's own is used; if that is wrong, correct it in the file",
            )
        return sizes[0] if len(sizes) == 1 else sizes

    def mesh_shape(self, *, file: Path) -> tuple[int, int, int]:
        """The cells along x, y and z by the setting `mesh`, for lists of sources without a mesh.

        Raises
        ------
        InputError
            If it is not set, or out of bounds.
        """
        n = int(self.required_numbers("mesh", file=file)[0])
        if not 0 < n <= _MOST_CELLS:
            raise InputError(f"--set mesh: expected a number of cells along a side; received {n}")
        return n, n, n

    def redshifts(self) -> list[float] | None:
        """The redshifts that are set, or None for all."""
        text = self._given.get("redshifts")
        if text is None:
            return None
        wanted = [_number(part) for part in text.split(",")]
        if None in wanted:
            raise InputError(f"--set redshifts: expected numbers such as 9,8.5,8; received {text!r}")
        return [redshift for redshift in wanted if redshift is not None]

    def attrs(self) -> dict[str, Any]:
        """The settings as an attribute of the Simulation, which records how it was read."""
        return {"settings": [f"{key}={value}" for key, value in self._given.items()]} if self._given else {}


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def _with_one_unit(lengths: Sequence[str]) -> Sequence[str]:
    """Lengths as texts, each with the unit of the last where it is the only one; none if units differ."""
    split = [re.fullmatch(r"\s*([0-9.eE+-]*[0-9.])\s*(.*?)\s*", length) for length in lengths]
    units = [match.group(2) if match else None for match in split]
    if len(set(units[:-1])) == 1 and units[0] == "":
        return [length + (units[-1] or "") for length in lengths[:-1]] + [lengths[-1]]
    return lengths if len(set(units)) == 1 else []


def _length_mpc(text: str, cosmology: Mapping[str, float]) -> float | None:
    """Mpc in a length such as 714.3, 500/h, 500 Mpc/h; None if the text is no positive length."""
    match = re.fullmatch(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*(.*)", text)
    value = _number(match.group(1)) if match else None
    if match is None or value is None or value <= 0:
        return None
    unit = match.group(2)
    factor = length_mpc(unit if unit and not unit.startswith("/") else "Mpc" + unit, cosmology)
    return None if factor is None else value * factor
