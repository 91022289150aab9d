"""A store beside a model of what must be true of it, whatever is killed, changed or given again.

Commands are real ones on tiny boxes, each a child process. Convert, predict and simulate grow their store in
the same way, which is tried most with the quickest of them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from reion.jobs.growing import GrowingStore, StorePiece
from reion.jobs.outputs import alone_at
from reion.jobs.sources import SourceFiles
from reion.prediction.predict import predict
from reion.ray_tracing.settings import RayTracing
from reion.ray_tracing.simulate import simulate
from reion.simulation.photons import with_n_ion
from reion.storage.conversion import convert
from reion.storage.store import STORE, write_simulation
from tests.conftest import toy_simulation
from tests.endurance.breaks import KILLED, Break, breaks
from tests.endurance.works import REFUSED, in_child, leftovers, store_content, wait, warm_up
from tests.ray_tracing.boxes import density_and_sources

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes"),
    pytest.mark.slow,
]
LONG = "REION_ENDURANCE" in os.environ
VERBS = {"convert": "converting", "predict": "predicting", "simulate": "simulating"}
EXAMPLES = (
    {"convert": 60, "predict": 20, "simulate": 10} if LONG else dict.fromkeys(VERBS, 1) | {"convert": 2}
)
VERSIONS = 3
"""States that a source may have."""
NAMES = st.sampled_from(["a", "b"])

Command = Callable[..., object]
"""Of a source and an output, with `force` and `resume`."""


class Sources:
    """What the commands of one kind read, in a few versions, and what must come out of each."""

    def __init__(self, name: str, model: Path | None, folder: Path) -> None:
        self.folder = folder
        given = {"device": "cpu", "threads": 1}
        self.command: Command = {
            "convert": convert,
            "predict": lambda source, out, **options: predict(model, source, out, **given, **options),
            "simulate": lambda source, out, **options: simulate(
                source, out, RayTracing(max_mfp=6.0), **options
            ),
        }[name]
        if name == "simulate":
            sim = density_and_sources(6, (12.0, 11.0, 10.0))
        else:
            sim = with_n_ion(toy_simulation((6, 5, 4), (12.0, 11.0, 10.0)))[["n_igm", "n_ion", "xi"]]
        for version in range(VERSIONS):
            changed = sim.assign(n_igm=(sim["n_igm"] * (1 + version)).assign_attrs(sim["n_igm"].attrs))
            assert wait(in_child(partial(write_simulation, changed, self.version(version)))) == 0
        self.expected = cache(self._expected)

    def version(self, number: int) -> Path:
        """The source in one of its versions."""
        return self.folder / f"version{number}.zarr"

    def _expected(self, version: int) -> str:
        """What an unbroken command makes of that version."""
        out = self.folder / f"expected{version}.zarr"
        assert wait(in_child(partial(self.command, self.version(version), out))) == 0
        return digest(out)


def digest(out: Path) -> str:
    """SHA-256 of every array of a store."""
    found = hashlib.sha256()
    for name, values in sorted(store_content(out).items()):
        found.update(f"{name} {values.dtype} {values.shape}".encode() + values.tobytes())
    return found.hexdigest()


class StoreMachine(RuleBasedStateMachine):
    """Commands that are given for one place, of two sources that may change."""

    sources: Sources
    name: str

    def __init__(self) -> None:
        super().__init__()
        self.made = tempfile.TemporaryDirectory()
        self.folder = Path(self.made.name)
        self.out = self.folder / "place" / "out.zarr"
        self.out.parent.mkdir()
        self.growing = GrowingStore(self.out, STORE, VERBS[self.name])
        self.versions = {"a": 0, "b": 1}
        self.content: str | None = None
        """Of what is in the place."""
        self.waiting: str | None = None
        """Of what a killed --force moved away, which the next command puts back."""
        for source in self.versions:
            self.change(source, self.versions[source])

    def teardown(self) -> None:
        """Whatever has happened, the store can be written."""
        try:
            self.command("a", Break(), force=True, resume=False)
        finally:
            self.made.cleanup()

    def path(self, source: str) -> Path:
        return self.folder / f"{source}.zarr"

    def change(self, source: str, version: int) -> None:
        """Write a source anew, with another time of its change."""
        shutil.rmtree(self.path(source), ignore_errors=True)
        shutil.copytree(self.sources.version(version), self.path(source), copy_function=shutil.copy)

    def expected(self, source: str) -> str:
        return self.sources.expected(self.versions[source])

    def found(self) -> str | None:
        return digest(self.out) if self.out.exists() else None

    def is_begun(self, source: str) -> bool:
        """Whether what grows beside the place is of this source as it is now."""
        begun = self.growing.conditions().get("files or sources")
        return begun == SourceFiles.list([self.path(source)]).digest

    def done(self) -> set[StorePiece]:
        """Pieces with which a command may go on."""
        return self.growing.done() if self.growing.conditions() else set()

    def run(self, source: str, prepare: Callable[[], None], **options: bool) -> tuple[int, set[StorePiece]]:
        """Give a command to a child process; return its exit status and the pieces that it did."""
        log = self.folder / "log"
        log.write_text("")
        note = GrowingStore.note

        def logged(growing: GrowingStore, piece: StorePiece, result: object) -> None:
            note(growing, piece, result)
            with log.open("a") as file:
                file.write(f"{piece[0]} {piece[1]}\n")

        def work() -> None:
            os.fsync = lambda _: None  # a kill undoes no write
            GrowingStore.note = logged
            prepare()
            self.sources.command(self.path(source), self.out, **options)

        status = wait(in_child(work))
        done = {(int(index), int(number)) for index, number in map(str.split, log.read_text().splitlines())}
        return KILLED if status == -signal.SIGXFSZ else status, done

    def command(self, source: str, broken: Break, *, force: bool, resume: bool) -> None:
        """Give a command, and compare what is there then with all that may be."""
        before = self.waiting if self.content is None else self.content
        begun, done_before = self.is_begun(source), self.done()
        moved_in = begun and self.growing.is_moved_in()
        fits = (before is None or force or moved_in) and (begun or not resume)
        status, did = self.run(source, partial(broken.arm, self.out.parent), force=force, resume=resume)
        may = {0} if fits else {REFUSED}
        may |= {KILLED} if broken.kills else {REFUSED} if broken.kind != "none" else set()
        assert status in may, f"{broken}: ended with {status}"
        self.content = self.found()
        if begun:
            assert not did & done_before, "what was done is done again"
        if status == 0:
            assert self.content == self.expected(source)
            assert leftovers(self.out) == []
            self.waiting = None
            return
        if not fits:
            assert not did
            assert self.done() == done_before, "work is lost"
        if self.content is None:
            assert before is None or status == KILLED
            self.waiting = before
        else:
            assert self.content in (before, self.expected(source) if fits else None)
        if status == REFUSED and begun:
            assert self.done() >= done_before or self.content == self.expected(source)

    @rule(source=NAMES, force=st.booleans(), resume=st.booleans(), broken=breaks(90, 600))
    def give(self, source: str, force: bool, resume: bool, broken: Break) -> None:
        self.command(source, broken, force=force, resume=resume)

    @precondition(lambda self: self.growing.conditions())
    @rule(broken=breaks(90, 600), resume=st.booleans())
    def go_on(self, broken: Break, resume: bool) -> None:
        """With the command that was broken off, where its source has not changed."""
        for source in self.versions:
            if self.is_begun(source):
                self.command(source, broken, force=True, resume=resume)
                return

    @rule(source=NAMES)
    def change_a_source(self, source: str) -> None:
        self.versions[source] = (self.versions[source] + 1) % VERSIONS
        self.change(source, self.versions[source])

    @rule(source=NAMES, at=st.integers(1, 3))
    def change_a_source_on_the_way(self, source: str, at: int) -> None:
        """Then nothing of it comes into its place."""
        before = self.waiting if self.content is None else self.content
        version = (self.versions[source] + 1) % VERSIONS
        changed = self.folder / "changed"
        changed.unlink(missing_ok=True)

        def prepare() -> None:
            note, left = GrowingStore.note, [at]

            def then_change(growing: GrowingStore, piece: StorePiece, result: object) -> None:
                note(growing, piece, result)
                left[0] -= 1
                if left[0] == 0:
                    self.change(source, version)
                    changed.touch()

            GrowingStore.note = then_change

        expected = self.expected(source)
        status, _ = self.run(source, prepare, force=True, resume=False)
        self.content = self.found()
        self.waiting = None
        if changed.exists():
            self.versions[source] = version
            assert status == REFUSED
            assert self.content == before
        else:  # less was to be done
            assert status == 0
            assert self.content == expected

    @rule(source=NAMES)
    def somebody_else_is_writing(self, source: str) -> None:
        before, done = self.waiting if self.content is None else self.content, self.done()
        with alone_at(self.out):
            # Whoever takes the place puts back what a killed command moved away.
            self.content, self.waiting = self.found(), None
            assert self.content == before
            status, did = self.run(source, lambda: None, force=True, resume=False)
        assert (status, did) == (REFUSED, set())
        assert (self.found(), self.done()) == (before, done)

    @rule(first=NAMES, second=NAMES, force=st.booleans())
    def two_at_once(self, first: str, second: str, force: bool) -> None:
        """One of them is done; the other is refused, or done before or after."""
        before = self.waiting if self.content is None else self.content
        moved_in = self.growing.is_moved_in() and (self.is_begun(first) or self.is_begun(second))
        children = [
            in_child(partial(self.sources.command, self.path(source), self.out, force=force))
            for source in (first, second)
        ]
        ended = [wait(child) for child in children]
        self.content = self.found()
        if before is not None and not force and not moved_in:
            assert ended == [REFUSED, REFUSED]
            assert self.content in (before, None)
            return
        assert sorted(ended) in ([0, 0], [0, REFUSED])
        done = [
            self.expected(source)
            for source, status in zip((first, second), ended, strict=True)
            if status == 0
        ]
        assert self.content in done
        assert leftovers(self.out) == []
        self.waiting = None


@pytest.mark.parametrize("name", ["convert", "predict", "simulate"])
def test_a_growing_store(name, request, tmp_path):
    warm_up()
    model = request.getfixturevalue("toy_model") if name == "predict" else None

    class Machine(StoreMachine):
        sources = Sources(name, model, tmp_path)

    Machine.name = name
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=EXAMPLES[name],
            stateful_step_count=10 if LONG or name == "convert" else 4,
            deadline=None,
            database=None,
            derandomize=not LONG,
            phases=[Phase.generate],  # a failing example is short as it is, and takes long to shorten
            suppress_health_check=list(HealthCheck),
        ),
    )
