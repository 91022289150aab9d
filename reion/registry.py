"""The registries of networks, stems, losses and augmentations, those of reion and those of users."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Generic, TypeVar

from reion.errors import InputError, did_you_mean
from reion.schema import Schema

_OWN = "reion"
"""The package whose entries a configuration names without their module."""


class NetworkSettings(Schema):
    """Base class of the settings of every network."""

    name: str = ""
    """Name of the network, as in `model.name`."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An entry of a registry: a function under a name.

    Attributes
    ----------
    short
        The name under which the function was registered.
    function
        The function. Its first argument is an instance of `settings`.
    settings
        The class that checks the settings.
    reference
        `module:function`, by which another process imports the function.
    """

    short: str
    function: Callable[..., Any]
    settings: type[Schema]
    reference: str

    @property
    def is_own(self) -> bool:
        """Whether the function comes with reion."""
        return self.reference.partition(":")[0].partition(".")[0] == _OWN

    @property
    def name(self) -> str:
        """The name in a schema: the short name if the entry comes with reion, otherwise the reference."""
        return self.short if self.is_own else self.reference

    @property
    def source(self) -> Path | None:
        """The file that holds the code; None for code that was typed into an interpreter."""
        try:
            file = inspect.getsourcefile(inspect.unwrap(self.function))
        except TypeError:
            return None
        return Path(file) if file and Path(file).is_file() else None


@dataclass(frozen=True, kw_only=True)
class Stem(Entry):
    """The fixed first stage of a network: `function(settings, photon_field, cell_size_mpc)` returns a layer.

    Attributes
    ----------
    conditions
        Names of the numbers, one for each snapshot, that the stem takes beside the fields: none, or max_mfp.
        The trunk behind a stem that takes max_mfp gets reach and cell size after the redshift.
    inputs
        The set of inputs that the stem needs, `history` or `instant`; None for any.
    any_cell_size
        Whether the same trunk serves boxes of different cell sizes.
    """

    conditions: tuple[str, ...] = ()
    inputs: str | None = None
    any_cell_size: bool = False


@dataclass(frozen=True, kw_only=True)
class Network(Entry):
    """The learnt stage of a network, its trunk, and the stem before it.

    `function(settings, channels, conditions)` returns a `keras.Model` of the inputs channels and conditions.

    Attributes
    ----------
    stem
        Name of the stem that makes the channels.
    training, loss
        Defaults of the network for the sections `training` and `training.loss` of the schema.
    stride_cells
        The number of predicted cells along each axis is a multiple of this.
    symmetric
        A function of the settings: whether turning the box turns the prediction.
    """

    settings: type[NetworkSettings]
    stem: str
    training: Mapping[str, Any]
    loss: Mapping[str, float]
    stride_cells: int
    symmetric: Callable[[Any], bool]


@dataclass(frozen=True, kw_only=True)
class Loss(Entry):
    """A loss: `function(settings, true, predicted)` returns a scalar, or a value for each cell."""


@dataclass(frozen=True, kw_only=True)
class Augmentation(Entry):
    """A random change of crops: `function(settings, rng, channels, conditions, xi)` returns the last three.

    Attributes
    ----------
    orientations
        Number of symmetries of the cube. Each crop is first turned by one of them, drawn at random: 1 for
        none, 24 for the rotations, 48 for all.
    """

    orientations: int


Kind = TypeVar("Kind", bound=Entry)


@dataclass(frozen=True)
class Registry(Generic[Kind]):
    """The entries of one kind, by name.

    Attributes
    ----------
    what
        The kind, in words.
    key
        The key of the schema that names an entry.
    decorator
        The function of reion that adds an entry.
    """

    what: str
    key: str
    decorator: str
    _entries: dict[str, Kind] = field(default_factory=dict)

    def add(self, entry: Kind) -> None:
        """Register an entry. A function may be registered again, as when a cell of a notebook is repeated.

        Raises
        ------
        InputError
            If another function has the name.
        """
        there = self._entries.get(entry.short)
        if there is not None and there.reference != entry.reference:
            raise InputError(
                f"the {self.what} {entry.short} is registered already, by {there.reference}",
                hint="register this one under another name",
            )
        self._entries[entry.short] = entry

    def __iter__(self) -> Iterator[Kind]:
        return iter(list(self._entries.values()))

    @property
    def own(self) -> tuple[str, ...]:
        """Short names of the entries that come with reion."""
        return tuple(entry.short for entry in self if entry.is_own)

    def find(self, name: Any) -> Kind:
        """The entry of this name, which is a short name or `module:function`.

        Raises
        ------
        InputError
            If there is no such entry, or its code cannot be imported.
        """
        found = self._registered(name)
        if found is not None:
            return found
        if not isinstance(name, str) or ":" not in name:
            known = ", ".join(entry.short for entry in self)
            raise InputError(
                f"{self.key}: expected a {self.what} that is registered ({known}), or "
                f"module:function; received {name!r}" + did_you_mean(name, [entry.short for entry in self]),
                hint=f"the code of another one is imported by its module, as in my_file:{name}",
            )
        module, _, function = name.partition(":")
        _import(module, f"the {self.what} {name}")
        found = self._registered(name)
        if found is None:
            raise InputError(
                f"the module {module} has no {self.what} {function!r} that is registered",
                hint=f"write @reion.{self.decorator}(...) above its function",
            )
        return found

    def _registered(self, name: Any) -> Kind | None:
        for entry in self:
            if name in (entry.short, entry.reference):
                return entry
        return None


NETWORKS: Registry[Network] = Registry("network", "model.name", "register_network")
STEMS: Registry[Stem] = Registry("stem", "stem", "register_stem")
LOSSES: Registry[Loss] = Registry("loss", "training.loss.kind", "register_loss")
AUGMENTATIONS: Registry[Augmentation] = Registry("augmentation", "data.augmentation", "register_augmentation")

Function = TypeVar("Function", bound=Callable[..., Any])


def register_network(
    name: str,
    *,
    settings: type[NetworkSettings],
    stem: str = "photon_balance",
    training: Mapping[str, Any] | None = None,
    loss: Mapping[str, float] | None = None,
    stride_cells: int = 1,
    symmetric: bool | Callable[[Any], bool] = False,
) -> Callable[[Function], Function]:
    """Register a function that builds the learnt stage of a network.

    The function is called as `function(settings, channels, conditions)` and returns
    `keras.Model([channels, conditions], xi)`. `channels`, a Keras input (batch, x, y, z, channel), holds the
    normalised channels of the stem. `conditions`, (batch, 1), is the normalised redshift; behind a stem that
    takes max_mfp it is (batch, 3), with log(reach / 20 Mpc) and log(cell size / 2 Mpc) after the redshift.
    `xi` is (batch, x', y', z', 1), from 0 to 1, float32, with a second channel where the network learns the
    standard deviation of its error. No operation may pad, and each must be the same in every cell.

    Parameters
    ----------
    name
        Short name of the network. `module:function` also names it, and imports the module.
    settings
        The pydantic class of the section `model`, derived from the settings class of the stem.
    stem
        Name of the stem that makes the channels.
    training, loss
        Defaults of the sections `training` and `training.loss`; crop_cells, batch_size and learning_rate
        default to 16, 8 and 0.001.
    stride_cells
        The number of predicted cells along each axis is a multiple of this, for networks that halve the mesh.
    symmetric
        Whether turning the box turns the prediction exactly, for all 48 symmetries of the cube; or a function
        of the settings that returns this.

    Raises
    ------
    InputError
        If the name is taken, or `settings` lacks what the stem needs.
    """
    needed = STEMS.find(stem)
    if not issubclass(settings, needed.settings):
        raise InputError(
            f"the settings of the network {name} lack those of its stem {stem}",
            hint=f"derive {settings.__name__} from {needed.settings.__module__}.{needed.settings.__name__}",
        )
    promised = symmetric if callable(symmetric) else lambda _: bool(symmetric)

    def register(function: Function) -> Function:
        NETWORKS.add(
            Network(
                short=name,
                function=function,
                settings=settings,
                reference=_reference(function),
                stem=stem,
                training={"crop_cells": 16, "batch_size": 8, "learning_rate": 1e-3, **(training or {})},
                loss=dict(loss or {}),
                stride_cells=stride_cells,
                symmetric=promised,
            )
        )
        return function

    return register


def register_stem(
    name: str,
    *,
    settings: type[NetworkSettings] = NetworkSettings,
    conditions: tuple[str, ...] = (),
    inputs: str | None = None,
    any_cell_size: bool = False,
) -> Callable[[Function], Function]:
    """Register a function that makes a stem, `function(settings, photon_field, cell_size_mpc)`.

    The function returns a Keras layer that follows `reion.models.stems.Stem`. The settings class of every
    network with this stem derives from `settings`. `reion.registry.Stem` describes the other arguments.

    Raises
    ------
    InputError
        If the name is taken.
    """

    def register(function: Function) -> Function:
        STEMS.add(
            Stem(
                short=name,
                function=function,
                settings=settings,
                reference=_reference(function),
                conditions=conditions,
                inputs=inputs,
                any_cell_size=any_cell_size,
            )
        )
        return function

    return register


def register_loss(name: str, *, settings: type[Schema] = Schema) -> Callable[[Function], Function]:
    """Register a loss, `function(settings, true, predicted)`.

    `true` and `predicted` are tensors (batch, x, y, z, 1) of xi. The function returns the mean loss, or the
    loss of each cell, which is then averaged. `settings` is the class that checks `training.loss.options`.

    Raises
    ------
    InputError
        If the name is taken.
    """

    def register(function: Function) -> Function:
        LOSSES.add(Loss(short=name, function=function, settings=settings, reference=_reference(function)))
        return function

    return register


def register_augmentation(
    name: str, *, settings: type[Schema] = Schema, orientations: int = 48
) -> Callable[[Function], Function]:
    """Register an augmentation, `function(settings, rng, channels, conditions, xi)`.

    The function is called for each crop after the crop was turned. It gets the normalised `channels`
    (x, y, z, channel), `conditions` (condition,) and `xi` (x, y, z, 1), float32, and returns the three as the
    network learns them. It must draw random numbers from `rng`, so that a run can be repeated. `settings` is
    the class that checks `data.augmentation_options`; `Augmentation` describes `orientations`.

    Raises
    ------
    InputError
        If the name is taken.
    """

    def register(function: Function) -> Function:
        AUGMENTATIONS.add(
            Augmentation(
                short=name,
                function=function,
                settings=settings,
                reference=_reference(function),
                orientations=orientations,
            )
        )
        return function

    return register


def only_turned(settings: Any, rng: Any, channels: Any, conditions: Any, xi: Any) -> tuple[Any, Any, Any]:  # noqa: ARG001 (an augmentation's)
    """The augmentation that returns the turned crop unchanged."""
    return channels, conditions, xi


def deferred(reference: str) -> Callable[..., Any]:
    """A function that imports `module:function` when it is called for the first time, and calls that."""
    module, _, name = reference.partition(":")

    def call(*arguments: Any) -> Any:
        return getattr(import_module(module), name)(*arguments)

    call.__module__, call.__qualname__ = module, name
    return call


def _reference(function: Callable[..., Any]) -> str:
    return f"{function.__module__}:{function.__qualname__}"


def _import(module: str, what: str) -> None:
    """Import a module, also from the working folder, which is not on the path of the `reion` command."""
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    try:
        import_module(module)
    except InputError:
        raise
    except Exception as error:  # a user's module may raise any error
        raise InputError(
            f"the code of {what} cannot be imported: {type(error).__name__}: {error}",
            hint=f"start from the folder that holds {module.partition('.')[0]}, put that folder on "
            "PYTHONPATH, or install its package",
        ) from error
