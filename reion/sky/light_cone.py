"""`reion lightcone`: xi, density and 21-cm signal along the line of sight, from a series of snapshots."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr

import reion
from reion.errors import InputError
from reion.jobs.outputs import scratch_folder, whole_folder
from reion.jobs.places import claimed
from reion.jobs.resources import peak_memory_bytes, return_free_memory, thread_limit
from reion.jobs.workers import Progress
from reion.metrics.fields import Field
from reion.simulation.contract import (
    AXES,
    cell_size_mpc,
    cells_of,
    check_simulation,
    check_values,
    cosmology,
    shape_of,
)
from reion.sky.cone_signal import signal_of
from reion.sky.copies import Copy, copies
from reion.sky.field_of_view import check_field_of_view, write_on_the_sky
from reion.sky.fronts import FrontSnapshot, between
from reion.sky.geometry import LineOfSight
from reion.sky.signal import Axis, overdensity
from reion.sky.thick_planes import write_means
from reion.storage.store import STORE, consolidate, plain

Interpolation = Literal["fronts", "linear"]

MEMORY_BYTES = 2 << 30
"""Memory that a light cone may take by default."""

_PROGRAM_BYTES = 260 << 20
"""Memory of the program without any field."""

_FRONT_BYTES, _LINEAR_BYTES = 25, 20
"""Memory for each cell of a snapshot. With fronts: two snapshots, their distances from the fronts, and the
computation of these. Without: two snapshots, and the reading of the next."""

_CHUNK_BYTES = 4 << 20
"""Largest chunk of the cone, whole planes of float32; making a chunk takes about five times as much
memory."""

_VARIABLES = {
    "xi": ("1", "ionised fraction of hydrogen"),
    "overdensity": ("1", "gas density over its mean, less one"),
    "spin_temperature": ("K", "spin temperature of the 21-cm line"),
    "velocity": ("km s-1", "peculiar velocity away from the observer, proper"),
    "brightness_temperature": ("mK", "21-cm brightness temperature against the CMB"),
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a light cone.

    Parameters
    ----------
    redshift
        Lowest and highest redshift; None: those of the snapshots.
    line_of_sight
        The axis of the box along which the first copy is seen.
    cell_mpc
        Resolution along the line of sight, comoving; None: the side of a cell.
    interpolation
                Interpolation of xi between snapshots: `fronts` (see `reion.sky.fronts.between`) or `linear`
                in cosmic
        time. All other fields are linear.
    turns
        Whether copies of the box are rotated and shifted (see `reion.sky.copies.copies`).
    distortions
        Whether the signal is in redshift space; None: if there is a velocity along the line of sight.
    seed
        Seed of the rotations and shifts.
    field_of_view_degrees
        Width on the sky in degrees, the same at every distance; None: planes are as wide as the box.
    """

    redshift: tuple[float, float] | None = None
    line_of_sight: Axis = "z"
    cell_mpc: float | None = None
    interpolation: Interpolation = "fronts"
    turns: bool = True
    distortions: bool | None = None
    seed: int = 0
    field_of_view_degrees: float | None = None


@dataclass(frozen=True, kw_only=True)
class LightCone:
    """A light cone that was written.

    Parameters
    ----------
    shape
        Cells across, across and along the line of sight.
    redshift, frequency_mhz
        Values of the first and the last plane.
    copies
        Number of copies of the box along the line of sight.
    fields
        Names of the variables.
    """

    output: Path
    shape: tuple[int, int, int]
    redshift: tuple[float, float]
    frequency_mhz: tuple[float, float]
    copies: int
    fields: tuple[str, ...]
    seconds: float
    peak_memory_bytes: int | None

    def to_json(self) -> dict[str, Any]:
        """The light cone as `reion lightcone --json` prints it."""
        return {**asdict(self), "output": str(self.output)}


