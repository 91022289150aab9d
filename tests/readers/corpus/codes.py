"""Situations of C2-Ray, pyC2Ray and 21cmFAST: versions, folders and dialects of text."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import h5py
import numpy as np
import xarray as xr
from astropy import constants, units

from tests.readers.corpus import COSMOLOGY, SIM, situation
from tests.readers.layouts import C2RAY, photons_per_s, snapshots, write_21cmfast, write_c2ray, write_pyc2ray

F_GAMMA, LIFETIME_MYR = 30.0, 10.0
SHINING = {"f_gamma": str(F_GAMMA), "lifetime_myr": str(LIFETIME_MYR)}


def photons_per_msun(mean_molecular_weight: float) -> float:
    """Photons per second of a solar mass of halo."""
    baryons = units.Msun * C2RAY.Ob0 / C2RAY.Om0 / (mean_molecular_weight * constants.m_p)
    return float((baryons * F_GAMMA / (LIFETIME_MYR * units.Myr)).to_value("s-1"))


def source_rows(n_src: np.ndarray) -> list[tuple[int, int, int, float]]:
    """i, j, k from 1 and photons per second of each source."""
    cells = np.argwhere(n_src)
    rates = photons_per_s(SIM, n_src)[tuple(cells.T)]
    return [(*(cell + 1).tolist(), float(rate)) for cell, rate in zip(cells, rates, strict=True)]


def rewrite_lists(folder: Path, write: object) -> dict[str, str]:
    """pyC2Ray's files with source lists of another dialect."""
    settings = write_pyc2ray(folder, SIM)
    for z, arrays in snapshots(SIM):
        path = folder / f"sources_z{z}.txt"
        path.write_bytes(write(source_rows(arrays["n_src"])))  # type: ignore[operator]
    return settings


@situation()
def lists_with_two_numbers_in_the_header(folder: Path) -> dict[str, str]:
    return rewrite_lists(
        folder,
        lambda rows: f"{len(rows)} 0.0\n".encode() + b"".join(b"%d %d %d %.9e 1.0\n" % row for row in rows),
    )


@situation()
def lists_with_a_byte_order_mark_and_windows_lines(folder: Path) -> dict[str, str]:
    return rewrite_lists(
        folder,
        lambda rows: (
            "\ufeff" + f"{len(rows)}\r\n" + "".join("{} {} {} {:.9e} 1.0\r\n".format(*row) for row in rows)
        ).encode(),
    )


@situation()
def lists_with_the_exponents_of_fortran(folder: Path) -> dict[str, str]:
    return rewrite_lists(
        folder,
        lambda rows: (
            f"{len(rows)}\n"
            + "".join("{} {} {} {:.9e} 1.0\n".format(*row).replace("e+", "d").upper() for row in rows[::2])
            + "".join("{} {} {} {:.9e} 1.0d0\n".format(*row).replace("e+", "d+") for row in rows[1::2])
        ).encode(),
    )


@situation()
def lists_with_comments_and_commas(folder: Path) -> dict[str, str]:
    return rewrite_lists(
        folder,
        lambda rows: (
            f"# made by hand\n\n{len(rows)} # of them\n"
            + "".join("{}, {}, {}, {:.9e}, 1.0 ! one\n".format(*row) for row in rows)
        ).encode(),
    )


@situation()
def lists_without_a_count(folder: Path) -> dict[str, str]:
    return rewrite_lists(
        folder, lambda rows: "".join("{}\t{}\t{}\t{:.9e}\n".format(*row) for row in rows).encode()
    )


def compress(path: Path) -> None:
    with path.open("rb") as plain, gzip.open(f"{path}.gz", "wb") as packed:
        shutil.copyfileobj(plain, packed)
    path.unlink()


@situation()
def c2ray_gzipped(folder: Path) -> dict[str, str]:
    settings = write_c2ray(folder, SIM)
    matter = C2RAY.critical_density0 * C2RAY.Om0
    grid_msun = float((matter * (16 * units.Mpc / 13824) ** 3).to_value("Msun"))
    for z, arrays in snapshots(SIM):
        rows = source_rows(arrays["n_src"])
        masses = [(*row[:3], row[3] / photons_per_msun(1.0) / grid_msun) for row in rows]
        text = f"{len(rows)}\n" + "".join("{} {} {} {:.9e} 7.0\n".format(*row) for row in masses)
        (folder / f"{z}-coarsest_wsubgrid_sources.dat").write_text(text)
    for path in list(folder.iterdir()):
        compress(path)
    return settings


@situation()
def pyc2ray_gzipped(folder: Path) -> dict[str, str]:
    settings = write_pyc2ray(folder, SIM)
    for path in list(folder.iterdir()):
        compress(path)
    return settings


@situation()
def pyc2ray_in_folders(folder: Path) -> dict[str, str]:
    """`results`, `sources`, `coarser_densities`; xi as .npy and haloes as HDF5, as newer versions write."""
    (folder / "run.py").touch()
    (folder / "parameters.yml").touch()
    settings = write_pyc2ray(folder, SIM)
    for name, pattern in (("results", "[xI]*_z*"), ("coarser_densities", "*n_all.dat")):
        (folder / name).mkdir()
        for path in folder.glob(pattern):
            path.rename(folder / name / path.name)
    for path in (folder / "results").glob("xfrac*.dat"):
        path.unlink()
    for path in folder.glob("sources_z*"):
        path.unlink()
    (folder / "sources").mkdir()
    for z, arrays in snapshots(SIM):
        np.save(folder / "results" / f"xfrac_z{z}.npy", arrays["xi"])
        rows = np.array(source_rows(arrays["n_src"]))
        with h5py.File(folder / "sources" / f"{z}-coarsest_wsubgrid_sources.hdf5", "w") as file:
            file["sources_positions"] = rows[:, :3].astype("i4") - 1
            file["sources_mass"] = rows[:, 3] / photons_per_msun(1.222)
    return {**settings, **SHINING}


