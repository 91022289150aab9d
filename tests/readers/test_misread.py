"""What must not be read as something else: it is refused, or said, by name."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr
from numcodecs import Zstd

from reion.errors import InputError
from reion.readers import open_simulation
from reion.readers.filenames import redshift_of
from reion.simulation.contract import check_simulation
from tests.readers.corpus import SIM
from tests.readers.corpus.arrays import hdf5, header, mapping
from tests.readers.corpus.codes import twentyonecmfast_4_0, twentyonecmfast_4_3, twentyonecmfast_cache
from tests.readers.layouts import snapshots, write_21cmfast, write_c2ray, write_epfl, write_npz, write_pyc2ray


def read(source, settings=None):
    return check_simulation(open_simulation(source, settings=settings))


def refused(source, match, *, settings=None, hint=None):
    with pytest.raises(InputError, match=match) as caught:
        read(source, settings)
    if hint is not None:
        assert hint in str(caught.value.hint)


def said(source, settings=None):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sim = read(source, settings)
    return sim, [str(warning.message) for warning in caught]


# What was never written


@pytest.mark.parametrize("kind", ["hdf5", "zarr", "shard"])
def test_a_density_with_chunks_that_were_never_written_is_refused(kind, tmp_path):
    if kind == "hdf5":
        with h5py.File(hdf5(tmp_path), "r+") as file:
            del file["n_igm"]
            part = file.create_dataset("n_igm", shape=SIM["n_igm"].shape, dtype="f4", chunks=(1, 2, 4, 4))
            part[0] = SIM["n_igm"].values[0]
            part[1, :2] = SIM["n_igm"].values[1, :2]
            part.attrs["units"] = "g cm-3"
        path = tmp_path / "box.h5"
    else:
        path = tmp_path / "box.zarr"
        group = zarr.open_group(path, mode="w")
        group.attrs.update(box_size=16.0)
        group.create_array("redshift", data=SIM["redshift"].values)
        shards = {"shards": (1, 4, 4, 4)} if kind == "shard" else {}
        array = group.create_array(
            "n_igm", shape=SIM["n_igm"].shape, dtype="f4", chunks=(1, 2, 4, 4), **shards
        )
        array[0] = SIM["n_igm"].values[0]
        array[1, :2] = SIM["n_igm"].values[1, :2]
        array.attrs["units"] = "g cm-3"
    refused(path, "n_igm: 1 of 4 chunks were never written, or were deleted", hint="gas is everywhere")


def test_a_density_that_was_never_written_at_all_is_refused(tmp_path):
    with h5py.File(hdf5(tmp_path), "r+") as file:
        del file["n_igm"]
        file.create_dataset("n_igm", shape=SIM["n_igm"].shape, dtype="f4").attrs["units"] = "g cm-3"
    refused(tmp_path, "n_igm: 1 of 1 chunks were never written")


def test_a_deleted_chunk_of_a_density_is_refused(tmp_path):
    group = zarr.open_group(tmp_path / "box.zarr", mode="w", zarr_format=2)
    group.attrs.update(box_size=16.0)
    group.create_array("redshift", data=SIM["redshift"].values)
    for name in ("n_igm", "xi"):
        array = group.create_array(name, data=SIM[name].values, chunks=(1, 4, 4, 4), fill_value=0)
        array.attrs["units"] = SIM[name].units
    read(tmp_path / "box.zarr")
    (tmp_path / "box.zarr" / "xi" / "0.0.0.0").unlink()
    sim, texts = said(tmp_path / "box.zarr")
    assert not sim["xi"].values[0].any()
    assert np.array_equal(sim["xi"].values[1], SIM["xi"].values[1])
    assert "xi: 1 of 2 chunks were never written, or were deleted: xi is zero there" in texts[0]
    (tmp_path / "box.zarr" / "n_igm" / "1.0.0.0").unlink()
    refused(tmp_path / "box.zarr", "n_igm: 1 of 2 chunks")


def test_a_box_without_gas_is_refused(tmp_path):
    for values, settings in ((np.zeros((4, 4, 4)), {}), (-np.ones((4, 4, 4)), {"n_igm_unit": "overdensity"})):
        np.savez(tmp_path / "box_z8.0.npz", n_igm=values, redshift=8.0, box_size=16.0)
        refused(tmp_path, "expected gas; received a density of zero in all 64 cells", settings=settings)


def test_an_empty_cell_is_no_box_without_gas(tmp_path):
    values = SIM["n_igm"].values[0].copy()
    values[0] = 0
    np.savez(tmp_path / "box_z8.0.npz", n_igm=values, redshift=8.0, box_size=16.0)
    sim = read(tmp_path)
    assert not sim["n_igm"][0, 0].values.any()


def test_an_overdensity_given_as_density_is_named(tmp_path):
    delta = np.random.default_rng(0).uniform(-0.9, 2, (4, 4, 4))
    np.savez(tmp_path / "box_z8.0.npz", n_igm=delta, redshift=8.0, box_size=16.0)
    refused(tmp_path, "expected no negative values", hint="is this an overdensity")


# What attributes and names say


def test_numbers_that_are_fill_values_are_refused(tmp_path):
    with h5py.File(hdf5(tmp_path), "r+") as file:
        file["xi"].attrs["_FillValue"] = np.float32(-1)
        file["xi"][1, 2, 3, 1] = -1
    refused(tmp_path, r"xi at z = 8: expected finite numbers; received 1 that are not, .*\(2, 3, 1\)")
    with h5py.File(tmp_path / "box.h5", "r+") as file:
        file["xi"].attrs["scale_factor"] = "many"
    refused(tmp_path, "xi: expected one finite number as its scale_factor; received 'many'")


def test_axes_that_contradict_the_names_of_dimensions_are_refused(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    group = zarr.open_group(folder / "box.zarr", mode="w")
    group.attrs.update(box_size=16.0, redshift=8.0)
    group.create_array("xi", data=SIM["xi"].values[0], dimension_names=("z", "y", "x")).attrs["units"] = "1"
    settings = mapping(folder, 'axes = "xyz"\n[xi]\narray = "xi"\n')
    refused(folder / "box.zarr", "axes = 'xyz', the file names the dimensions z, y, x", settings=settings)
    sim = read(folder / "box.zarr", mapping(folder, '[xi]\narray = "xi"\n'))
    np.testing.assert_array_equal(sim["xi"].values[0], SIM["xi"].values[0].T)


@pytest.mark.parametrize(
    ("redshifts", "match"),
    [
        (
            (70.0, 12.0, 11.0, 10.0, 9.0),
            "nothing lies between z = 70 .* and z = 12 .*: is a redshift misread",
        ),
        ((12.0, 11.0, 10.0, 6.0, 5.8), "nothing lies between z = 10 .* and z = 6 "),
        (
            (12.0, 11.0, 10.0005, 10.0),
            "z = 10.0005 .* and z = 10 .* are almost the same redshift: is one a copy",
        ),
    ],
)
def test_odd_series_are_said(redshifts, match, tmp_path):
    for redshift in redshifts:
        np.savez(
            tmp_path / f"box_z{redshift:.4f}.npz", xi=SIM["xi"].values[0], redshift=redshift, box_size=9.0
        )
    with pytest.warns(UserWarning, match=match):
        open_simulation(tmp_path)


def test_usual_series_are_not(tmp_path):
    for redshift in (12.0, 11.0, 10.0, 9.0, 8.5, 8.0, 7.5, 7.0, 6.5, 6.0):
        np.savez(
            tmp_path / f"box_z{redshift:06.3f}.npz", xi=SIM["xi"].values[0], redshift=redshift, box_size=9.0
        )
    assert said(tmp_path)[1] == []


# What is not there


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (write_npz, "box_z8.000.npz"),
        (write_epfl, "xHII_z8.000.npy"),
        (write_c2ray, "8.000n_all.dat"),
        (write_pyc2ray, "xfrac_z8.000.dat"),
        (write_21cmfast, "coeval_z8.000.h5"),
    ],
)
def test_links_that_lead_nowhere_and_folders_of_a_snapshots_name_are_refused(write, name, tmp_path):
    settings = write(tmp_path, SIM)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to(tmp_path / "moved" / name)
    refused(tmp_path, "the link leads nowhere", settings=settings)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    refused(tmp_path, "expected a file; received a folder of that name", settings=settings)


@pytest.mark.parametrize(
    "name",
    [
        "density_z8.000.fits",
        "sources_z8.000.dat.bz2",
        "xfrac_z8.000.npz.xz",
        "v_x_z8.000.npy",
        "baryons.npy",
        "snap_z7.0/",
    ],
)
def test_data_that_no_reader_takes_are_named(name, tmp_path):
    write_npz(tmp_path, SIM)
    if name.endswith("/"):
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_bytes(b"any")
    for left_alone in ("density.py", "density.png", "xi.log", "irate_z8.000.npy", "notes.txt"):
        (tmp_path / left_alone).touch()
    _, texts = said(tmp_path)
    assert texts == [f"not used: {tmp_path / name}".rstrip("/")]


def test_a_list_of_haloes_that_nobody_asked_for_is_named(tmp_path):
    with h5py.File(hdf5(tmp_path), "r+") as file:
        file["halos/mass"], file["halos/position"] = np.ones(9), np.ones((9, 3))
        file["stars/age"] = np.ones(9)
    assert said(tmp_path)[1] == ["not used: halos in box.h5"]


def test_sources_of_21cmfast_under_names_of_no_version_are_named(tmp_path):
    write_21cmfast(tmp_path, SIM)
    for path in tmp_path.glob("*.h5"):
        with h5py.File(path, "r+") as file:
            fields = file["EmissivityFields/OutputFields"]
            fields.move("fesc_weighted_sfrd", "new_sfrd")
    sim, texts = said(tmp_path)
    assert "n_src" not in sim
    assert texts[0].startswith("not used: EmissivityFields/OutputFields/new_sfrd in coeval_z8.000.h5")


@pytest.mark.parametrize(
    ("name", "redshift"),
    [
        ("box_nz64_z8.0.h5", 8.0),
        ("x64y64z64_z7.5.h5", 7.5),
        ("x64y64z64.h5", None),
        ("nx64_ny64_z64.h5", None),
        ("z8p5.npy", 8.5),
        ("xi_z8,5.npy", 8.5),
        ("snap_z008p397.h5", 8.397),
        ("coeval_z10.000_seed8.0.h5", 10.0),
        ("viz8.h5", None),
        ("z8.0-9.0.npy", None),
        ("xi_z8,5-9,5.npy", None),
        ("z6-12.h5", None),
        ("z6to12.h5", None),
        ("z6.0_to_12.0.h5", None),
        ("z6.0-z12.0.h5", None),
        ("z8_5.npy", None),
        ("z8.0-2.npz", 8.0),
        ("z8.0_2048.npz", 8.0),
        ("z9_64x64x64.npy", 9.0),
        ("z10_2024-01-02.h5", 10.0),
    ],
)
def test_the_redshift_in_a_name(name, redshift):
    assert redshift_of(Path(name)) == redshift


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("z8.0-9.0", "'xi_z8.0-9.0' may be a range of redshifts, or have decimals behind z8.0"),
        ("z8_5", "'xi_z8_5' may be a range"),
        ("z0850", "received z = 850, a whole number from the file's name: does it lack its point"),
        ("z085", "received z = 85, a whole number"),
        ("z850.0", "expected a redshift between 0 and 200; received z = 850"),
    ],
)
@pytest.mark.parametrize("ending", [".npy", ".h5"])
def test_a_redshift_that_cannot_be_is_asked_about(name, match, ending, tmp_path):
    path = tmp_path / f"xi_{name}{ending}"
    if ending == ".npy":
        np.save(path, SIM["xi"].values[0])
    else:
        with h5py.File(path, "w") as file:
            file["xi"] = SIM["xi"].values[0]
            file["xi"].attrs["units"] = "1"
    settings = {"box_size": "9", **mapping(tmp_path, '[xi]\narray = "xi"\n')}
    refused(tmp_path, match, settings=settings)
    with pytest.raises(InputError) as error:
        open_simulation(tmp_path, settings=settings)
    assert "8.5" in str(error.value.hint) or "sim_z8.397" in str(error.value.hint)
    said_so = mapping(tmp_path, '[xi]\narray = "xi"\n[redshift]\nvalue = 8.5\n')
    if ending == ".h5":
        assert read(tmp_path, {**settings, **said_so})["redshift"].values.tolist() == [8.5]


def test_a_name_that_says_another_redshift_than_the_file_is_said(tmp_path):
    for name in ("box_z9.0.npz", "box_z8.4.npz", "box_z8.npz"):
        np.savez(tmp_path / name, xi=SIM["xi"].values[0], redshift=8.397, box_size=9.0)
        texts = said(tmp_path / name)[1]
        assert len(texts) == (name == "box_z9.0.npz"), (name, texts)
    assert "the file says z = 8.397, its name z = 9" in said(tmp_path / "box_z9.0.npz")[1][0]


def test_scale_factors_that_are_taken_for_redshifts_are_said(tmp_path):
    for scale_factor in (0.1, 0.11, 0.12):
        np.savez(
            tmp_path / f"box_{scale_factor}.npz", xi=SIM["xi"].values[0], redshift=scale_factor, box_size=9.0
        )
    with pytest.warns(UserWarning, match=r"all redshifts are below 1, .*: are they scale factors"):
        open_simulation(tmp_path / "box_0.1.npz")


@pytest.mark.parametrize(
    ("storage", "name"),
    [({"compression": "lzf"}, "LZF"), ({"scaleoffset": 3}, "scale-offset")],
)
def test_filters_that_are_not_read_are_named(storage, name, tmp_path):
    hdf5(tmp_path, chunks=(1, 4, 4, 4), **storage)
    refused(tmp_path, f"fletcher32, or none; received {name}", hint="h5repack -f GZIP=4 box.h5 new.h5")


def test_a_mapping_without_tables_is_told_how(tmp_path):
    hdf5(tmp_path)
    settings = mapping(tmp_path, 'n_igm = "n_igm"\n')
    refused(tmp_path, r"expected a table, \[n_igm\]; received n_igm = 'n_igm'", settings=settings)


def test_a_link_to_a_file_is_a_file(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    write_npz(elsewhere, SIM)
    (tmp_path / "run").mkdir()
    for path in elsewhere.iterdir():
        (tmp_path / "run" / path.name).symlink_to(path)
    (tmp_path / "run" / "latest.log").symlink_to(tmp_path / "nowhere")
    assert read(tmp_path / "run").sizes["redshift"] == 2


def test_a_link_in_a_file_that_leads_nowhere_is_named(tmp_path):
    with h5py.File(hdf5(tmp_path), "r+") as file:
        del file["xi"]
        file["xi"] = h5py.SoftLink("/somewhere/else")
    refused(tmp_path, "xi: the link to '/somewhere/else' leads nowhere")


# 21cmFAST by name


def test_two_runs_are_not_joined(tmp_path):
    write_21cmfast(tmp_path, SIM)
    with h5py.File(tmp_path / "coeval_z8.000.h5", "r+") as file:
        for group in file.values():
            group.create_group("InputParameters/astro_params").attrs["F_ESC10"] = -1.0
    with h5py.File(tmp_path / "coeval_z9.000.h5", "r+") as file:
        for group in file.values():
            group.create_group("InputParameters/astro_params").attrs["F_ESC10"] = -1.3
    refused(tmp_path, "expected the files of one run; F_ESC10 is -1.3 here and -1.0 in .*coeval_z8.000.h5")
    with h5py.File(tmp_path / "coeval_z8.000.h5", "r+") as file:
        for group in file.values():
            group["InputParameters"].attrs["random_seed"] = 12
    refused(tmp_path, "expected one simulation; received 2: coeval_seed12, coeval_seed11")


def test_two_seeds_in_one_cache_are_two_simulations(tmp_path):
    twentyonecmfast_cache(tmp_path / "run") if (tmp_path / "run").mkdir() is None else None
    assert read(tmp_path / "run").sizes["redshift"] == 2
    seed = tmp_path / "run" / "3f8a1c"
    shutil.copytree(seed / "11", seed / "12")
    for path in (seed / "12").rglob("*.h5"):
        with h5py.File(path, "r+") as file:
            for group in file.values():
                if "InputParameters" in group:
                    group["InputParameters"].attrs["random_seed"] = 12
    refused(tmp_path / "run", "expected one simulation; received 2: 21cmfast_seed11, 21cmfast_seed12")


def test_light_cones_and_version_3_are_named(tmp_path):
    with h5py.File(tmp_path / "cone.h5", "w") as file:
        file.attrs["21cmFAST-version"] = "4.3.1"
        file["lightcones/brightness_temp"] = np.zeros((4, 4, 40), np.float32)
    refused(tmp_path, "received a light cone of 21cmFAST", hint="run_coeval")
    (tmp_path / "cone.h5").unlink()
    with h5py.File(tmp_path / "PerturbedField_z8.0.h5", "w") as file:
        file.attrs["version"] = "3.3.1"
        file["PerturbedField/density"] = np.zeros((4, 4, 4), np.float32)
        for name in ("user_params", "cosmo_params", "astro_params", "flag_options"):
            file.create_group(name)
    refused(tmp_path, "expected a file of 21cmFAST 4; received one of version 3.3.1", hint="mapping")


def test_the_photons_so_far_are_the_files_own(tmp_path):
    """Of a series that starts late the integral of n_src would lack what shone before."""
    for write in (twentyonecmfast_4_0, twentyonecmfast_4_3):
        folder = tmp_path / write.__name__
        folder.mkdir()
        write(folder)
        first = read(folder)["n_ion"].values[0]
        assert first.min() > 0
        np.testing.assert_array_equal(first, first[0, 0, 0])


def test_velocities_are_proper_kilometres_per_second(tmp_path):
    write_21cmfast(tmp_path, SIM)
    for path in tmp_path.glob("*.h5"):
        with h5py.File(path, "r+") as file:
            file["PerturbedField/OutputFields/velocity_z"] = np.full((4, 4, 4), 1.0e-17, np.float32)
    sim = read(tmp_path)
    for index, redshift in enumerate(sim["redshift"].values):
        expected = 1.0e-17 * 3.0856775814913673e19 / (1 + redshift)
        np.testing.assert_allclose(sim["velocity_z"].values[index], expected, rtol=1e-6)
    assert sim["velocity_z"].units == "km s-1"


# Files that others use, and hostile ones


@pytest.mark.skipif(os.name != "posix", reason="locks are another matter here")
def test_a_file_that_another_process_writes_is_not_called_damaged(tmp_path):
    path = hdf5(tmp_path)
    code = (
        f"import h5py, sys; f = h5py.File({str(path)!r}, 'r+'); print('open', flush=True); sys.stdin.read()"
    )
    environment = {key: value for key, value in os.environ.items() if key != "HDF5_USE_FILE_LOCKING"}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        try:
            refused(path, "cannot be locked for reading", hint="HDF5_USE_FILE_LOCKING=FALSE")
        finally:
            writer.communicate(b"")
    assert read(path).sizes["redshift"] == 2


def test_frames_without_size_are_expanded_under_a_bound(tmp_path):
    group = zarr.open_group(tmp_path / "box.zarr", mode="w", zarr_format=2)
    group.attrs.update(box_size=16.0, redshift=8.0)
    array = group.create_array(
        "xi", shape=(4, 4, 4), dtype="f4", chunks=(4, 4, 4), compressors=Zstd(), fill_value=0.0
    )
    array[...] = SIM["xi"].values[0]
    array.attrs["units"] = "1"
    repeated = (
        struct.pack("<I", 0xFD2FB528) + b"\x00\x58" + struct.pack("<I", (120_000 << 3) | 2)[:3] + b"\x00"
    )
    bomb = repeated[:-4] + struct.pack("<I", (120_000 << 3) | 2)[:3] + b"\x00" + b"\x03\x00\x00\x00" * 2
    for frame in (repeated, bomb, repeated[:8], b"\x28\xb5\x2f\xfd\x00"):
        (tmp_path / "box.zarr" / "xi" / "0.0.0").write_bytes(frame)
        refused(
            tmp_path / "box.zarr", "to expand to 256 bytes; it declares none or more|chunk cannot be read"
        )


def test_a_shard_whose_index_is_damaged_is_refused(tmp_path):
    group = zarr.open_group(tmp_path / "box.zarr", mode="w")
    group.attrs.update(box_size=16.0, redshift=8.0)
    array = group.create_array("xi", shape=(4, 4, 4), dtype="f4", chunks=(2, 2, 2), shards=(4, 4, 4))
    array[...] = SIM["xi"].values[0]
    array.attrs["units"] = "1"
    shard = tmp_path / "box.zarr" / "xi" / "c" / "0" / "0" / "0"
    whole = shard.read_bytes()
    read(tmp_path / "box.zarr")
    shard.write_bytes(whole[:-132] + struct.pack("<QQ", 0, 10_000) + whole[-116:])
    refused(tmp_path / "box.zarr", "the index of a shard points beyond")
    shard.write_bytes(whole[:40])
    refused(tmp_path / "box.zarr", "shorter than its index")


# Haloes


def write_haloes(folder: Path, text: str, toml: str, **settings: str) -> dict[str, str]:
    folder.mkdir(exist_ok=True)
    with h5py.File(folder / "box_z9.000.h5", "w") as file:
        header(file)
        file["n_igm"] = next(snapshots(SIM))[1]["n_igm"]
        file["n_igm"].attrs["units"] = "g cm-3"
    (folder / "cat_z9.000.txt").write_text(text)
    return {**mapping(folder, toml), **settings}


def test_clouds_share_their_mass_and_wrap_around(tmp_path):
    settings = write_haloes(
        tmp_path / "run",
        "# x y z m\n0 8 8 64\n15.9 2 2 128\n",
        '[halos]\nposition_unit = "Mpc"\nmass_unit = "Msun"\ndeposit = "cloud_in_cell"\n',
    )
    n_src = read(tmp_path / "run", settings)["n_src"]
    assert n_src.units == "Msun Mpc-3"
    assert float(n_src.sum()) * 64 == pytest.approx(192)
    corner = n_src.values[0][np.ix_([3, 0], [1, 2], [1, 2])]
    assert corner[:, 0, 0].sum() > corner[0, 1, 1] == pytest.approx(64 / 8 / 64)
    sim = open_simulation(tmp_path / "run", settings=settings)
    for part in ((0, slice(0, 1)), (0, slice(1, 3), slice(0, 2)), (0, slice(3, 4), slice(0, 1), slice(0, 1))):
        np.testing.assert_allclose(sim["n_src"][part].values, n_src.values[part], rtol=1e-6)


def test_photons_depend_on_mass_as_they_are_told(tmp_path):
    toml = '[halos]\nposition_unit = "Mpc"\nmass_unit = "Msun"\n'
    settings = write_haloes(tmp_path / "run", "# x y z m\n2 2 2 1e9\n6 2 2 1e10\n10 2 2 1e8\n", toml)
    shining = {**settings, "f_gamma": "20", "lifetime_myr": "10"}
    plain = read(tmp_path / "run", shining)["n_src"].values[0, :3, 0, 0].astype(float)
    assert plain[1] / plain[0] == pytest.approx(10)
    law = {
        "mass_slope": "0.5",
        "mass_pivot_msun": "1e9",
        "mass_cut_off_msun": "1e8",
        "mass_minimum_msun": "2e8",
    }
    shaped = read(tmp_path / "run", {**shining, **law})["n_src"].values[0, :3, 0, 0].astype(float)
    assert shaped[0] / plain[0] == pytest.approx(np.exp(-0.1), rel=1e-6)
    assert shaped[1] / plain[1] == pytest.approx(10**0.5 * np.exp(-0.01), rel=1e-6)
    assert shaped[2] == 0
    refused(tmp_path / "run", "expected f_gamma as well", settings={**settings, **law})
    refused(tmp_path / "run", "do not say lifetime_myr", settings={**settings, "f_gamma": "20"})


@pytest.mark.parametrize(
    ("text", "toml", "match"),
    [
        ("# x y z m\n1 1 1 1e9\n", 'mass_unit = "Msun"', "the unit of positions"),
        ("# x y z m\n1 1 1 1e9\n", 'position_unit = "Mpc"', "the unit of masses"),
        (
            "# x y z m\n1 1 1 1e9\n",
            'position_unit = "kg"\nmass_unit = "Msun"',
            "position_unit: expected a length",
        ),
        ("# x y z m\n1 1 1 1e9\n", 'position_unit = "Mpc"\nmass_unit = "Mpc"', "mass_unit: expected a mass"),
        (
            "# x y z m\n1 1 900 1e9\n",
            'position_unit = "Mpc"\nmass_unit = "Msun"',
            "halo 1: expected a position",
        ),
        ("# x y z m\n1 1 1 -1\n", 'position_unit = "Mpc"\nmass_unit = "Msun"', "halo 1: expected a finite m"),
        (
            "# x y z m\n1 nan 1 1\n",
            'position_unit = "Mpc"\nmass_unit = "Msun"',
            "halo 1: expected a position",
        ),
        ("1 1 1 1e9\n", 'position_unit = "Mpc"\nmass_unit = "Msun"', "expected x, y and z, or positions"),
        (
            "1 1 1 1e9\n",
            'x = 1\ny = 2\nz = 9\nmass = 4\nposition_unit = "Mpc"\nmass_unit = "Msun"',
            "column 9",
        ),
        (
            "1 1 1 1e9\n1 1\n",
            'x = 1\ny = 2\nz = 3\nposition_unit = "Mpc"',
            "expected 4 numbers on each of 2 lines",
        ),
        (  # as many in all as there should be
            "1 1 1 1e9\n1 1 1\n1 1 1 1e9 1\n",
            'x = 1\ny = 2\nz = 3\nmass = 4\nposition_unit = "Mpc"\nmass_unit = "Msun"',
            "expected 4 numbers on each of 3 lines; received 3 on line 2",
        ),
        (  # nothing in the second column
            "1,,1,1e9\n",
            'x = 1\ny = 2\nz = 3\nmass = 4\nposition_unit = "Mpc"\nmass_unit = "Msun"',
            "halo 1: expected a position",
        ),
        (
            "x,y,z,m\n1,1,1,1e9\n1,1,1,many\n",
            'position_unit = "Mpc"\nmass_unit = "Msun"',
            "expected numbers only",
        ),
        (
            "x,y,z,m\n1\n2\n",
            'position_unit = "Mpc"\nmass_unit = "Msun"',
            "expected a number for each of x, y, z, m; received 1",
        ),
        ("SIMPLE  =        T\n", 'position_unit = "Mpc"\nmass_unit = "Msun"', "is FITS: write its arrays"),
        ("hello\n", 'x = 1\ny = 2\nz = 3\nposition_unit = "Mpc"', "expected numbers only"),
        ("# x y z m\n1 1 1 1e9\n", 'file = "other_*.txt"', "there is no other_"),
        ("# x y z m\n1 1 1 1e9\n", 'deposit = "tsc"', "halos.deposit: Input should be"),
    ],
)
def test_catalogues_that_do_not_fit(text, toml, match, tmp_path):
    settings = write_haloes(tmp_path / "run", text, f"[halos]\n{toml}\n")
    refused(tmp_path / "run", match, settings=settings)


@pytest.mark.parametrize(("reach_mpc", "seen"), [(16.0, None), (10.9, "warned of"), (0.016, "refused")])
def test_many_haloes_that_leave_the_box_empty_have_a_wrong_unit(tmp_path, reach_mpc, seen):
    places = np.random.default_rng(0).uniform(0, reach_mpc, (200, 3))
    text = "# x y z m\n" + "".join(f"{x} {y} {z} 64\n" for x, y, z in places)
    settings = write_haloes(tmp_path / "run", text, '[halos]\nposition_unit = "Mpc"\nmass_unit = "Msun"\n')
    if seen == "refused":
        refused(tmp_path / "run", r"received 200 that reach only 0\.001 of its sides", settings=settings)
    elif seen == "warned of":
        with pytest.warns(UserWarning, match=r"haloes reach only 0\.68 of the sides of the box"):
            read(tmp_path / "run", settings)["n_src"].load()
    else:
        read(tmp_path / "run", settings)["n_src"].load()


@pytest.mark.parametrize(
    "text",
    [
        '"x","y","z","m"\n2,6,10,64\n',
        "x;y;z;m\n2,0;6,0;10,0;6,4e1\n",
        "# x y z m\n2,0 6,0 10,0 64\n",
        "name,x,,y,z,m\n1,2,,6,10,64\n",
        "x,y,z,type,m\n2,6,10,central,64\n",
    ],
)
def test_tables_as_programs_of_many_kinds_write_them(text, tmp_path):
    settings = write_haloes(tmp_path / "run", text, '[halos]\nposition_unit = "Mpc"\nmass_unit = "Msun"\n')
    n_src = read(tmp_path / "run", settings)["n_src"].values[0]
    assert np.argwhere(n_src).tolist() == [[0, 1, 2]]
    assert n_src.sum() * 64 == pytest.approx(64)


def test_the_columns_of_one_array_are_taken_by_their_numbers(tmp_path):
    toml = (
        '[halos]\nfile = "rows_*.h5"\nx = "halos/rows/2"\ny = "halos/rows/3"\nz = "halos/rows/4"\n'
        'mass = "halos/rows/{}"\nposition_unit = "Mpc"\nmass_unit = "Msun"\n'
    )
    settings = write_haloes(tmp_path / "run", "", toml.format(1))
    (tmp_path / "run" / "cat_z9.000.txt").unlink()
    with h5py.File(tmp_path / "run" / "rows_z9.0.h5", "w") as file:
        file["halos/rows"] = [[64.0, 2.0, 6.0, 10.0]]
    files = [str(path) for path in (tmp_path / "run").glob("*.h5")]
    n_src = read(files, settings)["n_src"].values[0]
    assert np.argwhere(n_src).tolist() == [[0, 1, 2]]
    settings.update(mapping(tmp_path / "run", toml.format(5)))
    refused(files, "expected a column 'halos/rows/5'; received halos/rows", settings=settings)


@pytest.mark.parametrize("nothing", ["# x y z m\n", "# a = 0.1\n0\n", "#ID Mvir X Y Z\n# Units: Msun\n"])
def test_before_the_first_haloes_there_are_no_sources(nothing, tmp_path):
    toml = '[halos]\nx = 1\ny = 2\nz = 3\nmass = 4\nposition_unit = "Mpc"\nmass_unit = "Msun"\n'
    settings = write_haloes(tmp_path / "run", nothing, toml)
    assert not read(tmp_path / "run", settings)["n_src"].values.any()
    write_haloes(tmp_path / "run", "", toml)
    refused(tmp_path / "run", "received an empty file", settings=settings)


def test_haloes_that_fill_a_part_of_the_box_are_said(tmp_path):
    rows = np.random.default_rng(0).uniform(0, 0.7 * 16, (200, 3))
    text = "# x y z m\n" + "\n".join(f"{x} {y} {z} 1e9" for x, y, z in rows)
    settings = write_haloes(tmp_path / "run", text, '[halos]\nposition_unit = "Mpc"\nmass_unit = "Msun"\n')
    _, texts = said(tmp_path / "run", settings)
    assert "is position_unit 'Mpc' right?" in texts[0]


def test_a_density_that_is_not_there_is_missed_beside_haloes_too(tmp_path):
    toml = '[halos]\nfile = "cat_*.txt"\nposition_unit = "Mpc"\nmass_unit = "Msun"\n'
    settings = write_haloes(tmp_path / "run", "# x y z m\n1 1 1 1e9\n", toml)
    with h5py.File(tmp_path / "run" / "box_z9.000.h5", "r+") as file:
        file.move("n_igm", "rho")
    refused(tmp_path / "run", "expected arrays named n_igm, .*received rho", settings=settings)


def test_sources_are_not_given_twice(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    write_npz(folder, SIM)
    (folder / "cat_z9.000.txt").write_text("# x y z m\n1 1 1 1e9\n")
    settings = mapping(folder, '[halos]\nposition_unit = "Mpc"\nmass_unit = "Msun"\n')
    refused(folder, r"expected sources once; received n_src and \[halos\]", settings=settings)
    refused(folder, "mass_slope: expected a list of haloes", settings={"mass_slope": "1"})


@pytest.mark.parametrize("deposit", ["nearest", "cloud_in_cell"])
@pytest.mark.parametrize("x", [-1e-16, -1e-300, 0.0, 16.0, 16.0 - 1e-15])
def test_no_halo_at_the_edge_is_lost(x, deposit, tmp_path):
    text = f"# x y z m\n{x!r} 2 2 64\n2 {x!r} {x!r} 64\n"
    toml = f'[halos]\nposition_unit = "Mpc"\nmass_unit = "Msun"\ndeposit = "{deposit}"\n'
    settings = write_haloes(tmp_path / "run", text, toml)
    sim = read(tmp_path / "run", settings)
    assert float(sim["n_src"].sum()) * 64 == pytest.approx(128)
    parts = [sim["n_src"][0, slice(start, start + 2)].values.sum() for start in (0, 2)]
    assert sum(parts) * 64 == pytest.approx(128)


@pytest.mark.parametrize(
    "setting",
    [{"f_gamma": "30"}, {"lifetime_myr": "10"}, {"mass_slope": "1"}, {"mean_molecular_weight": "1"}],
)
def test_what_does_not_change_photons_is_not_taken_with_them(setting, tmp_path):
    toml = '[halos]\nposition_unit = "Mpc"\nphotons = "rate"\n'
    settings = write_haloes(tmp_path / "run", "# x y z rate\n1 1 1 1e52\n", toml)
    assert read(tmp_path / "run", settings)["n_src"].units == "1e48 s-1 Mpc-3"
    refused(
        tmp_path / "run",
        f"--set {next(iter(setting))}: expected haloes by their mass",
        settings={**settings, **setting},
    )


def test_a_lifetime_without_photons_a_baryon_is_asked_about(tmp_path):
    toml = '[halos]\nposition_unit = "Mpc"\nmass_unit = "Msun"\n'
    settings = write_haloes(tmp_path / "run", "# x y z m\n1 1 1 1e9\n", toml)
    refused(tmp_path / "run", "expected f_gamma as well", settings={**settings, "lifetime_myr": "10"})


def test_columns_of_a_catalogue_are_found_behind_many_others(tmp_path):
    folder = tmp_path / "run"
    settings = write_haloes(
        folder, "", '[halos]\nfile = "haloes_*.h5"\nposition_unit = "Mpc"\nmass_unit = "Msun"\n'
    )
    (folder / "cat_z9.000.txt").unlink()
    with h5py.File(folder / "haloes_z9.000.h5", "w") as file:
        for number in range(40):
            file[f"a{number:02}"] = np.zeros(2)
        for name, values in {"x": [2, 6], "y": [2, 2], "z": [2, 2], "mvir": [64, 128]}.items():
            file[name] = np.array(values, np.float64)
    n_src = read(folder, settings)["n_src"]
    assert float(n_src.sum()) * 64 == pytest.approx(192)


# pyC2Ray's names


def test_whole_redshifts_of_pyc2ray_are_redshifts(tmp_path):
    """A list at z = 8 does not shine at 9 as well."""
    settings = write_pyc2ray(tmp_path, SIM)
    expected = read(tmp_path, settings).load()
    for path in [*tmp_path.glob("sources_z*"), *tmp_path.glob("xfrac_z*")]:
        path.rename(path.with_name(path.name.replace(".000", "")))
    sim = read(tmp_path, settings)
    for name in ("n_src", "xi"):
        np.testing.assert_array_equal(sim[name].values, expected[name].values)


@pytest.mark.parametrize(
    ("name", "match"),
    [("sources_8.txt", "ends in a whole number"), ("sources_z8_5.txt", "have decimals behind z8")],
)
def test_a_list_whose_name_may_say_a_redshift_does_not_shine_always(name, match, tmp_path):
    settings = write_pyc2ray(tmp_path, SIM)
    (tmp_path / "sources_z9.000.txt").unlink()
    (tmp_path / "sources_z8.000.txt").rename(tmp_path / name)
    refused(tmp_path, match, settings=settings, hint="name it like sources_z8.397.txt")


# Spin temperatures of 21cmFAST


def with_spin_temperatures(folder: Path, *, of: Sequence[str] = ("8.000", "9.000")) -> None:
    write_21cmfast(folder, SIM)
    for redshift in of:
        with h5py.File(folder / f"coeval_z{redshift}.h5", "r+") as file:
            file.copy("IonizedBox", "TsBox")
            del file["TsBox/OutputFields/neutral_fraction"]
            file["TsBox/OutputFields/spin_temperature"] = np.full((4, 4, 4), 10 * float(redshift), np.float32)
            file["TsBox/OutputFields/kinetic_temp_neutral"] = np.ones((4, 4, 4), np.float32)


def test_spin_temperatures_of_21cmfast_are_read(tmp_path):
    with_spin_temperatures(tmp_path)
    t_spin = read(tmp_path)["t_spin"]
    assert t_spin.units == "K"
    assert t_spin.values[:, 0, 0, 0].tolist() == [90.0, 80.0]


def test_spin_temperatures_at_some_redshifts_only_are_named(tmp_path):
    with_spin_temperatures(tmp_path, of=["8.000"])
    sim, texts = said(tmp_path)
    assert "t_spin" not in sim
    assert sim.sizes["redshift"] == 2
    assert texts == ["not used: TsBox in coeval_z8.000.h5, at z = 8, as other redshifts have none"]


def test_spin_temperatures_beyond_the_other_fields_are_named(tmp_path):
    with_spin_temperatures(tmp_path)
    with h5py.File(tmp_path / "coeval_z8.000.h5", "r+") as file:
        for name in ("PerturbedField", "EmissivityFields", "IonizedBox"):
            del file[name]
    sim, texts = said(tmp_path)
    assert sim["t_spin"].values[:, 0, 0, 0].tolist() == [90.0]
    assert texts == ["not used: TsBox in coeval_z8.000.h5, at z = 8, as other fields are not there"]


def test_a_spin_temperature_under_another_name_is_named(tmp_path):
    with_spin_temperatures(tmp_path)
    for path in tmp_path.glob("*.h5"):
        with h5py.File(path, "r+") as file:
            file["TsBox/OutputFields"].move("spin_temperature", "Ts")
    sim, texts = said(tmp_path)
    assert "t_spin" not in sim
    assert "TsBox/OutputFields/Ts in coeval_z8.000.h5" in texts[0]
