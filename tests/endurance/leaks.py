"""How much a process grows over many predictions of varying shape, and over many openings of a model.

    python -m tests.endurance.leaks MODEL PREDICTIONS OPENINGS

A process of its own: one that has done other things before has room for what is kept, and does not grow.
Prints one JSON object: for predictions, openings, and for predictions whose boxes and files are kept, by how
many bytes and open files the process grew.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from reion.jobs.resources import resident_memory_bytes
from reion.prediction.emulator import Emulator

DESCRIPTORS = Path("/proc/self/fd")
COPIES = 20
"""Of a box, so many are kept."""


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


def main(model: str, predictions: int, openings: int) -> None:
    emulator = Emulator(model, device="cpu", threads=1)
    kept = []

    def predict(number: int) -> np.ndarray:
        """A box whose shape depends on the number, from 4 to 23 cells a side."""
        shape = tuple(np.random.default_rng(number).integers(4, 24, 3))
        fields = {"n_igm": np.full(shape, 4e-31, np.float32), "n_ion": np.ones(shape, np.float32)}
        return emulator.predict_arrays(8.0, **fields)

    found = {
        "predictions": growth(predict, predictions),
        "openings": growth(lambda _: Emulator(model, device="cpu", threads=1), openings),
    }
    with tempfile.TemporaryDirectory() as folder:

        def keep(number: int) -> None:
            file = (Path(folder) / "file").open("w")
            kept.append((np.repeat(predict(number)[None], COPIES, axis=0), file))

        found["kept"] = growth(keep, predictions)
        for _, file in kept:
            file.close()
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
