"""Small simulations written in every format, by numpy, h5py and hand: what the readers are held against."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import h5py
import numpy as np
import xarray as xr
from astropy import constants, units
from astropy.cosmology import FlatLambdaCDM

from reion.simulation.contract import make_simulation
from reion.storage.store import write_simulation

C2RAY = FlatLambdaCDM(H0=70, Om0=0.27, Ob0=0.044)
PLANCK = {"H0": 67.66, "Om0": 0.30964, "Ob0": 0.04897}


def random_simulation(shape=(5, 4, 3), redshift=(9.0, 8.397), seed=0, box_size=None) -> xr.Dataset:
    """Every field random; sources in a third of the cells; 500/h Mpc along x unless told otherwise."""
    rng = np.random.default_rng(seed)
    full = (len(redshift), *shape)
    side = 500 / 0.7 / shape[0]
    return make_simulation(
        {
            "n_igm": (4e-31 * rng.lognormal(0, 0.3, full)).astype(np.float32),
            "n_src": np.where(rng.random(full) < 0.3, rng.lognormal(2, 1, full), 0).astype(np.float32),
            "xi": rng.random(full).astype(np.float32),
        },
        redshift=redshift,
        box_size=[n * side for n in shape] if box_size is None else box_size,
        cosmology={"H0": 70.0, "Om0": 0.27, "Ob0": 0.044},
        source_code="random numbers",
    )


def sides(sim: xr.Dataset) -> str:
    return ",".join(repr(length) for length in np.broadcast_to(sim.attrs["box_size"], 3).tolist())


def snapshots(sim: xr.Dataset):
    """Redshift as file names have it, and the arrays at that redshift, in float64."""
    for index, redshift in enumerate(sim["redshift"].values):
        yield (
            f"{redshift:.3f}",
            {n: sim[n].values[index].astype(np.float64) for n in ("n_igm", "n_src", "xi")},
        )


def record(data: bytes, order: str, longest: int | None = None) -> bytes:
    """A Fortran record, split as gfortran does where it is longer than `longest`."""
    longest = longest or len(data)
    pieces = [data[start : start + longest] for start in range(0, len(data), longest)]
    out = b""
    for number, piece in enumerate(pieces):
        head = -len(piece) if number < len(pieces) - 1 else len(piece)
        tail = -len(piece) if number > 0 else len(piece)
        out += np.array(head, order + "i4").tobytes() + piece + np.array(tail, order + "i4").tobytes()
    return out


def write_xfrac3d(path: Path, xi: np.ndarray, order="<", dtype="f8", longest=None) -> None:
    header = record(np.array(xi.shape, order + "i4").tobytes(), order)
    path.write_bytes(header + record(xi.astype(order + dtype).tobytes("F"), order, longest))


def write_raw(path: Path, cube: np.ndarray, dtype: str, order="<") -> None:
    path.write_bytes(np.array(cube.shape, order + "i4").tobytes() + cube.astype(order + dtype).tobytes("F"))


def write_density(path: Path, n_igm: np.ndarray, order="<", nbox_fine=13824) -> None:
    mean = (C2RAY.Ob0 * C2RAY.critical_density0).to_value("g cm-3")
    write_raw(path, n_igm / mean * (nbox_fine / n_igm.shape[0]) ** 3, "f4", order)


def photons_per_s(sim: xr.Dataset, n_src: np.ndarray) -> np.ndarray:
    volume = np.prod(np.broadcast_to(sim.attrs["box_size"], 3) / np.array(n_src.shape))
    return n_src * 1e48 * volume


def write_masses(path: Path, sim: xr.Dataset, n_src: np.ndarray, weight=1.0, wrapped=False) -> None:
    """A C2-Ray list, for 30 photons a baryon and a lifetime of 10 Myr, in the grid mass of the 500/h box."""
    grid_mass = C2RAY.critical_density0 * C2RAY.Om0 * (500 / 0.7 * units.Mpc / 13824) ** 3
    rate = (grid_mass * C2RAY.Ob0 / C2RAY.Om0 / (weight * constants.m_p) * 30 / (10 * units.Myr)).to_value(
        "s-1"
    )
    cells = np.argwhere(n_src)
    lines = [f"{len(cells)}"]
    for cell, photons in zip(cells, photons_per_s(sim, n_src)[tuple(cells.T)], strict=True):
        i, j, k = cell + 1
        lines.append(f"{i} {j} {k} {float(photons / rate)!r}" + ("\n" if wrapped else " ") + "123.0")
    path.write_text("\n".join(lines) + "\n")


def write_photons(path: Path, sim: xr.Dataset, n_src: np.ndarray) -> None:
    cells = np.argwhere(n_src)
    rates = photons_per_s(sim, n_src)[tuple(cells.T)]
    lines = [f"{c[0] + 1} {c[1] + 1} {c[2] + 1} {rate:.9e} 1.0" for c, rate in zip(cells, rates, strict=True)]
    path.write_text("\n".join([str(len(cells)), *lines]) + "\n")


def write_c2ray(folder: Path, sim: xr.Dataset, order="<", wrapped=False) -> dict[str, str]:
    for z, arrays in snapshots(sim):
        write_xfrac3d(folder / f"xfrac3d_{z}.bin", arrays["xi"], order)
        write_density(folder / f"{z}n_all.dat", arrays["n_igm"], order)
        write_masses(folder / f"{z}-coarsest_wsubgrid_sources.dat", sim, arrays["n_src"], wrapped=wrapped)
    settings = {"preset": "500/h", "box_size": sides(sim), "f_gamma": "30", "lifetime_myr": "10"}
    return settings if order == "<" else {**settings, "byte_order": "big"}


def write_pyc2ray(folder: Path, sim: xr.Dataset, order="<") -> dict[str, str]:
    for z, arrays in snapshots(sim):
        write_raw(folder / f"xfrac_z{z}.dat", arrays["xi"], "f8", order)
        write_raw(folder / f"IonRates_z{z}.dat", arrays["xi"], "f4", order)
        write_density(folder / f"{z}n_all.dat", arrays["n_igm"], order)
        write_photons(folder / f"sources_z{z}.txt", sim, arrays["n_src"])
    settings = {"preset": "500/h", "box_size": sides(sim)}
    return settings if order == "<" else {**settings, "byte_order": "big"}


def write_21cmfast(folder: Path, sim: xr.Dataset, **storage) -> dict[str, str]:
    mean = (C2RAY.Ob0 * C2RAY.critical_density0).to_value("g cm-3")
    lengths = np.broadcast_to(sim.attrs["box_size"], 3)
    for z, arrays in snapshots(sim):
        data = {
            "PerturbedField": ("density", arrays["n_igm"] / mean - 1),
            "EmissivityFields": (
                "fesc_weighted_sfrd",
                arrays["n_src"] * (1e48 / 1.98892e33 * 1.6726e-24),
            ),
            "IonizedBox": ("neutral_fraction", 1 - arrays["xi"]),
        }
        with h5py.File(folder / f"coeval_z{z}.h5", "w") as file:
            file.attrs["21cmFAST-version"] = "4.3.1"
            for group, (name, values) in data.items():
                file.create_group(group).attrs["redshift"] = float(z)
                file[group].create_dataset(f"OutputFields/{name}", data=values.astype(np.float32), **storage)
                inputs = file[group].create_group("InputParameters")
                inputs.attrs["random_seed"] = 11
                inputs.create_group("cosmo_params").attrs.update(hlittle=0.7, OMm=0.27, OMb=0.044)
                inputs.create_group("simulation_options").attrs.update(
                    BOX_LEN=lengths[0], HII_DIM=values.shape[0], NON_CUBIC_FACTOR=lengths[2] / lengths[0]
                )
    return {}


def write_epfl(folder: Path, sim: xr.Dataset, order="C", dtype="f8") -> dict[str, str]:
    for z, arrays in snapshots(sim):
        for stem, name in (("rho", "n_igm"), ("nsrc", "n_src"), ("xHII", "xi")):
            np.save(folder / f"{stem}_z{z}.npy", np.asarray(arrays[name], dtype=dtype, order=order))
    return {"n_src_unit": "1e48 s-1 Mpc-3", "box_size": sides(sim), "H0": "70", "Om0": "0.27", "Ob0": "0.044"}


def write_pinion(folder: Path, sim: xr.Dataset) -> dict[str, str]:
    mean = (C2RAY.Ob0 * C2RAY.critical_density0).to_value("g cm-3")
    for z, arrays in snapshots(sim):
        data = {"rho": arrays["n_igm"] / mean - 1, "nsrc": arrays["n_src"], "xHII": arrays["xi"]}
        for stem, values in {**data, "irate": arrays["xi"], "mask": arrays["xi"]}.items():
            with (folder / f"{stem}_z{z}.npz").open("wb") as stream:
                np.save(stream, values)
    return {"n_src_unit": "1e48 s-1 Mpc-3", "box_size": sides(sim), "H0": "70", "Om0": "0.27", "Ob0": "0.044"}


def write_npy(folder: Path, sim: xr.Dataset) -> dict[str, str]:
    for z, arrays in snapshots(sim):
        for name, values in arrays.items():
            np.save(folder / f"{name}_z{z}.npy", values)
    return {"box_size": sides(sim), "H0": "70", "Om0": "0.27", "Ob0": "0.044"}


def write_npz(
    folder: Path, sim: xr.Dataset, save: Callable[..., None] = np.savez_compressed
) -> dict[str, str]:
    for z, arrays in snapshots(sim):
        numbers = {
            "redshift": float(z),
            "box_size": sim.attrs["box_size"],
            "H0": 70,
            "Om0": 0.27,
            "Ob0": 0.044,
        }
        fields = {name: values.astype(np.float32) for name, values in arrays.items()}
        save(folder / f"box_z{z}.npz", **fields, **numbers)
    return {}


def write_hdf5(folder: Path, sim: xr.Dataset, **storage) -> dict[str, str]:
    with h5py.File(folder / "box.h5", "w") as file:
        file.attrs.update(box_size=sim.attrs["box_size"], H0=70.0, Om0=0.27, Ob0=0.044)
        file["redshift"] = sim["redshift"].values
        for name in ("n_igm", "n_src", "xi"):
            dataset = file.create_dataset(name, data=sim[name].values, **storage)
            dataset.attrs["units"] = sim[name].attrs["units"]
    return {}


def write_zarr(folder: Path, sim: xr.Dataset) -> dict[str, str]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the series starts at")
        write_simulation(sim, folder / "box.zarr")
    return {}


HOLDS: Mapping[str, tuple[str, ...]] = {}
"""Format to the fields that its layout holds, where these are not all of n_igm, n_src and xi."""


def fields_of(format_name: str) -> tuple[str, ...]:
    """The fields that the layout of a format holds."""
    return HOLDS.get(format_name, ("n_igm", "n_src", "xi"))


LAYOUTS: Mapping[str, Callable[[Path, xr.Dataset], dict[str, str]]] = {
    "c2ray": write_c2ray,
    "pyc2ray": write_pyc2ray,
    "21cmfast": write_21cmfast,
    "epfl": write_epfl,
    "pinion": write_pinion,
    "npz": write_npz,
    "npy": write_npy,
    "hdf5": write_hdf5,
    "zarr": write_zarr,
}
