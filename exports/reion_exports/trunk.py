"""Cut the trunk, the part after the stem, out of a model file.

Prediction on a CPU computes the stem with kernels that are faster than onnxruntime, and opens only the trunk.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from reion_exports.anatomy import Node
from reion_exports.convert import CELL_SIZE, CHANNELS, OUTPUTS
from reion_exports.raw_graph import RawGraph

_DIMS = ("batch", "x", "channel", "y", "z")


class NoTrunkError(ValueError):
    """The file has no stem that can be cut off, or its trunk does not have the expected form."""


@dataclass(frozen=True)
class Trunk:
    """The trunk of a model file, as a separate model that takes channels.

    Attributes
    ----------
    content
        The bytes of an ONNX model.
    input
        Name of its input: channels (batch, x + 2 r, channel, y + 2 r, z + 2 r) float32, each multiplied by
        its `scale` and added to its `shift`.
    channels
        Number of channels.
    scale, shift
        The normalisation that the file applies to its channels, (channels,) float64.
    numbers
        Names of the inputs that are one number per box, (batch,) float32; if the trunk takes the cell size,
        also `CELL_SIZE`, ().
    outputs
        Names of its outputs, (batch, x, y, z), in the order of `OUTPUTS`.
    """

    content: bytes
    input: str
    channels: int
    scale: np.ndarray
    shift: np.ndarray
    numbers: tuple[str, ...]
    outputs: tuple[str, ...]


def cut_trunk(content: bytes, fields: Iterable[str], *, outputs: int = len(OUTPUTS)) -> Trunk:
    """Cut the trunk out of a model file, where its channels are normalised and go into the first convolution.

    Parameters
    ----------
    content
        A file that `reion_exports.anatomy.dissect` has passed.
    fields
        Names of the inputs that the stem takes.
    outputs
        Largest number of `OUTPUTS` that are wanted.

    Raises
    ------
    NoTrunkError
        If the first convolution takes no planes of channels, or nodes after it need the fields.
    """
    graph = RawGraph(content)
    channels, cut = _channels(graph)
    scale, shift = np.ones(channels), np.zeros(channels)
    where = cut
    while True:
        step = graph.producer.get(where)
        factors = None if step is None else _factors(graph, step, channels)
        if step is None or factors is None:
            break
        if step.operator == "Mul":
            scale = scale * factors
        else:
            shift = shift + scale * factors
        where = step.inputs[0]
    transposed = graph.producer.get(where)
    if transposed is None or transposed.operator not in ("Transpose", "Concat"):
        raise NoTrunkError("expected channels that are stacked in front of the first convolution")
    ends = [name if (name := f"{end}_{CHANNELS}") in graph.producer else end for end in OUTPUTS]
    ends = [name for name in ends if name in graph.producer][:outputs]
    nodes = graph.behind(cut, ends)
    needed = {name for number in nodes for name in graph.nodes[number].inputs}
    numbers = [name for name in graph.inputs if name in needed]
    if not ends or needed & {*fields, "periodic"}:
        raise NoTrunkError("expected nothing but channels and numbers behind the first convolution")
    if CELL_SIZE in needed:
        numbers.append(CELL_SIZE)
    taken = [(name, (["batch"] if name != CELL_SIZE else [])) for name in numbers]
    planes: tuple[str, Sequence[str | int]] = (cut, [dim if dim != "channel" else channels for dim in _DIMS])
    answers = [(name, ["batch", "x'", "y'", "z'"]) for name in ends]
    model = graph.model(nodes, [planes, *taken], answers)
    return Trunk(model, cut, channels, scale, shift, tuple(numbers), tuple(ends))


def _channels(graph: RawGraph) -> tuple[int, str]:
    """The number of channels that the first convolution takes, and the name of their planes."""
    first = next((node for node in graph.nodes if node.operator == "Conv"), None)
    if first is None:
        raise NoTrunkError("expected a network with convolutions")
    stack = graph.producer.get(first.inputs[0])
    kernel = graph.constant(first.inputs[1])
    if stack is None or stack.operator != "Reshape" or kernel is None or kernel.ndim != 4:
        raise NoTrunkError("expected a first convolution over planes")
    return int(kernel.shape[1]), stack.inputs[0]


def _factors(graph: RawGraph, node: Node, channels: int) -> np.ndarray | None:
    """The numbers that a node multiplies channels by, or adds to them; None if it does something else."""
    if node.operator not in ("Mul", "Add"):
        return None
    constant = graph.constant(node.inputs[1])
    if constant is None or constant.shape not in ((1, 1, channels, 1, 1), ()):
        return None
    return np.broadcast_to(constant.reshape(-1).astype(np.float64), (channels,))
