"""Write the stem of a network, which computes channels from raw fields, into its model file.

The trunk of such a file serves any cell size; the stem is written for one cell size, and can be written anew
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
    """Computes channels from raw fields, with the arithmetic that it is given."""

    @property
    def cell_size_mpc(self) -> float:
        """Comoving side of the cells that the stem is for."""

    @property
    def cell_size_condition(self) -> float:
        """The condition of the trunk that gives the cell size."""

    @property
    def radius_cells(self) -> int:
        """Cells of a window that are needed on every side of the cells of the output."""

    @property
    def widest_cells(self) -> int:
        """The largest distance, in cells, at which a single operation reads a cell."""

    def channels(self, do: Any, /, *inputs: Any) -> Sequence[Any]:
        """Compute the channels with the arithmetic `do` from the card's fields and conditions, in order."""


def with_stem(
    model: onnx.ModelProto, stem: Stem, card: ModelCard, *, trunk_radius_cells: int
) -> onnx.ModelProto:
    """Return a model with the stem `stem`, which replaces the stem of the model if it has one.

    Parameters
    ----------
    model
        A model from `reion_exports.convert.trunk_to_onnx` or from this function.
    stem
        The stem to write.
    card
        The card of the file; its cell size and radii are replaced by those of the stem and the trunk.
    trunk_radius_cells
        Receptive radius of the trunk alone.

    Returns
    -------
    A new model. It takes the card's fields as (batch, x, y, z) for any x, y, z, redshift and conditions as
    (batch,), and `periodic`; it returns `xi` and, if the network learnt it, `xi_std`. The card becomes its
    metadata.
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
    if CHANNELS in {value.name for value in graph.input}:  # the model is a trunk without a stem
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
