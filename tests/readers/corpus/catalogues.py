"""Situations with haloes in place of a field of sources."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import zarr

from tests.readers.corpus import BOX, COSMOLOGY, SIM, situation
from tests.readers.corpus.arrays import FIELDS, header, mapping
from tests.readers.corpus.codes import SHINING, photons_per_msun, source_rows
from tests.readers.layouts import snapshots

CELL_MPC = 4.0
SIDE_MPC = 16.0


def haloes(n_src: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions, (haloes, 3) in Mpc, somewhere in their cells, and masses (Msun): two to a source."""
    rows = np.array(source_rows(n_src))
    rng = np.random.default_rng(1)
    cells = np.repeat(rows[:, :3] - 1, 2, axis=0)
    share = rng.random(len(rows))
    masses = (
        np.stack([share, 1 - share], axis=1).reshape(-1) * np.repeat(rows[:, 3], 2) / photons_per_msun(1.0)
    )
    return (cells + rng.uniform(0.01, 0.99, cells.shape)) * CELL_MPC, masses


def write_density(folder: Path) -> None:
    for z, arrays in snapshots(SIM):
        np.savez(
            folder / f"box_z{z}.npz", n_igm=arrays["n_igm"], xi=arrays["xi"], redshift=float(z), box_size=16.0
        )


@situation()
def haloes_as_text_with_a_header(folder: Path) -> dict[str, str]:
    """As Rockstar writes them: names behind a comment mark, other remarks, Mpc/h and Msun/h."""
    write_density(folder)
    for z, arrays in snapshots(SIM):
        positions, masses = haloes(arrays["n_src"])
        lines = [
            f"{number} {mass * 0.7:.9e} {x * 0.7:.6f} {y * 0.7:.6f} {w * 0.7:.6f} -1"
            for number, (mass, (x, y, w)) in enumerate(zip(masses, positions, strict=True))
        ]
        text = "#id mvir x y z pid\n#Units: Masses in Msun / h\n" + "\n".join(lines)
        (folder / f"halos_z{z}.list").write_text(text)
    return {
        **COSMOLOGY,
        **SHINING,
        **mapping(folder, '[halos]\nfile = "halos_z*.list"\nposition_unit = "Mpc/h"\nmass_unit = "Msun/h"\n'),
    }


@situation()
def haloes_as_columns_by_number(folder: Path) -> dict[str, str]:
    """A count, commas, the logarithm of the mass, kpc, and Fortran's exponents."""
    write_density(folder)
    for z, arrays in snapshots(SIM):
        positions, masses = haloes(arrays["n_src"])
        rows = [
            f"{np.log10(mass):.9f},{x * 1e3:.4f},{y * 1e3:.4f},{w * 1e3:.8E}".replace("E", "D")
            for mass, (x, y, w) in zip(masses, positions, strict=True)
        ]
        (folder / f"cat_z{z}.csv").write_text(f"{len(rows)}\n" + "\n".join(rows) + "\n")
    return {
        **COSMOLOGY,
        **SHINING,
        **mapping(
            folder,
            '[halos]\nmass = 1\nx = 2\ny = 3\nz = 4\nposition_unit = "kpc"\nmass_unit = "log10 Msun"\n',
        ),
    }


@situation()
def haloes_as_csv_with_names(folder: Path) -> dict[str, str]:
    write_density(folder)
    for z, arrays in snapshots(SIM):
        positions, masses = haloes(arrays["n_src"])
        rows = [
            f"{x / SIDE_MPC},{y / SIDE_MPC},{w / SIDE_MPC},{mass / 1e10}"
            for mass, (x, y, w) in zip(masses, positions, strict=True)
        ]
        (folder / f"cat_z{z}.csv").write_text("pos_x,pos_y,pos_z,M200c\n" + "\n".join(rows) + "\n")
    return {
        **COSMOLOGY,
        **SHINING,
        **mapping(folder, '[halos]\nposition_unit = "box"\nmass_unit = "1e10 Msun"\n'),
    }


@situation()
def haloes_in_the_density_s_own_hdf5(folder: Path) -> dict[str, str]:
    """Arrays of a group catalogue beside the mesh, their units in attributes."""
    for z, arrays in snapshots(SIM):
        positions, masses = haloes(arrays["n_src"])
        with h5py.File(folder / f"snap_z{z}.h5", "w") as file:
            header(file)
            file["mesh/gas"], file["mesh/ionised"] = arrays["n_igm"], arrays["xi"]
            file["Group/GroupPos"] = positions * 700.0
            file["Group/GroupPos"].attrs["units"] = "kpc/h"
            file["Group/Group_M_Crit200"] = masses * 0.7 / 1e10
            file["Group/Group_M_Crit200"].attrs["units"] = "1e10 Msun/h"
    return {
        **SHINING,
        **mapping(
            folder,
            '[n_igm]\narray = "mesh/gas"\nunit = "g cm-3"\n[xi]\narray = "mesh/ionised"\nunit = "1"\n'
            '[halos]\npositions = "Group/GroupPos"\nmass = "Group/Group_M_Crit200"\n',
        ),
    }


@situation()
def haloes_as_arrays_of_one_axis(folder: Path) -> dict[str, str]:
    """HDF5 with x, y, z and mass apart, beside a density of ours."""
    write_density(folder)
    (folder / "halos").mkdir()
    for z, arrays in snapshots(SIM):
        positions, masses = haloes(arrays["n_src"])
        with h5py.File(folder / "halos" / f"fof_z{z}.hdf5", "w") as file:
            for number, axis in enumerate("xyz"):
                file[f"halos/{axis}"] = positions[:, number]
            file["halos/mass"] = masses
    return {
        **COSMOLOGY,
        **SHINING,
        **mapping(
            folder,
            '[halos]\nfile = "fof_z*.hdf5"\nx = "halos/x"\ny = "halos/y"\nz = "halos/z"\n'
            'mass = "halos/mass"\nposition_unit = "Mpc"\nmass_unit = "Msun"\n',
        ),
    }


