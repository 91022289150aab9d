"""Inputs that make a prediction worthless are said by name."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from reion.prediction.predict import predict
from reion.prediction.unlike_training import warn_of_inputs
from reion.simulation.photons import with_n_ion
from reion.storage.store import write_simulation


def said(sim, inputs):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_inputs(sim, inputs)
    return [str(warning.message) for warning in caught]


def test_a_single_snapshot_without_its_photons_is_said(toy, tmp_path):
    sim = toy((16, 16, 16), (8.0,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_simulation(sim, tmp_path / "one.zarr")
        sim = with_n_ion(sim)
    assert "n_ion is zero everywhere at z = 8" in said(sim, ("n_igm", "n_ion"))[0]
    with pytest.warns(UserWarning, match="n_ion is zero everywhere at z = 8"):
        predict("rt64-history", tmp_path / "one.zarr", tmp_path / "xi.zarr")


def test_sources_in_every_cell_are_said(toy, tmp_path):
    sim = toy((16, 16, 16), (8.0,))
    sim["n_src"].values[:] = 1.0
    assert "sources are in 100% of the cells" in said(sim, ("n_igm", "n_src"))[0]
    assert said(sim, ("n_igm",)) == []


def test_a_whole_series_is_sound(toy):
    sim = with_n_ion(toy())
    assert not sim["n_ion"].values[0].any()
    assert said(sim, ("n_igm", "n_ion")) == []
    assert said(sim, ("n_igm", "n_src")) == []
    late = sim.isel(redshift=slice(2, None)).assign(n_ion=sim["n_ion"] + np.float32(1))
    assert said(late, ("n_igm", "n_ion")) == []
