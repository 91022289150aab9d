"""The ray tracing benchmark measures what it says."""

from __future__ import annotations

import numpy as np

from reion.bench import simulate


def test_it_measures_a_small_box(monkeypatch):
    for name, value in {"CELLS": 8, "RADIUS_CELLS": 2.0, "SOURCES": 48, "ROUNDS": 3}.items():
        monkeypatch.setattr(simulate, name, value)
    said = []
    results = list(simulate.measure(said.append))
    assert [result.name for result in results] == ["rays", "rays_two_threads", "rays_large_box", "chemistry"]
    assert len(said) == len(results)
    # The third is a difference of times, which in so small a box is noise.
    assert all(result.ratio.value > 0 for result in (*results[:2], results[3]))
    assert results[0].extra["ns a source and cell"] > 0


def test_half_of_the_gas_is_ionised_and_sources_are_in_that_half():
    gas, sources = simulate.half_ionised(16, 30)
    ionised = gas < np.sqrt(1e-4) * gas.max()
    assert 0.5 <= ionised.mean() < 0.75
    assert ionised[tuple(sources.T)].all()
    assert simulate._cells(1.0) == 7
    assert simulate._cells(15.0) == 14147
