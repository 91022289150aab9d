"""Situations with arrays of any names: HDF5, NetCDF 4, Zarr, `.npz` and `.npy`."""

from __future__ import annotations

import base64
import json
import pickle
import struct
import warnings
import zipfile
from pathlib import Path

import h5py
import numpy as np
import zarr
from numcodecs import Zstd
from zarr.codecs import Crc32cCodec, TransposeCodec, ZstdCodec

from tests.readers.corpus import BOX, COSMOLOGY, SIM, situation
from tests.readers.layouts import snapshots

REDSHIFTS = SIM["redshift"].values
FIELDS = ("n_igm", "n_src", "xi")
NETCDF_DIMENSION = b"This is a netCDF dimension but not a netCDF variable.         4"


def mapping(folder: Path, text: str) -> dict[str, str]:
    """Write a mapping beside the folder and give it as a setting."""
    path = folder.parent / f"{folder.name}.toml"
    path.write_text(text, encoding="utf-8")
    return {"mapping": str(path)}


def packed(values: np.ndarray, dtype: str, fill: int) -> tuple[np.ndarray, float, float]:
    """Whole numbers, their scale and their offset."""
    offset, top = float(values.min()), float(np.iinfo(dtype).max)
    scale = (float(values.max()) - offset) / (top - 10)
    numbers = np.round((values.astype(np.float64) - offset) / scale).astype(dtype)
    assert not np.any(numbers == fill)
    return numbers, scale, offset


def header(file: h5py.File) -> None:
    file.attrs.update(box_size=16.0, H0=70.0, Om0=0.27, Ob0=0.044)


def hdf5(folder: Path, **storage: object) -> Path:
    """Every field in one file under our names."""
    path = folder / "box.h5"
    with h5py.File(path, "w") as file:
        header(file)
        file["redshift"] = REDSHIFTS
        for name in FIELDS:
            file.create_dataset(name, data=SIM[name].values, **storage).attrs["units"] = SIM[name].units
    return path


def write_packed_hdf5(
    folder: Path, scale_name: str, offset_name: str, fill_name: str, unit_name: str
) -> None:
    with h5py.File(folder / "box.h5", "w") as file:
        header(file)
        file["redshift"] = REDSHIFTS
        for name in FIELDS:
            numbers, scale, offset = packed(SIM[name].values, "i4", -9999)
            file[name] = numbers
            file[name].attrs.update({scale_name: scale, offset_name: offset, fill_name: -9999})
            file[name].attrs[unit_name] = SIM[name].units


@situation(rtol=1e-5)
def hdf5_packed_as_cf_says(folder: Path) -> dict[str, str]:
    write_packed_hdf5(folder, "scale_factor", "add_offset", "_FillValue", "units")
    return {}


@situation(rtol=1e-5)
def hdf5_packed_in_capitals(folder: Path) -> dict[str, str]:
    write_packed_hdf5(folder, "SCALE_FACTOR", "ADD_OFFSET", "FillValue", "Units")
    return {}


@situation(rtol=1e-5)
def hdf5_packed_with_slope_and_intercept(folder: Path) -> dict[str, str]:
    write_packed_hdf5(folder, "slope", "intercept", "missing_value", "unit")
    return {}


@situation()
def hdf5_scaled_density(folder: Path) -> dict[str, str]:
    """A factor that float32 cannot hold: 1e-40 times numbers of 1e9."""
    path = hdf5(folder)
    with h5py.File(path, "r+") as file:
        values = file["n_igm"][()].astype(np.float64) * 1e40
        del file["n_igm"]
        file["n_igm"] = values
        file["n_igm"].attrs.update(scale_factor=1e-40, units="g cm-3")
    return {}


def write_zarr_packed(folder: Path, zarr_format: int) -> None:
    group = zarr.open_group(folder / "box.zarr", mode="w", zarr_format=zarr_format)
    group.attrs.update(box_size=16.0, H0=70.0, Om0=0.27, Ob0=0.044)
    group.create_array("redshift", data=REDSHIFTS)
    for name in FIELDS:
        numbers, scale, offset = packed(SIM[name].values, "u4", 0xFFFFFFFF)
        array = group.create_array(name, data=numbers, fill_value=0xFFFFFFFF)
        array.attrs.update(scale_factor=scale, add_offset=offset, units=SIM[name].units)
        if zarr_format == 3:
            array.attrs["_FillValue"] = 0xFFFFFFFF


@situation(rtol=1e-5)
def zarr_2_packed(folder: Path) -> dict[str, str]:
    write_zarr_packed(folder, 2)
    return {}


@situation(rtol=1e-5)
def zarr_3_packed(folder: Path) -> dict[str, str]:
    write_zarr_packed(folder, 3)
    return {}


