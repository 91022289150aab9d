"""Files as people have them, one situation each: what every reader is held against.

A situation writes a small simulation, `SIM`, into a folder in one of the ways in which programs and people
write such files, and says how it is to be opened. All of them hold the same density, sources and ionised
fractions, so that the right answer is always the same; what a situation leaves out, or has besides, it says.
The files are written when tests run (less than a megabyte in all): nothing binary is in the repository, and
what a situation is about can be read in its function.

- `arrays`: HDF5, NetCDF 4, Zarr, `.npz` and `.npy`: packing, names of dimensions, filters, shards, chunks;
- `codes`: C2-Ray, pyC2Ray and 21cmFAST: versions, folders, dialects of text;
- `catalogues`: haloes in text, HDF5 and Zarr.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.readers.layouts import random_simulation

SIM = random_simulation((4, 4, 4), (9.0, 8.0), box_size=16.0)
"""z = 9 and 8, 4^3 cells of 4 Mpc; the cosmology of C2-Ray (H0 = 70, Om0 = 0.27, Ob0 = 0.044)."""
COSMOLOGY = {"H0": "70", "Om0": "0.27", "Ob0": "0.044"}
BOX = {"box_size": "16", **COSMOLOGY}


@dataclass(frozen=True)
class Situation:
    """A way to write `SIM`.

    `write` puts the files into a folder and returns the settings to open it with. `fields` are those that are
    read; `warns` is what a warning says.
    """

    write: Callable[[Path], dict[str, str]]
    fields: tuple[str, ...] = ("n_igm", "n_src", "xi")
    warns: str | None = None
    rtol: float = 3e-6


SITUATIONS: dict[str, Situation] = {}
"""Name to situation, filled by the modules of this package."""


def situation(
    *fields: str, warns: str | None = None, rtol: float = 3e-6
) -> Callable[[Callable[[Path], dict[str, str]]], Callable[[Path], dict[str, str]]]:
    """Enter a function as a situation under its name, `_` read as a blank."""

    def enter(write: Callable[[Path], dict[str, str]]) -> Callable[[Path], dict[str, str]]:
        name = write.__name__.replace("_", " ")
        SITUATIONS[name] = Situation(write, fields or ("n_igm", "n_src", "xi"), warns, rtol)
        return write

    return enter


def load() -> Mapping[str, Situation]:
    """All situations."""
    from tests.readers.corpus import arrays, catalogues, codes  # noqa: F401 (they enter what they define)

    return SITUATIONS
