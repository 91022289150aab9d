"""Plan a training from its data: a schema as a TOML file, with the reason for every choice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
import xarray as xr

from reion.config import RunConfig, load_config
from reion.errors import InputError
from reion.jobs.places import Kind
from reion.jobs.resources import memory_limit_bytes
from reion.metrics.pooling import is_partly_ionised
from reion.models.build import build_model
from reion.simulation.contract import MAX_MFP, cubic_cell_size_mpc, require_fields
from reion.training.boxes import are_alike
from reion.training.cost import plan_train

_PASSES = 20
"""About how often a run sees each cell of the partly ionised snapshots: 1000 steps on a box of 64 cells."""

_LEAST_STEPS, _MOST_STEPS = 400, 6000
_STEPS_ROUNDED_TO = 100

_CROP_MULTIPLE = 4

_MEMORY_SHARE = 0.7
"""Share of the machine's memory that a planned run may take."""

_GIB = 1 << 30

_FIRST_LINE = "# Written by `reion plan-run`, to be changed."


def _is_planned(path: Path) -> bool:
    with path.open("rb") as file:
        return file.readline().rstrip() == _FIRST_LINE.encode()


PLAN_FILE = Kind(name="a configuration", ending=".toml", is_ours=_is_planned)


@dataclass(frozen=True)
class Fingerprint:
    """The properties of the data that decide how to train on it.

    Attributes
    ----------
    boxes, snapshots, partly_ionised
        Numbers of boxes, of snapshots in all, and of those that are neither neutral nor ionised.
    meshes
        Cells of each box along x, y and z.
    cell_sizes_mpc
        Comoving cell size of each box.
    redshift_range
        Lowest and highest redshift.
    has_history
        Whether each box has n_ion, or several snapshots, from whose n_src it can be added up.
    has_reach
        Whether each box has max_mfp, the reach of the photons.
    """

    boxes: int
    snapshots: int
    partly_ionised: int
    meshes: tuple[tuple[int, int, int], ...]
    cell_sizes_mpc: tuple[float, ...]
    redshift_range: tuple[float, float]
    has_history: bool
    has_reach: bool

    @classmethod
    def of(cls, simulations: Sequence[xr.Dataset]) -> Fingerprint:
        """Find the properties of simulations; this reads every value of xi.

        Raises
        ------
        InputError
            If a simulation lacks n_igm or xi.
        """
        partly = 0
        for sim in simulations:
            require_fields(sim, ["n_igm", "xi"], purpose="training")
            partly += sum(is_partly_ionised(float(snapshot.mean())) for snapshot in sim["xi"])
        redshift = [float(z) for sim in simulations for z in sim["redshift"].values]
        return cls(
            boxes=len(simulations),
            snapshots=len(redshift),
            partly_ionised=partly,
            meshes=tuple((sim.sizes["x"], sim.sizes["y"], sim.sizes["z"]) for sim in simulations),
            cell_sizes_mpc=tuple(cubic_cell_size_mpc(sim) for sim in simulations),
            redshift_range=(min(redshift), max(redshift)),
            has_history=all("n_ion" in sim or sim.sizes["redshift"] > 1 for sim in simulations),
            has_reach=all(MAX_MFP in sim.variables for sim in simulations),
        )

    @property
    def alike(self) -> bool:
        """Whether all boxes have the same cell size."""
        return are_alike(self.cell_sizes_mpc)


