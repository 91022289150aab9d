"""HDF5, NetCDF 4 and `.npz` in place of a store: the same numbers, read again by the readers."""

from __future__ import annotations

import json
import zipfile

import h5py
import numpy as np
import pytest
import xarray as xr

from reion.errors import InputError
from reion.jobs import growing
from reion.jobs.outputs import move_in
from reion.prediction.predict import predict
from reion.readers import open_simulation
from reion.readers.hdf5 import IN_JSON
from reion.simulation.contract import FIELDS, check_simulation, with_max_mfp
from reion.simulation.photons import with_n_ion
from reion.simulation.recombinations import clumping_of, with_clumping
from reion.storage import store
from reion.storage.conversion import convert
from reion.storage.single_file import is_our_npz, packing_of
from reion.storage.store import write_simulation

ENDINGS = (".h5", ".nc", ".npz", ".HDF5")


@pytest.fixture
def sim_path(simulation, tmp_path):
    return write_simulation(simulation, tmp_path / "sim.zarr")


@pytest.mark.slow
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_simulation_is_the_same_in_one_file(ending, simulation, sim_path, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "_CHUNK_BYTES", 4 * 12 * 5 * 4)  # several chunks along x and y
    monkeypatch.setattr(store, "_BLOCK_BYTES", 4 * 12 * 5 * 8)
    out = tmp_path / f"box{ending}"
    result = convert(sim_path, out, settings={"max_mfp": "12.5"})["stores"][0]
    assert out.is_file()
    sim = check_simulation(open_simulation(out))
    expected = with_n_ion(simulation)
    for name in ("n_igm", "n_src", "n_ion", "xi", "redshift"):
        np.testing.assert_allclose(sim[name].values, expected[name].values, rtol=1e-6)
    assert (sim["max_mfp"].values == 12.5).all()
    for key in ("box_size", "H0", "Om0", "Ob0", "cosmology_assumed"):
        assert np.all(sim.attrs[key] == simulation.attrs[key])
    other = convert(sim_path, tmp_path / "other.zarr")["stores"][0]
    assert result["sha256"] == other["sha256"]
    assert (result["shape"], result["fields"]) == (other["shape"], other["fields"])
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"box{ending}", "other.zarr", "sim.zarr"]


@pytest.mark.parametrize("ending", ENDINGS[:3])
def test_a_prediction_is_the_same_in_one_file(ending, sim_path, toy_model, tmp_path):
    predict(toy_model, sim_path, tmp_path / "xi.zarr", device="cpu")
    predict(toy_model, sim_path, tmp_path / f"xi{ending}", device="cpu")
    expected = xr.open_zarr(tmp_path / "xi.zarr")["xi"].values
    np.testing.assert_array_equal(open_simulation(tmp_path / f"xi{ending}")["xi"].values, expected)


def test_netcdf_has_dimensions_and_says_where_xi_is_from(sim_path, toy_model, tmp_path):
    predict(toy_model, sim_path, tmp_path / "xi.nc", device="cpu")
    with h5py.File(tmp_path / "xi.nc") as file:
        scales = [file["xi"].dims[number][0].name for number in range(4)]
        assert scales == ["/redshift", "/x", "/y", "/z"]
        assert file["xi"].attrs["model"] == "toy 1"
        assert file["x"].attrs["units"] == "Mpc"
        assert file.attrs["written_by"].startswith("reion ")


