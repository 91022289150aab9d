"""A store is whole or not there, and holds what was written."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

from reion.errors import InputError
from reion.jobs.outputs import whole_folder
from reion.jobs.places import claimed
from reion.readers import open_simulation
from reion.simulation.photons import with_n_ion
from reion.storage import store as storage
from reion.storage.store import STORE, write_simulation

WRITTEN = ("n_igm", "n_src", "n_ion", "xi")


def test_what_is_written_is_read_by_us_and_by_xarray_alone(simulation, tmp_path):
    path = write_simulation(simulation, tmp_path / "sim.zarr")
    expected = with_n_ion(simulation)
    for opened in (xr.open_zarr(path), open_simulation(path)):
        for name in WRITTEN:
            np.testing.assert_array_equal(opened[name].values, expected[name].values)
            assert opened[name].attrs["units"] == expected[name].attrs["units"]
        for dim in ("redshift", "x", "y", "z"):
            np.testing.assert_array_equal(opened[dim].values, expected[dim].values)
        assert opened.attrs["box_size"] == expected.attrs["box_size"]
        assert opened.attrs["cosmology_assumed"] == 0


def test_blocks_and_chunks_change_nothing(simulation, tmp_path, monkeypatch):
    whole = open_simulation(write_simulation(simulation, tmp_path / "whole.zarr"))
    monkeypatch.setattr(storage, "_CHUNK_BYTES", 4 * 100)
    monkeypatch.setattr(storage, "_BLOCK_BYTES", 4 * 300)
    pieces = open_simulation(write_simulation(simulation, tmp_path / "pieces.zarr"))
    for name in WRITTEN:
        np.testing.assert_array_equal(pieces[name].values, whole[name].values)
        np.testing.assert_array_equal(
            pieces[name][1:, 3:8, ::-2, 5].values, whole[name].values[1:, 3:8, ::-2, 5]
        )


def test_a_late_start_is_said_once_whatever_the_slabs(simulation, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "_CHUNK_BYTES", 4 * 100)
    monkeypatch.setattr(storage, "_BLOCK_BYTES", 4 * 300)
    with pytest.warns(UserWarning, match="starts at z = 8") as warned:
        write_simulation(simulation.isel(redshift=[2, 3]), tmp_path / "sim.zarr")
    assert len(warned) == 1


def test_the_checksum_is_that_of_the_chunks(simulation, tmp_path):
    path = write_simulation(simulation, tmp_path / "sim.zarr")
    expected = hashlib.sha256()
    for snapshot in simulation["n_igm"].values:
        expected.update(hashlib.sha256(np.ascontiguousarray(snapshot, "<f4").tobytes()).digest())
    assert xr.open_zarr(path)["n_igm"].attrs["sha256"] == expected.hexdigest()


def test_nothing_is_replaced_without_force(simulation, tmp_path):
    path = write_simulation(simulation, tmp_path / "sim.zarr")
    with pytest.raises(InputError, match="exists already"):
        write_simulation(simulation.isel(redshift=[0]), path)
    assert open_simulation(path).sizes["redshift"] == 4
    write_simulation(simulation.isel(redshift=[0]), path, force=True)
    assert open_simulation(path).sizes["redshift"] == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["sim.zarr"]


@pytest.mark.parametrize("force", [False, True])
def test_an_error_while_writing_leaves_what_was_there(simulation, tmp_path, force):
    path = tmp_path / "sim.zarr"
    if force:
        write_simulation(simulation, path)
    before = sorted(tmp_path.iterdir())

    def write_half() -> None:
        with claimed(path, STORE, force=force) as place, whole_folder(place) as folder:
            (folder / "half").write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_half()
    assert sorted(tmp_path.iterdir()) == before


def test_a_lost_chunk_is_an_error(simulation, tmp_path):
    path = write_simulation(simulation, tmp_path / "sim.zarr")
    (path / "xi" / "c" / "2" / "0" / "0" / "0").unlink()
    sim = open_simulation(path)
    assert np.isfinite(sim["xi"][1].values).all()
    with pytest.raises(InputError, match="xi at z = 8"):
        sim["xi"][2].values  # noqa: B018 (reading is what raises)


def test_a_changed_byte_is_an_error(simulation, tmp_path):
    path = write_simulation(simulation, tmp_path / "sim.zarr")
    chunk = path / "xi" / "c" / "2" / "0" / "0" / "0"
    damaged = bytearray(chunk.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    chunk.write_bytes(damaged)
    with pytest.raises(InputError, match="xi: a chunk cannot be read"):
        open_simulation(path)["xi"][2].values  # noqa: B018 (reading is what raises)


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_killed_writer_leaves_no_store_and_the_next_one_cleans_up(simulation, tmp_path):
    path = tmp_path / "sim.zarr"
    code = (
        "import sys, time\n"
        "from reion.jobs.outputs import whole_folder; from reion.jobs.places import claimed\n"
        "from reion.storage.store import STORE\n"
        "with claimed(sys.argv[1], STORE) as place, whole_folder(place) as folder:\n"
        "    (folder / 'half').touch(); print('writing', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    assert not path.exists()
    assert len(list(tmp_path.iterdir())) == 2, "the folder and the lock"
    write_simulation(simulation, path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["sim.zarr"]


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path):
    def write() -> None:
        with claimed(tmp_path / "sim.zarr", STORE) as place, whole_folder(place):
            raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match=r"cannot be written: .*No space left"):
        write()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bytes_left", [0, 1, 3, 10])
def test_a_chunk_that_was_cut_off_is_refused(simulation, tmp_path, bytes_left):
    path = write_simulation(simulation, tmp_path / "sim.zarr")
    chunk = path / "xi" / "c" / "1" / "0" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:bytes_left])
    with pytest.raises(InputError, match="expand"):
        open_simulation(path)["xi"][1].values  # noqa: B018 (reading is what raises)


@pytest.mark.parametrize("name", ["redshift", "x", "n_igm"])
def test_one_bit_of_a_chunk_that_flipped_is_refused(simulation, tmp_path, name):
    """Of a redshift too: with another order of the snapshots, n_ion would be another history."""
    path = write_simulation(simulation, tmp_path / "sim.zarr")
    (chunk, *_) = sorted(file for file in (path / name / "c").rglob("*") if file.is_file())
    content = bytearray(chunk.read_bytes())
    for position in range(16, len(content), max(1, len(content) // 8)):  # behind Blosc's own header
        content[position] ^= 4
        chunk.write_bytes(content)
        with pytest.raises(InputError):
            open_simulation(path)[name].values  # noqa: B018 (reading is what raises)
        content[position] ^= 4
