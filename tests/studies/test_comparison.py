"""A study: every run trained, exported and evaluated once, whatever interrupts it."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

pytest.importorskip("keras")
pytest.importorskip("tensorflow")

from reion.errors import InputError
from reion.simulation.contract import with_max_mfp
from reion.studies import comparison
from reion.studies.comparison import compare
from reion.studies.study import StudyRun, load_study, studies

STUDY = """
core_minutes = 1
[runs.first]
seed = 3
model = { smoothing_cells = [3], diffusion_cells = [3], width = 4, hidden = 4, blocks = 1 }
training = { crop_cells = 4, batch_size = 1 }
[runs.second]
data.inputs = "instant"
model = { name = "voxel", hidden = [4] }
"""
JUDGED = ("second/evaluations/box.json", "comparison.json")


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(STUDY, encoding="utf-8")
    return path


@pytest.mark.slow
def test_a_study_is_trained_and_judged_once(study, toy, tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "core_seconds_per_step", lambda *_: 2.0)
    boxes, test, out = [toy(), toy(seed=1)], {"box": toy(seed=2)}, tmp_path / "out"

    def interrupted(done, total, _):
        assert total == 30
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(study, boxes, test, out, progress=interrupted)
    with pytest.raises(InputError, match="already there") as refused:
        compare(study, boxes, test, out)
    assert "--resume goes on" in refused.value.hint
    with pytest.raises(InputError, match="core_minutes=1 instead of 2"):
        compare(study, boxes, test, out, resume=True, core_minutes=2)
    steps = []
    result = compare(study, boxes, test, out, resume=True, progress=lambda done, *_: steps.append(done))
    assert steps[0] > 1
    assert [(run.name, run.inputs, run.steps) for run in result.runs] == [
        ("first", "history", 30),
        ("second", "instant", 30),
    ]
    assert (result.budget.core_minutes, result.budget.steps) == (1, None)
    assert set(result.excursion_sets) == {"history", "instant"}
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")
    first, second = result.runs
    assert first.kflop_per_cell > second.kflop_per_cell > 0
    assert result.to_json() == json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    table = (out / "comparison.md").read_text(encoding="utf-8").splitlines()
    assert len(table) == 2 + 2 + 2
    assert all(line.count("|") == table[0].count("|") for line in table)

    monkeypatch.setattr(comparison, "train", None)
    assert compare(study, boxes, test, out, resume=True) == result
    check_damaged(study, boxes, test, out, result)
    with pytest.raises(InputError, match="core_minutes=1 instead of 2"):
        compare(study, boxes, test, out, resume=True, core_minutes=2)
    # Also where the first run has yet to be trained.
    (out / "first").rename(tmp_path / "aside")
    with pytest.raises(InputError, match="core_minutes=1 instead of 2"):
        compare(study, boxes, test, out, resume=True, core_minutes=2)
    (tmp_path / "aside").rename(out / "first")
    with pytest.raises(InputError, match="other simulations"):
        compare(study, boxes[:1], test, out, resume=True)
    with pytest.raises(InputError, match="judged on another box of the name box"):
        compare(study, boxes, {"box": toy(seed=3)}, out, resume=True)
    study.write_text(STUDY.replace("seed = 3", "seed = 4"), encoding="utf-8")
    with pytest.raises(InputError, match=r"seed=3 instead of 4"):
        compare(study, boxes, test, out, resume=True)


def read(path, budget):
    """Read a file as `compare` does."""
    if path.name == "comparison.json":
        comparison._check_budget(path, budget)
    else:
        comparison._read_scores(path)


def check_damaged(study, boxes, test, out, result):
    """A damaged file is one error that names it, and what it says to do leads out."""
    for name, damage in (
        ("first/evaluations/box.json", lambda text: text[: len(text) // 2]),
        ("first/evaluations/box.json", lambda text: text.replace('"pooled"', '"poled"')),
        ("second/evaluations/box.json", lambda text: text.replace('"redshifts": [', '"redshifts": [3,')),
        (
            "second/evaluations/box.json",
            lambda text: re.sub('"r2": [-0-9.e]+', '"r2": "good"', text, count=1),
        ),
        ("first/evaluations/box.json", lambda _: "{}"),
        ("comparison.json", lambda text: text[:20]),
        ("comparison.json", lambda _: '{"runs": []}'),
    ):
        path = out / name
        whole = path.read_text(encoding="utf-8")
        path.write_text(damage(whole), encoding="utf-8")
        with pytest.raises(InputError) as error:
            read(path, result.budget)
        assert error.value.file == str(path)
        assert "remove it" in str(error.value.hint)
        path.write_text(whole, encoding="utf-8")
    removed = {name: json.loads((out / name).read_text(encoding="utf-8")) for name in JUDGED}
    for name in JUDGED:
        (out / name).unlink()
    assert compare(study, boxes, test, out, resume=True) == result
    assert removed == {name: json.loads((out / name).read_text(encoding="utf-8")) for name in JUDGED}


def test_a_box_is_not_judged_that_was_trained_on(study, toy, tmp_path):
    with pytest.raises(InputError, match="one of those to train on"):
        compare(study, [toy(), toy(seed=1)], {"box": toy(seed=1)}, tmp_path / "out")
    with pytest.raises(InputError, match="core_minutes above 0"):
        compare(study, [toy()], {"box": toy(seed=1)}, tmp_path / "out", core_minutes=-5.0)
    with pytest.raises(InputError, match="becomes a file"):
        compare(study, [toy()], {"../box": toy(seed=1)}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_several_seeds_and_boxes(toy, tmp_path):
    """Two worlds, of cells of two sizes, and two seeds; one seed more is trained alone."""
    study = tmp_path / "study.toml"
    study.write_text(
        """