def test_attributes_of_any_kind_are_kept_or_left_out(simulation, tmp_path):
    odd = {
        "sigma8": np.nan,
        "limits": [np.inf, 1.0],
        "seeds": [1, 2],
        "notes": ["a", "b"],
        "text": "x" * 70_000,
        "many": ["z"] * 9_000,
    }
    nested = {"steps": [["a", 1], ["b", 2]], "mixed": ["a", 1]}
    path = write_simulation(simulation.assign_attrs(**odd, **nested), tmp_path / "odd.zarr")
    convert(path, tmp_path / "odd.nc")
    with h5py.File(tmp_path / "odd.nc") as file:
        found = dict(file.attrs)
    assert not {"sigma8", "text", "many"} & set(found)
    np.testing.assert_array_equal(found["limits"], [np.nan, 1.0])
    assert (found["seeds"].tolist(), found["notes"].tolist()) == ([1, 2], ["a", "b"])
    assert found["steps"] == json.dumps(nested["steps"])
    assert open_simulation(tmp_path / "odd.nc").attrs["box_size"] == simulation.attrs["box_size"]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_ended_around_the_last_rename_the_same_command_goes_on(moment, sim_path, tmp_path, monkeypatch):
    class EndedError(BaseException):
        """As abrupt as a kill: nothing of reion handles it."""

    def ended(whole, path):
        if moment == "after":
            move_in(whole, path)
        raise EndedError

    out = tmp_path / "box.h5"
    convert(sim_path, out)
    monkeypatch.setattr(growing, "move_in", ended)
    with pytest.raises(EndedError):
        convert(sim_path, out, settings={"max_mfp": "9"}, force=True)
    monkeypatch.undo()
    assert "xi" in open_simulation(out)
    convert(sim_path, out, settings={"max_mfp": "9"}, force=True)
    assert (open_simulation(out)["max_mfp"].values == 9).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["box.h5", "sim.zarr"]


@pytest.mark.parametrize("ending", ENDINGS[:3])
def test_only_a_file_of_reions_is_replaced(ending, sim_path, tmp_path):
    out = tmp_path / f"box{ending}"
    convert(sim_path, out)
    before = out.stat().st_mtime_ns
    with pytest.raises(InputError, match="exists already"):
        convert(sim_path, out)
    assert out.stat().st_mtime_ns == before
    convert(sim_path, out, force=True)
    assert out.stat().st_mtime_ns > before
    if ending != ".npz":
        with h5py.File(out, "a") as file:
            file["thesis"] = np.ones(3)
        with pytest.raises(InputError, match="holds something else as well"):
            convert(sim_path, out, force=True)
    else:
        with zipfile.ZipFile(out, "a") as file:
            file.writestr("thesis.txt", "mine")
        with pytest.raises(InputError, match="holds something else as well"):
            convert(sim_path, out, force=True)
    with h5py.File(out, "w") if ending != ".npz" else out.open("wb") as file:
        if ending == ".npz":
            np.savez(file, n_igm=np.ones(3))
        else:
            file["thesis"] = np.ones(3)
    content = out.read_bytes()
    with pytest.raises(InputError, match=r"is not an .* that reion wrote"):
        convert(sim_path, out, force=True)
    with pytest.raises(InputError, match="exists already"):
        convert(sim_path, out)
    assert out.read_bytes() == content


