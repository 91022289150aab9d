"""The search for settings, and the plan that a look at the data suggests."""

from __future__ import annotations

import json
import tomllib

import numpy as np
import pytest

pytest.importorskip("keras")
pytest.importorskip("tensorflow")
pytest.importorskip("optuna")

from reion.config import load_config
from reion.errors import InputError
from reion.storage.store import write_simulation
from reion.studies import search as searching
from reion.studies.ranges import load_search, searches
from reion.studies.search import Judged, Search, search
from reion.studies.study import load_study
from reion.training.run_plan import Fingerprint, plan_run

STUDY = """
core_minutes = 100
trials = 6

[base]
model = { name = "voxel", hidden = [3] }
training.batch_size = 32

[ranges]
"training.learning_rate" = { low = 1e-4, high = 1e-1, log = true }
"model.hidden" = { choices = [[2], [4, 4]] }
"training.clip_norm" = { low = 0.5, high = 2.0 }
"""


@pytest.fixture
def study(tmp_path):
    (tmp_path / "study.toml").write_text(STUDY)
    return tmp_path / "study.toml"


@pytest.fixture
def trainings(monkeypatch):
    """Trials whose score is a function of what was drawn, best at a learning rate of 0.01; nothing trains."""
    done = []

    def train(self, drawn, trial=None, *, later_seed=0):
        done.append((dict(drawn), later_seed))
        self.plan.config(drawn, 20)
        if len(done) == 3 and trial is not None and interrupting:
            raise KeyboardInterrupt
        r2 = 0.9 - abs(np.log10(drawn.get("training.learning_rate", 3e-3)) + 2) / 10
        if trial is not None:
            trial.set_user_attr("steps", 20)
            for number in range(1, 5):
                trial.report(r2, number)
                if trial.should_prune():
                    return r2, True
        return r2 + 0.001 * later_seed, False

    interrupting: list[bool] = []
    monkeypatch.setattr(searching._Running, "train", train)
    return done, interrupting


@pytest.mark.parametrize("name", searches())
def test_the_searches_that_come_with_reion_fit_the_schema(name):
    assert load_search(name).trials == 20


def test_a_search_finds_what_is_better_and_leaves_it_ready_to_train(study, trainings, toy, tmp_path):
    result = search(study, [toy()], tmp_path / "out")
    assert len([trial for trial in result.trials if trial.state in ("complete", "pruned")]) == 6
    best = load_config(tmp_path / "out" / "best.toml")
    drawn = result.trials[result.best].drawn
    assert best.training.learning_rate == drawn["training.learning_rate"]
    assert list(best.model.hidden) == drawn["model.hidden"]
    assert len(result.default.r2) == len(result.found.r2) == 3
    budget, runs = load_study(tmp_path / "out" / "study.toml")
    assert set(runs) == {"default", "found"}
    assert budget.core_minutes == pytest.approx(100 / 6)
    assert json.loads((tmp_path / "out" / "search.json").read_text())["best"] == result.best
    assert (tmp_path / "out" / "trials.png").stat().st_size > 1000


def test_interrupted_and_resumed_it_has_as_many_trials_and_tries_the_lost_one_again(
    study, trainings, toy, tmp_path
):
    done, interrupting = trainings
    interrupting.append(True)
    with pytest.raises(KeyboardInterrupt):
        search(study, [toy()], tmp_path / "out")
    interrupting.clear()
    lost = done[-1][0]
    with pytest.raises(InputError, match="already there") as refused:
        search(study, [toy()], tmp_path / "out")
    assert "--resume goes on" in refused.value.hint
    for change, told in (
        ({"core_minutes": 50.0}, "other core_minutes"),
        ({"trials": 8}, "other trials"),
    ):
        with pytest.raises(InputError, match=f"another study: {told}"):
            search(study, [toy()], tmp_path / "out", resume=True, **change)
    for other in (toy(seed=1), toy().assign_attrs(H0=70.0)):
        with pytest.raises(InputError, match=r"other simulations: (values|cosmology) of box 1"):
            search(study, [other], tmp_path / "out", resume=True)
    result = search(study, [toy()], tmp_path / "out", resume=True)
    states = [trial.state for trial in result.trials]
    assert states.count("fail") == 1
    assert len(states) == 7
    assert result.trials[3].drawn == lost
    study.write_text(STUDY.replace("2.0", "3.0"))
    with pytest.raises(InputError, match="another study"):
        search(study, [toy()], tmp_path / "out", resume=True)


def test_the_verdict_is_the_spread_over_seeds():
    def verdict(default, found):
        return Search((), 0, Judged(default), Judged(found), 1.0).verdict

    assert "more than the spread" in verdict((0.80, 0.81, 0.82), (0.86, 0.87, 0.88))
    assert "keep the defaults" in verdict((0.80, 0.84, 0.88), (0.82, 0.86, 0.90))
    of_one_seed = verdict((0.80,), (0.9,))
    assert "1 seed each" in of_one_seed
    assert "keep the defaults, or give more seeds" in of_one_seed


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ('"training.clip_norm" = { low = 2.0, high = 0.5 }', "low below high"),
        ('"training.clip_norm" = { choices = [1.0] }', "two choices"),
        ('"training.clip_norm" = { low = -1.0, high = 2.0 }', r"ranges\.training\.clip_norm=-1\.0"),
        ('"training.speed" = { low = 1.0, high = 2.0 }', "training.speed"),
        ('"training.clip_norm" = { low = 0.0, high = 2.0, log = true }', "log needs low above 0"),
    ],
)
def test_a_range_that_is_none_is_refused_before_anything_is_trained(change, expected, study):
    study.write_text(STUDY.replace('"training.clip_norm" = { low = 0.5, high = 2.0 }', change))
    with pytest.raises(InputError, match=expected):
        load_search(study)


