"""What is wrong is refused, with the file's name and what to do; nothing absurd is allocated on the way."""

from __future__ import annotations

import os
import shutil
import tempfile
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

from reion.errors import InputError
from reion.readers import open_simulation
from reion.simulation.contract import check_simulation
from reion.storage.conversion import convert
from reion.storage.store import write_simulation
from tests.readers.layouts import (
    random_simulation,
    record,
    sides,
    write_21cmfast,
    write_c2ray,
    write_density,
    write_epfl,
    write_hdf5,
    write_masses,
    write_npz,
    write_photons,
    write_pinion,
    write_pyc2ray,
    write_raw,
    write_xfrac3d,
    write_zarr,
)

pytestmark = pytest.mark.filterwarnings("ignore:the series starts at")

SIM = random_simulation((6, 6, 6))
BOX = {"box_size": sides(SIM)}


def refused(source, match, *, settings=None, file=None, hint=None, **options):
    """Open and read everything; the error that must come, and that no store comes of it."""
    with pytest.raises(InputError, match=match) as caught:
        check_simulation(open_simulation(source, settings=settings, **options))
    error = caught.value
    if file is not None:
        assert error.file is not None
        assert Path(error.file).name == file
    if hint is not None:
        assert error.hint is not None
        assert hint in error.hint
    out = Path(caught.value.file or "x").parent / "never" / "out.zarr"
    with pytest.raises(InputError):
        convert(source, out, settings=settings, **options)
    assert not out.exists()
    return error