@situation()
def haloes_as_rows_of_an_npy_array(folder: Path) -> dict[str, str]:
    write_density(folder)
    for z, arrays in snapshots(SIM):
        positions, masses = haloes(arrays["n_src"])
        np.save(folder / f"rows_z{z}.npy", np.column_stack([masses, positions]))
    return {
        **COSMOLOGY,
        **SHINING,
        **mapping(
            folder,
            '[halos]\nfile = "rows_z*.npy"\nmass = 1\nx = 2\ny = 3\nz = 4\nposition_unit = "Mpc"\n'
            'mass_unit = "Msun"\n',
        ),
    }


RECORD = np.dtype([("id", "<i8"), ("pos", "<f8", (3,)), ("Mvir", "<f8"), ("name", "S4")])
"""A halo as catalogues in tables have it: with what is no number, and a position of three."""


def records(n_src: np.ndarray) -> np.ndarray:
    positions, masses = haloes(n_src)
    table = np.zeros(len(masses), RECORD)
    table["pos"], table["Mvir"], table["id"], table["name"] = (
        positions,
        masses,
        np.arange(len(masses)),
        b"halo",
    )
    return table


@situation()
def haloes_as_a_table_of_records_in_hdf5(folder: Path) -> dict[str, str]:
    """A compound type, deflated, as PyTables, astropy and h5py write tables; columns by their usual names."""
    write_density(folder)
    for z, arrays in snapshots(SIM):
        with h5py.File(folder / f"fof_z{z}.hdf5", "w") as file:
            file.create_dataset(
                "halos", data=records(arrays["n_src"]), chunks=(7,), compression="gzip", shuffle=True
            )
    return {
        **COSMOLOGY,
        **SHINING,
        **mapping(folder, '[halos]\nfile = "fof_z*.hdf5"\nposition_unit = "Mpc"\nmass_unit = "Msun"\n'),
    }


@situation()
def haloes_as_records_in_npy(folder: Path) -> dict[str, str]:
    write_density(folder)
    for z, arrays in snapshots(SIM):
        np.save(folder / f"fof_z{z}.npy", records(arrays["n_src"]))
    return {
        **COSMOLOGY,
        **SHINING,
        **mapping(
            folder,
            '[halos]\nfile = "fof_z*.npy"\npositions = "pos"\nmass = "Mvir"\nposition_unit = "Mpc"\n'
            'mass_unit = "Msun"\n',
        ),
    }


@situation()
def haloes_as_records_in_npz(folder: Path) -> dict[str, str]:
    """In the density's own archive."""
    for z, arrays in snapshots(SIM):
        np.savez_compressed(
            folder / f"box_z{z}.npz",
            n_igm=arrays["n_igm"],
            xi=arrays["xi"],
            redshift=float(z),
            box_size=16.0,
            halos=records(arrays["n_src"]),
        )
    return {
        **COSMOLOGY,
        **SHINING,
        **mapping(
            folder,
            '[halos]\npositions = "halos/pos"\nmass = "halos/Mvir"\nposition_unit = "Mpc"\n'
            'mass_unit = "Msun"\n',
        ),
    }


@situation("n_src")
def haloes_and_nothing_else(folder: Path) -> dict[str, str]:
    """Photons per second in a column, cells counted from 1, a mesh that is set."""
    for z, arrays in snapshots(SIM):
        rows = ["{} {} {} {:.9e}".format(*row) for row in source_rows(arrays["n_src"])]
        (folder / f"emitters_z{z}.txt").write_text("# i j k rate\n" + "\n".join(rows) + "\n")
    return {
        **BOX,
        "mesh": "4",
        **mapping(
            folder,
            '[halos]\nx = "i"\ny = "j"\nz = "k"\nphotons = "rate"\nposition_unit = "cells from 1"\n',
        ),
    }


@situation()
def haloes_in_zarr(folder: Path) -> dict[str, str]:
    """One snapshot a store, haloes of shape (3, haloes)."""
    for z, arrays in snapshots(SIM):
        group = zarr.open_group(folder / f"run_z{z}.zarr", mode="w")
        group.attrs.update(box_size=16.0, H0=70.0, Om0=0.27, Ob0=0.044)
        for name in set(FIELDS) - {"n_src"}:
            group.create_array(name, data=arrays[name].astype(np.float32)).attrs["units"] = SIM[name].units
        positions, masses = haloes(arrays["n_src"])
        group.create_array("halos/positions", data=positions.T)
        group.create_array("halos/mass", data=masses)
    return {
        **SHINING,
        **mapping(
            folder,
            '[halos]\npositions = "halos/positions"\nmass = "halos/mass"\nposition_unit = "Mpc"\n'
            'mass_unit = "Msun"\n',
        ),
    }


@situation()
def masses_on_a_mesh(folder: Path) -> dict[str, str]:
    """No list, but the mass in haloes in each cell: f_gamma and a lifetime make photons of it."""
    for z, arrays in snapshots(SIM):
        density = arrays["n_src"] * 1e48 / photons_per_msun(1.0)
        with h5py.File(folder / f"box_z{z}.h5", "w") as file:
            header(file)
            for name in FIELDS:
                file[name] = density if name == "n_src" else arrays[name]
                file[name].attrs["units"] = "Msun Mpc-3" if name == "n_src" else SIM[name].units
    return SHINING