steps = 2
[runs.tiny]
model = { name = "transport", smoothing_mpc = [4], diffusion_mpc = [4], width = 3, hidden = 2, blocks = 1 }
training = { crop_cells = 4, batch_size = 1 }
""",
        encoding="utf-8",
    )

    def world(seed, cell_mpc=2.0):
        sim = toy(redshift=(12.0, 8.0), seed=seed, cell_mpc=cell_mpc)
        return with_max_mfp(sim, [15.0] * 2)

    tests = {"here": world(2), "there": world(3, cell_mpc=2.5)}
    out = tmp_path / "out"
    assert [run.name for run in compare(study, [world(0)], tests, out).runs] == ["tiny"]
    trained = []
    result = compare(study, [world(0)], tests, out, seeds=2, resume=True, say=trained.append)
    assert [line for line in trained if " of 2" in line] == ["tiny-seed-1, 2 of 2"]
    assert [(run.name, run.seed) for run in result.runs] == [("tiny", 0), ("tiny", 1)]
    assert {path.name for path in out.iterdir() if path.is_dir()} == {"tiny", "tiny-seed-1"}
    first, second = (run.scores["there"].r2 for run in result.by_name["tiny"])
    assert first != second
    text = (out / "comparison.md").read_text(encoding="utf-8")
    assert f"{np.mean([first, second]):.3f} ± {np.std([first, second], ddof=1):.3f}" in text
    assert [line for line in text.splitlines() if line.startswith("##")] == [
        "## pooled R², and the largest error of mean xi", "## here", "## there"
    ]  # fmt: skip
    stored = json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    assert stored["runs"][1]["scores"]["there"]["r2"] == second

    # What one of these runs has learnt, half as many steps further; beside it, the same network from nothing.
    further = tmp_path / "further.toml"
    text = study.read_text(encoding="utf-8").replace("runs.tiny", "runs.new")
    text += f"[runs.old]\nfrom = '{(out / 'tiny').as_posix()}'\nbudget_share = 0.5\n"
    further.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="box, is one that tiny was trained on, from which the run old"):
        compare(further, [world(4)], {"box": world(0)}, tmp_path / "further")
    result = compare(further, [world(4)], tests, tmp_path / "further")
    assert [(run.name, run.steps) for run in result.runs] == [("new", 2), ("old", 1)]
    provenance = json.loads((tmp_path / "further" / "old" / "provenance.json").read_text(encoding="utf-8"))
    assert provenance["parent"]["name"] == "tiny"
    assert compare(further, [world(4)], tests, tmp_path / "further", resume=True) == result
    further.write_text(text.replace("out/tiny'", "out/tiny-seed-1'"), encoding="utf-8")
    with pytest.raises(InputError, match="another network to start from"):
        compare(further, [world(4)], tests, tmp_path / "further", resume=True)


def test_a_step_takes_processor_time(toy):
    _, runs = load_study("losses")
    settings = {**runs["mse"].settings, "model": {"name": "voxel"}, "training": {"batch_size": 8}}
    config = StudyRun(settings).config(1)
    assert 0 < comparison.core_seconds_per_step([toy()], config) < 5


@pytest.mark.parametrize("name", studies())
def test_the_studies_that_come_along_fit_the_schema(name):
    budget, runs = load_study(name)
    assert (budget.core_minutes or budget.steps) > 0
    assert len(runs) > 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("core_minutes = 1", "runs"),
        ("[runs.a]", "core_minutes"),
        ("core_minutes = 1\n[runs.a]\nmodel.nam = 'patch'", "nam"),
        ("core_minutes = 1\n[runs.'../a']", "folder"),
        ("core_minutes = 1\nrest = 2\n[runs.a]", "rest"),
        ("core_minutes = 1\nsteps = 20\n[runs.a]", "one of them"),
        ("steps = 2.5\n[runs.a]", "steps"),
        ("core_minutes", "TOML"),
        ("steps = 20\n[runs.a]\ntraining.steps = 7", "the budget decides"),
        ("steps = 20\n[runs]\na = 3", "runs.a: expected a table"),
        ("steps = 20\n[runs.a]\ntraining = 3", "runs.a: expected a table"),
        ("steps = 20\n[runs.a]\nmodel = 'patch'", "model"),
        ("steps = 20\n[runs.a]\nfrom = 3", "name a model or a run folder"),
        ("steps = 20\n[runs.a]\nfrom = 'rt-nowhere'", "rt-nowhere"),
        ("steps = 20\n[runs.a]\nfrom = 'rt-worlds'\nmodel.width = 3", "network is another"),
        ("steps = 20\n[runs.a]\nbudget_share = 0", "budget_share"),
        ("steps = 20\n[runs.a]\nbudget_share = 1.5", "budget_share"),
    ],
)
def test_a_study_that_does_not_fit_is_one_error(text, expected, tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=expected):
        load_study(path)


def test_a_study_that_is_not_there_lists_those_that_are():
    with pytest.raises(InputError, match="ablation, fine-tuning, losses, models, rivals, sizes, worlds"):
        load_study("modells")


def test_a_folder_of_another_program_is_not_offered_for_resuming(study, toy, tmp_path):
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "letter.txt").write_text("Dear reader")
    with pytest.raises(InputError, match="already there") as refused:
        compare(study, [toy()], {"box": toy(seed=2)}, tmp_path / "others")
    assert refused.value.hint == "give another --out"