def peak_of(call):
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_truncated_files(tmp_path):
    for number, (write, pattern) in enumerate(
        [
            (write_c2ray, "xfrac3d_8*"),
            (write_c2ray, "8*n_all*"),
            (write_pyc2ray, "xfrac_z8*"),
            (write_epfl, "xHII_z8*"),
            (write_pinion, "rho_z8*"),
            (write_npz, "box_z8*"),
            (write_21cmfast, "coeval_z8*"),
            (write_hdf5, "box.h5"),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        settings = write(folder, SIM)
        (victim,) = folder.glob(pattern)
        victim.write_bytes(victim.read_bytes()[:-100])
        refused(folder, ".", settings=settings, file=victim.name)


@pytest.mark.parametrize(
    ("write", "pattern"),
    [
        (write_c2ray, "xfrac3d_8*"),
        (write_c2ray, "8*n_all*"),
        (write_pyc2ray, "xfrac_z8*"),
        (write_npz, "box_z8*"),
    ],
)
def test_headers_cut_short(tmp_path, write, pattern):
    settings = write(tmp_path, SIM)
    (victim,) = tmp_path.glob(pattern)
    whole = victim.read_bytes()
    for size in range(30):
        victim.write_bytes(whole[:size])
        with pytest.raises(InputError) as caught:
            open_simulation(tmp_path, settings=settings)
        assert caught.value.file == str(victim)


def test_a_damaged_file_is_not_passed_over(tmp_path):
    for number, (write, pattern) in enumerate(
        [
            (write_npz, "box_z8*"),
            (write_21cmfast, "coeval_z8*"),
            (write_epfl, "xHII_z8*"),
            (write_pinion, "rho_z8*"),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        settings = write(folder, SIM)
        (victim,) = folder.glob(pattern)
        victim.write_bytes(bytes(8) + victim.read_bytes()[8:])
        refused(folder, ".", settings=settings)
    write_zarr(tmp_path, SIM)
    (tmp_path / "box.zarr" / "zarr.json").unlink()
    refused(tmp_path / "box.zarr", "the Zarr store cannot be opened", file="box.zarr")


def test_wrong_record_markers(tmp_path):
    settings = write_c2ray(tmp_path, SIM)
    victim = tmp_path / "xfrac3d_9.000.bin"
    whole = victim.read_bytes()
    for at, match in [
        (0, "12 bytes"),
        (16, "12 bytes"),
        (20, "between two markers"),
        (-1, "between two markers"),
    ]:
        damaged = bytearray(whole)
        damaged[at] ^= 1
        victim.write_bytes(damaged)
        refused(tmp_path, match, settings=settings, file=victim.name)


def test_split_records_are_put_together(tmp_path):
    settings = write_c2ray(tmp_path, SIM)
    xi = SIM["xi"].values[0].astype(np.float64)
    for longest in (1727, 1000, 7):
        write_xfrac3d(tmp_path / "xfrac3d_9.000.bin", xi, longest=longest)
        sim = open_simulation(tmp_path, settings=settings)
        np.testing.assert_allclose(sim["xi"][0].values, xi, atol=1e-7)
        np.testing.assert_array_equal(sim["xi"][0, 2:5, 3, ::2].values, sim["xi"][0].values[2:5, 3, ::2])


def test_records_are_split_where_gfortran_splits_them(tmp_path):
    # 646^3 float64 are more than 2^31 bytes: the first number after the split has a byte before it.
    n, longest = 646, 2**31 - 9
    total = 8 * n**3
    path = tmp_path / "xfrac3d_8.000.bin"
    cell, inside = divmod(longest, 8)
    assert inside == 7
    numbers = np.array([0.25, 0.5, 0.75]).tobytes()  # of the cells before, across and behind the split
    with path.open("wb") as stream:
        stream.write(record(np.array([n, n, n], "<i4").tobytes(), "<"))
        stream.write(np.array(-longest, "<i4").tobytes())
        stream.seek(longest - 15, os.SEEK_CUR)
        stream.write(numbers[:15] + np.array([longest, total - longest], "<i4").tobytes() + numbers[15:])
        stream.seek(total - longest - 9, os.SEEK_CUR)
        stream.write(np.array(-(total - longest), "<i4").tobytes())
    assert path.stat().st_size == 20 + total + 16
    sim = open_simulation(path, settings={"box_size": "100"})
    x, y, z = np.unravel_index(cell, (n, n, n), order="F")
    plane = sim["xi"][0, :, :, int(z)].values
    assert plane[x - 1 : x + 2, y].tolist() == [0.25, 0.5, 0.75]
    assert plane.sum() == 1.5


def test_single_precision_fractions_and_the_other_name(tmp_path):
    settings = write_c2ray(tmp_path, SIM)
    for redshift, xi in zip(("9.000", "8.397"), SIM["xi"].values, strict=True):
        (tmp_path / f"xfrac3d_{redshift}.bin").unlink()
        write_xfrac3d(tmp_path / f"xfrac3D_{redshift}.bin", xi, dtype="f4")
    np.testing.assert_array_equal(open_simulation(tmp_path, settings=settings)["xi"].values, SIM["xi"].values)


def test_the_other_byte_order_is_named(tmp_path):
    for name, write in (("c2ray", write_c2ray), ("pyc2ray", write_pyc2ray)):
        folder = tmp_path / name
        folder.mkdir()
        settings = write(folder, SIM, order=">")
        found = open_simulation(folder, settings=settings)
        np.testing.assert_allclose(found["xi"].values, SIM["xi"].values, atol=1e-7)
        del settings["byte_order"]
        refused(folder, ".", settings=settings, hint="--set byte_order=big")


@pytest.mark.parametrize("cells", [(2**31 - 1, 1, 1), (2048, 1024, 1024), (-6, -6, 6), (0, 6, 6)])
def test_absurd_dimensions_allocate_nothing(tmp_path, cells):
    settings = write_c2ray(tmp_path, SIM)
    density = tmp_path / "9.000n_all.dat"
    density.write_bytes(np.array(cells, "<i4").tobytes() + density.read_bytes()[12:])
    assert peak_of(lambda: refused(tmp_path, "nx, ny, nz", settings=settings, file=density.name)) < 20e6
    write_density(density, SIM["n_igm"].values[0].astype(np.float64))
    xfrac = tmp_path / "xfrac3d_9.000.bin"
    xfrac.write_bytes(record(np.array(cells, "<i4").tobytes(), "<") + xfrac.read_bytes()[20:])
    assert peak_of(lambda: refused(tmp_path, ".", settings=settings, file=xfrac.name)) < 20e6
    npy = tmp_path / "npy"
    npy.mkdir()
    settings = write_epfl(npy, SIM)
    victim = npy / "rho_z9.000.npy"
    header = victim.read_bytes().replace(b"(6, 6, 6)", str(cells).encode().ljust(9))
    victim.write_bytes(header)
    assert peak_of(lambda: refused(npy, ".", settings=settings, file=victim.name)) < 20e6


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        (
            "n_igm",
            np.nan,
            "n_igm at z = 8.397: expected finite numbers; received 2 that are not",
        ),
        ("n_src", np.inf, "n_src at z = 8.397: expected finite numbers; received 2"),
        ("n_igm", -1e-31, "expected no negative values; received 2"),
        ("xi", 1.001, r"expected values from 0 to 1; received 2 .* \(1, 2, 3\): 1.001"),
        ("xi", -0.001, "expected values from 0 to 1"),
    ],
)
def test_bad_values_are_counted_and_placed(tmp_path, field, value, match):
    sim = SIM.copy(deep=True)
    sim[field].values[1][[1, 5], [2, 5], [3, 5]] = value
    write_npz(tmp_path, sim)
    refused(tmp_path, match, file="box_z8.397.npz")


def test_rounding_is_not_an_error_and_is_clipped(tmp_path):
    sim = SIM.copy(deep=True)
    sim["xi"].values[0][0, 0, :2] = [1 + 5e-6, -5e-6]
    write_npz(tmp_path, sim)
    np.testing.assert_array_equal(open_simulation(tmp_path)["xi"].values[0][0, 0, :2], [1, 0])


def test_files_that_do_not_fit_together(tmp_path):
    write_npz(tmp_path, SIM)
    other = random_simulation((5, 6, 6), (7.0,), box_size=SIM.attrs["box_size"])
    write_npz(tmp_path, other)
    refused(
        tmp_path, r"expected the shape .6, 6, 6. of box_z9.000.npz; received .5, 6, 6.", file="box_z7.000.npz"
    )
    write_npz(tmp_path, random_simulation((6, 6, 6), (7.0,), box_size=99.0))
    refused(tmp_path, "expected the box size and cosmology of box_z7.000.npz", file="box_z8.397.npz")


def test_redshifts_that_do_not_fit_together(tmp_path):
    settings = write_c2ray(tmp_path, SIM)
    (tmp_path / "9.000n_all.dat").unlink()
    error = refused(tmp_path, "every field at every redshift; .*n_igm lacks z = 9|n_src", settings=settings)
    assert error.hint is not None
    assert "--set redshifts=8.397" in error.hint
    with pytest.warns(UserWarning, match="leaves out sources at z = 9"):
        sim = open_simulation(tmp_path, settings={**settings, "redshifts": "8.397"})
    assert sim["redshift"].values.tolist() == [8.397]
    shutil.copy(tmp_path / "xfrac3d_8.397.bin", tmp_path / "xfrac3D_8.397.bin")
    refused(tmp_path, "each redshift once; z = 8.397", settings=settings)


def test_missing_variables(tmp_path):
    np.savez(tmp_path / "box_z8.0.npz", redshift=8.0, box_size=10.0, other=np.zeros((2, 2, 2), np.float32))
    refused(tmp_path, "expected arrays named n_igm, n_src, .* received other", file="box_z8.0.npz")
    np.savez(tmp_path / "box_z8.0.npz", xi=np.zeros((2, 2, 2), np.float32), redshift=8.0)
    refused(tmp_path, "the size of the box", file="box_z8.0.npz", hint="--set box_size=")
    assert open_simulation(tmp_path, settings={"box_size": "5"}).attrs["box_size"] == 5
    np.savez(tmp_path / "box.npz", xi=np.zeros((2, 2, 2), np.float32), box_size=5.0)
    refused(tmp_path / "box.npz", "the redshift is neither in the file nor in its name", file="box.npz")


def test_what_files_lack_is_asked_for_by_name(tmp_path):
    full = write_c2ray(tmp_path, SIM)
    refused(tmp_path, "nbox_fine", hint="preset=500/h")
    refused(tmp_path, "f_gamma, lifetime_myr", settings={"preset": "500/h"}, hint="--set f_gamma=")
    assert open_simulation(tmp_path, settings={**BOX, "preset": "500/h", "sources": "mass"})[
        "n_src"
    ].units == ("Msun Mpc-3")
    refused(tmp_path, "expected one of the settings", settings={**full, "boxsize": "3"}, hint="box_size")
    refused(tmp_path, "--set f_gamma: expected a number", settings={**full, "f_gamma": "many"})
    epfl = tmp_path / "epfl"
    epfl.mkdir()
    settings = write_epfl(epfl, SIM)
    refused(epfl, "the unit of n_src", settings=BOX, hint="such as '1e48 s-1 Mpc-3', 's-1 per cell'")
    for key, match in (("n_src_unit", "the unit of n_src"), ("box_size", "the size of the box")):
        refused(epfl, match, settings={k: v for k, v in settings.items() if k != key}, hint=f"--set {key}=")
    refused(epfl, "n_src: expected a unit such as", settings={**settings, "n_src_unit": "bananas"})


def test_all_that_files_lack_is_asked_for_at_once(tmp_path):
    write_epfl(tmp_path, SIM)
    refused(
        tmp_path,
        "do not say the size of the box, the unit of n_src",
        hint="for example: --set box_size=714.2857 --set n_src_unit='s-1 per cell'",
    )
    c2ray = tmp_path / "c2ray"
    c2ray.mkdir()
    write_c2ray(c2ray, SIM)
    refused(
        c2ray,
        "do not say nbox_fine, the size of the box, f_gamma, lifetime_myr",
        hint="--set nbox_fine=13824 --set box_size=714.2857 --set f_gamma=30 --set lifetime_myr=10, or",
    )


def test_settings_that_contradict_the_file(tmp_path):
    write_npz(tmp_path, SIM)
    refused(tmp_path, "the file says", settings={"box_size": "100"})
    refused(tmp_path, "H0 = 60, the file says 70", settings={"H0": "60"})
    open_simulation(tmp_path, settings={**BOX, "H0": "70"})


def test_pickles_are_never_loaded(tmp_path):
    settings = write_epfl(tmp_path, SIM)
    np.save(tmp_path / "rho_z9.000.npy", np.array([[[{"a": 1}]]], dtype=object), allow_pickle=True)
    refused(tmp_path, "pickled Python objects, which are never loaded", settings=settings)


def test_archives_that_expand_beyond_their_shape(tmp_path):
    write_npz(tmp_path, SIM)
    path = tmp_path / "box_z9.000.npz"
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["xi.npy"] += bytes(10_000_000)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    assert peak_of(lambda: refused(tmp_path, "the archive declares", file=path.name)) < 5e6


def test_chunks_that_expand_beyond_their_shape(tmp_path):
    write_hdf5(tmp_path, SIM, chunks=(1, 6, 6, 6), compression="gzip")
    path = tmp_path / "box.h5"
    with h5py.File(path, "r+") as file:
        file["xi"].id.write_direct_chunk((0, 0, 0, 0), zlib.compress(bytes(50_000_000)))
    assert peak_of(lambda: refused(tmp_path, "to expand to 864 bytes; received more", file="box.h5")) < 5e6


@pytest.mark.parametrize("codec", ["zstd", "gzip", "blosc"])
def test_zarr_chunks_that_expand_beyond_their_shape(tmp_path, codec):
    codecs = {"zstd": ZstdCodec(), "gzip": GzipCodec(), "blosc": BloscCodec()}
    for name, cells in (("small", 6), ("large", 200)):
        group = zarr.open_group(tmp_path / name, mode="w")
        group.attrs.update(box_size=10.0, redshift=8.0)
        array = group.create_array(
            "xi", shape=(cells,) * 3, chunks=(cells,) * 3, dtype="f4", compressors=[codecs[codec]]
        )
        array.attrs["units"] = "1"
        array[...] = 0.5
    assert open_simulation(tmp_path / "small")["xi"].shape == (1, 6, 6, 6)
    shutil.copy(tmp_path / "large/xi/c/0/0/0", tmp_path / "small/xi/c/0/0/0")
    assert peak_of(lambda: refused(tmp_path / "small", "to expand to 864 bytes")) < 5e6


def test_a_zarr_shape_that_nothing_fills(tmp_path):
    group = zarr.open_group(tmp_path / "box.zarr", mode="w")
    group.attrs.update(box_size=10.0, redshift=8.0)
    group.create_array("xi", shape=(2048, 1024, 1024), chunks=(16,) * 3, dtype="f4").attrs["units"] = "1"
    assert peak_of(lambda: refused(tmp_path, "needs 8589934592 bytes a snapshot", file="box.zarr")) < 20e6


def test_links_out_of_an_hdf5_file(tmp_path):
    write_hdf5(tmp_path, SIM)
    secret = tmp_path / "elsewhere" / "secret.h5"
    secret.parent.mkdir()
    with h5py.File(secret, "w") as file:
        file["xi"] = SIM["xi"].values
    (tmp_path / "elsewhere" / "raw.bin").write_bytes(SIM["xi"].values.tobytes())
    with h5py.File(tmp_path / "box.h5", "r+") as file:
        del file["xi"]
        file["xi"] = h5py.ExternalLink(str(secret), "xi")
    refused(tmp_path, "received a link to", file="box.h5", hint="not followed")
    with h5py.File(tmp_path / "box.h5", "r+") as file:
        del file["xi"]
        raw = [(str(tmp_path / "elsewhere" / "raw.bin"), 0, h5py.h5f.UNLIMITED)]
        file.create_dataset("xi", shape=SIM["xi"].shape, dtype="f4", external=raw).attrs["units"] = "1"
    refused(tmp_path, "received storage in other files", file="box.h5")
    with h5py.File(tmp_path / "box.h5", "r+") as file:
        del file["xi"]
        layout = h5py.VirtualLayout(SIM["xi"].shape, "f4")
        layout[...] = h5py.VirtualSource(str(secret), "xi", shape=SIM["xi"].shape)
        file.create_virtual_dataset("xi", layout)
        file["xi"].attrs["units"] = "1"
    refused(tmp_path, "received storage in other files", file="box.h5")


def test_nothing_there(tmp_path):
    refused(tmp_path / "nowhere", "no such file or folder")
    refused(tmp_path, "expected files of one of the formats .* received nothing")
    (tmp_path / "notes.txt").write_text("hello")
    refused(tmp_path, "received notes.txt", hint="pinion: PINION's rho_z*.npz")
    (tmp_path / "deeper").mkdir()
    refused(tmp_path, "received deeper, notes.txt", hint=f"name them ({tmp_path / 'deeper'})")
    refused(tmp_path, "expected files of c2ray; received deeper, notes.txt", format="c2ray")
    refused(tmp_path, "--format: expected one of zarr, npz", format="fortran")


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"CDF\x02", "box_z8.nc is NetCDF 3: `nccopy -k nc4"),
        (b"SIMPLE  =   T", "box_z8.nc is FITS: write its arrays as HDF5"),
        (b"\x80\x04\x95", "box_z8.nc is a Python pickle, which is never loaded"),
        (b"\x1f\x8b\x08", "box_z8.nc is compressed by gzip: unpack it"),
        (b"PK\x03\x04", "box_z8.nc is a zip archive"),
    ],
)
def test_what_no_reader_takes_is_known_by_its_first_bytes(head, what, tmp_path):
    (tmp_path / "box_z8.nc").write_bytes(head + bytes(100))
    refused(tmp_path, "received box_z8.nc", hint=what)


