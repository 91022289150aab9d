"""Memory and open files stay as they are over many predictions of varying shape, and many openings.

REION_ENDURANCE=1 does a thousand and two hundred of them, as `nox -s endurance` does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LONG = "REION_ENDURANCE" in os.environ
PREDICTIONS, OPENINGS = (1000, 200) if LONG else (200, 40)
MOST_GROWTH_BYTES = 12 << 20
"""Of the process, after a first quarter in which caches fill: what a tenth of the boxes would take."""

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/fd").is_dir(), reason="counts what Linux says of a process"
)


@pytest.fixture(scope="module")
def growth(toy_model):
    """By how many bytes and open files a process grew."""
    line = [sys.executable, "-m", "tests.endurance.leaks", toy_model, str(PREDICTIONS), str(OPENINGS)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["predictions", "openings"])
def test_nothing_is_kept(growth, what):
    memory, files = growth[what]
    assert memory < MOST_GROWTH_BYTES
    assert files == 0


def test_what_keeps_its_boxes_or_files_is_found(growth):
    memory, files = growth["kept"]
    assert memory > MOST_GROWTH_BYTES
    assert files == 0.75 * PREDICTIONS