@pytest.mark.slow
def test_the_command_searches_and_trains_what_it_found(command, toy, tmp_path, study):
    from reion.storage.store import write_simulation

    write_simulation(toy(), tmp_path / "box.zarr")
    words = (study, tmp_path / "box.zarr", "--out", tmp_path / "out", "--seeds", "1")
    code, out, err = command("search", *words, "--core-minutes", "0.01", "--trials", "2", "--json")
    assert code == 0, err
    result = json.loads(out)
    assert [trial["steps"] for trial in result["trials"]] == [20]
    assert 0.01 < result["core_minutes"] < 5
    assert "the 0.01 minutes of one core are spent after 1 of 2 trials" in err
    config = load_config(tmp_path / "out" / "best.toml")
    assert config.training.steps == 20


def test_the_fingerprint_is_that_of_the_boxes(toy):
    boxes = [toy(), toy(redshift=(9.0, 8.0))]
    found = Fingerprint.of(boxes)
    assert (found.boxes, found.snapshots) == (2, 6)
    means = [float(snapshot.mean()) for box in boxes for snapshot in box["xi"]]
    assert found.partly_ionised == sum(0.001 < mean < 0.999 for mean in means)
    assert found.redshift_range == (7.0, 12.0)
    assert found.alike
    assert not Fingerprint.of([toy(), toy(cell_mpc=4.0)]).alike


def test_a_planned_run_is_a_schema_that_says_why(toy, monkeypatch):
    class Cost:
        peak_memory_bytes = 3 << 30
        seconds = 120.0

    limits = iter([(1 << 30), *(16 << 30,) * 9])
    monkeypatch.setattr("reion.training.run_plan.memory_limit_bytes", lambda: next(limits))
    seen = []

    def cost(config, *_):
        seen.append(config.training.batch_size)
        Cost.peak_memory_bytes = (200 << 20) * config.training.batch_size // seen[0] * 8
        return Cost

    monkeypatch.setattr("reion.training.run_plan.plan_train", cost)
    planned = plan_run([toy(shape=(16, 12, 12))])
    values = tomllib.loads(planned.to_toml())
    config = load_config(base=values)
    crop = config.training.crop_cells
    assert crop + 2 + 4 <= 16
    assert crop <= 12
    assert config.data.inputs == "history"
    assert config.training.batch_size < seen[0]
    assert "halved to fit" in planned.to_toml()
    # How often follows from the batch that is left, not from one that did not fit.
    partly = Fingerprint.of([toy(shape=(16, 12, 12))]).partly_ionised
    times = config.training.steps * config.training.batch_size * crop**3 / (16 * 12 * 12 * partly)
    assert f"is seen about {times:.0f} times" in planned.to_toml()
    assert "keep one back" in planned.to_toml()
    for _, key, value, reason in planned.rows:
        assert f"# {reason}\n{key} = " in planned.to_toml(), value


@pytest.mark.usefixtures("without_timing")
@pytest.mark.parametrize(
    ("shape", "crop", "reason"),
    [
        ((40, 40, 40), 24, "the default"),
        ((24, 40, 40), 16, "the largest multiple of 4 within what 24 cells along x leave"),
        ((40, 10, 40), 8, "the largest multiple of 4 within the 10 cells of the shortest side"),
        ((9, 40, 40), 4, "the largest multiple of 4 within what 9 cells along x leave"),
    ],
)
def test_the_reason_of_a_crop_is_true(toy, shape, crop, reason):
    planned = plan_run([toy(shape=shape, redshift=(12.0, 7.0))])
    (told,) = (why for _, key, value, why in planned.rows if key == "crop_cells" and value == crop)
    assert told.startswith(reason)


@pytest.fixture
def without_timing(monkeypatch):
    """Of a planned training, memory and time are not found out by taking steps."""

    class Cost:
        peak_memory_bytes = 1
        seconds = None

    monkeypatch.setattr("reion.training.run_plan.plan_train", lambda *_: Cost)


@pytest.mark.usefixtures("without_timing")
def test_a_single_snapshot_is_planned_as_one_and_nothing_to_learn_is_refused(toy):
    planned = plan_run([toy().isel(redshift=[2])])
    assert planned.values["data"]["inputs"] == "instant"
    neutral = toy().isel(redshift=[0]).copy(deep=True)
    neutral["xi"].values[:] = 0.0
    with pytest.raises(InputError, match="neither neutral nor ionised"):
        plan_run([neutral])
    with pytest.raises(InputError, match="not all say how far photons reach"):
        plan_run([toy(), toy(cell_mpc=4.0)])


@pytest.mark.usefixtures("without_timing")
def test_only_a_file_that_was_planned_is_replaced(command, toy, tmp_path):
    box = write_simulation(toy(shape=(16, 12, 12)), tmp_path / "box.zarr")
    out = tmp_path / "run.toml"
    out.write_text("[training]\nsteps = 7\n")
    code, _, said = command("plan-run", box, "--out", out, "--force")
    assert code == 2
    assert "is not a configuration that reion wrote" in said
    assert out.read_text() == "[training]\nsteps = 7\n"
    out.unlink()
    assert command("plan-run", box, "--out", out)[0] == 0
    planned = out.read_text()
    code, _, said = command("plan-run", box, "--out", out)
    assert code == 2
    assert "exists already" in said
    assert command("plan-run", box, "--out", out, "--force")[0] == 0
    assert out.read_text().splitlines()[0] == planned.splitlines()[0]
    load_config(out)
