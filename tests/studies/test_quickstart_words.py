"""The last lines of a quickstart are ones that a person understands."""

from __future__ import annotations

from pathlib import Path

from reion import evaluate
from reion.cli.training import _quickstart_in_words
from reion.studies.quickstart import Quickstart


def words(pred, true):
    places = (Path("run"), Path("model.onnx"), Path("report/report.html"))
    return _quickstart_in_words(Quickstart(60.0, *places, evaluate({"reion": pred}, true)))


def test_they_say_whether_it_worked_where_to_look_and_what_to_try(toy):
    sim = toy(redshift=(11.0, 9.0, 8.0))
    said = words(sim["xi"], sim)
    assert "It worked: 100% of the variance of the ionised fraction explained, the simple method" in said
    assert f"report  {Path('report/report.html').absolute().as_uri()}" in said
    assert said.rstrip().endswith("reion predict model.onnx YOUR_SIMULATION --out xi.zarr")


def test_a_model_that_is_worse_than_the_simple_method_has_not_worked(toy):
    sim = toy(redshift=(11.0, 9.0, 8.0))
    said = words(1 - sim["xi"], sim)
    assert "worked" not in said
    assert "needs more steps: 0% of the variance" in said
