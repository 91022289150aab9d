"""The light cone of the documentation: `python docs/drawings/light_cone.py`; `--table` prints its table."""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

from reion.metrics import r2  # noqa: E402
from reion.metrics.crossings import z_reion  # noqa: E402
from reion.sample import load_sample  # noqa: E402
from reion.simulation.contract import cosmology  # noqa: E402
from reion.sky.fronts import FrontSnapshot, between  # noqa: E402
from reion.sky.light_cone import Settings, light_cone  # noqa: E402
from reion.sky.strip import write_strip  # noqa: E402


def draw() -> None:
    """Draw the held-out box of the sample."""
    with tempfile.TemporaryDirectory() as folder:
        found = light_cone(load_sample().held_out, Path(folder) / "cone.zarr", Settings(redshift=(6.2, 9.5)))
        write_strip(found.output, ROOT / "docs" / "images" / "light-cone.png")


def table() -> None:
    """Leave out each snapshot in turn and interpolate it from its neighbours."""
    sim = load_sample().held_out
    redshift, model = sim["redshift"].values, cosmology(sim)
    age = model.age(redshift).value
    for middle in range(1, redshift.size - 1):
        outer = [middle - 1, middle + 1]
        before, true, after = (sim["xi"][i].values for i in (middle - 1, middle, middle + 1))
        part = (age[middle] - age[outer[0]]) / (age[outer[1]] - age[outer[0]])
        cell = (2.0, 2.0, 2.0)
        moving = between(FrontSnapshot.of(before, cell), FrontSnapshot.of(after, cell), part)
        fading = before + np.float32(part) * (after - before)
        crossing, _ = z_reion(np.stack([before, after]), redshift[outer], model)
        # NaN, which is never, compares as false.
        flipping = np.where((before < 0.5) & (after >= 0.5), crossing >= redshift[middle], fading)
        scores = ", ".join(f"{r2(found, true):.2f}" for found in (moving, fading, flipping))
        sys.stdout.write(f"z = {redshift[middle]:g}: fronts, linear, z_reion {scores}\n")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    table() if "--table" in sys.argv else draw()
