"""Anybody's HDF5 and Zarr, through names and units in a TOML file."""

from __future__ import annotations

import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr

from reion.errors import InputError
from reion.readers import open_simulation
from reion.readers.assembly import assemble
from reion.readers.settings import Settings
from reion.simulation.contract import box_size_mpc
from tests.readers.layouts import PLANCK, random_simulation, write_hdf5, write_raw

DOCS = Path(__file__).parents[2] / "docs"
SHAPE = (5, 4, 3)
SIM = random_simulation(SHAPE, box_size=10.0)
MAPPING = """
axes = "zyx"
[n_igm]
array = "gas/density"
unit = "1e10 h2 Msun kpc-3"
[xi]
array = "gas/neutral"
unit = "neutral fraction"
[redshift]
attribute = "Header/Redshift"
[box_size]
attribute = "Header/BoxSize"
unit = "kpc/h"
[cosmology]
H0 = 67.66
Om0 = 0.30964
Ob0 = 0.04897
"""
PER_UNIT = 1e10 * 0.6766**2 * 1.988409870698051e33 / 3.0856775814913673e21**3
"""g cm-3 in one 1e10 h2 Msun kpc-3."""


def write_snapshots(folder, sim, **storage):
    for index, redshift in enumerate(sim["redshift"].values):
        with h5py.File(folder / f"snap_{index}.h5", "w") as file:
            header = file.create_group("Header")
            header.attrs.update(Redshift=redshift, BoxSize=[10e3 * 0.6766])
            density = sim["n_igm"].values[index].astype(np.float64) / PER_UNIT
            file.create_dataset("gas/density", data=density.T, **storage)
            file.create_dataset("gas/neutral", data=1 - sim["xi"].values[index].T, **storage)


@pytest.mark.parametrize(
    "storage", [{}, {"chunks": (2, 2, 2), "compression": "gzip", "shuffle": True, "fletcher32": True}]
)
def test_names_units_and_axes_are_mapped(tmp_path, storage):
    write_snapshots(tmp_path, SIM, **storage)
    (tmp_path / "mine.toml").write_text(MAPPING)
    for path, redshift in zip(sorted(tmp_path.glob("*.h5")), SIM["redshift"].values, strict=True):
        sim = open_simulation(path, settings={"mapping": str(tmp_path / "mine.toml")})
        assert sim["redshift"].values.tolist() == [redshift]
        assert box_size_mpc(sim) == pytest.approx((10.0, 10.0, 10.0))
        assert {key: sim.attrs[key] for key in PLANCK} == PLANCK
        original = SIM.sel(redshift=redshift)
        np.testing.assert_allclose(sim["n_igm"][0].values, original["n_igm"].values, rtol=1e-6)
        np.testing.assert_allclose(sim["xi"][0].values, original["xi"].values, atol=1e-7)
        np.testing.assert_array_equal(sim["xi"][0, 1:4, 2, ::-1].values, sim["xi"][0].values[1:4, 2, ::-1])


