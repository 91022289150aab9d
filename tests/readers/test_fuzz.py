"""Damaged files give a clean error, quickly, and no memory is taken for what they claim.

Memory is counted twice: what Python and NumPy allocate, touched or not, and (on Linux) what the process
holds, whichever library took it.

Forty files of each format and four of each situation of the corpus are damaged; `nox -s fuzz` damages ten
thousand and a thousand.
"""

from __future__ import annotations

import os
import shutil
import time
import tracemalloc
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from reion.errors import InputError
from reion.jobs.resources import peak_memory_bytes, resident_memory_bytes
from reion.readers import open_simulation
from reion.testing import damaged
from tests.readers.corpus import load
from tests.readers.layouts import LAYOUTS, random_simulation, write_21cmfast, write_hdf5, write_npz

pytestmark = pytest.mark.slow
CASES = int(os.environ.get("REION_FUZZ_CASES", "40"))
MOST_SECONDS = 2.0
SLACK_BYTES = 3 << 20
"""Block buffers, and what Python itself needs to open and describe a simulation."""
RESIDENT_SLACK_BYTES = 16 << 20
"""The same for the whole process, whose allocator takes memory and gives it back in larger pieces."""

KINDS = {
    **LAYOUTS,
    "npz, stored": lambda folder, sim: write_npz(folder, sim, np.savez),
    "21cmfast, deflated": lambda folder, sim: write_21cmfast(
        folder, sim, chunks=(8, 8, 8), compression="gzip", shuffle=True, fletcher32=True
    ),
    "hdf5, deflated": lambda folder, sim: write_hdf5(folder, sim, chunks=(1, 8, 8, 8), compression="gzip"),
}


CORPUS = load()


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_give_clean_errors(kind, tmp_path):
    source = tmp_path / "whole"
    source.mkdir()
    given = KINDS[kind](source, random_simulation((12, 12, 12), (9.0,)))
    damage(source, kind.split(",", 1)[0], given, CASES)


@pytest.mark.parametrize("name", CORPUS)
def test_damaged_situations_give_clean_errors(name, tmp_path):
    source = tmp_path / "whole"
    source.mkdir()
    damage(source, None, CORPUS[name].write(source), max(1, CASES // 10))


def damage(source: Path, chosen: str | None, given: dict[str, str], cases: int) -> None:
    """Damage a file of the folder at a time, and open all in the format that is chosen, or recognised."""
    folder = source.with_name("damaged")
    files = [path for path in sorted(source.rglob("*")) if path.is_file() and "irate" not in path.name]
    files = [path for path in files if path.stat().st_size]
    shutil.copytree(source, folder)
    whole = sum(path.stat().st_size for path in files)
    outcomes = {"read": 0, "refused": 0}
    excesses = []
    assert outcome(folder, chosen, given) == "read"
    tracemalloc.start()
    try:
        for case in range(cases):
            rng = np.random.default_rng([case, len(files), whole])
            victim = files[rng.integers(len(files))].relative_to(source)
            (folder / victim).write_bytes(damaged((source / victim).read_bytes(), rng))
            result, cost = outcome_and_cost(folder, chosen, given)
            outcomes[result] += 1
            if cost.is_beyond(4 * whole):
                # What happens once in a process, such as a table of Python's that grows, is not the file's.
                result, cost = outcome_and_cost(folder, chosen, given)
                if cost.is_beyond(4 * whole):
                    excesses.append((case, str(victim), result, cost))
            shutil.copy(source / victim, folder / victim)
    finally:
        tracemalloc.stop()
    assert not excesses
    assert cases < 40 or outcomes["refused"] > cases / 100, outcomes


class Cost(NamedTuple):
    """What reading took: seconds of computing, bytes that Python allocated, bytes the process grew by."""

    seconds: float
    allocated: int
    grown: int

    def is_beyond(self, allowed: int) -> bool:
        return (
            self.seconds > MOST_SECONDS
            or self.allocated > allowed + SLACK_BYTES
            or self.grown > allowed + RESIDENT_SLACK_BYTES
        )


def outcome_and_cost(folder: Path, chosen: str | None, given: dict[str, str]) -> tuple[str, Cost]:
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    resident = reset_peak_memory()
    started = time.process_time()
    result = outcome(folder, chosen, given)
    seconds = time.process_time() - started
    allocated = tracemalloc.get_traced_memory()[1] - before
    grown = 0 if resident is None else (peak_memory_bytes() or 0) - resident
    return result, Cost(seconds, allocated, grown)


def reset_peak_memory() -> int | None:
    """Let the peak of this process start anew, from the resident size returned; None but on Linux."""
    control = Path("/proc/self/clear_refs")
    if not control.is_file():
        return None
    control.write_text("5")
    return resident_memory_bytes()


def outcome(folder: Path, chosen: str | None, given: dict[str, str]) -> str:
    try:
        with warnings.catch_warnings():
            # Damaged metadata may make a library warn; only what it does is judged here.
            warnings.simplefilter("ignore")
            sim = open_simulation(folder, format=chosen, settings=given)
            for name in sim.data_vars:
                sim[name].values  # noqa: B018 (reading is what is tested)
    except InputError:
        return "refused"
    return "read"
