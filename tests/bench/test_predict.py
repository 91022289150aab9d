"""The benchmark of prediction measures what it says; how fast, no test asks."""

import math

import pytest

from reion.bench import predict


@pytest.mark.slow
def test_every_figure_comes_out(monkeypatch):
    monkeypatch.setattr(predict, "CELLS", 8)
    monkeypatch.setattr(predict, "SIDES", (8, 12))
    monkeypatch.setattr(predict, "ROUNDS", 1)
    small = {"smoothing_cells": [3], "diffusion_cells": [3], "width": 4, "hidden": 4, "blocks": 1}
    monkeypatch.setattr(predict, "NETWORK", small)
    results = list(predict.measure(lambda line: None))
    assert [result.name for result in results] == [
        "predict_vs_keras",
        "predict_vs_whole_file",
        "predict_trunk_share_of_sgemm",
        "predict_stem_share_of_copy",
        "predict_vs_excursion_set",
        "conv_in_planes_vs_conv3d",
        "predict_startup",
        "predict_8_from_store_to_store",
        "predict_12_from_store_to_store",
    ]
    for result in results:
        assert math.isfinite(result.ratio.value)
        assert 0 < result.ratio.smallest <= result.ratio.value <= result.ratio.largest
