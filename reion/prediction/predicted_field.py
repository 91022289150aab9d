"""xi of a simulation as a field that is predicted on demand."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from reion.jobs.outputs import whole_file
from reion.jobs.workers import Portable
from reion.prediction.emulator import Emulator
from reion.prediction.inputs import conditions_at
from reion.prediction.memory import default_memory_bytes, fit_tiles
from reion.prediction.portable_emulator import PortableEmulator
from reion.prediction.sessions import Device
from reion.prediction.tiles import Field, Predictor, predict_tile
from reion.simulation.contract import DIMS, shape_of
from reion.simulation.lazy import CellKey, LazyField
from reion.simulation.photons import EmittedPhotons
from reion.simulation.recombinations import less_recombinations


class PredictedField(Portable, LazyField):
    """xi of a Simulation, of which each snapshot is predicted on demand, within `default_memory_bytes()`.

    Parameters
    ----------
    emulator, sim
        The model and the simulation, which must have passed `Emulator.check`.
    device
        The device on which other processes predict.
    keep
        A folder for predicted snapshots, so that none is predicted twice.
    """

    def __init__(
        self, emulator: Emulator, sim: xr.Dataset, *, device: Device = "auto", keep: Path | None = None
    ) -> None:
        super().__init__(tuple(sim.sizes[dim] for dim in DIMS))
        sim = less_recombinations(sim)
        self._model, self._sim, self._keep = PortableEmulator(emulator, device), sim, keep
        self._tiling = fit_tiles(emulator, shape_of(sim), default_memory_bytes()).tiling
        derived = "n_ion" in emulator.card.inputs and "n_ion" not in sim.data_vars
        self._emitted = EmittedPhotons(sim) if derived else None

    def snapshot(self, index: int, key: CellKey) -> Field:
        """The cells `key` of snapshot `index`; the whole snapshot is predicted."""
        kept = None if self._keep is None else self._keep / f"{index}.npy"
        if kept is not None and kept.exists():
            return np.asarray(np.load(kept, mmap_mode="r")[key])
        xi = self._predicted(index, spread=False)
        if kept is not None:
            # Another process may look for the file: it appears when whole. It need not survive a crash.
            with whole_file(kept, sync=False) as partial:
                np.save(partial, xi)
        return xi[key]

    def with_spread(self, index: int) -> Field:
        """Predict xi and xi_std of snapshot `index`, (2, x, y, z)."""
        return self._predicted(index, spread=True)

    def _predicted(self, index: int, *, spread: bool) -> Field:
        fields: dict[str, Any] = {
            name: np.asarray(self._emitted.at(index), dtype=np.float32)
            if name == "n_ion" and self._emitted is not None
            else self._sim[name][index].values
            for name in self._model.emulator.card.inputs
        }
        predict_window = at_redshift(self._model.emulator, self._sim, index, spread=spread)
        answer = np.empty(((2,) if spread else ()) + self.shape[1:], dtype=np.float32)
        for number in range(len(self._tiling)):
            place = (..., *self._tiling.place(number))
            answer[place] = predict_tile(predict_window, fields, self._tiling, number)
        return answer


def at_redshift(emulator: Emulator, sim: xr.Dataset, index: int, *, spread: bool = False) -> Predictor:
    """A function that predicts windows at the redshift of a snapshot."""
    numbers = conditions_at(emulator.card, sim, index)
    return functools.partial(
        emulator.predict_window, float(sim["redshift"][index]), conditions=numbers, spread=spread
    )
