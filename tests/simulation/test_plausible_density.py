"""A density that no box has is refused, and one that is odd is spoken of."""

import json

import numpy as np
import pytest

from reion.errors import InputError
from reion.simulation.contract import make_simulation
from reion.simulation.plausible_density import falling_structure_doubt, require_cosmic_density

COSMIC_MEAN = 4.2094e-31


def box(n_igm, redshift=(8.0,)):
    shape = (len(redshift), *n_igm.shape)
    fields = {"n_igm": np.broadcast_to(n_igm, shape).astype(np.float32)}
    return make_simulation(fields, redshift=redshift, box_size=[float(n) for n in n_igm.shape])


@pytest.mark.parametrize("factor", [1 / 90, 0.3, 1.0, 5.0, 90.0])
def test_a_chosen_region_is_taken(factor):
    require_cosmic_density(box(np.full((4, 4, 4), factor * COSMIC_MEAN)))


@pytest.mark.parametrize("factor", [1e-7, 1 / 110, 110.0, 1e30])
def test_what_no_box_has_is_refused_at_any_redshift(factor):
    n_igm = np.full((2, 4, 4, 4), COSMIC_MEAN)
    n_igm[1] *= factor
    sim = make_simulation({"n_igm": n_igm.astype(np.float32)}, redshift=[9.0, 8.0], box_size=4.0)
    with pytest.raises(InputError, match="n_igm at z = 8: expected the comoving baryon density"):
        require_cosmic_density(sim)


def test_the_rest_of_the_box_counts_where_its_first_corner_is_empty():
    n_igm = np.zeros((260, 1, 1))
    n_igm[128:] = 2 * COSMIC_MEAN
    require_cosmic_density(box(n_igm))
    with pytest.raises(InputError, match="received a mean of 1e-08 times that"):
        require_cosmic_density(box(np.full((260, 1, 1), 1e-8 * COSMIC_MEAN)))


def test_structure_that_shrinks_is_said_with_its_redshifts():
    spreads = [0.230, 0.285, 0.255, 0.324]
    assert "from 0.285 at z = 9 to 0.255 at z = 8" in falling_structure_doubt([10, 9, 8, 7], spreads)
    assert falling_structure_doubt([10, 9, 8, 7], sorted(spreads)) is None
    assert falling_structure_doubt([10, 9], [0.2, 0.2]) is None
    assert falling_structure_doubt([10], [0.2]) is None


@pytest.fixture
def files(simulation, tmp_path):
    """Write the toy box as archives, with its density times a factor and its snapshots in an order."""

    def write(factor, order=(0, 1, 2, 3)):
        growth = np.linspace(0.7, 1.0, 4)[:, None, None, None]
        n_igm = simulation["n_igm"].values
        n_igm = COSMIC_MEAN * (1 + growth * (n_igm / n_igm.mean() - 1))
        folder = tmp_path / "files"
        folder.mkdir()
        for index, redshift in enumerate(simulation["redshift"].values):
            np.savez(
                folder / f"box_z{redshift:06.3f}.npz",
                n_igm=(factor * n_igm[order[index]]).astype(np.float32),
                n_src=simulation["n_src"][index].values,
                redshift=redshift,
                box_size=simulation.attrs["box_size"],
            )
        return folder

    return write


def test_convert_says_what_is_odd_and_predict_and_simulate_refuse_it(files, toy_model, tmp_path, command):
    source, out = files(1 / COSMIC_MEAN), tmp_path / "sim.zarr"
    code, printed, _ = command("convert", source, "--out", out)
    assert code == 0
    assert "is it in 1 + overdensity, taken as g cm-3 (--set n_igm_unit='1 + overdensity')?" in printed
    for words in (["predict", toy_model, out], ["simulate", out, "--set", "max_mfp=30"]):
        code, _, said = command(*words, "--out", tmp_path / "no.zarr")
        assert code == 2
        assert "n_igm_unit='1 + overdensity'" in said
        assert not (tmp_path / "no.zarr").exists()


def test_convert_says_nothing_of_a_sound_density(files, tmp_path, command):
    code, printed, _ = command("convert", files(1), "--out", tmp_path / "sim.zarr", "--json")
    assert code == 0
    assert json.loads(printed)["stores"][0]["doubts"] == []


def test_convert_says_that_snapshots_seem_exchanged(files, tmp_path, command):
    code, printed, _ = command("convert", files(1, (0, 2, 1, 3)), "--out", tmp_path / "sim.zarr", "--json")
    assert code == 0
    (doubt,) = json.loads(printed)["stores"][0]["doubts"]
    assert "are snapshots exchanged?" in doubt
