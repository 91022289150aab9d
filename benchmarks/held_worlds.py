"""Make the worlds on which the models for many worlds are judged, from a box that no training has seen.

`python benchmarks/held_worlds.py BOX2 --out held` traces the rays of eleven worlds. Their density is that of
box 2 of `rt64`, their sources are its own or changed, and photons reach as far as in a training box, a
distance between those of the training boxes, or one outside of them. The command goes on after an
interruption. Then

    reion evaluate rt-worlds held/NAME.zarr --json

judges a model on a world.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from reion.ray_tracing.worlds import World, Worlds, make_worlds
from reion.readers import open_simulation
from reion.simulation.regridding import regrid
from reion.storage.store import write_simulation

CELL_SIZE_MPC = 128 / 43
"""Cells that no training box has."""

WORLDS = Worlds(
    world=(
        World(name="reach30", series="box", max_mfp=30),
        World(name="reach15", series="box", max_mfp=15),
        World(name="reach25", series="box", max_mfp=25),
        World(name="reach45", series="box", max_mfp=45),
        World(name="reach70", series="box", max_mfp=70),
        World(name="few-bright", series="box", max_mfp=30, brightest=0.1),
        World(name="coarse", series="coarse", max_mfp=30),
        World(name="half-emit", series="box", max_mfp=20, emitting=0.5),
        World(name="reach6", series="box", max_mfp=6),
        World(name="clumping3", series="box", max_mfp=30, clumping=3.0),
        World(name="clumping5-reach15", series="box", max_mfp=15, clumping=5.0),
    )
)


def main() -> None:
    """Write the series and trace the rays of every world."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("box", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", action="append", default=[])
    wanted = parser.parse_args()
    box = open_simulation(wanted.box)
    makers = {
        "box": lambda: box,
        "coarse": lambda: regrid(box, CELL_SIZE_MPC),
    }
    stores = []
    for name, made in makers.items():
        store = wanted.out / "series" / f"{name}.zarr"
        if not store.exists():
            store.parent.mkdir(parents=True, exist_ok=True)
            write_simulation(made(), store)
        stores.append(store)
    make_worlds(stores, wanted.out, WORLDS, only=wanted.only, say=print)


if __name__ == "__main__":
    main()
