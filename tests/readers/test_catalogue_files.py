"""Files of haloes: whole or refused, empty or not, under any path and any usual header."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import zarr

from reion.errors import InputError
from reion.readers import open_simulation
from tests.readers.layouts import random_simulation, write_npz

SIM = random_simulation((4, 4, 4), (9.0, 8.0), box_size=100.0)
HALOES = [(1.0, 2.0, 3.0), (99.0, 50.0, 0.0), (30.0, 30.0, 30.0)]
ROWS = [f"{x} {y} {z} 1e10" for x, y, z in HALOES]
NUMBERED = "x = 1\ny = 2\nz = 3\nmass = 4\n"
TOTAL = 3e10 / 25.0**3


def density(folder):
    """A density in a folder of its own, and the mapping's place."""
    run = folder / "run"
    run.mkdir()
    write_npz(run, SIM)
    for path in run.glob("*.npz"):
        with np.load(path) as archive:
            arrays = {name: archive[name] for name in ("n_igm", "redshift", "box_size", "H0", "Om0", "Ob0")}
        np.savez(path, **arrays)
    return run


def sources(folder, pattern, columns=NUMBERED):
    """n_src with the haloes of the files that the pattern names."""
    run = density(folder)
    toml = f'[halos]\nfile = "{pattern}"\nposition_unit = "Mpc"\nmass_unit = "Msun"\n{columns}'
    (folder / "m.toml").write_text(toml)
    return open_simulation(run, settings={"mapping": str(folder / "m.toml")})["n_src"].values.astype(float)


def write_texts(folder, head, rows=ROWS, ending="txt"):
    for redshift in ("9.000", "8.000"):
        (folder / f"halos_z{redshift}.{ending}").write_text("\n".join([*head, *rows]) + "\n")


@pytest.mark.parametrize("count", [2, 10])
def test_a_list_that_was_cut_short_is_refused(count, tmp_path):
    write_texts(tmp_path, [str(count)])
    with pytest.raises(InputError, match=f"expected {count} haloes, .* received 3"):
        sources(tmp_path, "halos_z*.txt")


@pytest.mark.parametrize("head", [["3"], ["# 7"], ["8.0"], ["3 0.1"]])
def test_a_list_with_its_count_or_another_first_line_is_read(head, tmp_path):
    write_texts(tmp_path, head)
    assert sources(tmp_path, "halos_z*.txt")[0].sum() == pytest.approx(TOTAL)


@pytest.mark.parametrize("columns", ["", NUMBERED, 'x = "x"\ny = "y"\nz = "z"\nmass = "Mvir"\n'])
@pytest.mark.parametrize(
    "head",
    [
        ["x [Mpc],y [Mpc],z [Mpc],Mvir [Msun]"],
        ["x(Mpc),y(Mpc),z(Mpc),Mvir(Msun)"],
        ["x (Mpc/h), y (Mpc/h), z (Mpc/h), Mvir (Msun/h)", "3"],
        ["3", "x[Mpc],y[Mpc],z[Mpc],Mvir[Msun]"],
    ],
)
def test_units_in_the_header_of_a_table_are_no_columns(head, columns, tmp_path):
    write_texts(tmp_path, head, [row.replace(" ", ",") for row in ROWS], "csv")
    assert sources(tmp_path, "halos_z*.csv", columns)[0].sum() == pytest.approx(TOTAL)


def test_a_text_about_the_run_is_no_catalogue(tmp_path):
    run = density(tmp_path)
    write_texts(run, ["# x y z Mvir"])
    (run / "README.txt").write_text("about the run\n")
    (tmp_path / "m.toml").write_text('[halos]\nposition_unit = "Mpc"\nmass_unit = "Msun"\n')
    sim = open_simulation(run, settings={"mapping": str(tmp_path / "m.toml")})
    assert sim["n_src"].values[0].sum(dtype=float) == pytest.approx(TOTAL)


def test_a_pattern_may_be_absolute(tmp_path):
    far = tmp_path / "far [1]"
    far.mkdir()
    write_texts(far, [])
    assert sources(tmp_path, f"{far}/halos_z*.txt")[1].sum() == pytest.approx(TOTAL)
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match=r"there is no .*none/halos_z\*.txt"):
        sources(tmp_path / "none", f"{tmp_path}/none/halos_z*.txt")


def write_arrays(folder, kind, redshift, positions):
    """Positions and masses in arrays of chunks of 16 haloes."""
    path = folder / f"halos_z{redshift}.{'h5' if kind == 'hdf5' else 'zarr'}"
    mass = np.full(len(positions), 1e10)
    if kind == "hdf5":
        with h5py.File(path, "w") as file:
            file.create_dataset("pos", data=positions, chunks=(16, 3), maxshape=(None, 3), compression="gzip")
            file.create_dataset("mass", data=mass, chunks=(16,), maxshape=(None,), compression="gzip")
    else:
        group = zarr.open_group(path, mode="w")
        group.create_array("pos", data=positions, chunks=(16, 3))
        group.create_array("mass", data=mass, chunks=(16,))


@pytest.mark.parametrize(("kind", "ending"), [("hdf5", "h5"), ("zarr", "zarr")])
def test_before_the_first_haloes_arrays_in_chunks_are_empty(kind, ending, tmp_path):
    write_arrays(tmp_path, kind, "9.000", np.empty((0, 3)))
    write_arrays(tmp_path, kind, "8.000", np.array(HALOES))
    found = sources(tmp_path, f"halos_z*.{ending}", 'positions = "pos"\nmass = "mass"\n')
    assert not found[0].any()
    assert found[1].sum() == pytest.approx(TOTAL)
