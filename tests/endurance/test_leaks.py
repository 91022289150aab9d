"""Memory and open files stay as they are over many predictions of varying shape, and many openings.

REION_ENDURANCE=1 does a thousand and two hundred of them, as `nox -s endurance` does.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from reion.jobs.resources import resident_memory_bytes
from reion.prediction.emulator import Emulator

LONG = "REION_ENDURANCE" in os.environ
PREDICTIONS, OPENINGS = (1000, 200) if LONG else (200, 40)
MOST_GROWTH_BYTES = 12 << 20
"""Of the process, after a first quarter in which caches fill: what a tenth of the boxes would take."""

DESCRIPTORS = Path("/proc/self/fd")
pytestmark = pytest.mark.skipif(not DESCRIPTORS.is_dir(), reason="counts what Linux says of a process")


def growth(act: Callable[[int], object], times: int) -> tuple[int, int]:
    """By how many bytes and open files this process grows over the last three quarters of so many acts."""
    for number in range(times // 4):
        act(number)
    gc.collect()
    memory, files = resident_memory_bytes(), len(list(DESCRIPTORS.iterdir()))
    for number in range(times // 4, times):
        act(number)
    gc.collect()
    return resident_memory_bytes() - memory, len(list(DESCRIPTORS.iterdir())) - files


def boxes(emulator: Emulator) -> Callable[[int], np.ndarray]:
    """Predicts a box whose shape depends on the number, from 4 to 24 cells a side."""

    def predict(number: int) -> np.ndarray:
        shape = tuple(np.random.default_rng(number).integers(4, 24, 3))
        fields = {"n_igm": np.full(shape, 4e-31, np.float32), "n_ion": np.ones(shape, np.float32)}
        return emulator.predict_arrays(8.0, **fields)

    return predict


def test_predictions_of_varying_shape(toy_model):
    memory, files = growth(boxes(Emulator(toy_model, device="cpu", threads=1)), PREDICTIONS)
    assert memory < MOST_GROWTH_BYTES
    assert files == 0


def test_openings(toy_model):
    memory, files = growth(lambda _: Emulator(toy_model, device="cpu", threads=1), OPENINGS)
    assert memory < MOST_GROWTH_BYTES
    assert files == 0


def test_what_keeps_its_boxes_or_files_is_found(toy_model, tmp_path):
    kept = []
    predict = boxes(Emulator(toy_model, device="cpu", threads=1))

    def leak(number: int) -> None:
        kept.append((np.repeat(predict(number)[None], 20, axis=0), (tmp_path / "file").open("w")))

    memory, files = growth(leak, 200)
    for _, file in kept:
        file.close()
    assert memory > MOST_GROWTH_BYTES
    assert files == 150
