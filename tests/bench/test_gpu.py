"""The benchmark of a GPU takes every path on a CPU; how fast, no test asks."""

import math

import pytest

from reion.bench import gpu
from reion.prediction.emulator import Emulator


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(gpu, "SIDES", (8, 12))
    monkeypatch.setattr(gpu, "ROUNDS", 1)
    monkeypatch.setattr(gpu, "STEPS", 1)
    monkeypatch.setattr(gpu, "shipped_models", lambda: ("rt64-history",))


def test_without_a_gpu_it_says_so_and_measures_nothing(monkeypatch):
    monkeypatch.setattr(gpu, "may_use_cuda", lambda device: False)
    monkeypatch.setattr(gpu, "BACKENDS", {"tensorflow": "no_such_package"})
    said = []
    assert list(gpu.measure(said.append)) == []
    assert any("nothing" in line for line in said)


@pytest.mark.slow
def test_every_figure_of_prediction_comes_out_on_a_cpu(monkeypatch):
    original = gpu.beyond
    monkeypatch.setattr(gpu, "beyond", lambda emulator: original(emulator, 28 * 17**3))
    results = {result.name: result for result in gpu.predicting("cpu", lambda line: None)}
    assert list(results) == [
        "gpu_rt64-history_agrees",
        "gpu_rt64-history_8_vs_cpu",
        "gpu_rt64-history_12_vs_cpu",
        "gpu_rt64-history_beyond_32_bits",
    ]
    assert results["gpu_rt64-history_agrees"].ratio.value >= 1
    assert results["gpu_rt64-history_beyond_32_bits"].ratio.value >= 1
    for result in results.values():
        assert all(math.isfinite(value) for value in result.extra.values())


def test_a_box_that_does_not_fit_ends_the_row(monkeypatch):
    emulator = Emulator("rt64-history", device="cpu")
    original = gpu._predict

    def predict(model, fields):
        if len(fields["n_igm"]) > 8:
            raise gpu.InputError("there is not enough memory")
        return original(model, fields)

    monkeypatch.setattr(gpu, "_predict", predict)
    assert [result.name for result in gpu.rates(emulator, 1e9, 1e9)] == ["gpu_rt64-history_8_vs_cpu"]
    assert "which is refused" in gpu.beyond(emulator, 28 * 17**3).against


@pytest.mark.slow
def test_training_is_measured_in_both_precisions(monkeypatch):
    monkeypatch.setattr(gpu, "BACKENDS", {"tensorflow": "tensorflow"})
    settings = [
        "model.width=4",
        "model.hidden=4",
        "model.blocks=1",
        "training.crop_cells=8",
        "training.batch_size=1",
    ]
    (result,) = gpu.training("cpu", lambda line: None, settings)
    assert result.extra["steps_per_second"] > 0
    assert math.isfinite(result.extra["loss"])
