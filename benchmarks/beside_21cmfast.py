"""reion's prediction beside the ionisation step of 21cmFAST 4, on the same mesh and the same cores.

`python benchmarks/beside_21cmfast.py [--cells 128] [--threads N] [--python PATH]`

21cmFAST is run by `--python`, the interpreter of an environment that has it (`pip install 21cmFAST`, which
needs a C compiler, FFTW and GSL), because its requirements need not agree with reion's; without the option by
this one. It makes density and sources of a box of 2 Mpc a cell, and then its ionisation step alone is timed
at z = 8, several times. reion predicts a box of as many cells (that of `reion bench predict`) here.
Both get the same number of threads. The two compute different things: 21cmFAST filters the collapsed fraction
and decides cell by cell; reion says what ray tracing would give. It prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

ROUNDS = 3

_THEIR_SIDE = """
import json, sys, tempfile, time
import py21cmfast as p21c
cells, threads, rounds = map(int, sys.argv[1:])
inputs = p21c.InputParameters.from_template(
    "simple", random_seed=1, node_redshifts=()
).evolve_input_structs(HII_DIM=cells, DIM=2 * cells, BOX_LEN=2.0 * cells, N_THREADS=threads)
seconds = []
with tempfile.TemporaryDirectory() as folder:
    cache = p21c.OutputCache(folder)
    start = p21c.compute_initial_conditions(inputs=inputs, cache=cache, write=False)
    density = p21c.perturb_field(initial_conditions=start, redshift=8.0, write=False)
    for number in range(rounds + 1):
        begin = time.perf_counter()
        p21c.compute_ionization_field(
            initial_conditions=start, perturbed_field=density, write=False, regenerate=True
        )
        seconds.append(time.perf_counter() - begin)
print(json.dumps({"version": p21c.__version__, "seconds": seconds[1:]}))
"""


def theirs(python: str, cells: int, threads: int) -> dict[str, object]:
    """Version and seconds of 21cmFAST's ionisation step; the process ends where it is not installed."""
    asked = subprocess.run([python, "-c", "import py21cmfast"], capture_output=True, text=True, check=False)
    if asked.returncode:
        sys.exit(
            f"py21cmfast is not installed for {python}: {asked.stderr.strip().splitlines()[-1]}\n"
            "python -m venv DIR && DIR/bin/pip install 21cmFAST, with a C compiler, FFTW and GSL at hand; "
            "then --python DIR/bin/python"
        )
    command = [python, "-c", _THEIR_SIDE, str(cells), str(threads), str(ROUNDS)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def ours(cells: int, threads: int) -> dict[str, float]:
    """Median seconds of each shipped model for many worlds."""
    from reion.bench.shipped import MODELS, REACH_MPC, REDSHIFT, box
    from reion.prediction.emulator import Emulator

    fields = box(cells)
    seconds = {}
    for name in MODELS:
        emulator = Emulator(name, device="cpu", threads=threads)
        times = []
        for _ in range(ROUNDS + 1):
            begin = time.perf_counter()
            emulator.predict_arrays(REDSHIFT, max_mfp=REACH_MPC, **fields)
            times.append(time.perf_counter() - begin)
        seconds[name] = statistics.median(times[1:])
    return seconds


def main() -> None:
    """Print the times of both sides."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", type=int, default=128, help="cells along a side")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="for both sides")
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has py21cmfast")
    options = parser.parse_args()
    other = theirs(options.python, options.cells, options.threads)
    mine = ours(options.cells, options.threads)
    median = statistics.median(other["seconds"])  # type: ignore[arg-type]
    row = {
        "cells": options.cells,
        "threads": options.threads,
        "21cmFAST": other,
        "seconds": mine,
        "ratio": {name: median / value for name, value in mine.items()},
    }
    sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