def light_cone(
    sim: xr.Dataset,
    out: str | Path,
    settings: Settings | None = None,
    *,
    memory_bytes: int = MEMORY_BYTES,
    attrs: Mapping[str, Any] | None = None,
    sources: Sequence[str | Path] = (),
    force: bool = False,
    progress: Progress | None = None,
) -> LightCone:
    """Write the light cone of a series of snapshots as a Zarr store that `xarray.open_zarr` opens.

    Across the line of sight its cells are those of the box; along it there are planes of equal comoving
    thickness, the nearest first. Copies of the periodic box stand one behind the other. The variables, of
    dimensions (x, y, distance), are `xi`, `overdensity`, `velocity`, `spin_temperature` and
    `brightness_temperature`, as far as the simulation has the fields for them. Two snapshots of one field are
    in memory at a time, for a cone of any length.

    Parameters
    ----------
    sim
        A Simulation with xi, n_igm or both (see `reion.simulation.joining.with_xi`).
    memory_bytes
        Memory that the process may take.
    attrs
        Further attributes of the store.
    sources
        Paths from which the simulation is read: `out` may not be, contain or lie in one of them.
    force
        Replace a store at `out`.

    Raises
    ------
    InputError
        If the simulation has fewer than two snapshots or neither xi nor n_igm, the wanted redshifts are not
        between those of its snapshots, distortions are wanted without a velocity, the memory does not
        suffice, a value is out of range, or something is at `out` already.
    """
    started = time.monotonic()
    check_simulation(sim, values=False)
    cone = _Cone(sim, settings or Settings())
    needed = cone.memory_bytes()
    if needed > memory_bytes:
        raise InputError(
            f"two snapshots of {cells_of(sim)} cells take {needed / 2**20:.0f} MiB; received a limit of "
            f"{memory_bytes / 2**20:.0f} MiB",
            hint="allow more with --memory, take --interpolation linear, or regrid the box with "
            "`reion convert --cell-size MPC`",
        )
    with claimed(out, STORE, force=force, sources=sources) as place, whole_folder(place) as folder:
        degrees = cone.settings.field_of_view_degrees
        with scratch_folder(place) as scratch:
            group = cone.create(folder if degrees is None else scratch / "cone", cone.planes, attrs or {})
            thin = group if cone.parts == 1 else cone.create(scratch / "thin", cone.line, {})
            cone.fill(thin, progress)
            if thin is not group:
                write_means(thin, group, cone.fields, cone.parts)
            if degrees is None:
                consolidate(group)
            else:
                write_on_the_sky(group, folder, degrees, cone.sides_mpc)
    line = cone.planes
    return LightCone(
        output=place,
        shape=(*cone.across, line.planes),
        redshift=(float(line.redshift[0]), float(line.redshift[-1])),
        frequency_mhz=(float(line.frequency_mhz[0]), float(line.frequency_mhz[-1])),
        copies=len(cone.copies),
        fields=tuple(cone.fields),
        seconds=time.monotonic() - started,
        peak_memory_bytes=peak_memory_bytes(),
    )


