"""What tests compare of two run folders."""

from __future__ import annotations

import csv
import shutil

import numpy as np

from reion.training.run_folder import load_run


def history(folder):
    """The rows of history.csv as numbers, without what a clock has measured."""
    with (folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [{k: float(v) for k, v in row.items() if k not in ("seconds", "waiting_share")} for row in rows]


def weights(folder):
    """The weights of the network of a finished run."""
    return load_run(folder).network.get_weights()


def copied_at(step, folder, copy):
    """A progress that copies the run folder at a step: what a kill at this instant would leave."""

    def progress(done, _total, _values):
        if done == step:
            shutil.copytree(folder, copy)

    return progress


def assert_same_weights(a, b):
    """Both runs ended with the same bits."""
    for x, y in zip(weights(a), weights(b), strict=True):
        np.testing.assert_array_equal(x, y)
