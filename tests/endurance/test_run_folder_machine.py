"""A run folder beside a model of what must be true of it, whatever is killed, damaged or given again.

Each command is a child process, and its network four numbers: see `tests.endurance.numbers_run`.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("keras")
pytest.importorskip("tensorflow")

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from reion.config import load_config
from reion.errors import InputError
from reion.jobs.outputs import alone_at, is_temporary
from reion.training.checkpoints import load_newest
from reion.training.run_folder import is_our_run, require_unchanged
from tests.endurance import numbers_run
from tests.endurance.breaks import KILLED, Break, breaks
from tests.endurance.numbers_run import ROUND
from tests.endurance.works import REFUSED, in_child, leftovers, wait

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes"),
    pytest.mark.slow,
]
LONG = "REION_ENDURANCE" in os.environ
LENGTHS = (4, 6, 8)
SEEDS = (0, 1)
SEALED = ("model.keras", "normalizer.json", "metrics.json", "provenance.json", "checksums.json")


@dataclass(frozen=True)
class Seen:
    """What a look at the run folder says: which run, how long, how many steps are done, whether finished."""

    seed: int
    steps: int
    step: int
    finished: bool


def look(path: Path) -> Seen | None:
    """What is in the run folder; None where there is no run."""
    if not (path / "config.toml").is_file():
        return None
    config, newest = load_config(path / "config.toml"), load_newest(path / "checkpoints")
    return Seen(
        config.seed,
        config.training.steps,
        0 if newest is None else newest.step,
        (path / "metrics.json").is_file(),
    )


def everything(path: Path) -> str:
    """SHA-256 of all that is in a folder but what is being written or was left."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        inside = file.relative_to(path).parts
        if file.is_file() and not any(map(is_temporary, inside)):
            digest.update(f"{inside}".encode() + file.read_bytes())
    return digest.hexdigest()


