"""Files that are named: each is read, or an error says that it is not; folders may hold other files."""

from __future__ import annotations

import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest

from reion.cli.joining import opened
from reion.errors import InputError
from reion.readers import open_each, open_simulation
from reion.storage.conversion import convert
from tests.readers.layouts import random_simulation, write_epfl, write_npz, write_pinion

SIM = random_simulation((4, 4, 4), (12.0, 9.0, 8.0), box_size=16.0)
OTHER = random_simulation((4, 4, 4), (12.0, 9.0, 8.0), box_size=16.0, seed=1)


def converted(folder: Path, name: str, sim=SIM) -> Path:
    """A file of a simulation, by `reion convert`."""
    files = folder / f"files of {name.replace('.', ' ')}"
    files.mkdir()
    write_npz(files, sim)
    out = folder / name
    convert(files, out)
    return out


def xi_only(path: Path, sim=OTHER) -> Path:
    """xi alone, in a file as `reion predict` writes it."""
    if path.suffix == ".npz":
        np.savez(path, xi=sim["xi"].values, redshift=sim["redshift"].values, box_size=16.0)
        return path
    with h5py.File(path, "w") as file:
        file.attrs["box_size"] = 16.0
        file["redshift"] = sim["redshift"].values
        file["xi"] = sim["xi"].values
        file["xi"].attrs["units"] = "1"
    return path


def test_each_named_file_is_a_simulation_whatever_its_format(tmp_path):
    """A generic format was left out beside any other, without a word."""
    (tmp_path / "box1").mkdir()
    write_npz(tmp_path / "box1", SIM)
    named = [*sorted((tmp_path / "box1").iterdir()), converted(tmp_path, "box2.h5", OTHER)]
    first, second = open_each(named)
    np.testing.assert_array_equal(first["xi"].values, SIM["xi"].values)
    np.testing.assert_array_equal(second["xi"].values, OTHER["xi"].values)
    assert len(open_each([tmp_path / "box2.h5", converted(tmp_path, "box3.zarr")])) == 2


@pytest.mark.parametrize("pattern", [False, True])
def test_a_named_file_of_another_format_is_refused(pattern, tmp_path):
    store, file = converted(tmp_path, "box1.zarr"), converted(tmp_path, "box2.h5")
    with pytest.raises(InputError, match=r"here zarr \(box1\.zarr\); received also box2\.h5 \(hdf5\)"):
        open_simulation([str(tmp_path / "box[12].*")] if pattern else [store, file])


def test_a_named_file_that_nothing_reads_is_refused_and_in_a_folder_named(tmp_path):
    write_npz(tmp_path, SIM)
    (tmp_path / "density_z8.fits").write_bytes(b"SIMPLE  = T")
    (tmp_path / "README.txt").write_text("about the run")
    with pytest.raises(InputError, match="received also density_z8"):
        open_simulation(sorted(tmp_path.iterdir()))
    with pytest.warns(UserWarning, match="not used: .*density_z8"):
        open_simulation(tmp_path)


def test_rates_and_masks_that_a_code_writes_besides_may_be_named(tmp_path):
    settings = write_pinion(tmp_path, SIM)
    assert "xi" in open_simulation(sorted(tmp_path.iterdir()), settings=settings)


@pytest.mark.parametrize("name", ["xi.h5", "xi.nc", "xi.npz", "xi_z8.hdf5"])
def test_xi_in_a_file_is_joined_to_the_gas_as_that_in_a_store_is(name, tmp_path):
    """`reion predict --out x.h5`, then `reion inspect x.h5 sim.zarr`: that was the truth of the store."""
    both = opened([xi_only(tmp_path / name), converted(tmp_path, "sim.zarr")], None, None)
    np.testing.assert_array_equal(both["xi"].values, OTHER["xi"].values)
    np.testing.assert_array_equal(both["n_igm"].values, SIM["n_igm"].values)


def test_snapshots_in_files_are_still_one_series(tmp_path):
    write_npz(tmp_path, SIM)
    sim = opened(sorted(tmp_path.iterdir()), None, None)
    np.testing.assert_array_equal(sim["redshift"].values, SIM["redshift"].values)
    for folder, write in (("epfl", write_epfl), ("pinion", write_pinion)):
        (tmp_path / folder).mkdir()
        settings = [f"{key}={value}" for key, value in write(tmp_path / folder, SIM).items()]
        assert (
            opened(sorted((tmp_path / folder).glob("[!im]*"), reverse=True), None, settings).sizes["x"] == 4
        )


def test_brackets_in_the_name_of_a_folder_are_no_pattern(tmp_path):
    folder = tmp_path / "run [1]"
    folder.mkdir()
    write_npz(folder, SIM)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_simulation(str(folder / "box_z*.npz")).sizes["redshift"] == 3
    with pytest.raises(InputError, match="no such file or folder"):
        open_simulation(str(folder / "box_z7.npz"))
