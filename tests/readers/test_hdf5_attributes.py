"""Attributes of HDF5 objects are read as h5py wrote them, and no text is waited for that claims too much."""

from __future__ import annotations

import tarfile
import time

import h5py
import numpy as np
import pytest

from reion.errors import InputError
from reion.jobs.resources import peak_memory_bytes
from reion.readers import open_simulation
from reion.readers.hdf5_file import attributes, is_hdf5, open_hdf5
from reion.readers.object_header import ObjectHeader

WRITTEN = {
    "units": "g cm-3",
    "long": "x" * 300,
    "empty": "",
    "größe": "größer",
    "names": ["x", "redshift"],
    "flag": True,
    "side": 128.5,
    "sides": [1.0, 2.0, 3.0],
}
"""Eight: more are not in the object header in files of the latest version."""


def write_everywhere(path, written, **options):
    track_order = options.pop("track_order", False)
    with h5py.File(path, "w", track_order=track_order, **options) as file:
        file.create_group("group/deeper", track_order=track_order)
        file.create_dataset("data", data=np.zeros((4, 4)), chunks=(2, 2), track_order=track_order)
        for name in ("/", "group/deeper", "data"):
            for key, value in written.items():
                file[name].attrs[key] = value


@pytest.mark.parametrize("libver", ["earliest", "v108", "latest"])
@pytest.mark.parametrize("track_order", [False, True])
@pytest.mark.parametrize("userblock_size", [0, 512])
def test_attributes_are_what_was_written(tmp_path, libver, track_order, userblock_size):
    path = tmp_path / "box.h5"
    write_everywhere(path, WRITTEN, libver=libver, track_order=track_order, userblock_size=userblock_size)
    with open_hdf5(path) as file:
        for name in ("/", "group/deeper", "data"):
            assert attributes(file[name]) == WRITTEN
            header = ObjectHeader(file[name])
            for key, value in WRITTEN.items():
                if isinstance(value, str):
                    assert header.text_bytes(key, 1) == len(value.encode())
            assert header.text_bytes("names", 2) == len("redshift")
            assert header.text_bytes("nowhere", 1) is None


def test_attributes_stored_elsewhere_keep_their_numbers(tmp_path):
    many = {f"number{n}": n for n in range(12)}
    write_everywhere(tmp_path / "box.h5", {**many, "text": "g"}, libver="latest")
    write_everywhere(tmp_path / "old.h5", {**many, "text": "g"}, libver="earliest")
    with open_hdf5(tmp_path / "box.h5") as file:
        assert attributes(file) == many
    with open_hdf5(tmp_path / "old.h5") as file:
        assert attributes(file) == {**many, "text": "g"}


def test_attributes_that_are_nothing_of_ours_are_left_out(tmp_path):
    with h5py.File(tmp_path / "box.h5", "w") as file:
        file.attrs["nothing"] = h5py.Empty("f")
        file.attrs["complex"] = 1j
        file.attrs["many"] = np.zeros(1001)
        file.attrs["reference"] = file.ref
        file.attrs["fixed"] = np.bytes_("text")
    with open_hdf5(tmp_path / "box.h5") as file:
        assert attributes(file) == {"fixed": "text"}


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_a_text_that_claims_more_than_the_file_is_not_waited_for(tmp_path, libver):
    path = tmp_path / "box_z8.0.h5"
    with h5py.File(path, "w", libver=libver) as file:
        file["xi"] = np.zeros((4, 4, 4), np.float32)
        file["xi"].attrs["units"] = "a unit of nothing"
    whole = bytearray(path.read_bytes())
    claim = whole.index(len("a unit of nothing").to_bytes(4, "little"), whole.index(b"units\0"))
    whole[claim : claim + 4] = (2**32 - 1).to_bytes(4, "little")
    path.write_bytes(whole)
    before, started = peak_memory_bytes(), time.process_time()
    # The newer header has a checksum, which gives it away even before.
    with pytest.raises(InputError, match=r"units claims 4294967295 bytes|damaged") as caught:
        open_simulation(path)
    assert caught.value.file == str(path)
    assert time.process_time() - started < 2
    assert before is None or peak_memory_bytes() < before + (256 << 20)