def test_files_of_one_name_are_one_simulation(tmp_path):
    write_snapshots(tmp_path, SIM)
    for path, redshift in zip(sorted(tmp_path.glob("*.h5")), SIM["redshift"].values, strict=True):
        path.rename(tmp_path / f"snap_z{redshift:.3f}.h5")
    (tmp_path / "mine.toml").write_text(MAPPING)
    sim = open_simulation(tmp_path / "snap_*.h5", settings={"mapping": str(tmp_path / "mine.toml")})
    np.testing.assert_array_equal(sim["redshift"].values, SIM["redshift"].values)
    (tmp_path / "mine.toml").write_text(MAPPING.replace('[redshift]\nattribute = "Header/Redshift"', ""))
    sim = open_simulation(tmp_path / "snap_*.h5", settings={"mapping": str(tmp_path / "mine.toml")})
    np.testing.assert_array_equal(sim["redshift"].values, SIM["redshift"].values)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr_of_others(tmp_path, zarr_format):
    group = zarr.open_group(tmp_path / "other.zarr", mode="w", zarr_format=zarr_format)
    group.create_array("ionised", data=SIM["xi"].values, chunks=(1, 2, 3, 3))
    group.create_array("z", data=SIM["redshift"].values)
    group.attrs["L"] = 10.0
    (tmp_path / "mine.toml").write_text(
        '[xi]\narray = "ionised"\nunit = "1"\n[redshift]\narray = "z"\n[box_size]\nattribute = "L"\n'
    )
    sim = open_simulation(tmp_path / "other.zarr", settings={"mapping": str(tmp_path / "mine.toml")})
    np.testing.assert_array_equal(sim["xi"].values, SIM["xi"].values)
    assert sim.attrs["cosmology_assumed"] == 1
    group.create_array("deep/er/gas", data=SIM["xi"].values)
    with pytest.raises(InputError, match=r"expected arrays named n_igm.*; received .*deep/er/gas") as caught:
        open_simulation(tmp_path / "other.zarr")
    assert "mapping" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("axes = ", "expected TOML"),
        ('axes = "yzz"', "axes: expected one of xyz, xzy, .*; received 'yzz'"),
        ('[n_gas]\narray = "a"', "n_gas: there is no such setting; the settings here are axes, n_igm, n_src"),
        ('[xi]\nname = "a"', "xi.array: Field required"),
        ('[xi]\narray = "nowhere"\nunit = "1"', "expected arrays named nowhere"),
        ('[xi]\narray = "xi"\nunit = "g"', "xi: expected a unit such as"),
        (
            '[xi]\narray = "xi"\n[redshift]\nattribute = "nowhere"',
            "redshift: expected numbers in the attribute 'nowhere'; there is none",
        ),
        (
            '[xi]\narray = "xi"\n[redshift]\nvalue = 8.0',
            r"xi: expected shape \(1, x, y, z\); received \(2, 5, 4, 3\)",
        ),
        (
            '[xi]\narray = "xi"\n[box_size]\nvalue = 1.0\nunit = "s"',
            "box_size: expected comoving lengths in a unit such as",
        ),
        ('[xi]\narray = "xi"\n[box_size]\nvalue = [1.0, 2.0]', "box_size: expected one or three lengths"),
        (
            '[xi]\narray = "xi"\n[cosmology]\nH0 = 0.7\nOm0 = 0.3\nOb0 = 0.04',
            r"cosmology.H0: expected a number between 10 and 1000 km s-1 Mpc-1 \(100 h\); received 0.7",
        ),
        (
            '[xi]\narray = "xi"\n[cosmology]\nH0 = 70\nOm0 = -0.3\nOb0 = 0.04',
            "cosmology.Om0: expected a number",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:not used")
def test_mappings_that_do_not_fit(tmp_path, text, match):
    write_hdf5(tmp_path, SIM)
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(InputError, match=match):
        open_simulation(tmp_path / "box.h5", settings={"mapping": str(tmp_path / "mine.toml")})


def test_one_field_in_two_kinds_of_unit(tmp_path):
    for redshift, unit in (("9.000", "s-1 Mpc-3"), ("8.000", "Msun Mpc-3")):
        with h5py.File(tmp_path / f"box_z{redshift}.h5", "w") as file:
            file.attrs["box_size"] = 10.0
            file["n_src"] = SIM["n_src"].values[0]
            file["n_src"].attrs["units"] = unit
    with pytest.raises(InputError, match="n_src: expected one kind of unit") as caught:
        open_simulation(tmp_path)
    assert caught.value.file == str(tmp_path / "box_z8.000.h5")


def test_a_mapping_that_is_not_there(tmp_path):
    write_hdf5(tmp_path, SIM)
    with pytest.raises(InputError, match="cannot be read"):
        open_simulation(tmp_path / "box.h5", settings={"mapping": str(tmp_path / "mine.toml")})


def test_arrays_that_go_by_other_names_are_listed(tmp_path):
    path = tmp_path / "box_z8.0.h5"
    with h5py.File(path, "w") as file:
        file["gas/rho"] = file["stars/deep/photons"] = SIM["xi"].values[0]
        file["count"] = np.arange(3)
        file["gas/round"] = file["gas"]
    with pytest.raises(InputError, match=r"received (.*)") as caught:
        open_simulation(path)
    listed = caught.value.message.split("received ")[1].split(", ")
    assert {"gas/rho", "stars/deep/photons"} <= set(listed)
    assert "count" not in listed
    assert len(listed) <= 20
    with h5py.File(path, "w") as file:
        file["count"] = np.arange(3)
    with pytest.raises(InputError, match="received none of floating-point numbers"):
        open_simulation(path)


@pytest.mark.parametrize(
    ("values", "settings", "expected"),
    [
        ({"H0": 67.0, "Om0": 0.31}, {"Ob0": "0.05"}, {"H0": 67.0, "Om0": 0.31, "Ob0": 0.05}),
        ({"H0": 67.0}, {"cosmology": "Planck18"}, "--set gives H0 = 67.66, the file says 67"),
        ({"H0": 67.66}, {"cosmology": "Planck18"}, {"H0": 67.66, "Om0": 0.30966, "Ob0": 0.04897}),
        ({"H0": 67.0, "Om0": 0.31}, {}, "the file says H0, Om0 and not Ob0"),
        ({"H0": 0.67, "Om0": 0.31, "Ob0": 0.05}, {}, "H0: expected a number between 10 and 1000"),
        ({}, {"H0": "0.67"}, "--set H0: expected a number between 10 and 1000"),
    ],
)
def test_what_a_file_says_of_its_cosmology_is_not_thrown_away(values, settings, expected, tmp_path):
    write_hdf5(tmp_path, SIM)
    with h5py.File(tmp_path / "box.h5", "r+") as file:
        for key in ("H0", "Om0", "Ob0"):
            del file.attrs[key]
        file.attrs.update(values)
    if isinstance(expected, str):
        with pytest.raises(InputError, match=expected):
            open_simulation(tmp_path, settings=settings)
    else:
        found = open_simulation(tmp_path, settings=settings).attrs
        assert {key: found[key] for key in expected} == pytest.approx(expected)
        assert not found["cosmology_assumed"]


def test_cell_centres_in_mpc_over_h_go_by_the_cosmology_of_the_file(tmp_path):
    write_hdf5(tmp_path, SIM)  # its h is 0.7, not that of the default
    with h5py.File(tmp_path / "box.h5", "r+") as file:
        for axis, n in zip("xyz", SHAPE, strict=True):
            file[axis] = (np.arange(n) + 0.5) * 10.0 * 0.7 / n
            file[axis].attrs["units"] = "Mpc/h"
    assert box_size_mpc(open_simulation(tmp_path)) == (10.0, 10.0, 10.0)


@pytest.mark.parametrize("place", ["/gas/density", "gas//density", "gas/density/"])
def test_an_array_that_is_read_is_not_called_unused(place, tmp_path):
    write_hdf5(tmp_path, SIM)
    with h5py.File(tmp_path / "box.h5", "r+") as file:
        for name in ("n_src", "xi"):
            del file[name]
        file.move("n_igm", "gas/density")
    (tmp_path / "mine.toml").write_text(f'[n_igm]\narray = "{place}"\n')
    sim = open_simulation(tmp_path / "box.h5", settings={"mapping": str(tmp_path / "mine.toml")})
    np.testing.assert_array_equal(sim["n_igm"].values, SIM["n_igm"].values)


def test_an_archive_member_that_is_read_is_not_called_unused(tmp_path):
    np.savez(tmp_path / "box_z8.0.npz", density=SIM["n_igm"].values[0], box_size=10.0)
    (tmp_path / "mine.toml").write_text('[n_igm]\narray = "density.npy"\nunit = "g cm-3"\n')
    sim = open_simulation(tmp_path / "box_z8.0.npz", settings={"mapping": str(tmp_path / "mine.toml")})
    np.testing.assert_array_equal(sim["n_igm"].values[0], SIM["n_igm"].values[0])


@pytest.mark.parametrize("kind", ["hdf5", "zarr"])
def test_of_many_arrays_none_is_passed_over(kind, tmp_path):
    """An error lists the first ones; what is not used, and a catalogue's columns, are looked for in all."""
    names = [f"aa{number:03}" for number in range(60)]
    if kind == "hdf5":
        write_hdf5(tmp_path, SIM)
        with h5py.File(tmp_path / "box.h5", "r+") as file:
            for name in names:
                file[name] = np.zeros(3)
            file["zz_density"] = SIM["n_igm"].values[0]
    else:
        group = zarr.open_group(tmp_path / "box.zarr", mode="w")
        group.attrs.update(box_size=10.0)
        for name in names:
            group.create_array(name, data=np.zeros(3))
        group.create_array("n_igm", data=SIM["n_igm"].values[:1]).attrs["units"] = "g cm-3"
        group.create_array("zz_density", data=SIM["n_igm"].values[0])
        group.create_array("redshift", data=np.array([8.0]))
    with pytest.warns(UserWarning, match="not used: zz_density in box"):
        open_simulation(tmp_path / f"box.{'h5' if kind == 'hdf5' else 'zarr'}")


def test_other_filters_are_refused(tmp_path):
    write_hdf5(tmp_path, SIM, chunks=(1, 5, 4, 3), compression="lzf")
    with pytest.raises(InputError, match="shuffle and fletcher32, or none; received LZF"):
        open_simulation(tmp_path / "box.h5")


def test_the_mapping_in_the_docs_is_a_mapping(tmp_path):
    (example,) = re.findall(r"```toml\n(.*?)```", (DOCS / "how-to" / "convert.md").read_text(), re.DOTALL)
    (tmp_path / "mine.toml").write_text(example)
    write_hdf5(tmp_path, SIM)
    with pytest.raises(
        InputError, match="expected arrays named gas/density, stars/photons, gas/neutral_fraction"
    ):
        open_simulation(tmp_path / "box.h5", settings={"mapping": str(tmp_path / "mine.toml")})


def test_the_format_in_the_docs_is_a_format(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "how-to" / "add-a-format.md").read_text(), re.DOTALL)
    namespace: dict = {}
    exec(compile(code, "add-a-format.md", "exec"), namespace)
    reader = namespace["FORMAT"]
    write_raw(tmp_path / "gas_z9.raw", SIM["n_igm"].values[0].astype(np.float64) * 10**3, "f4")
    (tmp_path / "notes.txt").touch()
    claimed = reader.claim(sorted(tmp_path.iterdir()))
    settings = Settings({"box_size": "10"}, reader.settings)
    sim = assemble(reader.scan(claimed, settings)[0], settings)
    np.testing.assert_allclose(sim["n_igm"].values[0], SIM["n_igm"].values[0], rtol=1e-6)