@situation()
def zarr_3_with_a_fill_value_in_base64(folder: Path) -> dict[str, str]:
    """As xarray writes `_FillValue` of floating-point numbers."""
    group = zarr.open_group(folder / "box.zarr", mode="w")
    group.attrs.update(box_size=16.0, H0=70.0, Om0=0.27, Ob0=0.044)
    group.create_array("redshift", data=REDSHIFTS)
    for name in FIELDS:
        array = group.create_array(name, data=SIM[name].values, fill_value=np.nan)
        fill = base64.b64encode(struct.pack("<d", np.nan)).decode()
        array.attrs.update(units=SIM[name].units, _FillValue=fill)
    return {}


def write_named_dimensions(folder: Path, names: tuple[str, ...], order: tuple[int, ...]) -> None:
    """NetCDF 4 as the library writes it: dimension scales, some of them without data."""
    with h5py.File(folder / "box.nc", "w") as file:
        header(file)
        file["redshift"] = REDSHIFTS
        file["redshift"].make_scale("redshift")
        for name in set(names) - {"redshift"}:
            scale = file.create_dataset(name, shape=(4,), dtype=">f4", chunks=None)
            scale.make_scale(NETCDF_DIMENSION.decode())
        for name in FIELDS:
            dimensions = names if name == "xi" else ("redshift", *sorted(set(names) - {"redshift"}))
            axes = order if name == "xi" else (0, 1, 2, 3)
            dataset = file.create_dataset(
                name,
                data=SIM[name].values.transpose(axes),
                chunks=(1, 2, 2, 2),
                fletcher32=True,
                compression=4,
            )
            dataset.attrs["units"] = SIM[name].units
            for number, dimension in enumerate(dimensions):
                dataset.dims[number].attach_scale(file[dimension])


@situation()
def netcdf_with_an_xi_of_other_axes(folder: Path) -> dict[str, str]:
    write_named_dimensions(folder, ("redshift", "z", "y", "x"), (0, 3, 2, 1))
    return {}


@situation()
def netcdf_with_snapshots_last(folder: Path) -> dict[str, str]:
    write_named_dimensions(folder, ("ny", "nz", "nx", "redshift"), (2, 3, 1, 0))
    return {}


@situation()
def hdf5_with_dimension_labels(folder: Path) -> dict[str, str]:
    path = hdf5(folder)
    with h5py.File(path, "r+") as file:
        values = file["n_src"][()].transpose(0, 3, 1, 2)
        del file["n_src"]
        file["n_src"] = values
        file["n_src"].attrs["units"] = SIM["n_src"].units
        for number, label in enumerate(("time", "k", "i", "j")):
            file["n_src"].dims[number].label = label
    return {}


def write_zarr_dimensions(folder: Path, zarr_format: int) -> None:
    group = zarr.open_group(folder / "box.zarr", mode="w", zarr_format=zarr_format)
    group.attrs.update(box_size=16.0, H0=70.0, Om0=0.27, Ob0=0.044)
    group.create_array("redshift", data=REDSHIFTS)
    for name in FIELDS:
        order, names = ((0, 3, 2, 1), ("redshift", "z", "y", "x")) if name == "xi" else ((0, 1, 2, 3), None)
        data = SIM[name].values.transpose(order)
        named = {"dimension_names": names} if names and zarr_format == 3 else {}
        array = group.create_array(name, data=data, **named)
        array.attrs["units"] = SIM[name].units
        if zarr_format == 2 and names:
            array.attrs["_ARRAY_DIMENSIONS"] = list(names)


@situation()
def zarr_2_with_array_dimensions(folder: Path) -> dict[str, str]:
    write_zarr_dimensions(folder, 2)
    return {}


@situation()
def zarr_3_with_dimension_names(folder: Path) -> dict[str, str]:
    write_zarr_dimensions(folder, 3)
    return {}


@situation()
def mapped_axes_in_any_order(folder: Path) -> dict[str, str]:
    for z, arrays in snapshots(SIM):
        with h5py.File(folder / f"snap_z{z}.h5", "w") as file:
            for name in FIELDS:
                file[f"data/{name}"] = arrays[name].transpose(1, 2, 0)
    return (
        mapping(
            folder,
            '\ufeffaxes = "yzx"\n[n_igm]\narray = "data/n_igm"\nunit = "g cm-3"\n'
            '[n_src]\narray = "data/n_src"\nunit = "1e48 s-1 Mpc-3"\n[xi]\narray = "data/xi"\nunit = "1"\n',
        )
        | BOX
    )