def rename_sources(folder: Path, version: str, density_msun: float) -> None:
    """HaloBox of 4.0 to 4.2 in place of EmissivityFields; photons so far times the mean baryon density."""
    for path in folder.glob("*.h5"):
        with h5py.File(path, "r+") as file:
            file.attrs["21cmFAST-version"] = version
            file.move("EmissivityFields", "HaloBox")
            fields = file["HaloBox/OutputFields"]
            fields.move("fesc_weighted_sfrd", "whalo_sfr")
            fields["halo_sfr"] = fields["whalo_sfr"][()] / 3.0
            fields["n_ion"] = 0.32 * density_msun * np.ones(SIM["n_src"].shape[1:], np.float32)


BARYONS_MSUN_MPC3 = float((C2RAY.Ob0 * C2RAY.critical_density0).to_value("Msun Mpc-3"))
PHOTONS = 0.32 * BARYONS_MSUN_MPC3 * 1.98892e33 / 1.6726e-24 / 1e66
"""Of 0.32 photons per baryon, in 1e66 Mpc-3."""


@situation("n_igm", "n_src", "xi", "n_ion")
def twentyonecmfast_4_0(folder: Path) -> dict[str, str]:
    write_21cmfast(folder, SIM)
    rename_sources(folder, "4.0.0", BARYONS_MSUN_MPC3)
    return {}


@situation("n_igm", "n_src", "xi", "n_ion")
def twentyonecmfast_4_3_before_its_release(folder: Path) -> dict[str, str]:
    """A version between two releases: HaloBox, but photons per baryon already."""
    write_21cmfast(folder, SIM)
    rename_sources(folder, "4.3.dev12", 1.0)
    return {}


@situation("n_igm", "n_src", "xi", "n_ion")
def twentyonecmfast_4_3(folder: Path) -> dict[str, str]:
    write_21cmfast(folder, SIM)
    for path in folder.glob("*.h5"):
        with h5py.File(path, "r+") as file:
            file["EmissivityFields/OutputFields/n_ion"] = np.full(SIM["n_src"].shape[1:], 0.32, np.float32)
    return {}


@situation("n_igm", "xi", "n_ion")
def twentyonecmfast_without_recombinations(folder: Path) -> dict[str, str]:
    """No photon rate in the file, only photons so far."""
    twentyonecmfast_4_0(folder)
    for path in folder.glob("*.h5"):
        with h5py.File(path, "r+") as file:
            del file["HaloBox/OutputFields/whalo_sfr"]
    return {}


@situation()
def twentyonecmfast_without_a_box_length(folder: Path) -> dict[str, str]:
    write_21cmfast(folder, SIM)
    for path in folder.glob("*.h5"):
        with h5py.File(path, "r+") as file:
            for group in file.values():
                options = group["InputParameters/simulation_options"].attrs
                del options["BOX_LEN"]
                del options["NON_CUBIC_FACTOR"]
                options["LOWRES_CELL_SIZE_MPC"] = 4.0
                options["K_MAX_FOR_CLASS"] = "none"
    return {}


@situation()
def twentyonecmfast_cache(folder: Path) -> dict[str, str]:
    """A file for each struct, in folders of hashes; those of structs that nobody needs beside them."""
    write_cache(folder, SIM)
    return {}


def write_cache(folder: Path, sim: xr.Dataset) -> None:
    """The files of a cache of 21cmFAST 4.3, in a folder that is there."""
    coeval = folder.parent / f"{folder.name}_coeval"
    coeval.mkdir()
    write_21cmfast(coeval, sim)
    for z, _ in snapshots(sim):
        with h5py.File(coeval / f"coeval_z{z}.h5") as whole:
            for name in whole:
                astro = [] if name == "PerturbedField" else ["51d1a7"]
                place = folder.joinpath("3f8a1c", "11", "77ab", f"{float(z):.4f}", *astro)
                place.mkdir(parents=True, exist_ok=True)
                with h5py.File(place / f"{name}.h5", "w") as file:
                    file.attrs["21cmFAST-version"] = "4.3.1"
                    whole.copy(name, file)
    for name in ("InitialConditions", "BrightnessTemp"):
        with h5py.File(folder / "3f8a1c" / "11" / f"{name}.h5", "w") as file:
            file.attrs["21cmFAST-version"] = "4.3.1"
            file[f"{name}/OutputFields/lowres_density"] = np.zeros((4, 4, 4), np.float32)


@situation("n_igm", "n_src", "xi", warns="not used: GalaxyField in coeval_z")
def twentyonecmfast_of_tomorrow(folder: Path) -> dict[str, str]:
    write_21cmfast(folder, SIM)
    for path in folder.glob("*.h5"):
        with h5py.File(path, "r+") as file:
            file["GalaxyField/OutputFields/n_ion"] = np.ones((4, 4, 4), np.float32)
    return {}


@situation("n_igm", "n_src", "xi", warns="not used: .*density_z8.000.npy")
def a_density_beside_another_format(folder: Path) -> dict[str, str]:
    settings = write_pyc2ray(folder, SIM)
    np.save(folder / "density_z8.000.npy", SIM["n_igm"].values[1])
    np.save(folder / "ionrates_z8.000.npy", SIM["n_igm"].values[1])
    (folder / "notes.txt").touch()
    return settings


assert {"H0": str(int(C2RAY.H0.value)), "Om0": str(C2RAY.Om0), "Ob0": str(C2RAY.Ob0)} == COSMOLOGY