@pytest.mark.filterwarnings("ignore:not used")
def test_an_ambiguous_folder_lists_the_candidates(tmp_path):
    write_npz(tmp_path, SIM)
    settings = write_epfl(tmp_path, SIM)
    refused(tmp_path, r"files of one format; received npz: 2 files .*; epfl: 6 files", hint="--format")
    assert open_simulation(tmp_path, format="npz").sizes["redshift"] == 2
    assert open_simulation(tmp_path, format="epfl", settings=settings).sizes["redshift"] == 2


@pytest.fixture
def nobody():
    """For a while not the user who may read everything."""
    if os.name != "posix":
        pytest.skip("permissions are another matter here")
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield
    os.seteuid(user)


def test_files_that_may_not_be_read(nobody):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_npz(folder, SIM)
        (folder / "box_z9.000.npz").chmod(0)
        refused(folder, r"cannot be read: .*Permission", file="box_z9.000.npz")
        for write, pattern in (
            (write_21cmfast, "coeval_z9*"),
            (write_hdf5, "box.h5"),
            (write_epfl, "rho_z9*"),
        ):
            other = folder / pattern[:3]
            other.mkdir()
            settings = write(other, SIM)
            (victim,) = other.glob(pattern)
            victim.chmod(0)
            refused(other, r"cannot be read: .*Permission", settings=settings, file=victim.name)
        folder.chmod(0)
        with pytest.raises(InputError, match=r"cannot be read: .*Permission"):
            open_simulation(folder)
        with pytest.raises(InputError, match=r"cannot be written: .*Permission"):
            write_simulation(SIM, folder / "sim.zarr")
        folder.chmod(0o700)


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    settings = write_epfl(tmp_path, SIM)
    sim = open_simulation(tmp_path, settings=settings)
    shutil.rmtree(tmp_path)
    with pytest.raises(InputError, match=r"cannot be read: .*No such file"):
        sim["xi"].values  # noqa: B018 (reading is what raises)


