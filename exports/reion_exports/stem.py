"""The first stage of a network, written into its file: from raw fields to the channels that the trunk takes.

The trunk of such a file serves any cell size; the stage before it is written for one, and can be written anew
for another with `onnx` alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from reion_exports.card import ModelCard
from reion_exports.convert import CELL_SIZE, CHANNELS, OUTPUTS, PERIODIC, set_interface, trunk_nodes
from reion_exports.cost import working_bytes
from reion_exports.data_sheet import stamp
from reion_exports.field_graph import PREFIX, FieldGraph

if TYPE_CHECKING:
    import onnx


class Stem(Protocol):
    """What computes channels of raw fields, with whatever arithmetic it is given."""

    @property
    def cell_size_mpc(self) -> float:
        """Comoving side of the cells that it is for."""

    @property
    def cell_size_condition(self) -> float:
        """What the trunk is told of that."""

    @property
    def radius_cells(self) -> int:
        """Cells of a window that are needed on every side of what is computed."""

    @property
    def widest_cells(self) -> int:
        """The farthest that one of its operations looks."""

    def channels(self, do: Any, /, *inputs: Any) -> Sequence[Any]:
        """Compute the channels of the card's fields and conditions, in its order."""


def with_stem(
    model: onnx.ModelProto, stem: Stem, card: ModelCard, *, trunk_radius_cells: int
) -> onnx.ModelProto:
    """Return a model whose first stage is `stem`, in the place of the one that it has.

    Parameters
    ----------
    model
        From `reion_exports.convert.trunk_to_onnx`, or from here.
    card
        Of the file; its cell size and its radii are made those of the stem and the trunk.
    trunk_radius_cells
        How far the trunk alone looks.

    Returns
    -------
    A new model: the card's fields as (batch, x, y, z) for any x, y, z, its conditions as (batch,), and
    `periodic`; the output `xi`, and `xi_std` where the network learnt it. Its metadata are the card's.
    """
    radius, trunk = stem.radius_cells + trunk_radius_cells, trunk_radius_cells
    whole = _complete(model, stem, card, periodic=PERIODIC, radius_cells=radius, trunk_radius=trunk)
    windows = _complete(model, stem, card, periodic=None, radius_cells=radius, trunk_radius=trunk)
    card = dataclasses.replace(
        card,
        cell_size_mpc=stem.cell_size_mpc,
        receptive_radius_cells=radius,
        trunk_radius_cells=trunk_radius_cells,
        working_bytes=working_bytes(windows, radius_cells=radius, stride_cells=card.stride_cells),
    )
    stamp(whole, card)
    return whole


def _complete(
    model: onnx.ModelProto,
    stem: Stem,
    card: ModelCard,
    *,
    periodic: str | None,
    radius_cells: int,
    trunk_radius: int,
) -> onnx.ModelProto:
    """The model with the nodes of the stem before those of its trunk, for whole boxes or for windows only."""
    import onnx

    complete = onnx.ModelProto()
    complete.CopyFrom(model)
    graph = complete.graph
    trunk = list(graph.node)
    if CHANNELS in {value.name for value in graph.input}:  # a trunk alone
        renamed = {
            value.name: f"{name}_{CHANNELS}" for value, name in zip(graph.output, OUTPUTS, strict=False)
        }
        for node in trunk:
            node.input[:] = [renamed.get(name, name) for name in node.input]
            node.output[:] = [renamed.get(name, name) for name in node.output]
    else:
        trunk = trunk_nodes(graph)
    outputs = OUTPUTS[: len(graph.output)]
    constants = [
        tensor
        for tensor in graph.initializer
        if not tensor.name.startswith(PREFIX) and tensor.name not in (CELL_SIZE, PERIODIC)
    ]
    do = FieldGraph(periodic)
    least = max(stem.widest_cells, trunk_radius)
    fields = [do.repeated(name, least) for name in card.inputs]
    numbers = [do.number(name) for name in card.conditions]
    do.wrapped_volume(stem.channels(do, *fields, *numbers), trunk_radius, CHANNELS)
    before = len(do.nodes)
    for name in outputs:
        do.first_cells(f"{name}_{CHANNELS}", next(iter(card.inputs)), radius_cells, name)
    nodes = [*do.nodes[:before], *trunk, *do.nodes[before:]]
    cell_size = np.array(stem.cell_size_condition, dtype=np.float32)
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend([*constants, onnx.numpy_helper.from_array(cell_size, CELL_SIZE)])
    graph.initializer.extend(do.initializers)
    set_interface(graph, card, outputs, periodic=periodic is not None)
    return complete
