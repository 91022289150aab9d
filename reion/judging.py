"""What `reion evaluate` judges: a run folder, an ONNX file, a shipped model, or somebody's own xi."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr

from reion.config import InputSet
from reion.emulator import Emulator, shipped_models
from reion.errors import InputError
from reion.readers import open_simulation
from reion.simulation import require_fields


@dataclass(frozen=True)
class Judged:
    """A prediction and where it comes from.

    `excursion_set_threshold` and `inputs` are those of the model's training, for the baseline beside it.
    """

    name: str
    xi: xr.DataArray
    excursion_set_threshold: float | None
    inputs: InputSet
    provenance: Mapping[str, Any]


def predict_with(source: str, sim: xr.Dataset) -> Judged:
    """Predict `sim` with the model at `source`, or read xi from there.

    Raises
    ------
    InputError
        If there is no such model or file, or it does not fit the simulation.
    """
    path = Path(source)
    if path.suffix == ".onnx" or source in shipped_models():
        emulator = Emulator(source)
        card = emulator.card
        inputs: InputSet = "history" if "n_ion" in card.inputs else "instant"
        provenance = {"model": source, "sha256": emulator.sha256, **card.provenance}
        return Judged(path.stem, emulator.predict(sim), card.excursion_set_threshold, inputs, provenance)
    if (path / "config.toml").is_file():
        try:
            from reion.runs import load_run
        except ModuleNotFoundError as error:
            raise InputError(
                f"judging a run folder needs {error.name}",
                file=path,
                hint="pip install 'reion[train]', or judge the exported file",
            ) from error
        run = load_run(path)
        threshold = run.metrics["excursion_set_threshold"]
        return Judged(path.name, run.predict(sim), threshold, run.config.data.inputs, run.provenance)
    other = open_simulation(path)
    require_fields(other, ["xi"], purpose="comparing with the truth", file=source)
    return Judged(path.stem, other["xi"], None, "history", {"file": source})
