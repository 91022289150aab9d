"""What the state machine of a run folder has found, each by itself."""

from __future__ import annotations

import json
import os
import shutil
from itertools import count

import pytest

pytest.importorskip("keras")
pytest.importorskip("tensorflow")

from reion.training.run_folder import require_unchanged
from tests.endurance import numbers_run
from tests.endurance.breaks import KILLED, Break
from tests.endurance.works import in_child, wait

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")


def train(run, steps, broken=None, **options):
    def work():
        (broken or Break()).arm(run.parent)
        numbers_run.train(run, numbers_run.settings(0, steps), **options)

    return wait(in_child(work))


def killed_at_every_step(run, kept, steps):
    """Yield how it ended when the kept run went on to `steps`, killed one step later each time."""
    for step in count(1):
        shutil.rmtree(run)
        shutil.copytree(kept, run)
        status = train(run, steps, Break("kill", step), resume=True)
        yield status
        if status == 0:
            return


def lengthened(run):
    return json.loads((run / "provenance.json").read_text()).get("lengthened", [])


@pytest.fixture
def run(tmp_path):
    """A finished run of four steps."""
    assert train(tmp_path / "run", 4) == 0
    return tmp_path / "run"


def test_a_normalisation_that_was_damaged_is_not_sealed(run):
    whole = (run / "normalizer.json").read_bytes()
    (run / "normalizer.json").write_bytes(whole.replace(b"0.5", b"0.7"))
    (run / "metrics.json").unlink()
    assert train(run, 4, resume=True) == 0
    assert (run / "normalizer.json").read_bytes() == whole
    require_unchanged(run)


@pytest.mark.slow
def test_a_run_that_says_it_is_finished_is_whole_at_any_step_of_resuming_it(run, tmp_path):
    kept = shutil.copytree(run, tmp_path / "kept")
    unfinished = 0
    for status in killed_at_every_step(run, kept, 4):
        if (run / "metrics.json").exists():
            require_unchanged(run)
        else:
            unfinished += 1
        assert status in (0, KILLED)
    assert unfinished > 0


@pytest.mark.slow
def test_a_lengthening_that_was_killed_is_told_of_only_if_it_happened(run, tmp_path):
    kept = shutil.copytree(run, tmp_path / "kept")
    told = 0
    for status in killed_at_every_step(run, kept, 6):
        if status == 0:
            break
        told += bool(lengthened(run))
        if "steps = 4" not in (run / "config.toml").read_text():
            break  # from here on it is lengthened
        assert train(run, 4, resume=True) == 0
        assert lengthened(run) == []
        assert (run / "model.keras").read_bytes()[:16] == numbers_run.numbers_of(run, 4).tobytes()
    assert told > 0


def test_steps_that_are_taken_again_are_told_of_with_the_length_they_had(run):
    assert train(run, 6, resume=True) == 0
    assert lengthened(run) == [{"at_step": 4, "before": 4, "after": 6}]
    for path in (run / "checkpoints").iterdir():
        (path / "state.json").write_text("damaged")
    assert train(run, 6, resume=True) == 0
    assert lengthened(run) == [{"at_step": 0, "before": 4, "after": 6}]
    assert (run / "model.keras").read_bytes()[:16] == numbers_run.numbers_of(run, 6).tobytes()
