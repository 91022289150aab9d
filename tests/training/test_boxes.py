"""What the boxes of a training have in common, whichever of their fields says it."""

from __future__ import annotations

import pytest

pytest.importorskip("keras")

from reion.config import load_config
from reion.errors import InputError
from reion.simulation.contract import SOURCE_UNITS, make_simulation, n_ion_units
from reion.training.boxes import require_together, source_units
from reion.training.run import with_photons


def box(toy, units, *names):
    """A box whose sources are in these units, with fields of these names besides density and xi."""
    sim = toy()
    fields = dict.fromkeys(names, sim["n_src"].values)
    return make_simulation(
        {"n_igm": sim["n_igm"].values, "xi": sim["xi"].values, **fields},
        redshift=sim["redshift"].values,
        box_size=sim.attrs["box_size"],
        n_src_units=units,
    )


@pytest.mark.parametrize("names", [("n_src",), ("n_ion",), ("n_src", "n_ion")])
@pytest.mark.parametrize("units", SOURCE_UNITS)
def test_the_unit_of_the_sources_is_read_from_the_field_that_there_is(toy, units, names):
    assert source_units(box(toy, units, *names), "history") == units


def test_it_is_that_of_the_field_that_the_network_is_given(toy):
    sim = box(toy, SOURCE_UNITS[0], "n_src", "n_ion")
    sim["n_ion"].attrs["units"] = n_ion_units("Msun Mpc-3")
    assert source_units(sim, "history") == "Msun Mpc-3"
    assert source_units(sim, "instant") == SOURCE_UNITS[0]


def test_photons_are_fitted_to_n_ion_in_masses_too(toy):
    config = load_config()
    assert with_photons(config, [box(toy, "Msun Mpc-3", "n_ion")]).model.photons_per_source > 0
    assert with_photons(config, [box(toy, SOURCE_UNITS[0], "n_ion")]).model.photons_per_source is None


def test_boxes_whose_sources_have_two_units_do_not_train_together(toy):
    boxes = [box(toy, SOURCE_UNITS[0], "n_src"), box(toy, "Msun Mpc-3", "n_ion")]
    with pytest.raises(InputError, match="sources in one unit; received 1e48 s-1 Mpc-3, Msun Mpc-3"):
        require_together(load_config(), boxes)