def test_headers_that_are_cut_short_or_go_in_circles(tmp_path):
    path = tmp_path / "box.h5"
    write_everywhere(path, WRITTEN)
    whole = path.read_bytes()
    with h5py.File(path, "r") as file:
        header = ObjectHeader(file)
        start = header._address
        assert header.text_bytes("units", 1) == 6
        for length in (start + 8, start + 40):
            path.write_bytes(whole[:length])
            with pytest.raises(ValueError, match=r"beyond the end|larger than the file"):
                header.text_bytes("units", 1)
        size = int.from_bytes(whole[start + 8 : start + 12], "little")
        messages = bytearray(size)
        messages[:8] = (16).to_bytes(2, "little") + (16).to_bytes(2, "little") + bytes(4)
        messages[8:24] = (start + 16).to_bytes(8, "little") + size.to_bytes(8, "little")
        path.write_bytes(whole[: start + 16] + messages + whole[start + 16 + size :])
        with pytest.raises(ValueError, match="larger than the file"):
            header.text_bytes("units", 1)


def test_a_text_in_an_array_of_one_is_a_text(tmp_path):
    """As IDL, MATLAB and Fortran write it: bytes of a fixed length, in an array."""
    with h5py.File(tmp_path / "box.h5", "w") as file:
        file.attrs["one"] = np.array([b"g cm-3"])
        file.attrs["many"] = np.array([b"x", b"y"])
        file.attrs["deep"] = np.array([[b"g cm-3"]])
        file.attrs["varying"] = np.array(["g cm-3"], dtype=h5py.string_dtype())
        file["n_igm"] = np.full((4, 4, 4), 4e-31)
        file["n_igm"].attrs["units"] = np.array([b"g cm-3"])
        file.attrs.update(box_size=16.0, redshift=8.0)
    with open_hdf5(tmp_path / "box.h5") as file:
        found = attributes(file)
        assert found["one"] == found["deep"] == found["varying"] == "g cm-3"
        assert found["many"] == ["x", "y"]
    sim = open_simulation(tmp_path / "box.h5")
    np.testing.assert_allclose(sim["n_igm"].values, 4e-31, rtol=1e-6)


@pytest.mark.parametrize(("count", "read"), [(20, True), (1000, True), (1001, False)])
def test_an_attribute_may_hold_the_redshifts_of_a_long_series(count, read, tmp_path):
    """More than 16 numbers were left out, and the message said of the attribute that it was None."""
    with h5py.File(tmp_path / "box.h5", "w") as file:
        file["dens"] = np.full((count, 2, 2, 2), 4e-31, np.float32)
        file.attrs.update(zs=np.linspace(12, 6, count), side=16.0)
    (tmp_path / "m.toml").write_text(
        '[n_igm]\narray = "dens"\nunit = "g cm-3"\n[redshift]\nattribute = "zs"\n'
        '[box_size]\nattribute = "side"\n'
    )
    settings = {"mapping": str(tmp_path / "m.toml")}
    if read:
        sim = open_simulation(tmp_path / "box.h5", settings=settings)
        np.testing.assert_allclose(sim["redshift"].values, np.linspace(12, 6, count))
    else:
        with pytest.raises(InputError, match="numbers in the attribute 'zs'; there is none"):
            open_simulation(tmp_path / "box.h5", settings=settings)


@pytest.mark.parametrize("name", ["box.mat", "box.h5", "box"])
@pytest.mark.parametrize("block", [512, 4096])
def test_a_block_of_the_user_may_stand_before_hdf5(block, name, tmp_path):
    """MATLAB 7.3 writes 512 bytes of its own before."""
    with h5py.File(tmp_path / name, "w", userblock_size=block) as file:
        file["n_igm"] = np.full((2, 2, 2), 4e-31)
        file["n_igm"].attrs["units"] = "g cm-3"
        file.attrs.update(redshift=8.0, box_size=16.0)
    with (tmp_path / name).open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(block))
    assert open_simulation(tmp_path / name)["n_igm"].values.shape == (1, 2, 2, 2)


def test_an_archive_of_hdf5_is_an_archive(tmp_path):
    with h5py.File(tmp_path / "box.h5", "w") as file:
        file["n_igm"] = np.full((2, 2, 2), 4e-31)
    with tarfile.open(tmp_path / "box.tar", "w") as archive:
        archive.add(tmp_path / "box.h5", "box.h5")
    assert not is_hdf5(tmp_path / "box.tar")
