"""The packaged sample is a valid pair of simulations."""

from __future__ import annotations

import numpy as np
import pytest

import reion
from reion.simulation.contract import check_simulation, mean_baryon_density


def test_both_boxes_are_whole_and_different():
    sample = reion.load_sample()
    for sim in sample:
        check_simulation(sim)
        assert dict(sim.sizes) == {"redshift": 10, "x": 64, "y": 64, "z": 64}
        assert float(sim["n_igm"][4].mean()) == pytest.approx(mean_baryon_density(sim), rel=0.01)
        assert np.all(np.diff(sim["xi"].mean(("x", "y", "z"))) > 0)
        assert int((sim["n_src"][0] > 0).sum()) == 300
        assert int((sim["n_src"][-1] > 0).sum()) == 1500
    correlation = np.corrcoef(sample.train["xi"][5].values.ravel(), sample.held_out["xi"][5].values.ravel())
    assert abs(correlation[0, 1]) < 0.2
