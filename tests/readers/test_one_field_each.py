"""Files of one field each, and the redshift under the names that people give it."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from reion.errors import InputError
from reion.readers import open_each, open_simulation
from reion.readers.unused import without_field
from tests.readers.layouts import random_simulation

SIM = random_simulation((4, 4, 4), (9.0, 8.0), box_size=16.0)
MAPPING = '[n_igm]\narray = "rho"\nunit = "g cm-3"\n[xi]\narray = "x"\nunit = "1"\n'


def write(folder, kind, *, prefix="", mapped=False, fields=("n_igm", "xi")):
    """A file for each field and redshift."""
    labels = {"n_igm": f"{prefix}density", "xi": f"{prefix}xHII"}
    names = {"n_igm": "rho", "xi": "x"} if mapped else {"n_igm": "n_igm", "xi": "xi"}
    for index, redshift in enumerate(("9.000", "8.000")):
        for field in fields:
            path = folder / f"{labels[field]}_z{redshift}.{kind}"
            values = SIM[field].values[index]
            if kind == "npz":
                np.savez(path, **{names[field]: values, "box_size": 16.0})
                continue
            with h5py.File(path, "w") as file:
                file[names[field]] = values
                file[names[field]].attrs["units"] = SIM[field].units
                file.attrs["box_size"] = 16.0
    (folder / "m.toml").write_text(MAPPING)
    return {"mapping": str(folder / "m.toml")} if mapped else {}


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("kind", ["npz", "h5"])
def test_files_of_one_field_each_are_one_simulation(kind, mapped, tmp_path):
    settings = write(tmp_path, kind, mapped=mapped)
    sim = open_simulation(tmp_path, settings=settings)
    for field in ("n_igm", "xi"):
        np.testing.assert_array_equal(sim[field].values, SIM[field].values)


@pytest.mark.parametrize("mapped", [False, True])
def test_such_files_of_two_boxes_are_two_simulations(mapped, tmp_path):
    settings = write(tmp_path, "h5", mapped=mapped, prefix="box1_")
    write(tmp_path, "h5", mapped=mapped, prefix="box2_")
    sims = open_each(sorted(tmp_path.glob("*.h5")), settings=settings)
    assert [sorted(sim.data_vars) for sim in sims] == [["n_igm", "xi"]] * 2


def test_a_field_that_no_file_holds_and_one_that_a_box_lacks_are_missed(tmp_path):
    settings = write(tmp_path, "h5", mapped=True, fields=("n_igm",))
    with pytest.raises(InputError, match="expected arrays named x; received rho"):
        open_simulation(tmp_path, settings=settings)
    write(tmp_path, "h5", mapped=True)
    (tmp_path / "xHII_z8.000.h5").unlink()
    with pytest.raises(InputError, match="xi lacks z = 8"):
        open_simulation(tmp_path, settings=settings)


def test_other_boxes_are_not_joined(tmp_path):
    """Their names differ in more than the name of a field, or both hold a field."""
    write(tmp_path, "npz", fields=("n_igm",), prefix="a_")
    write(tmp_path, "npz", fields=("xi",), prefix="b_")
    with pytest.raises(InputError, match="expected one simulation; received 2"):
        open_simulation(tmp_path)


@pytest.mark.parametrize(
    ("label", "name"),
    [("density", ""), ("xHII", ""), ("n_igm", ""), ("box1_density", "box1"), ("xi-run2", "run2"), ("a", "a")],
)
def test_the_name_of_a_field_in_a_label(label, name):
    assert without_field(label) == name


def test_a_number_z_is_the_redshift(tmp_path):
    facts = {"xi": SIM["xi"].values[0], "n_igm": SIM["n_igm"].values[0], "z": 9.0, "box_size": 16.0}
    np.savez(tmp_path / "box.npz", **facts)
    assert open_simulation(tmp_path / "box.npz")["redshift"].item() == 9.0
    with h5py.File(tmp_path / "box.h5", "w") as file:
        file["xi"] = SIM["xi"].values[0]
        file["xi"].attrs["units"] = "1"
        file.attrs.update(z=9.0, box_size=16.0)
    assert open_simulation(tmp_path / "box.h5")["redshift"].item() == 9.0


def test_a_redshift_without_its_z_behind_the_name_of_an_array(tmp_path):
    for index, redshift in enumerate(("9.000", "8.000")):
        np.save(tmp_path / f"density_{redshift}.npy", SIM["n_igm"].values[index])
    (tmp_path / "m.toml").write_text('[n_igm]\narray = "density"\nunit = "g cm-3"\n')
    settings = {"mapping": str(tmp_path / "m.toml"), "box_size": "16"}
    sim = open_simulation(tmp_path, settings=settings)
    np.testing.assert_array_equal(sim["redshift"].values, [9.0, 8.0])
    np.testing.assert_array_equal(sim["n_igm"].values, SIM["n_igm"].values)


@pytest.mark.parametrize(
    ("least", "fits"), [(np.nextafter(np.float32(-1), np.float32(-2)), True), (-1.01, False)]
)
def test_an_overdensity_of_a_rounding_below_minus_one_is_an_empty_cell(least, fits, tmp_path):
    overdensity = np.zeros((4, 4, 4), np.float32)
    overdensity[1, 2, 3] = least
    np.savez(tmp_path / "box_z8.0.npz", n_igm=overdensity, box_size=16.0)
    sim = open_simulation(tmp_path / "box_z8.0.npz", settings={"n_igm_unit": "overdensity"})
    if fits:
        assert sim["n_igm"].values[0, 1, 2, 3] == 0
    else:
        with pytest.raises(InputError, match="n_igm at z = 8"):
            sim["n_igm"].load()