def test_a_part_of_a_box_is_not_a_box(tmp_path, simulation):
    write_simulation(simulation, tmp_path / "whole.zarr")
    xr.open_zarr(tmp_path / "whole.zarr").isel(x=slice(0, 6)).drop_encoding().to_zarr(
        tmp_path / "part.zarr", consolidated=False, zarr_format=3
    )
    refused(
        tmp_path / "part.zarr",
        "cell centres of a box of",
        hint="a sub-volume of a periodic box is not periodic",
    )


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "the number of sources first"),
        ("two\n1 1 1 5 0", "numbers only"),
        ("2\n1 1 1 5.0 0\n1 1 2", "expected 2 sources of 5 to 12 numbers each; received 8 numbers"),
        ("1\n0 1 1 5 0", r"source 1: expected cells from 1 to"),
        ("1\n7 1 1 5 0", r"source 1: expected cells from 1 to"),
        ("1\n1.5 1 1 5 0", r"source 1: expected cells from 1 to"),
        ("1\n1 1 1 -5 0", "source 1: expected a finite strength, not negative"),
        ("1\n1 1 1 nan 0", "source 1: expected a finite strength"),
        ("-1\n", "the number of sources first"),
        ("99999999999999\n1 1 1 1 1", "expected 99999999999999 sources"),
    ],
)
def test_damaged_source_lists(tmp_path, text, match):
    settings = write_pyc2ray(tmp_path, SIM)
    (tmp_path / "sources_z9.000.txt").write_text(text)
    refused(tmp_path, match, settings=settings, file="sources_z9.000.txt")