def test_several_simulations_do_not_go_into_one_file(sim_path, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("a", "b"):
        convert(sim_path, folder / f"{name}.zarr")
    with pytest.raises(InputError, match="expected one simulation; received 2"):
        convert(folder, tmp_path / "box.h5")


def test_units_that_an_archive_cannot_say_are_refused_before_any_work(simulation, tmp_path):
    masses = simulation.assign(n_src=simulation["n_src"].assign_attrs(units="Msun Mpc-3"))
    path = write_simulation(masses, tmp_path / "masses.zarr")
    with pytest.raises(
        InputError, match=r"n_src is in Msun Mpc-3, which an \.npz archive cannot say"
    ) as error:
        convert(path, tmp_path / "box.npz")
    assert ".h5" in str(error.value.hint)
    assert [entry.name for entry in tmp_path.iterdir()] == ["masses.zarr"]
    convert(path, tmp_path / "box.h5")
    assert open_simulation(tmp_path / "box.h5")["n_src"].attrs["units"] == "Msun Mpc-3"
    assert FIELDS["n_src"].units[0] != "Msun Mpc-3"


@pytest.mark.filterwarnings("ignore:960 of 960 cells")
@pytest.mark.parametrize("ending", [".h5", ".npz"])
def test_a_prediction_with_all_it_may_hold_is_replaced(ending, toy_model, sim_path, tmp_path):
    out = tmp_path / f"xi{ending}"
    predict(toy_model, sim_path, out, device="cpu", z_reion=True)
    before = out.stat().st_mtime_ns
    predict(toy_model, sim_path, out, device="cpu", z_reion=True, force=True)
    assert out.stat().st_mtime_ns > before


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_simulation_opens_the_same_from_a_store_and_from_one_file(ending, simulation, tmp_path):
    attrs = {
        "source_code": "made for a test",
        "ray_tracing": json.dumps({"clumping": 3.0}),
        "settings": ["clumping=3"],
        "sources": ["box_z9.npz", "box_z8.npz"],
        "seeds": [1, 2],
        "limits": [np.inf, 1.0],
        "sigma8": np.nan,
        "mixed": ["a", 1],
        "nothing": [],
        "steps": [["a", 1], ["b", 2]],
        "weights": {"r2": 0.9},
        "flag": True,
    }
    sim = with_max_mfp(with_clumping(simulation.assign_attrs(attrs), [[12, 1], [6, 3]]), [9.0, 8.0, 7.0, 6.0])
    path = write_simulation(sim, tmp_path / "sim.zarr")
    file = tmp_path / f"sim{ending}"
    packing_of(file)(path, file)
    expected, found = open_simulation(path), open_simulation(file)
    xr.testing.assert_identical(found, expected)
    assert {name: type(value) for name, value in found.attrs.items()} == {
        name: type(value) for name, value in expected.attrs.items()
    }
    assert found.attrs["source_code"] == "made for a test"
    assert clumping_of(found.attrs, 6.0) == clumping_of(sim.attrs, 6.0) == 3.0


def test_an_assumed_cosmology_stays_assumed_in_an_archive(simulation, tmp_path):
    path = write_simulation(simulation.assign_attrs(cosmology_assumed=1), tmp_path / "sim.zarr")
    packing_of("sim.npz")(path, tmp_path / "sim.npz")
    xr.testing.assert_identical(open_simulation(tmp_path / "sim.npz"), open_simulation(path))


@pytest.mark.parametrize(
    "member",
    [
        np.array("no JSON"),
        np.array("[1, 2]"),
        np.array('{"store": {"clumping": "3"}, "fields": {}}'),
        np.array('{"store": {"written_by": "another program", "clumping": "3"}, "fields": {}}'),
        np.array('{"store": {"written_by": "reion 1", "clumping": "3"}, "fields": [1]}'),
        np.array('{"store": {"written_by": "reion 1", "clumping": "3"}, "fields": {"xi": 1}}'),
        np.array("[" * 100_000),
        np.arange(3.0),
        np.array(["a", "b"]),
        np.array({"store": {}}, dtype=object),
    ],
)
def test_a_member_called_attributes_of_another_program_is_left_alone(member, tmp_path):
    path = tmp_path / "box_z9.npz"
    np.savez(path, xi=np.full((2, 2, 2), 0.5, np.float32), redshift=9.0, box_size=4.0, attributes=member)
    sim = open_simulation(path)
    assert "clumping" not in sim.attrs
    assert sim.attrs["source_code"] == "npz"
    assert not is_our_npz(path)


def test_a_damaged_json_in_hdf5_leaves_the_other_attributes(sim_path, tmp_path):
    convert(sim_path, tmp_path / "sim.h5", settings={"max_mfp": "9"})
    for damaged in ("{", "[1]", 3):
        with h5py.File(tmp_path / "sim.h5", "a") as file:
            file.attrs[IN_JSON] = damaged
        attrs = open_simulation(tmp_path / "sim.h5").attrs
        assert attrs["settings"] == "max_mfp=9"
        assert IN_JSON not in attrs