@situation()
def filters_in_the_order_of_swift(folder: Path) -> dict[str, str]:
    """Fletcher-32 first, then shuffle, then deflate: the checksum is compressed with the data."""
    path = hdf5(folder)
    with h5py.File(path, "r+") as file:
        for name in FIELDS:
            del file[name]
            created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            created.set_chunk((1, 3, 4, 4))
            created.set_fletcher32()
            created.set_shuffle()
            created.set_deflate(4)
            space = h5py.h5s.create_simple(SIM[name].shape)
            h5py.h5d.create(file.id, name.encode(), h5py.h5t.IEEE_F32LE, space, created)
            file[name][...] = SIM[name].values
            file[name].attrs["units"] = SIM[name].units
    return {}


@situation()
def hdf5_without_chunks_of_dark_cells(folder: Path) -> dict[str, str]:
    """Sources written only where there are some: chunks of zeros were never written."""
    path = hdf5(folder)
    with h5py.File(path, "r+") as file:
        del file["n_src"]
        dataset = file.create_dataset("n_src", shape=SIM["n_src"].shape, dtype="f4", chunks=(1, 1, 1, 1))
        for place in np.argwhere(SIM["n_src"].values):
            dataset[tuple(place)] = SIM["n_src"].values[tuple(place)]
        dataset.attrs["units"] = SIM["n_src"].units
    return {}


@situation()
def zarr_without_chunks_of_dark_cells(folder: Path) -> dict[str, str]:
    group = zarr.open_group(folder / "box.zarr", mode="w")
    group.attrs.update(box_size=16.0, H0=70.0, Om0=0.27, Ob0=0.044)
    group.create_array("redshift", data=REDSHIFTS)
    for name in FIELDS:
        chunks = (1, 1, 1, 2) if name == "n_src" else (1, 4, 4, 4)
        group.create_array(name, data=SIM[name].values, chunks=chunks).attrs["units"] = SIM[name].units
    return {}


@situation()
def zarr_in_shards(folder: Path) -> dict[str, str]:
    group = zarr.open_group(folder / "box.zarr", mode="w")
    group.attrs.update(box_size=16.0, H0=70.0, Om0=0.27, Ob0=0.044)
    group.create_array("redshift", data=REDSHIFTS)
    for name in FIELDS:
        array = group.create_array(
            name,
            shape=SIM[name].shape,
            dtype="f4",
            chunks=(1, 2, 2, 2),
            shards=(1, 4, 4, 4),
            compressors=[ZstdCodec(), Crc32cCodec()],
            filters=[TransposeCodec(order=(3, 2, 1, 0))],
        )
        array[...] = SIM[name].values
        array.attrs["units"] = SIM[name].units
    return {}


def zstd_frame_without_size(data: bytes) -> bytes:
    """One raw block in a Zstandard frame that does not say its content's size (RFC 8878)."""
    return struct.pack("<I", 0xFD2FB528) + b"\x00\x58" + struct.pack("<I", len(data) << 3 | 1)[:3] + data


@situation()
def zstd_frames_without_content_size(folder: Path) -> dict[str, str]:
    group = zarr.open_group(folder / "box.zarr", mode="w", zarr_format=2)
    group.attrs.update(box_size=16.0, H0=70.0, Om0=0.27, Ob0=0.044)
    group.create_array("redshift", data=REDSHIFTS)
    for name in FIELDS:
        array = group.create_array(name, data=SIM[name].values, chunks=(1, 4, 4, 4), compressors=Zstd())
        array.attrs["units"] = SIM[name].units
        for index, values in enumerate(SIM[name].values):
            chunk = folder / "box.zarr" / name / f"{index}.0.0.0"
            chunk.write_bytes(zstd_frame_without_size(values.astype("<f4").tobytes()))
    return {}


@situation()
def zarr_with_an_unreadable_neighbour(folder: Path) -> dict[str, str]:
    """An array of another program's codec beside ours, in the consolidated metadata, too."""
    group = zarr.open_group(folder / "box.zarr", mode="w")
    group.attrs.update(box_size=16.0, H0=70.0, Om0=0.27, Ob0=0.044)
    group.create_array("redshift", data=REDSHIFTS)
    for name in FIELDS:
        group.create_array(name, data=SIM[name].values).attrs["units"] = SIM[name].units
    group.create_array("other", data=np.zeros(3), compressors=[])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(group.store)
    for path, keys in (
        ("zarr.json", ("consolidated_metadata", "metadata", "other")),
        ("other/zarr.json", ()),
    ):
        file = folder / "box.zarr" / path
        whole = json.loads(file.read_text())
        part = whole
        for key in keys:
            part = part[key]
        part["codecs"] = [{"name": "somebody's own"}]
        file.write_text(json.dumps(whole))
    return {}