class RunFolderMachine(RuleBasedStateMachine):
    """Commands that are given for one run folder, each of which may be broken off."""

    def __init__(self) -> None:
        super().__init__()
        self.made = tempfile.TemporaryDirectory()
        self.path = Path(self.made.name) / "place" / "run"
        self.path.parent.mkdir()
        self.seen: Seen | None = None
        self.waiting: tuple[Seen, str] | None = None
        """A run that a killed --force moved away: the next command puts it back."""
        self.was_killed = False
        self.damaged: set[int] = set()
        """Steps whose checkpoints were damaged since the last command that ended well."""
        self.has_notes = False
        """Whether somebody put a file of their own into the folder."""

    def teardown(self) -> None:
        """Whatever has happened, the run can be brought to its end."""
        try:
            before = self.before()[0]
            if before is None:
                self.command(SEEDS[0], LENGTHS[0], Break(), resume=False, force=False)
            else:
                self.command(before.seed, before.steps, Break(), resume=True, force=False)
            assert self.seen is not None
            assert self.seen.finished
        finally:
            self.made.cleanup()

    def before(self) -> tuple[Seen | None, str]:
        """The run that the next command finds, and its content."""
        if self.seen is None and self.waiting is not None:
            return self.waiting
        return self.seen, everything(self.path)

    def command(self, seed: int, steps: int, broken: Break, *, resume: bool, force: bool) -> None:
        """Give a command, and compare what is there then with all that may be."""
        before, content = self.before()

        def work() -> None:
            broken.arm(self.path.parent)
            numbers_run.train(self.path, numbers_run.settings(seed, steps), resume=resume, force=force)

        status = wait(in_child(work))
        if status == -signal.SIGXFSZ:
            status = KILLED
        after = look(self.path)
        fits = (
            before is not None and before.seed == seed and before.steps <= steps
            if resume
            else before is None or (force and not self.has_notes)
        )
        may = {0} if fits else {REFUSED}
        may |= {KILLED} if broken.kills else {REFUSED} if broken.kind != "none" else set()
        assert status in may, f"{broken}: ended with {status}"
        self.was_killed = status == KILLED or (self.was_killed and status != 0)
        self.seen = after
        if status == 0:
            self.check_finished(seed, steps)
            return
        if fits and resume:
            assert before is not None
            self.check_went_on(before, after, steps)
        elif after is None:
            if before is not None:
                assert status == KILLED
                self.waiting = before, content
        elif after == before:
            assert everything(self.path) == content, "the run that was there is another one"
        else:
            assert fits
            assert (after.seed, after.steps) == (seed, steps)
        self.check_sound()

    def check_finished(self, seed: int, steps: int) -> None:
        """A command that ended well leaves a whole, finished run, and nothing besides."""
        assert self.seen == Seen(seed, steps, steps, finished=True)
        assert leftovers(self.path) == []
        story = json.loads((self.path / "provenance.json").read_text()).get("lengthened", [])
        assert [change["after"] for change in story][-1:] in ([], [steps]), story
        assert [change["before"] for change in story][1:] == [change["after"] for change in story][:-1]
        stored = (self.path / "model.keras").read_bytes()[:16]
        assert stored == numbers_run.numbers_of(self.path, steps).tobytes()
        rows = (self.path / "history.csv").read_text().splitlines()[1:]
        assert [int(row.partition(",")[0]) for row in rows] == list(range(ROUND, steps + 1, ROUND))
        self.waiting, self.damaged = None, set()
        self.check_sound()

    def check_went_on(self, before: Seen, after: Seen | None, steps: int) -> None:
        """A run that was broken off while it was resumed has lost no checkpoint."""
        assert after is not None
        assert after.seed == before.seed
        assert after.steps in (before.steps, steps)
        assert after.step >= before.step

    def check_sound(self) -> None:
        """What holds at any time: whole checkpoints, a finished run that can be read, a folder of ours."""
        if not self.was_killed:
            assert leftovers(self.path) == [] or not self.path.exists()
        if self.seen is None:
            return
        assert self.has_notes or is_our_run(self.path)
        newest = load_newest(self.path / "checkpoints")
        if newest is not None:
            found = newest.arrays["network"][0]
            assert found.tobytes() == numbers_run.numbers_of(self.path, newest.step).tobytes()
        if self.seen.finished:
            require_unchanged(self.path)
            stored = json.loads((self.path / "normalizer.json").read_text())
            assert stored == numbers_run.normalisation(self.seen.seed)

    @initialize(seed=st.sampled_from(SEEDS), steps=st.sampled_from(LENGTHS), broken=breaks(60, 2000))
    def begin(self, seed: int, steps: int, broken: Break) -> None:
        self.command(seed, steps, broken, resume=False, force=False)

    @rule(
        seed=st.sampled_from(SEEDS),
        steps=st.sampled_from(LENGTHS),
        force=st.booleans(),
        broken=breaks(60, 2000),
    )
    def train_anew(self, seed: int, steps: int, force: bool, broken: Break) -> None:
        self.command(seed, steps, broken, resume=False, force=force)

    @rule(broken=breaks(60, 2000), longer=st.booleans())
    def resume(self, broken: Break, longer: bool) -> None:
        before = self.before()[0] or Seen(SEEDS[0], LENGTHS[0], 0, finished=False)
        steps = min(before.steps + ROUND, LENGTHS[-1]) if longer else before.steps
        self.command(before.seed, steps, broken, resume=True, force=False)

    @rule(seed=st.sampled_from(SEEDS), steps=st.sampled_from(LENGTHS))
    def resume_with_any_settings(self, seed: int, steps: int) -> None:
        self.command(seed, steps, Break(), resume=True, force=False)

    @precondition(lambda self: self.seen is not None and self.seen.step > 0)
    @rule(data=st.data(), how=st.sampled_from(["flip", "cut", "remove"]))
    def damage_the_newest_checkpoint(self, data: st.DataObject, how: str) -> None:
        """It is passed over for the one before."""
        assert self.seen is not None
        steps = {int(path.name[5:]): path for path in (self.path / "checkpoints").glob("step-*")}
        file = data.draw(st.sampled_from(sorted(steps[self.seen.step].iterdir())))
        content = bytearray(file.read_bytes())
        if how == "remove" or not content:
            file.unlink(missing_ok=True)
        elif how == "cut":
            file.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
        else:
            content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
            file.write_bytes(content)
        seen = look(self.path)
        assert seen is not None
        self.damaged.add(self.seen.step)
        assert seen.step == max({0, *steps} - self.damaged)
        self.seen = seen

    @precondition(lambda self: self.seen is not None)
    @rule(name=st.sampled_from(SEALED), how=st.sampled_from(["digit", "remove"]))
    def damage_the_run(self, name: str, how: str) -> None:
        """A finished run is not believed any more; whether or not it was finished, --resume mends it."""
        assert self.seen is not None
        file = self.path / name
        if not file.is_file() or (name == "provenance.json" and how == "remove"):
            return
        content = file.read_bytes()
        if how == "remove":
            file.unlink()
        elif name == "provenance.json":
            file.write_bytes(content + b"\n")
        else:
            file.write_bytes(content.replace(b"0", b"1"))
        if self.seen.finished and (not file.is_file() or file.read_bytes() != content):
            with pytest.raises(InputError):
                require_unchanged(self.path)
        self.seen = look(self.path)
        assert self.seen is not None
        self.command(self.seen.seed, self.seen.steps, Break(), resume=True, force=False)

    @precondition(lambda self: self.seen is not None)
    @rule()
    def put_a_file_into_it(self) -> None:
        """Then --force replaces it no more; training goes on."""
        if self.has_notes:
            (self.path / "notes.txt").unlink()
        else:
            (self.path / "notes.txt").write_text("mine")
        self.has_notes = not self.has_notes

    @rule(resume=st.booleans())
    def somebody_else_is_writing(self, resume: bool) -> None:
        before, content = self.before()
        with alone_at(self.path):
            # Whoever takes the place puts back what a killed command moved away.
            self.seen, self.waiting = look(self.path), None
            assert (self.seen, everything(self.path)) == (before, content)
            config = numbers_run.settings(0, LENGTHS[0])
            status = wait(
                in_child(lambda: numbers_run.train(self.path, config, resume=resume, force=not resume))
            )
            assert status == REFUSED
        assert everything(self.path) == content


RunFolderMachine.TestCase.settings = settings(
    max_examples=150 if LONG else 4,
    stateful_step_count=10,
    deadline=None,
    database=None,
    derandomize=not LONG,
    phases=[Phase.generate],  # a failing example is short as it is, and takes long to shorten
    suppress_health_check=list(HealthCheck),
)
TestRunFolder = RunFolderMachine.TestCase