@dataclass(frozen=True)
class RunPlan:
    """A planned schema: for each key, in order, a row of section, key, value and reason."""

    rows: tuple[tuple[str, str, Any, str], ...]
    notes: tuple[str, ...]

    def to_toml(self) -> str:
        """The text of the TOML file: every value with its reason above it."""
        lines = [_FIRST_LINE, *(f"# {note}" for note in self.notes)]
        section = None
        for place, key, value, reason in self.rows:
            if place != section:
                lines += ["", f"[{place}]"]
                section = place
            lines += [f"# {reason}", tomli_w.dumps({key: value}).rstrip()]
        return "\n".join(lines) + "\n"

    @property
    def values(self) -> dict[str, Any]:
        """The schema as nested values."""
        nested: dict[str, Any] = {}
        for place, key, value, _ in self.rows:
            nested.setdefault(place, {})[key] = value
        return nested

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values."""
        reasons = {f"{place}.{key}": reason for place, key, _, reason in self.rows}
        return {"config": self.values, "reasons": reasons, "notes": list(self.notes)}


def plan_run(simulations: Sequence[xr.Dataset], sources: Sequence[Path] = ()) -> RunPlan:
    """Plan a training on simulations, whose files are `sources`; this builds the network and times a step.

    Raises
    ------
    InputError
        If no snapshot is partly ionised, a field is missing, or no network serves these cell sizes.
    """
    data = Fingerprint.of(simulations)
    if not data.partly_ionised:
        raise InputError(
            f"expected a snapshot that is neither neutral nor ionised; received {data.snapshots} without one"
        )
    network = _choose_network(data)
    default = load_config(base=RunPlan(tuple(network), ()).values)
    crop, why = _choose_crop(data, default)
    # The default learning rate suits the default number of cells in a step.
    batch = max(1, round(default.training.batch_size * default.training.crop_cells**3 / crop**3))
    because = ""
    limit = memory_limit_bytes()
    while True:
        step_cells = batch * crop**3
        rows = [
            *network,
            ("training", "crop_cells", crop, why),
            (
                "training",
                "batch_size",
                batch,
                f"{batch} crops of {crop}^3 are {step_cells} cells a step{because}",
            ),
            ("training", "steps", *_choose_steps(data, step_cells)),
        ]
        cost = plan_train(load_config(base=RunPlan(tuple(rows), ()).values), simulations, sources)
        if limit is None or cost.peak_memory_bytes <= _MEMORY_SHARE * limit or batch == 1:
            return RunPlan(tuple(rows), tuple(_notes(data, rows, cost)))
        batch //= 2
        room = f"{_MEMORY_SHARE * limit / _GIB:.1f} GiB, {_MEMORY_SHARE:.0%} of this machine's memory"
        because = f", halved to fit in {room}"


def _choose_network(data: Fingerprint) -> list[tuple[str, str, Any, str]]:
    inputs = "history" if data.has_history else "instant"
    why = (
        "the snapshots before, or n_ion, say how many photons there have been"
        if data.has_history
        else "a single snapshot does not say how many photons there have been"
    )
    rows: list[tuple[str, str, Any, str]] = [("data", "inputs", inputs, why)]
    sizes = ", ".join(f"{size:g}" for size in sorted(set(data.cell_sizes_mpc)))
    if data.alike:
        return [
            *rows,
            ("model", "name", "reion", f"all boxes have cells of {data.cell_sizes_mpc[0]:.3g} Mpc"),
        ]
    if data.has_reach and data.has_history:
        return [*rows, ("model", "name", "transport", f"the boxes have cells of {sizes} Mpc, and max_mfp")]
    raise InputError(
        f"the boxes have cells of {sizes} Mpc, and not all say how far photons reach",
        hint="--set max_mfp=MPC states it, for the network that serves any cells; or bring them to one "
        "cell size with `reion convert --cell-size MPC`",
    )


def _choose_crop(data: Fingerprint, default: RunConfig) -> tuple[int, str]:
    """The side of a crop in cells, and the reason; `default` is the schema with only the network chosen."""
    cells = min(mesh[0] for mesh in data.meshes)
    shortest = min(min(mesh) for mesh in data.meshes)
    slab = round(default.data.validation_share * cells)
    room = cells - slab - 2 * default.data.validation_margin_cells
    usual = default.training.crop_cells
    largest = max(3, min(usual, room, shortest))
    crop = largest // _CROP_MULTIPLE * _CROP_MULTIPLE or largest
    if crop == usual:
        return crop, "the default: larger crops waste less on their halo and take more memory"
    kind = f"the largest multiple of {_CROP_MULTIPLE}" if crop >= _CROP_MULTIPLE else "the largest"
    if shortest < room:
        return crop, f"{kind} within the {shortest} cells of the shortest side"
    return crop, f"{kind} within what {cells} cells along x leave beside the validation slab and its margins"


def _choose_steps(data: Fingerprint, step_cells: int) -> tuple[int, str]:
    """The number of steps of `step_cells` cells each, and the reason."""
    cells = sum(math.prod(mesh) for mesh in data.meshes) / data.boxes * data.partly_ionised
    steps = _STEPS_ROUNDED_TO * round(_PASSES * cells / step_cells / _STEPS_ROUNDED_TO)
    steps = min(max(steps, _LEAST_STEPS), _MOST_STEPS)
    return steps, (
        f"each cell of the {data.partly_ionised} partly ionised snapshots is seen about "
        f"{steps * step_cells / cells:.0f} times; take more if the loss still falls at the end"
    )


def _notes(data: Fingerprint, rows: Sequence[tuple[str, str, Any, str]], cost: Any) -> list[str]:
    config = load_config(base=RunPlan(tuple(rows), ()).values)
    size = min(data.cell_sizes_mpc)
    radius = build_model(config, cell_size_mpc=size).radius_cells
    shortest = min(min(mesh) for mesh in data.meshes)
    low, high = data.redshift_range
    notes = [
        f"{data.boxes} boxes, {data.snapshots} snapshots from z = {high:g} to {low:g}, "
        f"{data.partly_ionised} of them partly ionised.",
        f"The network looks {radius} cells far, {radius * size:.0f} Mpc comoving; the shortest side is "
        f"{shortest} cells, {shortest * size:.0f} Mpc.",
        f"It takes {cost.peak_memory_bytes / _GIB:.1f} GiB of memory"
        + (f" and {cost.seconds / 60:.0f} minutes on this machine." if cost.seconds else "."),
    ]
    if 2 * radius > shortest:
        notes.append(
            "It looks farther than half of the box, and sees the same cells from both sides: larger boxes "
            "would teach more."
        )
    if data.boxes == 1:
        notes.append("With a single box there is none to judge on: keep one back.")
    return notes
