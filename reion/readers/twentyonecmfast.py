"""21cmFAST 4: coeval boxes as `Coeval.save` writes them, one HDF5 file a redshift.

Where things are in a file (each group also has `InputParameters` with the parameters as attributes):

- `PerturbedField/OutputFields/density`: overdensity, shape (x, y, z), float32; `PerturbedField` has the
  attribute `redshift`;
- `EmissivityFields/OutputFields/fesc_weighted_sfrd`: star formation rate density times escape fraction times
  photons per baryon, in Msun s-1 Mpc-3 (comoving): photons s-1 Mpc-3 are that times the baryons in a solar
  mass, 1.98892e33 / 1.6726e-24 with 21cmFAST's own constants;
- `IonizedBox/OutputFields/neutral_fraction`: xi is one minus it;
- `InputParameters/cosmo_params`: hlittle, OMm, OMb; `InputParameters/simulation_options`: BOX_LEN (Mpc),
  HII_DIM, NON_CUBIC_FACTOR (the z axis has that many times the cells and the length).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from reion.errors import InputError
from reion.readers.filenames import label_of
from reion.readers.format import Format
from reion.readers.hdf5_file import attributes, find, is_hdf5, open_hdf5, read, shape_of
from reion.readers.settings import Settings
from reion.readers.snapshot import Box, Region, Snapshot
from reion.simulation.units import Conversion

BARYONS_PER_MSUN = 1.98892e33 / 1.6726e-24

FIELDS = {
    "n_igm": ("PerturbedField/OutputFields/density", "overdensity", 1.0),
    "n_src": ("EmissivityFields/OutputFields/fesc_weighted_sfrd", "s-1 Mpc-3", BARYONS_PER_MSUN),
    "xi": ("IonizedBox/OutputFields/neutral_fraction", "neutral fraction", 1.0),
}
"""Field to its dataset, the unit of its values, and their factor."""


def claim(paths: Sequence[Path]) -> list[Path]:
    """HDF5 files that say they are from 21cmFAST, and beside them those that are too damaged to say."""
    claimed, damaged = [], []
    for path in paths:
        if is_hdf5(path):
            try:
                with open_hdf5(path) as file:
                    if "21cmFAST-version" in file.attrs:
                        claimed.append(path)
            except InputError:
                damaged.append(path)
    return claimed + damaged if claimed else []


def scan(paths: Sequence[Path], settings: Settings) -> list[Box]:  # noqa: ARG001 (the files say it all)
    """One snapshot of one box for each file; boxes of different random seeds are different boxes."""
    return [_scan_file(path) for path in paths]


def _scan_file(path: Path) -> Box:
    with open_hdf5(path) as file:
        snapshots = []
        redshifts = {}
        for name, (dataset_name, units, scale) in FIELDS.items():
            dataset = find(file, dataset_name, path)
            if dataset is None:
                continue
            shape = shape_of(dataset, dataset_name, path)
            if len(shape) != 3 or 0 in shape:
                raise InputError(f"{dataset_name}: expected shape (x, y, z); received {shape}", file=path)
            group = dataset_name.split("/", 1)[0]
            redshifts[group] = _number(attributes(file[group]), "redshift", group, path)
            snapshots.append(
                Snapshot(
                    name=name,
                    redshift=redshifts[group],
                    file=path,
                    shape=(shape[0], shape[1], shape[2]),
                    units=units,
                    read=partial(_read, path, dataset_name),
                    scale=scale,
                )
            )
        if not snapshots:
            names = ", ".join(name for name, _, _ in FIELDS.values())
            raise InputError(f"expected any of the datasets {names}; received {list(file)}", file=path)
        if len(set(redshifts.values())) > 1:
            raise InputError(f"expected one redshift; received {redshifts}", file=path)
        inputs = next(iter(redshifts)) + "/InputParameters"
        parameters = find(file, inputs, path)
        options = find(file, inputs + "/simulation_options", path)
        cosmology = find(file, inputs + "/cosmo_params", path)
        if parameters is None or options is None or cosmology is None:
            raise InputError(f"expected simulation_options and cosmo_params in {inputs}", file=path)
        side = _number(attributes(options), "BOX_LEN", inputs, path)
        stretch = float(attributes(options).get("NON_CUBIC_FACTOR", 1.0))
        cells = int(_number(attributes(options), "HII_DIM", inputs, path))
        if any(one.shape != (cells, cells, round(cells * stretch)) for one in snapshots):
            raise InputError(
                f"expected shape {(cells, cells, round(cells * stretch))} (HII_DIM, NON_CUBIC_FACTOR); "
                f"received {', '.join(str(one.shape) for one in snapshots)}",
                file=path,
            )
        cosmo = attributes(cosmology)
        return Box(
            label=f"{label_of(path)}_seed{attributes(parameters).get('random_seed', '')}",
            snapshots=snapshots,
            box_size=side if stretch == 1.0 else (side, side, side * stretch),
            cosmology={
                "H0": 100 * _number(cosmo, "hlittle", inputs, path),
                "Om0": _number(cosmo, "OMm", inputs, path),
                "Ob0": _number(cosmo, "OMb", inputs, path),
            },
            source_code=f"21cmFAST {attributes(file).get('21cmFAST-version', '')}".strip(),
        )


def _read(path: Path, name: str, region: Region, conversion: Conversion) -> np.ndarray:
    with open_hdf5(path) as file:
        dataset = find(file, name, path)
        shape_of(dataset, name, path)
        return conversion(read(dataset, region, name, path))


def _number(attrs: Any, key: str, group: str, path: Path) -> float:
    try:
        value = float(attrs[key])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"expected a number {key!r} among the attributes of {group}", file=path) from error
    if not np.isfinite(value):
        raise InputError(f"{key} in {group}: expected a finite number; received {value}", file=path)
    return value


FORMAT = Format(
    name="21cmfast",
    description="21cmFAST 4 coeval boxes (HDF5, as Coeval.save writes them)",
    claim=claim,
    scan=scan,
)
