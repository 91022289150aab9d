"""Snapshots in files of their own become one series: their redshifts, what goes with each, what is lost."""

from __future__ import annotations

import re
import shutil
import warnings

import h5py
import numpy as np
import pytest

from reion.errors import InputError
from reion.readers import open_simulation
from reion.simulation.photons import with_n_ion
from reion.storage.conversion import convert
from tests.readers.layouts import random_simulation, write_hdf5, write_npz

LONG = random_simulation((4, 4, 4), (12.0, 10.0, 9.0, 8.0), box_size=16.0)


def write_files(folder, fields=("n_igm", "n_src", "xi"), *, dtype="f8", redshifts=None, sim=LONG, **more):
    """One HDF5 file for each redshift, which stands in it as a number of `dtype`."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, redshift in enumerate(sim["redshift"].values):
        if redshifts is not None and redshift not in redshifts:
            continue
        with h5py.File(folder / f"box_z{redshift:.3f}.h5", "w") as file:
            file.attrs.update(box_size=16.0, H0=70.0, Om0=0.27, Ob0=0.044)
            file["redshift"] = np.array([redshift], dtype)
            for name in fields:
                file[name] = sim[name].values[index]
                file[name].attrs["units"] = sim[name].units
            for name, values in more.items():
                file[name] = values[index]
    return folder


@pytest.mark.parametrize(
    ("redshifts", "left_out"), [("9,8", "12, 10"), ("12,8", "10, 9"), ("12,10,9", None), ("12", None)]
)
def test_sources_that_are_left_out_are_said(redshifts, left_out, tmp_path):
    """Where n_ion is summed up it differs then from that of the whole series; otherwise not."""
    settings = {**write_npz(tmp_path, LONG), "redshifts": redshifts}
    if left_out is not None:
        with pytest.warns(UserWarning, match=f"leaves out sources at z = {left_out}: their photons"):
            some = open_simulation(tmp_path, settings=settings)
    else:
        some = open_simulation(tmp_path, settings=settings)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the series starts at")
        part = with_n_ion(some)["n_ion"]
        whole = with_n_ion(LONG)["n_ion"].sel(redshift=part["redshift"])
    assert np.allclose(part.values, whole.values, rtol=1e-4) == (left_out is None)


def test_redshifts_of_a_store_have_the_photons_of_the_whole_series(tmp_path):
    (tmp_path / "files").mkdir()
    settings = write_npz(tmp_path / "files", LONG)
    convert(tmp_path / "files", tmp_path / "sim.zarr", settings=settings)
    some = open_simulation(tmp_path / "sim.zarr", settings={"redshifts": "9,8"})
    np.testing.assert_allclose(some["n_ion"].values, with_n_ion(LONG)["n_ion"].values[2:], rtol=1e-5)


def test_fields_with_other_redshifts_are_told_what_choosing_them_costs(tmp_path):
    write_files(tmp_path / "gas", ("n_igm", "n_src"))
    write_files(tmp_path / "xi", ("xi",), redshifts=(9.0, 8.0))
    sources = [tmp_path / "gas" / "*.h5", tmp_path / "xi" / "*.h5"]
    files = sorted(path for source in sources for path in source.parent.glob(source.name))
    with pytest.raises(InputError, match="xi lacks z = 10, 12") as caught:
        open_simulation(files)
    assert "--set redshifts=8,9" in caught.value.hint
    assert "sources at z = 12, 10 are then not counted" in caught.value.hint


@pytest.mark.parametrize("first", ["f4", "f8"])
def test_redshifts_that_differ_by_rounding_are_one(first, tmp_path):
    sim = random_simulation((4, 4, 4), (9.1, 8.397), box_size=16.0)
    second = {"f4": "f8", "f8": "f4"}[first]
    one = write_files(tmp_path / "a", ("n_igm", "xi"), dtype=first, sim=sim)
    other = write_files(tmp_path / "b", ("n_src",), dtype=second, sim=sim)
    both = open_simulation([*sorted(one.iterdir()), *sorted(other.iterdir())])
    for name in ("n_igm", "n_src", "xi"):
        np.testing.assert_array_equal(both[name].values, sim[name].values)


def test_each_file_has_its_own_reach_of_photons(tmp_path):
    """As one of all snapshots has: a length for each, in the unit that the file gives."""
    reaches = np.array([[50.0], [40.0], [30.0], [20.0]])
    write_files(tmp_path / "each", max_mfp=reaches)
    assert open_simulation(tmp_path / "each")["max_mfp"].values.tolist() == [50.0, 40.0, 30.0, 20.0]
    path = next((tmp_path / "each").glob("*z10*"))
    with h5py.File(path, "r+") as file:
        del file["max_mfp"]
    with pytest.raises(InputError, match="there is none at z = 10"):
        open_simulation(tmp_path / "each")
    given = open_simulation(tmp_path / "each", settings={"max_mfp": "33"})
    assert given["max_mfp"].values.tolist() == [33.0] * 4


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (np.full(4, 20000.0), "kpc", [20.0] * 4),
        (20.0, None, [20.0] * 4),
        (np.array([20.0, 21.0, 22.0, 23.0]), "comoving Mpc", [20.0, 21.0, 22.0, 23.0]),
        (14.0, "Mpc/h", [20.0] * 4),
    ],
)
def test_a_reach_has_the_unit_of_its_array(value, unit, expected, tmp_path):
    write_hdf5(tmp_path, LONG)
    with h5py.File(tmp_path / "box.h5", "r+") as file:
        file["max_mfp"] = value
        if unit is not None:
            file["max_mfp"].attrs["units"] = unit
    assert open_simulation(tmp_path)["max_mfp"].values == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "unit", "match"),
    [
        (np.full(3, 20.0), "Mpc", "one for each of 4 snapshots; received 3"),
        (20.0, "s", "max_mfp: expected comoving lengths"),
        (20.0, "proper Mpc", "max_mfp: expected comoving lengths"),
        (-20.0, "Mpc", "expected one positive length"),
    ],
)
def test_a_reach_that_is_none_is_not_ignored(value, unit, match, tmp_path):
    write_hdf5(tmp_path, LONG)
    with h5py.File(tmp_path / "box.h5", "r+") as file:
        file["max_mfp"] = value
        file["max_mfp"].attrs["units"] = unit
    with pytest.raises(InputError, match=re.escape(match)):
        open_simulation(tmp_path)


def test_a_reach_by_a_mapping(tmp_path):
    write_hdf5(tmp_path, LONG)
    (tmp_path / "mine.toml").write_text(
        '[n_igm]\narray = "n_igm"\n[xi]\narray = "xi"\n[n_src]\narray = "n_src"\n'
        '[max_mfp]\nvalue = 20000\nunit = "kpc"\n'
    )
    sim = open_simulation(tmp_path / "box.h5", settings={"mapping": str(tmp_path / "mine.toml")})
    assert sim["max_mfp"].values.tolist() == [20.0] * 4


def masked(folder, n_src, mask, n_ion=None):
    """A store of one mask and sources by a mapping, each in a unit."""
    folder.mkdir()
    named = {"n_src": n_src, "propagation_mask": mask, "n_ion": n_ion}
    with h5py.File(folder / "box.h5", "w") as file:
        file.attrs.update(box_size=16.0, H0=70.0, Om0=0.27, Ob0=0.044)
        file["redshift"] = LONG["redshift"].values
        for name, unit in named.items():
            if unit is not None:
                file[name] = np.ones(LONG["n_src"].shape, np.float32)
    toml = "".join(f'[{name}]\narray = "{name}"\nunit = "{unit}"\n' for name, unit in named.items() if unit)
    (folder / "mine.toml").write_text(toml)
    return {"source": folder / "box.h5", "settings": {"mapping": str(folder / "mine.toml")}}


def test_a_mask_has_the_unit_that_it_was_converted_to(tmp_path):
    alone = open_simulation(**masked(tmp_path / "alone", None, "1e10 Msun Mpc-3"))["propagation_mask"]
    assert alone.units == "Msun Mpc-3"
    assert alone.values[0, 0, 0, 0] == pytest.approx(1e10)
    both = masked(tmp_path / "both", "Msun Mpc-3", "Msun Mpc-3", "1e18 s Msun Mpc-3")
    assert open_simulation(**both)["propagation_mask"].units == "Msun Mpc-3"
    with pytest.raises(InputError, match=r"propagation_mask in '1e48 s-1 Mpc-3', to match n_src"):
        open_simulation(**masked(tmp_path / "mixed", "s-1 Mpc-3", "Msun Mpc-3"))


def test_masses_become_photons_in_every_field_that_counts_them(tmp_path):
    source = masked(tmp_path / "both", "Msun Mpc-3", "Msun Mpc-3", "1e18 s Msun Mpc-3")
    source["settings"] |= {"f_gamma": "30", "lifetime_myr": "10"}
    sim = open_simulation(**source)
    assert {name: sim[name].units for name in sim.data_vars} == {
        "n_src": "1e48 s-1 Mpc-3",
        "propagation_mask": "1e48 s-1 Mpc-3",
        "n_ion": "1e66 Mpc-3",
    }
    np.testing.assert_array_equal(sim["n_src"].values, sim["propagation_mask"].values)
    # 30 photons of each baryon of a solar mass in 10 Myr, for 1e18 s: in units of 1e66.
    baryons = 0.044 / 0.27 * 1.988409870698051e33 / 1.67262192595e-24
    photons = 30 * baryons / (10 * 3.15576e13) * 1e18 / 1e66
    np.testing.assert_allclose(sim["n_ion"].values, photons, rtol=1e-5)


@pytest.mark.parametrize(
    "setting", [{"lifetime_myr": "0"}, {"f_gamma": "-3"}, {"mean_molecular_weight": "0"}]
)
def test_photons_of_masses_need_numbers_above_zero(setting, tmp_path):
    source = masked(tmp_path / "both", "Msun Mpc-3", None)
    source["settings"] |= {"f_gamma": "30", "lifetime_myr": "10", **setting}
    with pytest.raises(InputError, match="expected a number above 0"):
        open_simulation(**source)


def test_what_makes_photons_of_masses_has_a_use_or_that_is_said(tmp_path):
    photons = masked(tmp_path / "photons", "s-1 Mpc-3", None)
    photons["settings"] |= {"f_gamma": "30", "lifetime_myr": "10"}
    with pytest.warns(
        UserWarning, match="--set f_gamma, lifetime_myr: not used: the sources are in 1e48 s-1"
    ):
        open_simulation(**photons)
    masses = masked(tmp_path / "masses", "Msun Mpc-3", None)
    masses["settings"] |= {"lifetime_myr": "10"}
    with pytest.raises(InputError, match="--set lifetime_myr: expected f_gamma as well"):
        open_simulation(**masses)


def write_parts(folder, *parts):
    """Stores of parts of `LONG`, each converted by itself."""
    settings = write_npz(folder, LONG)
    stores = []
    for redshifts in parts:
        stores.append(folder / f"part_z{redshifts[0]}.zarr")
        files = [folder / f"box_z{redshift}.npz" for redshift in redshifts]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="the series starts at")
            convert(files, stores[-1], settings=settings)
    return stores


@pytest.mark.parametrize(
    "parts", [(("12.000", "10.000"), ("9.000", "8.000")), (("12.000",), ("10.000",), ("9.000",), ("8.000",))]
)
def test_parts_that_were_converted_separately_have_one_sum_of_photons(parts, tmp_path):
    """The photons emitted so far started again at zero in each."""
    stores = write_parts(tmp_path, *parts)
    with pytest.warns(UserWarning, match=r"n_ion, .*, starts again at zero at z = .*It is summed anew"):
        sim = open_simulation(stores)
    whole = with_n_ion(LONG)["n_ion"].values
    np.testing.assert_allclose(with_n_ion(sim)["n_ion"].values, whole, rtol=1e-5)
    for path in stores[1:]:
        shutil.rmtree(path / "n_src")
    with pytest.raises(InputError, match=r"starts again at zero .* no sources"):
        open_simulation(stores)


def test_the_photons_so_far_of_each_file_are_kept_where_they_go_on(tmp_path):
    """Also at the redshifts before any source shone."""
    n_ion = with_n_ion(LONG)["n_ion"].values * np.array([0, 0, 1, 1], np.float32)[:, None, None, None]
    dark = LONG.assign(n_src=LONG["n_src"] * (LONG["redshift"] < 11))
    dark["n_src"].attrs = LONG["n_src"].attrs
    write_files(tmp_path, ("n_igm", "n_src"), sim=dark, n_ion=n_ion)
    for path in tmp_path.glob("*.h5"):
        with h5py.File(path, "r+") as file:
            file["n_ion"].attrs["units"] = "1e66 Mpc-3"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(open_simulation(tmp_path)["n_ion"].values, n_ion)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"box_size": np.float32(64.1)}, {"box_size": 64.1}),
        ({"box_size": 64.0}, {"box_size": [64.0, 64.0, 64.0]}),
        ({"box_size": 64.0, "H0": 70.0, "Om0": 0.27, "Ob0": 0.044}, {"box_size": 64.0}),
        ({"box_size": 64.0}, {"box_size": 64.0, "H0": 70.0, "Om0": 0.27, "Ob0": 0.044}),
        ({"box_size": 64.0, "H0": 70.0, "Om0": 0.27, "Ob0": 0.044}, {"H0": np.float32(67.66 + 2.34)}),
    ],
)
def test_facts_of_one_series_agree_but_for_their_rounding(first, second, tmp_path):
    """And one file of a series may say what another leaves out."""
    if "H0" in second and "Om0" not in second:
        second = {**second, "Om0": np.float32(0.27), "Ob0": np.float32(0.044)}
    for redshift, facts in ((9.0, first), (8.0, second)):
        with h5py.File(tmp_path / f"box_z{redshift}.h5", "w") as file:
            file["xi"] = LONG["xi"].values[0]
            file["xi"].attrs["units"] = "1"
            file.attrs.update(facts)
    sim = open_simulation(tmp_path)
    assert np.broadcast_to(sim.attrs["box_size"], 3) == pytest.approx(first["box_size"], rel=1e-6)
    said = "H0" in first or "H0" in second
    assert bool(sim.attrs["cosmology_assumed"]) != said
    assert sim.attrs["H0"] == pytest.approx(70 if said else 67.66)


@pytest.mark.parametrize("facts", [{"box_size": 65.0}, {"box_size": 64.0, "Ob0": 0.05}])
def test_facts_of_one_series_that_differ_are_refused(facts, tmp_path):
    for redshift, other in ((9.0, {}), (8.0, facts)):
        with h5py.File(tmp_path / f"box_z{redshift}.h5", "w") as file:
            file["xi"] = LONG["xi"].values[0]
            file.attrs.update({"box_size": 64.0, "H0": 70.0, "Om0": 0.27, "Ob0": 0.044, **other})
    with pytest.raises(InputError, match="expected the box size and cosmology of box_z"):
        open_simulation(tmp_path)
