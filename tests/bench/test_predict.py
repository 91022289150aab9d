"""The benchmark of prediction measures what it says; how fast, no test asks."""

import math

import pytest

from reion.bench import predict, shipped
from reion.sample import load_sample


@pytest.mark.slow
def test_every_figure_comes_out(monkeypatch):
    monkeypatch.setattr(predict, "CELLS", 8)
    monkeypatch.setattr(predict, "SIDES", (8, 12))
    monkeypatch.setattr(predict, "ROUNDS", 1)
    monkeypatch.setattr(shipped, "ROUNDS", 1)
    monkeypatch.setattr(shipped, "SIDES", (12,))
    monkeypatch.setattr(shipped, "MATRIX_SIDE", 64)
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
        "predict_rt-worlds-fast_12_vs_excursion_set",
        "predict_rt-worlds-fast_12_vs_one_file",
        "predict_rt-worlds_12_vs_excursion_set",
        "predict_rt-worlds_12_vs_one_file",
        "predict_rt-worlds-fast_12_trunk_share_of_sgemm",
        "predict_rt-worlds-fast_12_stem_share_of_copy",
        "predict_rt-worlds_12_trunk_share_of_sgemm",
        "predict_rt-worlds_12_stem_share_of_copy",
    ]
    for result in results:
        assert math.isfinite(result.ratio.value)
        assert 0 < result.ratio.smallest <= result.ratio.value <= result.ratio.largest


@pytest.mark.parametrize("side", [20, 64, 100])
def test_the_box_of_the_models_is_the_held_out_one_repeated(side):
    sim = load_sample().held_out
    fields = shipped.box(side)
    assert {values.shape for values in fields.values()} == {(side,) * 3}
    at = [99 % side, 7, 70 % side]
    expected = sim["n_igm"].sel(redshift=8.0).values[tuple(i % 64 for i in at)]
    assert fields["n_igm"][tuple(at)] == expected
    if side >= 64:
        assert fields["n_ion"].max() > 0