class _Cone:
    """The work on one light cone.

    Attributes
    ----------
    planes
        Planes of the cone.
    line, parts
        Planes no thicker than a cell of the box, in which everything is computed, and how many of them form
        one plane of the cone.
    """

    def __init__(self, sim: xr.Dataset, settings: Settings) -> None:
        self._sim, self.settings = sim, settings
        self._axis = AXES.index(settings.line_of_sight)
        self._cosmology = cosmology(sim)
        snapshots = sim["redshift"].values
        if snapshots.size < 2:
            raise InputError("a light cone needs at least two snapshots; received one")
        low, high = settings.redshift or (float(snapshots[-1]), float(snapshots[0]))
        if low < snapshots[-1] - 1e-9 or high > snapshots[0] + 1e-9:
            raise InputError(
                f"expected redshifts between those of the snapshots, {snapshots[-1]:g} and {snapshots[0]:g}; "
                f"received {low:g} to {high:g}"
            )
        self._cell_mpc = cell_size_mpc(sim)
        along_mpc = self._cell_mpc[self._axis]
        thickness = settings.cell_mpc or along_mpc
        self.planes = LineOfSight.between(low, high, thickness, self._cosmology)
        self.parts = max(1, math.ceil(thickness / along_mpc - 1e-9))
        self.line = LineOfSight.between(low, high, thickness, self._cosmology, parts=self.parts)
        self._age = self._cosmology.age(snapshots).to_value("Gyr")
        length = self.line.planes * self.line.cell_mpc
        count = max(1, math.ceil(length / along_mpc / shape_of(sim)[self._axis] - 1e-9))
        self.fields = self._wanted()
        self.copies = copies(
            shape_of(sim),
            self._cell_mpc,
            count,
            line_of_sight=self._axis,
            axes=[axis for axis in range(3) if "velocity" not in self.fields or self._has_velocity(axis)],
            turns=settings.turns,
            seed=settings.seed,
        )
        shape = shape_of(sim)
        self.across = (shape[(self._axis + 1) % 3], shape[(self._axis + 2) % 3])
        self.sides_mpc = [
            self._cell_mpc[(self._axis + step) % 3] * n for step, n in zip((1, 2), self.across, strict=True)
        ]
        if settings.field_of_view_degrees is not None:
            farthest = float(self.planes.distance_mpc[-1])
            check_field_of_view(settings.field_of_view_degrees, farthest, self.sides_mpc)
        self._chunk = self._chunk_of(self.line)

    def _chunk_of(self, line: LineOfSight) -> int:
        """Number of planes in a chunk of a store with these planes."""
        return int(max(1, min(line.planes, _CHUNK_BYTES // (4 * math.prod(self.across)))))

    def _has_velocity(self, axis: int) -> bool:
        return f"velocity_{AXES[axis]}" in self._sim.data_vars

    def _wanted(self) -> list[str]:
        """Names of the variables that the simulation has the fields for."""
        fields = [name for name, of in (("xi", "xi"), ("overdensity", "n_igm")) if of in self._sim.data_vars]
        if not fields:
            raise InputError("a light cone needs xi or n_igm; this simulation has neither")
        moves = self._has_velocity(self._axis) and self.settings.distortions is not False
        if self.settings.distortions and (not moves or len(fields) < 2):
            raise InputError(
                f"redshift-space distortions need xi, n_igm and velocity_{AXES[self._axis]}; this simulation "
                f"has {', '.join(map(str, self._sim.data_vars))}",
                hint="--no-distortions leaves them out",
            )
        if len(fields) == 2:
            spin = ["spin_temperature"] if "t_spin" in self._sim.data_vars else []
            fields += [*(["velocity"] if moves else []), *spin, "brightness_temperature"]
        return fields

    def memory_bytes(self) -> int:
        """Memory that the work takes."""
        fronts = "xi" in self.fields and self.settings.interpolation == "fronts"
        a_cell = _FRONT_BYTES if fronts else _LINEAR_BYTES
        arrays = 7 if "spin_temperature" in self.fields else 5
        chunk = arrays * 4 * math.prod(self.across) * self._chunk
        if self.parts > 1:  # chunks of the cone, and the thin planes of one plane, also in float64
            planes = self._chunk_of(self.planes) + 3 * max(self._chunk, self.parts)
            chunk = max(chunk, 4 * math.prod(self.across) * planes)
        return _PROGRAM_BYTES + a_cell * cells_of(self._sim) + chunk

    def create(self, folder: Path, line: LineOfSight, attrs: Mapping[str, Any]) -> Any:
        """Create a store of these planes, complete except for the values of its variables."""
        import zarr
        from zarr.codecs import BloscCodec, Crc32cCodec

        settings = self.settings
        group = zarr.open_group(folder, mode="w", zarr_format=3)
        group.attrs.update(
            plain(
                {
                    **self._sim.attrs,
                    **attrs,
                    "line_of_sight": settings.line_of_sight,
                    "interpolation_of_xi": settings.interpolation,
                    "turns": int(settings.turns),
                    "seed": settings.seed,
                    "copies": [asdict(copy) for copy in self.copies],
                    "snapshots": self._sim["redshift"].values,
                    "redshift_space": int("velocity" in self.fields),
                    "written_by": f"reion {reion.__version__}",
                }
            )
        )
        sides = [side / n for side, n in zip(self.sides_mpc, self.across, strict=True)]
        coordinates = {
            "x": ("x", (np.arange(self.across[0]) + 0.5) * sides[0], "Mpc", "across, comoving"),
            "y": ("y", (np.arange(self.across[1]) + 0.5) * sides[1], "Mpc", "across, comoving"),
            "distance": ("distance", line.distance_mpc, "Mpc", "comoving distance"),
            "redshift": ("distance", line.redshift, "1", "redshift"),
            "frequency": ("distance", line.frequency_mhz, "MHz", "observed frequency of the 21-cm line"),
        }
        for name, (dim, values, units, long_name) in coordinates.items():
            array = group.create_array(name, data=values, dimension_names=(dim,))
            array.attrs.update(units=units, long_name=long_name)
        for name in self.fields:
            units, long_name = _VARIABLES[name]
            array = group.create_array(
                name,
                shape=(*self.across, line.planes),
                dtype=np.float32,
                chunks=(*self.across, self._chunk_of(line)),
                compressors=[BloscCodec(cname="zstd", clevel=3, shuffle="shuffle"), Crc32cCodec()],
                fill_value=np.nan,
                dimension_names=("x", "y", "distance"),
            )
            array.attrs.update(units=units, long_name=long_name, coordinates="redshift frequency")
        return group

    def fill(self, group: Any, progress: Progress | None) -> None:
        """Write the values of all variables, one after the other."""
        chunks = [
            range(start, min(start + self._chunk, self.line.planes))
            for start in range(0, self.line.planes, self._chunk)
        ]
        done = 0
        for name in self.fields:
            make = (
                signal_of(group, self.line, self._chunk, self._cosmology)
                if name == "brightness_temperature"
                else self._sampled(name)
            )
            for planes in chunks:
                group[name][..., planes.start : planes.stop] = make(planes)
                done += 1
                if progress is not None:
                    progress(done, len(chunks) * len(self.fields))

    def _sampled(self, name: str) -> Callable[[range], Field]:
        """Return a function that computes planes of a field from the snapshots."""
        loaded: dict[tuple[int, int], FrontSnapshot] = {}

        def load(index: int, copy: Copy) -> FrontSnapshot:
            # The velocity is that along the axis that the copy shows; other fields are the same in every
            # copy.
            key = (index, copy.axis if name == "velocity" else 0)
            if key not in loaded:
                loaded[key] = self._load(name, index, copy.axis)
            return loaded[key]

        def make(planes: range) -> Field:
            out = np.empty((*self.across, len(planes)), dtype=np.float32)
            for index, copy, cells, numbers, part in self._runs(planes):
                needed = {(i, copy.axis if name == "velocity" else 0) for i in (index, index + 1)}
                for key in [key for key in loaded if key not in needed]:
                    del loaded[key]
                seen = [_seen(load(i, copy), copy, numbers) for i in (index, index + 1)]
                values = between(seen[0], seen[1], part)
                if name == "velocity":
                    values *= copy.direction
                out[..., cells - planes.start] = values
            return out

        return make

    def _runs(self, planes: range) -> Iterator[tuple[int, Copy, np.ndarray, np.ndarray, np.ndarray]]:
        """Group planes that lie in one copy and between the same two snapshots.

        Yields the index of the earlier snapshot, the copy, and for each plane its index in the cone, its
        index in the copy, and the part of the time between the snapshots that has passed.
        """
        cells = np.arange(planes.start, planes.stop)
        depth_mpc = (cells + 0.5) * self.line.cell_mpc
        along_mpc, length = self._cell_mpc[self._axis], shape_of(self._sim)[self._axis]
        number = np.floor(depth_mpc / along_mpc + 1e-9).astype(np.int64)
        age = self._cosmology.age(self.line.redshift[planes.start : planes.stop]).to_value("Gyr")
        index = np.clip(np.searchsorted(self._age, age, side="right") - 1, 0, self._age.size - 2)
        part = np.clip((age - self._age[index]) / (self._age[index + 1] - self._age[index]), 0, 1)
        copy = np.minimum(number // length, len(self.copies) - 1)
        for (i, c), places in groupby(
            range(cells.size), key=lambda place: (int(index[place]), int(copy[place]))
        ):
            run = np.fromiter(places, dtype=np.int64)
            yield i, self.copies[c], cells[run], number[run] % length, part[run]

    def _load(self, name: str, index: int, axis: int) -> FrontSnapshot:
        field = {
            "xi": "xi",
            "overdensity": "n_igm",
            "velocity": f"velocity_{AXES[axis]}",
            "spin_temperature": "t_spin",
        }[name]
        values = self._sim[field][index].values
        return_free_memory()
        check_values(field, values, redshift=float(self._sim["redshift"][index]))
        if name == "overdensity":
            values = overdensity(values)
        fronts = name == "xi" and self.settings.interpolation == "fronts"
        if name == "xi" and not 0 <= values.min() <= values.max() <= 1:
            values = np.clip(values, 0, 1)
        return FrontSnapshot.of(values, self._cell_mpc, fronts=fronts, threads=thread_limit())


def _seen(snapshot: FrontSnapshot, copy: Copy, numbers: np.ndarray) -> FrontSnapshot:
    """Planes of a snapshot in the orientation of a copy."""
    threads = thread_limit()
    xi = copy.planes(snapshot.xi, numbers, threads=threads)
    distance = snapshot.distance
    if distance is not None:
        distance = copy.planes(distance, numbers, threads=threads)
    return FrontSnapshot(xi, distance)
