"""Judge models on the worlds of `held_worlds.py`: what the page on shipped models tells of them.

`python benchmarks/judge_worlds.py MODEL... --worlds held` prints for every model and world a JSON line. It
has, of the snapshots from z = 11 on: R², pooled and by redshift; mean xi, predicted and true; the power at
k = 1 per Mpc over the true one, and the cross-correlation there, where 0.1 < mean xi < 0.9; the found error
over the predicted spread in the bins of xi_std; and in how many snapshots mean xi is within one `mean_xi_std`
of the truth. Then it prints R² as a table.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from reion.evaluation.evaluate import evaluate
from reion.prediction.emulator import Emulator
from reion.prediction.predict import predict
from reion.readers import open_simulation

FIRST_REDSHIFT = 11.0
LEAST_CELLS = 1000
"""Cells of a bin of xi_std below which its error is not told."""


def judged(model: str, world: Path) -> dict[str, Any]:
    """The figures of a model on a world."""
    true = open_simulation(world)
    true = true.isel(redshift=np.flatnonzero(true["redshift"].values <= FIRST_REDSHIFT))
    emulator = Emulator(model)
    has_spread = emulator.has_spread
    with tempfile.TemporaryDirectory() as folder:
        done = predict(model, world, Path(folder) / "xi.zarr", uncertainty=has_spread)
        stored = xr.open_zarr(done.output).load()
    name = Path(model).stem
    spreads = {name: stored["xi_std"]} if has_spread else {}
    threshold = emulator.card.excursion_set_threshold
    scores = evaluate({name: stored["xi"]}, true, spreads=spreads, excursion_threshold=threshold).to_json()
    rows = scores["redshifts"]
    budgets = {row.redshift: row for row in done.history}
    within = [
        abs(row["mean_xi_pred"] - row["mean_xi_true"]) <= (budgets[row["redshift"]].mean_xi_std or 0.0)
        for row in rows
    ]
    partly = [row for row in rows if 0.1 < row["mean_xi_true"] < 0.9]
    found = scores["pooled"].get("spread_calibration")
    ratios = {}
    if found is not None:
        bins = zip(found["cells"], found["predicted_spread"], found["found_error"], strict=True)
        ratios = {f"{spread:.2f}": error / spread for cells, spread, error in bins if cells >= LEAST_CELLS}
    return {
        "model": name,
        "world": world.stem,
        "r2": scores["pooled"]["r2"],
        "excursion_set_r2": scores["baselines"]["excursion_set"]["pooled"]["r2"],
        "r2_by_redshift": {row["redshift"]: row["r2"] for row in rows},
        "mean_xi": {row["redshift"]: (row["mean_xi_pred"], row["mean_xi_true"]) for row in rows},
        "power_ratio": {row["redshift"]: row["power_ratio"]["1.0"] for row in partly},
        "cross_correlation": {row["redshift"]: row["cross_correlation"]["1.0"] for row in partly},
        "found_over_predicted": ratios,
        "within_one_sigma": f"{sum(within)} of {len(within)}" if has_spread else None,
    }


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Judge and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--worlds", type=Path, required=True)
    wanted = parser.parse_args()
    worlds = sorted(wanted.worlds.glob("*.zarr"))
    warnings.simplefilter("ignore")
    table: dict[str, list[float]] = {}
    for world in worlds:
        for model in wanted.models:
            figures = judged(model, world)
            say(json.dumps(figures))
            table.setdefault(world.stem, []).append(figures["r2"])
    say("| world | " + " | ".join(Path(model).stem for model in wanted.models) + " |")
    say("|---" * (1 + len(wanted.models)) + "|")
    for name, row in table.items():
        say(f"| {name} | " + " | ".join(f"{r2:.4f}" for r2 in row) + " |")


if __name__ == "__main__":
    main()
