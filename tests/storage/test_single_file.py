"""HDF5, NetCDF 4 and `.npz` in place of a store: the same numbers, read again by the readers."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
import xarray as xr

from reion.errors import InputError
from reion.jobs import growing
from reion.jobs.outputs import move_in
from reion.prediction.predict import predict
from reion.readers import open_simulation
from reion.simulation.contract import FIELDS, check_simulation
from reion.simulation.photons import with_n_ion
from reion.storage import store
from reion.storage.conversion import convert
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
