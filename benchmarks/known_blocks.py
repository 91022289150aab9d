"""How many blocks of a box have an xi that is known without the trunk, and how wrong it would be to say so.

`python benchmarks/known_blocks.py MODEL SIM...` prints for every snapshot, and for blocks of 8, 16 and 32
cells on a side, a JSON line with: `within`, the share of blocks all of whose predicted xi are within 1e-4 of
0 or of 1, which no rule can exceed; and, for a rule that looks at the first stage's own ionised fractions in
the block and as far as the trunk looks, `named`, the share that it calls neutral (all below 1e-4) or ionised
(all above 1 - 1e-4), and `error`, the largest that it makes of xi there.
"""

from __future__ import annotations

import itertools
import json
import sys
import warnings
from typing import Any

import numpy as np

from reion.prediction.emulator import Emulator
from reion.prediction.inputs import conditions_at
from reion.readers import open_simulation
from reion.simulation.photons import with_n_ion
from reion_kernels import photon_channels

TOLERANCE = 1e-4
SIDES = (8, 16, 32)


def ionised_fractions(emulator: Emulator, fields: dict[str, np.ndarray], max_mfp: float | None) -> np.ndarray:
    """The least and the largest of the first stage's ionised fractions, (2, x + 2 r, y + 2 r, z + 2 r)."""
    photons = next(name for name in emulator.card.inputs if name != "n_igm")
    plan = emulator.stages.plan(max_mfp)
    channels = photon_channels(fields["n_igm"], fields[photons], plan)
    first = 1 + len(plan.smoothing) + (2 if plan.reach else 0)
    found = channels[:, first : first + 2 * len(plan.times) * len(plan.output_steps) : 2]
    margin = emulator.stages.trunk_radius_cells
    return np.stack([np.pad(some, margin, mode="wrap") for some in (found.min(axis=1), found.max(axis=1))])


def of_blocks(xi: np.ndarray, fractions: np.ndarray, margin: int, side: int) -> dict[str, Any]:
    """The figures for blocks of `side` cells."""
    within = named = count = 0
    error = 0.0
    for start in itertools.product(*(range(0, n - side + 1, side) for n in xi.shape)):
        block = xi[tuple(slice(a, a + side) for a in start)]
        around = fractions[(slice(None), *(slice(a, a + side + 2 * margin) for a in start))]
        within += bool(block.max() < TOLERANCE or block.min() > 1 - TOLERANCE)
        count += 1
        for known, says in ((0.0, around[1].max() < TOLERANCE), (1.0, around[0].min() > 1 - TOLERANCE)):
            if says:
                named += 1
                error = max(error, float(np.abs(block - known).max()))
    return {"side": side, "within": within / count, "named": named / count, "error": error}


def main(model: str, sources: list[str]) -> None:
    """Print the figures of every snapshot."""
    for source in sources:
        sim = with_n_ion(open_simulation(source))
        emulator = Emulator(model, device="cpu").for_cells_of(sim)
        for index, redshift in enumerate(sim["redshift"].values.tolist()):
            fields = {name: sim[name][index].values for name in emulator.card.inputs}
            numbers = conditions_at(emulator.card, sim, index)
            xi = emulator.predict_arrays(redshift, **fields, **numbers)
            fractions = ionised_fractions(emulator, fields, numbers.get("max_mfp"))
            margin = emulator.stages.trunk_radius_cells
            blocks = [of_blocks(xi, fractions, margin, side) for side in SIDES if side <= min(xi.shape)]
            row = {"sim": source, "redshift": redshift, "mean_xi": float(xi.mean()), "blocks": blocks}
            sys.stdout.write(json.dumps(row) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(sys.argv[1], sys.argv[2:])