def test_source_lists_wrap_use_fortran_exponents_and_share_cells(tmp_path):
    settings = write_c2ray(tmp_path, SIM, wrapped=True)
    np.testing.assert_allclose(
        open_simulation(tmp_path, settings=settings)["n_src"].values, SIM["n_src"].values, rtol=1e-5
    )
    photons = tmp_path / "photons"
    photons.mkdir()
    settings = write_pyc2ray(photons, SIM)
    (photons / "sources_z9.000.txt").write_text(
        "3\n 1 1 1 1.0D+54 1.0\n 6 5 4 2.0D+54\n 1.0\n 1 1 1 3E54 1.0\n"
    )
    n_src = open_simulation(photons, settings=settings)["n_src"].values[0]
    volume = (500 / 0.7 / 6) ** 3
    assert n_src[0, 0, 0] == pytest.approx(4e6 / volume, rel=1e-6)
    assert n_src[5, 4, 3] == pytest.approx(2e6 / volume, rel=1e-6)
    assert np.count_nonzero(n_src) == 2
    (photons / "sources_z9.000.txt").write_text("0\n")
    assert not open_simulation(photons, settings=settings)["n_src"].values[0].any()


def test_a_list_without_a_redshift_shines_always(tmp_path):
    settings = write_pyc2ray(tmp_path, SIM)
    for path in tmp_path.glob("sources*"):
        path.unlink()
    write_photons(tmp_path / "src.txt", SIM, SIM["n_src"].values[0].astype(np.float64))
    n_src = open_simulation(tmp_path, settings=settings)["n_src"].values
    np.testing.assert_array_equal(n_src[0], n_src[1])
    np.testing.assert_allclose(n_src[0], SIM["n_src"].values[0], rtol=1e-5)


