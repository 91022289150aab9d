"""The runner of `nox -s endurance` finds what it looks for: answers that differ, and what is left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.endurance.kills import Breaker, table
from tests.endurance.works import Work

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")


def content(out):
    return {"numbers": np.fromfile(out / "numbers", dtype=np.uint8)}


def slow(out, *, after, leave=()):
    """Writes numbers in ten steps of ten milliseconds, and what comes after a kill may be another."""
    out.mkdir(exist_ok=True)
    for name in leave:
        out.with_name(name).touch()
    for _ in range(10):
        with (out / "numbers").open("ab") as file:
            file.write(b"0")
        time.sleep(0.01)
    if not after:
        (out / "numbers").write_bytes(b"0" * 10)


def breaker(tmp_path, **options):
    work = Work("slow", lambda out, force: slow(out, **options), content, "")
    found = Breaker(work, tmp_path, seed=0, until=time.monotonic() + 60)
    found.kill(5)
    return found.count


def test_a_command_that_loses_nothing(tmp_path):
    count = breaker(tmp_path, after=False)
    assert (count.kills, count.lost) == (5, [])
    assert count.finished >= 1
    assert "| `slow` | 5 |" in table([count], "none")


def test_a_command_that_does_its_work_twice_after_a_kill(tmp_path):
    assert any("not as unbroken: numbers" in text for text in breaker(tmp_path, after=True).lost)


def test_a_command_that_leaves_something(tmp_path):
    lost = breaker(tmp_path, after=False, leave=["partial"]).lost
    assert any("left over: partial" in text for text in lost)


def test_a_disk_that_is_full_and_is_not_said_to_be(tmp_path):
    def write(out, force):
        out.mkdir(exist_ok=True)
        (out / "numbers").write_bytes(b"0" * 200_000)

    found = Breaker(Work("careless", write, content, ""), tmp_path, seed=0, until=time.monotonic() + 60)
    found.fill(3, None)
    assert found.count.full == 0
    assert all("it ended with 1" in text for text in found.count.lost)
    assert found.count.lost


@pytest.mark.slow
def test_two_kills_of_convert_and_a_full_disk(tmp_path, toy_model):
    arguments = ["--kills", "2", "--full", "1", "--minutes", "2", "--only", "convert", "--model", toy_model]
    arguments += ["--json", tmp_path / "counts.json"]
    line = [sys.executable, "-m", "tests.endurance.kills", *map(str, arguments)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (count,) = json.loads((tmp_path / "counts.json").read_text())
    assert (count["kills"], count["lost"]) == (2, [])
