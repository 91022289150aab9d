"""Facts given by `--set`: each counts as it is said, or an error or a warning says that it does not."""

from __future__ import annotations

import warnings

import h5py
import numpy as np
import pytest

from reion.errors import InputError
from reion.readers import open_simulation
from tests.readers.layouts import random_simulation, write_c2ray, write_density, write_epfl, write_npz

SIM = random_simulation((4, 4, 4), (9.0, 8.0), box_size=100.0)
C2RAY = {"H0": "70", "Om0": "0.27", "Ob0": "0.044", "box_size": "100", "nbox_fine": "64"}
SHINING = {**C2RAY, "f_gamma": "30", "lifetime_myr": "10"}
LIST = "9.000-coarsest_wsubgrid_sources"


def write_lists(folder, *, python):
    """One halo of 1e5 grid masses in a large halo and one in small ones; pyC2Ray's with `python`."""
    write_density(folder / "9.000n_all.dat", SIM["n_igm"].values[0].astype(float))
    (folder / f"{LIST}.dat").write_text("2\n1 2 3 1e5 0\n4 4 4 0 1e5\n")
    if python:
        (folder / "xfrac_z9.000.dat").write_bytes(
            np.array([4, 4, 4], "<i4").tobytes() + np.zeros(64, "<f8").tobytes()
        )


def sources(folder, **settings):
    """n_src of the only snapshot, float64, and the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sim = open_simulation(folder, settings=settings)
    return sim["n_src"].values[0].astype(np.float64), [str(warning.message) for warning in caught]


@pytest.mark.parametrize("python", [False, True])
def test_masses_in_a_given_unit_make_the_photons_that_those_in_the_codes_unit_make(python, tmp_path):
    """f_gamma of small haloes and pyC2Ray's baryon mass were lost where the unit was given."""
    write_lists(tmp_path, python=python)
    grid_mass = sources(tmp_path, **C2RAY, sources="mass")[0].max() * 25.0**3 / 1e5
    settings = {**SHINING, "f_gamma_low": "60"}
    photons, _ = sources(tmp_path, **settings)
    given, said = sources(tmp_path, **settings, n_src_unit=f"{grid_mass:.9g} Msun per cell")
    np.testing.assert_allclose(given, photons, rtol=1e-5)
    assert given[3, 3, 3] == pytest.approx(2 * given[0, 1, 2])
    assert not said


@pytest.mark.parametrize(
    ("extra", "why"),
    [
        (
            {"n_src_unit": "s-1 per cell"},
            "f_gamma_low: not used: the sources are in 1e48",
        ),
        ({"sources": "mass"}, "f_gamma_low: not used: --set sources=mass keeps"),
    ],
)
def test_settings_for_masses_that_have_no_use_are_said_of_lists_too(extra, why, tmp_path):
    write_lists(tmp_path, python=False)
    _, said = sources(tmp_path, **SHINING, f_gamma_low="60", **extra)
    assert len(said) == 1
    assert why in said[0]


def test_small_haloes_without_photons_of_large_ones_are_asked_about(tmp_path):
    write_lists(tmp_path, python=False)
    with pytest.raises(InputError, match="f_gamma_low: expected f_gamma as well"):
        sources(tmp_path, **C2RAY, f_gamma_low="60", n_src_unit="Msun per cell")


def write_hdf5_masses(folder):
    write_density(folder / "9.000n_all.dat", SIM["n_igm"].values[0].astype(float))
    with h5py.File(folder / f"{LIST}.hdf5", "w") as file:
        file["sources_positions"] = np.array([[1, 2, 3], [0, 0, 0]])
        file["sources_mass"] = np.array([1e10, 2e10])


