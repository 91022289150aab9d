"""Numbers that stand for missing ones are not read as data, and attributes are packing only if they are."""

from __future__ import annotations

import warnings

import h5py
import numpy as np
import pytest
import zarr

from reion.errors import InputError
from reion.readers import open_simulation
from tests.readers.corpus import SIM
from tests.readers.corpus.arrays import hdf5

NETCDF = 9.969209968386869e36


def refused(path, match):
    with pytest.raises(InputError, match=match):
        open_simulation(path)["n_src"].load()


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_the_fill_value_of_netcdf_is_a_missing_value(dtype, tmp_path):
    path = hdf5(tmp_path)
    with h5py.File(path, "r+") as file:
        values = file["n_src"][()].astype(dtype)
        values[0, 0, 0, 0] = NETCDF
        del file["n_src"]
        file["n_src"] = values
        file["n_src"].attrs["units"] = SIM["n_src"].units
    refused(path, "n_src at z = 9: expected finite numbers; received 1 that are not")


@pytest.mark.parametrize("fill", [1e20, -999.0])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_the_fill_value_that_xarray_writes_is_a_missing_value(zarr_format, fill, tmp_path):
    """In Zarr 2 it is the fill value of the array, and was read as data."""
    values = SIM["n_src"].values.copy()
    values[0, 0, 0, 0] = np.nan
    data = SIM.drop_vars("xi").assign(n_src=(SIM["n_src"].dims, values, SIM["n_src"].attrs))
    data.attrs = {"box_size": 16.0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data.to_zarr(
            tmp_path / "box.zarr",
            zarr_format=zarr_format,
            encoding={"n_src": {"_FillValue": np.float32(fill)}},
        )
    refused(tmp_path / "box.zarr", "n_src at z = 9: expected finite numbers; received 1 that are not")


def write_half(folder, kind, name, fill):
    """The simulation with a field of which the second snapshot was never written."""
    if kind == "hdf5":
        path = hdf5(folder)
        with h5py.File(path, "r+") as file:
            del file[name]
            half = file.create_dataset(name, (2, 4, 4, 4), "f4", chunks=(1, 4, 4, 4), fillvalue=fill)
            half[0] = SIM[name].values[0]
            half.attrs["units"] = SIM[name].units
        return path
    path = folder / "box.zarr"
    group = zarr.open_group(path, mode="w")
    group.attrs.update(box_size=16.0, H0=70.0, Om0=0.27, Ob0=0.044)
    group.create_array("redshift", data=SIM["redshift"].values)
    for field in ("n_igm", "n_src", "xi"):
        array = group.create_array(
            field,
            shape=(2, 4, 4, 4),
            dtype="f4",
            chunks=(1, 4, 4, 4),
            fill_value=fill if field == name else 0.0,
        )
        array[: 1 if field == name else 2] = SIM[field].values[: 1 if field == name else 2]
        array.attrs["units"] = SIM[field].units
    return path


@pytest.mark.parametrize("kind", ["hdf5", "zarr"])
def test_what_was_never_written_is_zero_only_if_it_reads_as_zero(kind, tmp_path):
    refused(write_half(tmp_path, kind, "n_src", 5.0), "never written, .*: they would read as n_src = 5")
    path = write_half(tmp_path, kind, "n_src", 0.0)
    assert not open_simulation(path)["n_src"].values[1].any()
    with pytest.warns(UserWarning, match="xi: .* xi is 1, the fill value, there"):
        sim = open_simulation(write_half(tmp_path, kind, "xi", 1.0))
    assert np.all(sim["xi"].values[1] == 1)
    refused(write_half(tmp_path, kind, "n_src", np.nan), "n_src at z = 8: expected finite numbers")


def test_an_offset_makes_a_number_of_what_was_never_written(tmp_path):
    path = write_half(tmp_path, "hdf5", "n_src", 0.0)
    with h5py.File(path, "r+") as file:
        file["n_src"].attrs["add_offset"] = 3.0
    refused(path, "they would read as n_src = 3")


@pytest.mark.parametrize(
    "attributes",
    [
        {"scale": [2.38, 2.38, 2.38]},
        {"scale": 2.0, "offset": 7.0},
        {"offset": [256, 0, 0]},
        {"scale": "linear", "slope": "none"},
    ],
)
def test_words_that_may_mean_something_else_are_no_packing_of_floating_point_numbers(attributes, tmp_path):
    path = hdf5(tmp_path)
    with h5py.File(path, "r+") as file:
        file["n_src"].attrs.update(attributes)
    np.testing.assert_array_equal(open_simulation(path)["n_src"].values, SIM["n_src"].values)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"scale": 2.0, "offset": 7.0}, 3 * 2.0 + 7.0),
        ({"slope": [2.0], "intercept": 7.0}, 3 * 2.0 + 7.0),
        ({"scale": [2.0, 2.0, 2.0], "offset": "from 0"}, 3.0),
        ({"scale_factor": 5.0, "scale": 2.0}, 3 * 5.0),
    ],
)
def test_one_number_of_such_a_name_is_the_packing_of_whole_numbers(attributes, expected, tmp_path):
    path = hdf5(tmp_path)
    with h5py.File(path, "r+") as file:
        del file["n_src"]
        file["n_src"] = np.full((2, 4, 4, 4), 3, "i2")
        file["n_src"].attrs.update(units=SIM["n_src"].units, **attributes)
    np.testing.assert_allclose(open_simulation(path)["n_src"].values, expected)


@pytest.mark.parametrize("value", [[2.0, 2.0], "two", np.inf])
def test_a_scale_factor_by_the_name_of_cf_is_one_number(value, tmp_path):
    path = hdf5(tmp_path)
    with h5py.File(path, "r+") as file:
        file["n_src"].attrs["scale_factor"] = value
    refused(path, "n_src: expected one finite number as its scale_factor")
