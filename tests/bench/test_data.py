"""The data benchmark measures what it says, on a simulation that the readers read."""

from __future__ import annotations

import numpy as np
import pytest

from reion.bench import data
from reion.readers import open_simulation
from reion.storage.conversion import convert


def test_it_measures_a_small_simulation(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "CELLS", 12)
    monkeypatch.setattr(data, "REDSHIFTS", ("12.000", "11.000"))
    run = tmp_path / "run"
    run.mkdir()
    data._write_c2ray(run)
    sim = open_simulation(run, settings=data.SETTINGS)
    assert dict(sim.sizes) == {"redshift": 2, "x": 12, "y": 12, "z": 12}
    np.testing.assert_array_equal(sim["xi"].values[0], sim["xi"].values[1])
    convert(run, tmp_path / "sim.zarr", settings=data.SETTINGS)
    for result in (data._reading(run), data._inspecting(tmp_path / "sim.zarr")):
        assert 0 < result.ratio.smallest <= result.ratio.value <= result.ratio.largest


def test_memory_is_that_of_the_other_process():
    here = np.ones(200 << 17)  # 200 MiB, which the other process does not have
    result = data._memory("nothing", "import numpy as np; kept = np.ones(100 << 17)")
    assert here.any()
    assert 100 << 20 < result.extra["peak_memory_bytes"] < 200 << 20
    assert result.ratio.value == pytest.approx((1 << 30) / result.extra["peak_memory_bytes"])