def test_pyc2ray_counts_photons_with_helium(tmp_path):
    settings = write_pyc2ray(tmp_path, SIM)
    for path in tmp_path.glob("sources*"):
        path.unlink()
    for redshift, n_src in zip(("9.000", "8.397"), SIM["n_src"].values, strict=True):
        write_masses(
            tmp_path / f"{redshift}-coarsest_sources.dat", SIM, n_src.astype(np.float64), weight=1.222
        )
    found = open_simulation(tmp_path, settings={**settings, "f_gamma": "30", "lifetime_myr": "10"})
    np.testing.assert_allclose(found["n_src"].values, SIM["n_src"].values, rtol=1e-5)


def test_sources_alone_need_a_mesh(tmp_path):
    write_masses(tmp_path / "9.000-coarsest_sources.dat", SIM, SIM["n_src"].values[0].astype(np.float64))
    settings = {"preset": "500/h", "f_gamma": "30", "lifetime_myr": "10"}
    refused(tmp_path, "do not say mesh", settings=settings, hint="--set mesh=")
    found = open_simulation(tmp_path, settings={**settings, "mesh": "6"})
    np.testing.assert_allclose(found["n_src"].values[0], SIM["n_src"].values[0], rtol=1e-5)


def test_a_raw_file_that_is_something_else(tmp_path):
    settings = write_pyc2ray(tmp_path, SIM)
    write_raw(tmp_path / "xfrac_z9.000.dat", SIM["xi"].values[0], "f4")
    refused(
        tmp_path, "it is truncated, damaged or something else", settings=settings, file="xfrac_z9.000.dat"
    )
