"""Lets Keras load networks of reion by itself: `keras.models.load_model("run/model.keras")`.

Keras looks up the class of a layer in a list of names. `import reion` arranges that the names of its layers
are in this list as soon as Keras is imported. The class of a layer is imported when Keras makes the layer.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

_LAYERS = {
    "Standardise": "reion.models.layers",
    "SymmetricConv3D": "reion.models.layers",
    "PointwiseConv3D": "reion.models.layers",
    "StopGradient": "reion.models.layers",
    "RawFields": "reion.models.stems",
    "PhotonBalance": "reion.models.stems",
    "PhotonTransport": "reion.models.stems",
}
"""Module of every layer that a saved network may have, by the name of the layer."""


class _Deferred:
    """Stands for the class of a layer until Keras makes such a layer."""

    def __init__(self, name: str) -> None:
        self.name = name

    def from_config(self, config: Mapping[str, Any]) -> Any:
        """The layer of this configuration. Importing its module replaces this object in Keras's list."""
        return getattr(import_module(_LAYERS[self.name]), self.name).from_config(config)


def offer_layers() -> None:
    """Tell Keras the names of reion's layers, now or as soon as Keras is imported."""
    if "keras" in sys.modules and hasattr(sys.modules["keras"], "saving"):
        _tell(sys.modules["keras"])
    else:
        sys.meta_path.insert(0, _WhenImported())


def _tell(keras: ModuleType) -> None:
    known = keras.saving.get_custom_objects()
    for name in _LAYERS:
        known.setdefault(f"reion>{name}", _Deferred(name))


class _WhenImported(MetaPathFinder):
    """Waits for the import of Keras, then tells Keras the names of the layers."""

    def find_spec(self, fullname: str, *_: Any) -> ModuleSpec | None:
        if fullname != "keras":
            return None
        sys.meta_path.remove(self)
        spec = find_spec("keras")
        if spec is not None and spec.loader is not None:
            spec.loader = _Telling(spec.loader)
        return spec


class _Telling(Loader):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:  # from here on Keras has its own loader, as without reion
            module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        _tell(module)
