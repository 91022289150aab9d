"""Every unit of the conversion table against astropy, worked out here in another way."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from astropy import constants
from astropy import units as u
from astropy.cosmology import FlatLambdaCDM
from hypothesis import given, settings
from hypothesis import strategies as st

from reion.errors import InputError
from reion.readers.settings import COMMON, Settings
from reion.simulation.contract import FIELDS, make_simulation, mean_baryon_density, mean_density
from reion.simulation.units import (
    Conversion,
    field_conversion,
    grams_per_cubic_parsec,
    length_mpc,
)

COSMOLOGY = {"H0": 70.0, "Om0": 0.27, "Ob0": 0.044}
H = 0.7
Z = 8.0
CELL = 2.0 * u.Mpc
VOLUME = CELL**3
MP = constants.m_p
MEAN = (FlatLambdaCDM(H0=70, Om0=0.27, Ob0=0.044).critical_density0 * 0.044).to("g cm-3")

DENSITY = {
    # unit: what a value of 1 is in g cm-3, comoving
    "g cm-3": 1 * u.g / u.cm**3,
    "comoving g cm-3": 1 * u.g / u.cm**3,
    "proper g cm-3": 1 * u.g / u.cm**3 / (1 + Z) ** 3,
    "g/cm3": 1 * u.g / u.cm**3,
    "kg m-3": 1 * u.kg / u.m**3,
    "g pc-3": 1 * u.g / u.pc**3,
    "Msun Mpc-3": 1 * u.Msun / u.Mpc**3,
    "Msun/Mpc3": 1 * u.Msun / u.Mpc**3,
    "1e10 Msun Mpc-3": 1e10 * u.Msun / u.Mpc**3,
    "h2 Msun Mpc-3": H**2 * u.Msun / u.Mpc**3,
    "proper h2 Msun Mpc-3": H**2 * u.Msun / u.Mpc**3 / (1 + Z) ** 3,
    "1e10 h2 Msun kpc-3": 1e10 * (u.Msun / H) / (u.kpc / H) ** 3,
    "Msun per cell": 1 * u.Msun / VOLUME,
    "Msun": 1 * u.Msun / VOLUME,
    "Msun/h per cell": 1 * u.Msun / H / VOLUME,
    "hydrogen cm-3": 1.222 * MP / u.cm**3,
    "cm-3": 1.222 * MP / u.cm**3,
    "proper hydrogen cm-3": 1.222 * MP / u.cm**3 / (1 + Z) ** 3,
    "hydrogen m-3": 1.222 * MP / u.m**3,
    "baryon cm-3": MP / u.cm**3,
    "1 + overdensity": MEAN,
}
SOURCES = {
    # unit: what a value of 1 is, per comoving volume, and the unit it is kept in
    "1e48 s-1 Mpc-3": (1e48 / u.s / u.Mpc**3, "1e48 s-1 Mpc-3"),
    "s-1 Mpc-3": (1 / u.s / u.Mpc**3, "1e48 s-1 Mpc-3"),
    "photons s-1 Mpc-3": (1 / u.s / u.Mpc**3, "1e48 s-1 Mpc-3"),
    "proper s-1 Mpc-3": (1 / u.s / u.Mpc**3 / (1 + Z) ** 3, "1e48 s-1 Mpc-3"),
    "s-1 cm-3": (1 / u.s / u.cm**3, "1e48 s-1 Mpc-3"),
    "h3 s-1 Mpc-3": (H**3 / u.s / u.Mpc**3, "1e48 s-1 Mpc-3"),
    "s-1 per cell": (1 / u.s / VOLUME, "1e48 s-1 Mpc-3"),
    "1e50 s-1": (1e50 / u.s / VOLUME, "1e48 s-1 Mpc-3"),
    "Myr-1 Mpc-3": (1 / u.Myr / u.Mpc**3, "1e48 s-1 Mpc-3"),
    "Msun Mpc-3": (1 * u.Msun / u.Mpc**3, "Msun Mpc-3"),
    "h2 Msun Mpc-3": (H**2 * u.Msun / u.Mpc**3, "Msun Mpc-3"),
    "Msun/h per cell": (u.Msun / H / VOLUME, "Msun Mpc-3"),
    "g": (1 * u.g / VOLUME, "Msun Mpc-3"),
    "Mpc-3": (1 / u.Mpc**3, "Mpc-3"),
    "haloes Mpc-3": (1 / u.Mpc**3, "Mpc-3"),
    "h3 Mpc-3": (H**3 / u.Mpc**3, "Mpc-3"),
    "per cell": (1 / VOLUME, "Mpc-3"),
    "sources per cell": (1 / VOLUME, "Mpc-3"),
}
PHOTONS = {
    "1e66 Mpc-3": 1e66 / u.Mpc**3,
    "Mpc-3": 1 / u.Mpc**3,
    "photons cm-3": 1 / u.cm**3,
    "proper cm-3": 1 / u.cm**3 / (1 + Z) ** 3,
    "photons per cell": 1 / VOLUME,
}


def convert(name, unit):
    return field_conversion(name, unit, redshift=Z, cosmology=COSMOLOGY, cell_volume_mpc3=float(VOLUME.value))


@pytest.mark.parametrize("unit", DENSITY)
def test_density(unit):
    conversion = convert("n_igm", unit)
    assert conversion.units == "g cm-3"
    assert conversion.offset == 0
    assert conversion.scale == pytest.approx(DENSITY[unit].to_value("g cm-3"), rel=1e-9)


@pytest.mark.parametrize("unit", SOURCES)
def test_sources(unit):
    expected, kept = SOURCES[unit]
    conversion = convert("n_src", unit)
    assert conversion.units == kept
    assert conversion.scale == pytest.approx(expected.to_value(u.Unit(kept)), rel=1e-9)


@pytest.mark.parametrize("unit", PHOTONS)
def test_photons(unit):
    conversion = convert("n_ion", unit)
    assert conversion.units == "1e66 Mpc-3"
    assert conversion.scale == pytest.approx(PHOTONS[unit].to_value(u.Unit("1e66 Mpc-3")), rel=1e-9)


def test_overdensity_is_about_the_cosmic_mean():
    raw = np.array([-1.0, 0.0, 1.0], np.float32)
    for unit in ("overdensity", "delta"):
        np.testing.assert_allclose(convert("n_igm", unit)(raw), MEAN.value * (1 + raw), rtol=1e-6)
    sim = make_simulation(
        {"xi": np.zeros((1, 1, 1, 1), np.float32)}, redshift=[8], box_size=1, cosmology=COSMOLOGY
    )
    assert mean_density(COSMOLOGY) == pytest.approx(mean_baryon_density(sim), rel=1e-9)


def test_fractions():
    raw = np.array([0.0, 0.25, 1.0])
    np.testing.assert_array_equal(convert("xi", "1")(raw), raw.astype(np.float32))
    np.testing.assert_array_equal(convert("xi", "neutral fraction")(raw), (1 - raw).astype(np.float32))
    np.testing.assert_allclose(convert("xi", "%")(100 * raw), raw, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("n_igm", "Mpc"),
        ("n_igm", "s-1 Mpc-3"),
        ("n_igm", "bananas"),
        ("n_igm", "g cm-3 ("),
        ("n_igm", "K"),
        ("n_src", "g cm-3 s-1"),
        ("n_src", "erg s-1"),
        ("n_src", "overdensity"),
        ("n_ion", "s-1"),
        ("xi", "percent"),
        ("xi", "g"),
        ("velocity_x", "Mpc"),
        ("t_spin", "km"),
        ("ionisation_rate", "Mpc-3"),
        ("ionisation_rate", "bananas"),
        ("propagation_mask", "g cm-3 s-1"),
    ],
)
def test_other_units_are_refused(name, unit):
    with pytest.raises(InputError, match=f"{name}: expected a unit such as .* received '") as caught:
        convert(name, unit)
    setting = f"{name}_unit"
    # A setting that is named is one that there is.
    assert f"[{name}]" in caught.value.hint if setting not in COMMON else setting in caught.value.hint


@pytest.mark.parametrize("name", FIELDS)
def test_a_unit_that_nobody_says_is_asked_for_where_it_can_be_given(name, tmp_path):
    with pytest.raises(InputError) as caught:
        Settings({}).field_units(name, "", file=tmp_path)
    assert (
        f"--set {name}_unit=" in caught.value.hint
        if f"{name}_unit" in COMMON
        else "mapping" in caught.value.hint
    )


@pytest.mark.parametrize(
    ("name", "unit", "expected"),
    [
        ("velocity_x", "km s-1", 1.0),
        ("velocity_x", "km/s", 1.0),
        ("velocity_y", "proper km s-1", 1.0),
        ("velocity_x", "comoving km s-1", 1 / (1 + Z)),
        ("velocity_z", "comoving km/s", 1 / (1 + Z)),
        ("velocity_x", "comoving Mpc s-1", (1 * u.Mpc / u.s).to_value("km s-1") / (1 + Z)),
        ("t_spin", "K", 1.0),
        ("t_spin", "mK", 1e-3),
        ("ionisation_rate", "s-1", 1.0),
        ("ionisation_rate", "1/s", 1.0),
        ("ionisation_rate", "1e-12 s-1", 1e-12),
        ("ionisation_rate", "Myr-1", (1 / u.Myr).to_value("s-1")),
    ],
)
def test_velocities_temperatures_and_rates(name, unit, expected):
    conversion = convert(name, unit)
    assert conversion.units == FIELDS[name].units[0]
    assert conversion.scale == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("Mpc", 1.0),
        ("kpc", 1e-3),
        ("Mpc/h", 1 / H),
        ("kpc/h", 1e-3 / H),
        ("h-1 Mpc", 1 / H),
        ("s", None),
        ("x", None),
    ],
)
def test_lengths(unit, expected):
    assert length_mpc(unit, COSMOLOGY) == (None if expected is None else pytest.approx(expected))


def test_the_original_projects_factor_is_exact_and_fits_float32():
    density = np.array([3.9e-31, 1e-32, 6e-30], np.float32)
    converted = grams_per_cubic_parsec(density)
    assert converted.dtype == np.float32
    assert np.isfinite(converted).all()
    parsec_cm = 3.0856775814913673e18
    np.testing.assert_allclose(converted, density.astype(np.float64) * parsec_cm**3, rtol=1e-7)
    assert parsec_cm**3 == pytest.approx(2.93799895e55, rel=1e-8)
    np.testing.assert_allclose(converted[0], 1.1458e25, rtol=1e-4)


@settings(deadline=None, max_examples=40)
@given(
    shape=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    dtype=st.sampled_from(["<f4", ">f4", "<f8", ">f8", "<f2"]),
    order=st.sampled_from("CF"),
    scale=st.sampled_from([1.0, 2.5e-48, 1e30, -1.0]),
    offset=st.sampled_from([0.0, 1.0]),
    step=st.sampled_from([1, 2, -1]),
)
def test_a_conversion_is_one_float64_multiplication_in_any_layout(shape, dtype, order, scale, offset, step):
    raw = np.asarray(np.random.default_rng(0).random(shape) * 100, dtype=dtype, order=order)[..., ::step]
    conversion = Conversion("1", scale, offset)
    expected = (raw.astype(np.float64) * scale + offset).astype(np.float32)
    found = conversion(raw)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)
    out = np.empty(raw.shape, np.float32)
    assert conversion(raw, out=out) is out
    np.testing.assert_array_equal(out, expected)


def test_what_does_not_fit_float32_becomes_infinite_without_a_warning():
    assert np.isinf(Conversion("1", 1e30)(np.array([1e30]))).all()


def test_the_table_in_the_docs_is_what_is_tested():
    page = (Path(__file__).parents[2] / "docs" / "reference" / "units.md").read_text()
    rows = re.findall(r"^\| `(.+?)` \| ([\d.e+-]+) \| `(.+?)` \|$", page, flags=re.MULTILINE)
    tested = [(unit, value, "g cm-3") for unit, value in DENSITY.items()]
    tested += [(unit, *value) for unit, value in SOURCES.items()]
    tested += [(unit, value, "1e66 Mpc-3") for unit, value in PHOTONS.items()]
    assert [(unit, kept) for unit, _, kept in rows] == [(unit, kept) for unit, _, kept in tested]
    for (_, shown, _), (_, value, kept) in zip(rows, tested, strict=True):
        assert float(shown) == pytest.approx(value.to_value(u.Unit(kept)), rel=1e-6)
