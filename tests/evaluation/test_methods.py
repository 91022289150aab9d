"""What `reion evaluate` compares: each method has a name of its own, and a training box is called one."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from reion.errors import InputError
from reion.evaluation.methods import evaluate_methods, names_of
from reion.models.training_boxes import checksum_of, describe
from reion.prediction.predict import predict
from reion.storage.store import write_simulation
from reion_exports import restamp


def test_a_box_that_was_trained_on_is_called_so(toy, toy_model, tmp_path, no_figures):
    sim = toy(shape=(8, 8, 8), redshift=(12.0, 7.0))
    seen, unseen = tmp_path / "seen" / "model.onnx", tmp_path / "unseen" / "model.onnx"
    for path, training_data in ((seen, (checksum_of(sim),)), (unseen, ())):
        path.parent.mkdir()
        data = {"data": [asdict(describe(sim))] if training_data else []}
        path.write_bytes(
            restamp(toy_model.read_bytes(), training_data=training_data, provenance={"training": data})
        )
    told = "seen/model was trained on this box: its score is no held-out score"
    with pytest.warns(UserWarning, match=f"^{told}"):
        evaluation, page = evaluate_methods([str(unseen), str(seen)], sim, report=tmp_path / "report")
    assert list(evaluation.predictions) == ["unseen/model", "seen/model"]
    assert page.read_text(encoding="utf-8").count(told) == 1
    # A file with xi says which model predicted it.
    write_simulation(sim, tmp_path / "sim.zarr")
    predict(seen, tmp_path / "sim.zarr", tmp_path / "xi.zarr")
    with pytest.warns(UserWarning, match=r"^xi was trained on this box"):
        evaluate_methods([str(tmp_path / "xi.zarr")], sim)


@pytest.mark.parametrize(
    ("methods", "names"),
    [
        (["a/x/model.onnx", "b/x/model.onnx", "c/other.onnx"], ["a/x/model", "b/x/model", "other"]),
        (["rt64-history", "mine/rt64-history.onnx"], ["rt64-history", "mine/rt64-history"]),
        (["xi.zarr", "model.onnx"], ["xi", "model"]),
    ],
)
def test_names_are_as_short_as_they_can_be(methods, names):
    assert names_of(methods) == names


def test_one_file_is_not_compared_with_itself():
    with pytest.raises(InputError, match="expected different methods"):
        names_of(["a.onnx", "a.onnx"])
