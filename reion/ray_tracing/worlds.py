"""`reion worlds`: ray-traced simulations from a few series, with changed photons, sources and reach."""

from __future__ import annotations

import json
import tomllib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import xarray as xr
from pydantic import Field

from reion.errors import InputError, did_you_mean
from reion.jobs.places import require_folder
from reion.jobs.sources import SourceFiles
from reion.jobs.workers import ThisProcess, Workers
from reion.ray_tracing.settings import MaxMfp, RayTracing
from reion.ray_tracing.simulate import Simulated, TracingProgress, trace_simulation
from reion.readers import open_simulations, source_files
from reion.readers.zarr import ZarrTree
from reion.schema import Schema, load_schema
from reion.simulation.contract import DIMS

_OF_OLD_SOURCES = ("n_ion", "propagation_mask", "xi", "ionisation_rate", "t_spin")
"""Fields that follow from the sources, and are dropped when the sources change."""

_WORLD = "world"
"""Attribute of the store of a world: its `World`, as JSON."""


class World(Schema):
    """A series of density and sources, and the changes that are made before rays are traced."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    """Name of the world; its store is NAME.zarr."""
    series: str
    """Label of the series, as `reion convert` names it."""
    max_mfp: MaxMfp
    """The comoving radius in Mpc that photons reach, or the name of a mean-free-path model."""
    photons: Annotated[float, Field(gt=0)] = 1.0
    """Factor on all photon rates, which makes reionisation earlier or later."""
    brightest: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the emitting cells, the brightest, that keep their sources and get the photons of all."""
    emitting: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the cells, the densest, that emit the photons of the series; absent: its own sources emit."""
    density_power: Annotated[float, Field(ge=0)] = 2.0
    """With `emitting`: a cell emits in proportion to this power of its density."""
    clumping: Annotated[float, Field(ge=1)] = 1.0
    """Factor on recombinations."""


class Worlds(Schema):
    """A list of worlds, `[[world]]` in TOML, and the ray tracing that all of them have in common."""

    world: tuple[World, ...]
    ray_tracing: RayTracing = RayTracing()


@dataclass(frozen=True, kw_only=True)
class MadeWorlds:
    """The results of all worlds, by name; None for a world that was finished before."""

    folder: Path
    worlds: Mapping[str, Simulated | None]

    def to_json(self) -> dict[str, Any]:
        """The result as JSON."""
        return {
            "output": str(self.folder),
            "worlds": {name: None if made is None else made.to_json() for name, made in self.worlds.items()},
        }


def load_worlds(file: Path | None = None) -> Worlds:
    """Read a list of worlds from a TOML file; by default the one that comes with reion.

    Raises
    ------
    InputError
        If the file is not such a list, or two worlds have the same name.
    """
    if file is None:
        text = (resources.files("reion.ray_tracing") / "training_worlds.toml").read_text(encoding="utf-8")
        worlds = load_schema(Worlds, base=tomllib.loads(text))
    else:
        worlds = load_schema(Worlds, file)
    names = [world.name for world in worlds.world]
    if len(set(names)) < len(names):
        raise InputError(f"expected worlds of different names; received {', '.join(names)}", file=file)
    return worlds


def make_world(series: xr.Dataset, world: World) -> xr.Dataset:
    """The density and sources of a world.

    Parameters
    ----------
    series
        A Simulation with `n_igm` and `n_src`.

    Returns
    -------
    xarray.Dataset
        The series with the changed `n_src`, in memory, and without fields that follow from the old sources
        (`n_ion`, `propagation_mask`, `xi`, `ionisation_rate`, `t_spin`). Its attribute `world` is the world
        as JSON.
    """
    n_src = np.empty(series["n_src"].shape, dtype=np.float32)
    for index in range(len(n_src)):
        rates = series["n_src"][index].values
        if world.emitting is not None:
            density = series["n_igm"][index].values
            rates = _by_density(rates, density, world.emitting, world.density_power)
        n_src[index] = _brightest(rates, world.brightest)
    n_src *= np.float32(world.photons)
    attrs = series["n_src"].attrs
    made = series.drop_vars([name for name in _OF_OLD_SOURCES if name in series.data_vars])
    code = f"{series.attrs['source_code']}; world {world.name}"
    return made.assign(n_src=(DIMS, n_src, attrs)).assign_attrs(
        {"source_code": code, _WORLD: world.model_dump_json()}
    )


def make_worlds(
    sources: Sequence[Path],
    out: Path,
    worlds: Worlds,
    *,
    only: Sequence[str] = (),
    workers: Workers | None = None,
    say: Callable[[str], None] | None = None,
    progress: TracingProgress | None = None,
) -> MadeWorlds:
    """Trace the rays of worlds, one store each; a finished store is kept, an unfinished one is continued.

    Parameters
    ----------
    sources
        Files or folders of the series that the worlds name.
    out
        Folder of the stores.
    only
        Names of the worlds to make; if empty, all.

    Raises
    ------
    InputError
        If `out` cannot be made, a world names a missing series, or `only` a missing world, or for the reasons
        of `reion.ray_tracing.simulate.trace_simulation`.
    """
    require_folder(out)
    names = [world.name for world in worlds.world]
    unknown = sorted(set(only) - set(names))
    if unknown:
        raise InputError(
            f"expected worlds named {', '.join(names)}; received {', '.join(unknown)}"
            + did_you_mean(unknown[0], names)
        )
    files = SourceFiles.list(source_files(sources))
    series = open_simulations(sources)
    wanted = [world for world in worlds.world if not only or world.name in only]
    missing = sorted({world.series for world in wanted} - set(series))
    if missing:
        raise InputError(
            f"the worlds need the series {', '.join(missing)}; these files hold {', '.join(series)}",
            hint="name files of theirs too, or give another list of worlds",
        )
    out.mkdir(parents=True, exist_ok=True)
    made: dict[str, Simulated | None] = {}
    for number, world in enumerate(wanted, start=1):
        store = out / f"{world.name}.zarr"
        tracing = worlds.ray_tracing.model_copy(update={"max_mfp": world.max_mfp, "clumping": world.clumping})
        if store.exists():
            _warn_of_another_list(store, world, tracing)
            made[world.name] = None
            continue
        if say is not None:
            say(f"world {number} of {len(wanted)}: {world.name}")
        made[world.name] = trace_simulation(
            make_world(series[world.series], world),
            store,
            tracing,
            files=files,
            workers=workers or ThisProcess(),
            progress=progress,
        )
    return MadeWorlds(folder=out, worlds=made)


def _warn_of_another_list(store: Path, world: World, tracing: RayTracing) -> None:
    """Warn if the list differs from the entry that a kept store records."""
    attrs = ZarrTree(store).attributes()
    if _WORLD not in attrs:
        return
    # A change that the record does not name was not made.
    unchanged = World(name=world.name, series=world.series, max_mfp=world.max_mfp).model_dump(mode="json")
    was = unchanged | json.loads(attrs[_WORLD]) | json.loads(attrs["ray_tracing"])
    now = world.model_dump(mode="json") | tracing.model_dump(mode="json")
    differing = [
        f"{key} = {was.get(key)}, the list says {value}"
        for key, value in now.items()
        if was.get(key) != value
    ]
    if differing:
        warnings.warn(
            f"{store} is kept and was made with {'; '.join(differing)}: remove it to have it made anew",
            stacklevel=3,
        )


def _brightest(n_src: np.ndarray, share: float) -> np.ndarray:
    """The photon rates with the photons of all emitting cells given to the brightest ones.

    Parameters
    ----------
    n_src
        (x, y, z), zero where nothing emits.
    share
        Share of the emitting cells that stay; at least one cell stays.
    """
    emitting = np.flatnonzero(n_src)
    if share == 1 or not len(emitting):
        return n_src.astype(np.float32)
    count = max(1, round(share * len(emitting)))
    flat = n_src.reshape(-1)
    kept = emitting[np.argsort(flat[emitting], kind="stable")[-count:]]
    return _shared(n_src, kept, flat[kept])


def _by_density(n_src: np.ndarray, density: np.ndarray, share: float, power: float) -> np.ndarray:
    """The photon rates with the photons of all cells given to the densest ones.

    Parameters
    ----------
    n_src, density
        (x, y, z).
    share
        Share of the cells that emit; at least one cell does.
    power
        A cell emits in proportion to this power of its density.
    """
    flat = density.reshape(-1).astype(np.float64)
    count = max(1, round(share * flat.size))
    densest = np.argsort(flat, kind="stable")[-count:]
    return _shared(n_src, densest, (flat[densest] / flat.mean()) ** power)


def _shared(n_src: np.ndarray, cells: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The photon rates with all photons given to some cells, flat indices, in proportion to weights."""
    rates = np.zeros(n_src.size, dtype=np.float64)
    rates[cells] = weights
    rates *= n_src.sum(dtype=np.float64) / rates.sum()
    return rates.reshape(n_src.shape).astype(np.float32)
