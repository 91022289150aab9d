"""`convert` puts every simulation where it belongs, whole, or nothing anywhere."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from reion.errors import InputError
from reion.physics.mean_free_path import with_propagation_mask
from reion.readers import open_simulation
from reion.simulation.photons import with_n_ion
from reion.storage.conversion import convert


def write_npz(sim, folder, label, **replaced):
    folder.mkdir(exist_ok=True)
    for index, redshift in enumerate(sim["redshift"].values):
        arrays = {name: sim[name].values[index] for name in ("n_igm", "n_src", "xi")}
        numbers = {"redshift": redshift, "box_size": sim.attrs["box_size"]}
        np.savez_compressed(folder / f"{label}_z{redshift:06.3f}.npz", **{**arrays, **numbers, **replaced})


def test_one_simulation_becomes_one_store(simulation, tmp_path):
    write_npz(simulation, tmp_path / "run", "box")
    seen = []
    out = tmp_path / "sim.zarr"
    result = convert(tmp_path / "run", out, progress=lambda done, total: seen.append((done, total)))
    (store,) = result["stores"]
    assert store["path"] == str(out)
    assert store["redshifts"] == [12.0, 10.0, 8.0, 7.0]
    assert store["fields"] == {"n_igm": "g cm-3", "n_src": "1e48 s-1 Mpc-3", "n_ion": "1e66 Mpc-3", "xi": "1"}
    assert store["cosmology"] == {"H0": 67.66, "Om0": 0.30964, "Ob0": 0.04897, "assumed": True}
    assert seen == [(n, 5) for n in range(1, 6)], "the history and four snapshots"
    assert result["peak_memory_bytes"] is None or result["peak_memory_bytes"] > 0
    np.testing.assert_array_equal(
        xr.open_zarr(out)["n_ion"].values, with_n_ion(open_simulation(tmp_path / "run"))["n_ion"].values
    )


def test_several_simulations_need_a_folder(simulation, tmp_path):
    for label in ("box1", "box2"):
        write_npz(simulation, tmp_path / "run", label)
    with pytest.raises(InputError, match="received 2: box1, box2"):
        convert(tmp_path / "run", tmp_path / "sim.zarr")
    assert not (tmp_path / "sim.zarr").exists()
    result = convert(tmp_path / "run", tmp_path / "stores")
    assert [store["label"] for store in result["stores"]] == ["box1", "box2"]
    assert sorted(path.name for path in (tmp_path / "stores").iterdir()) == ["box1.zarr", "box2.zarr"]
    assert open_simulation(str(tmp_path / "run" / "box2*")).sizes["redshift"] == 4
    (tmp_path / "stores" / "box2.zarr").rename(tmp_path / "elsewhere.zarr")
    with pytest.raises(InputError, match="exists already") as caught:
        convert(tmp_path / "run", tmp_path / "stores")
    assert caught.value.hint == "--force replaces it; not there yet: box2"


def test_nothing_is_overwritten_and_nothing_read_before_that_is_known(simulation, tmp_path):
    write_npz(simulation, tmp_path / "run", "box")
    out = tmp_path / "sim.zarr"
    convert(tmp_path / "run", out)
    seen = []
    with pytest.raises(InputError, match="exists already"):
        convert(tmp_path / "run", out, progress=lambda *counts: seen.append(counts))
    assert not seen
    convert(tmp_path / "run", out, force=True)


def test_a_bad_value_stops_it_and_leaves_nothing(simulation, tmp_path):
    bad = simulation["xi"].values[0].copy()
    bad[3, 2, 1] = np.nan
    write_npz(simulation, tmp_path / "run", "box")
    late = simulation.isel(redshift=[3])
    write_npz(late, tmp_path / "run", "box", xi=bad)
    with pytest.raises(
        InputError, match=r"xi at z = 7: .* 1 that are not, the first at cell \(3, 2, 1\): nan"
    ) as caught:
        convert(tmp_path / "run", tmp_path / "sim.zarr")
    assert caught.value.file == str(tmp_path / "run" / "box_z07.000.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_propagation_mask_is_stored_with_its_radius_and_stays_a_field(simulation, tmp_path):
    write_npz(simulation, tmp_path / "run", "box")
    result = convert(tmp_path / "run", tmp_path / "sim.zarr", settings={"propagation_mask": "5"})
    assert result["stores"][0]["fields"]["propagation_mask"] == "1e48 s-1 Mpc-3"
    stored = xr.open_zarr(tmp_path / "sim.zarr")
    assert stored["propagation_mask"].attrs["max_mfp"] == "5"
    expected = with_propagation_mask(simulation, 5.0)["propagation_mask"].values
    np.testing.assert_allclose(stored["propagation_mask"].values, expected, rtol=1e-6)
    # Regridded, it keeps its mean as every field does.
    convert(tmp_path / "sim.zarr", tmp_path / "coarse.zarr", cell_size_mpc=4.0)
    coarse = open_simulation(tmp_path / "coarse.zarr")["propagation_mask"]
    np.testing.assert_allclose(coarse.mean(), stored["propagation_mask"].mean(), rtol=1e-5)


def test_where_it_came_from_is_kept(simulation, tmp_path):
    write_npz(simulation, tmp_path / "run", "box")
    with (
        pytest.warns(UserWarning, match="starts at z = 10"),
        pytest.warns(UserWarning, match="leaves out sources"),
    ):
        convert(tmp_path / "run", tmp_path / "sim.zarr", settings={"redshifts": "10,8"})
    attrs = xr.open_zarr(tmp_path / "sim.zarr").attrs
    assert attrs["sources"] == [str(tmp_path / "run")]
    assert attrs["settings"] == ["redshifts=10,8"]
    assert attrs["converted_by"].startswith("reion ")