@situation()
def hdf5_with_an_unreadable_neighbour(folder: Path) -> dict[str, str]:
    path = hdf5(folder)
    with h5py.File(path, "r+") as file:
        file["remarks"] = ["read", "me"]
        file["elsewhere"] = h5py.ExternalLink("not_there.h5", "/")
        file["nowhere"] = h5py.SoftLink("/not/there")
        file["table"] = np.zeros(3, [("a", "f4"), ("b", "i4")])
        file["density_of_nothing"] = h5py.Empty("f4")
        file.create_dataset(
            "packed_otherwise", data=np.zeros((4, 4, 4), "f4"), chunks=(4, 4, 4), compression="lzf"
        )
    return {}


@situation()
def whole_redshifts(folder: Path) -> dict[str, str]:
    path = hdf5(folder)
    with h5py.File(path, "r+") as file:
        del file["redshift"]
        file["redshift"] = REDSHIFTS.astype(int)
    return {}


@situation("n_igm", "n_src", "xi", warns="not used: photon_rate_low in box.h5")
def an_array_that_looks_like_a_field(folder: Path) -> dict[str, str]:
    with h5py.File(hdf5(folder), "r+") as file:
        file["photon_rate_low"] = SIM["n_src"].values
        file["irate"] = SIM["n_src"].values
    return {}


@situation()
def capital_endings(folder: Path) -> dict[str, str]:
    for z, arrays in snapshots(SIM):
        np.savez(folder / f"box_z{z}", **arrays, redshift=float(z), box_size=16.0, H0=70, Om0=0.27, Ob0=0.044)
    for path in list(folder.iterdir()):
        path.rename(path.with_suffix(".NPZ"))
    return {}


@situation()
def npz_with_text_and_pickles(folder: Path) -> dict[str, str]:
    for z, arrays in snapshots(SIM):
        path = folder / f"box_z{z}.npz"
        np.savez(path, **arrays, redshift=int(float(z)), box_size=16, H0=70, Om0=0.27, Ob0=0.044)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("README.txt", "hello")
            archive.writestr("notes.npy", b"\x93NUMPY" + pickle.dumps({"a": 1}))
            archive.writestr("model.npy", "text")
        np.savez(folder.parent / "objects.npz", author=np.array("somebody"), config=np.array({"a": 1}))
        with zipfile.ZipFile(folder.parent / "objects.npz") as other, zipfile.ZipFile(path, "a") as archive:
            for name in other.namelist():
                archive.writestr(name, other.read(name))
    return {}


@situation()
def npz_of_other_names(folder: Path) -> dict[str, str]:
    for z, arrays in snapshots(SIM):
        np.savez_compressed(
            folder / f"snap_z{z}.npz",
            gas=arrays["n_igm"],
            stars=arrays["n_src"],
            neutral=1 - arrays["xi"],
            L=16_000.0 * 0.7,
            a=1 / (1 + float(z)),
        )
    return mapping(
        folder,
        '[n_igm]\narray = "gas"\nunit = "g cm-3"\n[n_src]\narray = "stars"\nunit = "1e48 s-1 Mpc-3"\n'
        '[xi]\narray = "neutral"\nunit = "neutral fraction"\n[box_size]\narray = "L"\nunit = "kpc/h"\n'
        '[redshift]\narray = "a"\nunit = "scale factor"\n[cosmology]\nH0 = 70\nOm0 = 0.27\nOb0 = 0.044\n',
    )


@situation()
def npy_of_other_names(folder: Path) -> dict[str, str]:
    for z, arrays in snapshots(SIM):
        tag = z.replace(".", "p")
        np.save(folder / f"density_z{tag}.npy", np.asfortranarray(arrays["n_igm"]))
        np.save(folder / f"photons_z{tag}.npy", arrays["n_src"])
        np.save(folder / f"ionised_z{tag}.npy", arrays["xi"])
    return BOX | mapping(
        folder,
        '[n_igm]\narray = "density"\nunit = "g cm-3"\n[n_src]\narray = "photons.npy"\n'
        'unit = "1e48 s-1 Mpc-3"\n[xi]\narray = "ionised"\nunit = "1"\n',
    )


@situation()
def npy_of_the_whole_series(folder: Path) -> dict[str, str]:
    np.save(folder / "z.npy", REDSHIFTS)
    for name in FIELDS:
        np.save(folder / f"{name}.npy", SIM[name].values)
    return COSMOLOGY | mapping(
        folder,
        '[n_igm]\narray = "n_igm"\n[n_src]\narray = "n_src"\n[xi]\narray = "xi"\n[redshift]\narray = "z"\n'
        "[box_size]\nvalue = 16.0\n",
    )


@situation()
def redshift_behind_a_number_of_cells(folder: Path) -> dict[str, str]:
    for z, arrays in snapshots(SIM):
        with h5py.File(folder / f"box_nz64_z{z}.h5", "w") as file:
            header(file)
            for name in FIELDS:
                file[name] = arrays[name]
                file[name].attrs["units"] = SIM[name].units
    return {}