def test_the_unit_of_pyc2rays_masses_is_that_of_the_files_numbers(tmp_path):
    """Photons that the reader had made of the masses were taken for masses again."""
    write_hdf5_masses(tmp_path)
    photons, _ = sources(tmp_path, **SHINING)
    over_h, _ = sources(tmp_path, **SHINING, n_src_unit="Msun/h per cell")
    np.testing.assert_allclose(over_h, photons / 0.7, rtol=1e-5)
    masses, _ = sources(tmp_path, **C2RAY, n_src_unit="Msun/h per cell")
    assert masses.sum() == pytest.approx(3e10 / 0.7 / 25.0**3)
    _, said = sources(tmp_path, **SHINING, f_gamma_low="60")
    assert any("f_gamma_low: not used" in text for text in said)


def test_the_unit_of_haloes_is_said_in_the_mapping(tmp_path):
    settings = write_npz(tmp_path, SIM.drop_vars("n_src").assign(n_src=SIM["n_src"]))
    for path in tmp_path.glob("*.npz"):
        with np.load(path) as archive:
            arrays = {name: archive[name] for name in archive.files if name != "n_src"}
        np.savez(path, **arrays)
        (tmp_path / f"halos_{path.stem[4:]}.txt").write_text("# x y z Mvir\n1 2 3 1e10\n")
    (tmp_path / "m.toml").write_text('[halos]\nposition_unit = "Mpc"\nmass_unit = "Msun"\n')
    settings |= {"mapping": str(tmp_path / "m.toml")}
    assert open_simulation(tmp_path, settings=settings)["n_src"].units == "Msun Mpc-3"
    with pytest.raises(InputError, match="n_src_unit: expected sources on a mesh") as caught:
        open_simulation(tmp_path, settings={**settings, "n_src_unit": "Msun Mpc-3"})
    assert "mass_unit" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("100,100,200/h", [100 / 0.7, 100 / 0.7, 200 / 0.7]),
        ("100, 100, 200 Mpc/h", [100 / 0.7, 100 / 0.7, 200 / 0.7]),
        ("100/h,100/h,200/h", [100 / 0.7, 100 / 0.7, 200 / 0.7]),
        ("100,100,200", [100, 100, 200]),
        ("1e2 kpc,1e2 kpc,2e2 kpc", [0.1, 0.1, 0.2]),
        ("100/h,100,200", None),
        ("100/h,100,200/h", None),
        ("100,100/h,200/h", None),
    ],
)
def test_three_sides_have_one_unit(text, expected, tmp_path):
    settings = {**write_epfl(tmp_path, SIM), "box_size": text}
    if expected is None:
        with pytest.raises(InputError, match="--set box_size: expected") as caught:
            open_simulation(tmp_path, settings=settings)
        assert "unit" in caught.value.hint
    else:
        assert open_simulation(tmp_path, settings=settings).attrs["box_size"] == pytest.approx(expected)


def test_a_preset_completes_a_cosmology(tmp_path):
    """One parameter replaced the preset's other two by those of Planck."""
    settings = write_c2ray(tmp_path, SIM)
    plain = open_simulation(tmp_path, settings=settings)
    same = open_simulation(tmp_path, settings={**settings, "H0": "70"})
    np.testing.assert_array_equal(same["n_src"].values, plain["n_src"].values)
    other = open_simulation(tmp_path, settings={**settings, "Ob0": "0.05"})
    assert {key: other.attrs[key] for key in ("H0", "Om0", "Ob0")} == {"H0": 70.0, "Om0": 0.27, "Ob0": 0.05}
    ratio = other["n_igm"].values / plain["n_igm"].values
    np.testing.assert_allclose(ratio, 0.05 / 0.044, rtol=1e-5)


@pytest.mark.parametrize("left_out", [["Ob0"], ["H0", "Om0"]])
def test_a_part_of_a_cosmology_is_asked_to_be_completed(left_out, tmp_path):
    settings = {key: value for key, value in write_epfl(tmp_path, SIM).items() if key not in left_out}
    with pytest.raises(InputError, match="expected H0, Om0 and Ob0; --set gives") as caught:
        open_simulation(tmp_path, settings=settings)
    assert all(f"--set {key}=..." in caught.value.hint for key in left_out)
    assert open_simulation(tmp_path, settings={**settings, "cosmology": "Planck18"}).attrs["H0"] > 60
