"""Networks, stems, losses and augmentations by name, whoever wrote them."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Generic, TypeVar

from reion.errors import InputError
from reion.schema import Schema

_OWN = "reion"
"""The package whose networks, stems and losses a configuration names without their module."""


class NetworkSettings(Schema):
    """What the settings of every network derive from."""

    name: str = ""
    """As in `model.name`."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Something that is registered.

    Attributes
    ----------
    short
        The name that it was registered under.
    function
        What does the work.
    settings
        Checks its settings, which `function` gets first.
    reference
        `module:function`, where another process finds it.
    """

    short: str
    function: Callable[..., Any]
    settings: type[Schema]
    reference: str

    @property
    def is_own(self) -> bool:
        """Whether it comes with reion."""
        return self.reference.partition(":")[0].partition(".")[0] == _OWN

    @property
    def name(self) -> str:
        """How a schema names it: its short name where it comes with reion, otherwise its reference."""
        return self.short if self.is_own else self.reference

    @property
    def source(self) -> Path | None:
        """The file that its code is in; None for code that was typed in."""
        try:
            file = inspect.getsourcefile(inspect.unwrap(self.function))
        except TypeError:
            return None
        return Path(file) if file and Path(file).is_file() else None


@dataclass(frozen=True, kw_only=True)
class Stem(Entry):
    """A first stage: `function(settings, photon_field, cell_size_mpc)` returns a layer.

    Attributes
    ----------
    conditions
        Names of the numbers, one a snapshot, that it takes beside the fields: nothing, or max_mfp. The trunk
        behind a stem that takes max_mfp is told reach and cell size after the redshift.
    inputs
        The set of inputs that it needs; None for any.
    any_cell_size
        Whether the same trunk serves boxes of different cells.
    """

    conditions: tuple[str, ...] = ()
    inputs: str | None = None
    any_cell_size: bool = False


@dataclass(frozen=True, kw_only=True)
class Network(Entry):
    """A trunk: `function(settings, channels, conditions)` returns a `keras.Model` of these two inputs.

    Attributes
    ----------
    stem
        Name of the stem that makes its channels.
    training, loss
        Its defaults for the sections training and training.loss of the schema.
    stride_cells
        The sides of what it predicts are multiples of this.
    symmetric
        Whether turning the box turns the prediction, with these settings.
    """

    settings: type[NetworkSettings]
    stem: str
    training: Mapping[str, Any]
    loss: Mapping[str, float]
    stride_cells: int
    symmetric: Callable[[Any], bool]


@dataclass(frozen=True, kw_only=True)
class Loss(Entry):
    """`function(settings, true, predicted)` returns a scalar, or a value for each cell."""


@dataclass(frozen=True, kw_only=True)
class Augmentation(Entry):
    """`function(settings, rng, channels, conditions, xi)` returns what a crop becomes.

    Attributes
    ----------
    orientations
        Before that, each crop is turned by one of so many symmetries of the cube, drawn at random: 1 for
        none, 24 for rotations, 48 for all.
    """

    orientations: int


Kind = TypeVar("Kind", bound=Entry)


@dataclass(frozen=True)
class Registry(Generic[Kind]):
    """What is registered of one kind: in words, where a schema names it, and the decorator that adds it."""

    what: str
    key: str
    decorator: str
    _entries: dict[str, Kind] = field(default_factory=dict)

    def add(self, entry: Kind) -> None:
        """Register an entry; the same function may be registered again, as a notebook does.

        Raises
        ------
        InputError
            If another one has the name.
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
        """Names of those that come with reion."""
        return tuple(entry.short for entry in self if entry.is_own)

    def find(self, name: Any) -> Kind:
        """The entry of this name, which is a short name or `module:function`.

        Raises
        ------
        InputError
            If there is none, or its code cannot be imported.
        """
        found = self._registered(name)
        if found is not None:
            return found
        if not isinstance(name, str) or ":" not in name:
            known = ", ".join(entry.short for entry in self)
            raise InputError(
                f"{self.key}: expected a {self.what} that is registered ({known}), or "
                f"module:function; received {name!r}",
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
    `keras.Model([channels, conditions], xi)`. `channels`, a Keras input (batch, x, y, z, channel), is what
    the stem has made of the fields, normalised. `conditions`, (batch, 1), is the normalised redshift; behind
    a stem that takes max_mfp it is (batch, 3), with log(reach / 20 Mpc) and log(cell size / 2 Mpc). `xi`
    is (batch, x', y', z', 1), from 0 to 1, float32, with a second channel where the network learns the
    standard deviation of its error. Every operation is valid (without padding) and the same in every cell.

    Parameters
    ----------
    name
        Its short name. A schema also finds it as `module:function`, which imports the module.
    settings
        The pydantic class of its section `model`, derived from that of the stem.
    stem
        Name of the stem that makes the channels.
    training, loss
        Defaults of the sections `training` and `training.loss`; crop_cells, batch_size and learning_rate
        default to 16, 8 and 0.001.
    stride_cells
        The sides of what it predicts are multiples of this: for networks that halve the mesh.
    symmetric
        Whether turning the box turns the prediction exactly, for all 48 symmetries of the cube; or a function
        of the settings that says so.

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

    It returns a Keras layer as `reion.models.stems.Stem` describes it. `settings` is the class that the
    settings of every network with this stem derive from; the rest is described at `Stem`.

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

    `true` and `predicted` are tensors (batch, x, y, z, 1) of xi. It returns the mean loss, or one for each
    cell, which are then averaged. `settings` checks `training.loss.options`.

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

    It is called for each crop, after that was turned: normalised `channels` (x, y, z, channel), `conditions`
    (condition,) and `xi` (x, y, z, 1), float32, and returns the three as they are to be learnt. Its random
    numbers come from `rng`, so that a run repeats. `settings` checks `data.augmentation_options`;
    `orientations` is described at `Augmentation`.

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
    """An augmentation that changes nothing beyond turning the crop."""
    return channels, conditions, xi


def deferred(reference: str) -> Callable[..., Any]:
    """A function that is imported, from `module:function`, when it is called for the first time."""
    module, _, name = reference.partition(":")

    def call(*arguments: Any) -> Any:
        return getattr(import_module(module), name)(*arguments)

    call.__module__, call.__qualname__ = module, name
    return call


def _reference(function: Callable[..., Any]) -> str:
    return f"{function.__module__}:{function.__qualname__}"


def _import(module: str, what: str) -> None:
    """Import a module, also from the working folder, which the command line does not look in by itself."""
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    try:
        import_module(module)
    except InputError:
        raise
    except Exception as error:  # whatever the code of others raises
        raise InputError(
            f"the code of {what} cannot be imported: {type(error).__name__}: {error}",
            hint=f"start from the folder that holds {module.partition('.')[0]}, put that folder on "
            "PYTHONPATH, or install its package",
        ) from error
