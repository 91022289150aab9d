"""reion: radiative transfer of cosmic reionisation, learnt.

A network takes the gas density and the ionising sources of a periodic box and predicts the ionised fraction
of every cell. The names below are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from reion.keras_layers import offer_layers

__version__ = "0.1.0"

offer_layers()

_PUBLIC = {
    "InputError": "reion.errors",
    "make_simulation": "reion.simulation.contract",
    "check_simulation": "reion.simulation.contract",
    "with_n_ion": "reion.simulation.photons",
    "with_clumping": "reion.simulation.recombinations",
    "less_recombinations": "reion.simulation.recombinations",
    "open_simulation": "reion.readers",
    "load_sample": "reion.sample",
    "RunConfig": "reion.config",
    "Schema": "reion.schema",
    "NetworkSettings": "reion.networks",
    "FieldsSettings": "reion.networks",
    "BalanceSettings": "reion.networks",
    "TransportSettings": "reion.networks",
    "register_network": "reion.networks",
    "register_stem": "reion.networks",
    "register_loss": "reion.networks",
    "register_augmentation": "reion.networks",
    "train": "reion.training.run",
    "Emulator": "reion.prediction.emulator",
    "evaluate": "reion.evaluation.evaluate",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    module = _PUBLIC.get(name)
    if module is None:
        raise AttributeError(f"module 'reion' has no attribute {name!r}")
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return sorted(__all__)
