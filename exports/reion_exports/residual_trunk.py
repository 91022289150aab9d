"""Read the weights of a trunk of symmetric residual convolutions from its graph.

The networks `reion` and `transport` with `symmetric=True` have such a trunk. With these weights it can be
computed without onnxruntime, and with a seventh of the products: the 27 cells of a kernel are of four kinds
(the cell itself, and cells that share a face, an edge or a corner with it), each kind with one weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reion_exports.anatomy import Node
from reion_exports.convert import CELL_SIZE
from reion_exports.raw_graph import RawGraph
from reion_exports.trunk import NoTrunkError, Trunk

KINDS = 4
"""Kinds of cells of a kernel: the centre, and cells that share a face, an edge or a corner with it."""


@dataclass(frozen=True)
class Pointwise:
    """A product with `weights` (input, output) in every cell, plus `added` (output,); both float32."""

    weights: np.ndarray
    added: np.ndarray


@dataclass(frozen=True)
class Block:
    """A residual block: a symmetric 3x3x3 convolution, SiLU, a mix of channels, added to the cropped input.

    Attributes
    ----------
    spread
        Weights of the convolution for each of the `KINDS` of cells, (input, kind, hidden) float32.
    spread_added
        Bias of the convolution, (hidden,) float32.
    back
        The mix from the hidden channels to those of the input.
    """

    spread: np.ndarray
    spread_added: np.ndarray
    back: Pointwise


@dataclass(frozen=True)
class Spread:
    """The layers that predict xi_std from the features: SiLU, one output, scaled to its range."""

    hidden: Pointwise
    output: Pointwise
    least: float
    range: float


@dataclass(frozen=True)
class ResidualTrunk:
    """The weights of a trunk of symmetric residual blocks.

    SiLU follows the mix, every block and the head; the logistic function follows the output.

    Attributes
    ----------
    mix, blocks, head, output
        The layers, in that order.
    spread
        The layers that predict xi_std; None for a network without it.
    conditions
        The bytes of a model that takes the numbers of the trunk and returns the condition vectors, (batch, 1,
        channel, 1, 1) each, which are added before the SiLU of the mix and of some blocks.
    condition_names, condition_stages
        The outputs of that model, and the stage at which each is added: 0 is the mix, 1 the first block.
    """

    mix: Pointwise
    blocks: tuple[Block, ...]
    head: Pointwise
    output: Pointwise
    spread: Spread | None
    conditions: bytes
    condition_names: tuple[str, ...]
    condition_stages: tuple[int, ...]


def read_residual_trunk(trunk: Trunk) -> ResidualTrunk:
    """Read the weights of a trunk.

    Raises
    ------
    NoTrunkError
        If its graph does not have the form of `ResidualTrunk`, or its kernels are not symmetric.
    """
    return _Walk(trunk).read()


class _Walk:
    """Follows the graph from the channels to the outputs, from each value to the one node that takes it."""

    def __init__(self, trunk: Trunk) -> None:
        self._trunk = trunk
        self._graph = RawGraph(trunk.content)
        self._passed: set[int] = set()
        self._numbers = {id(node): number for number, node in enumerate(self._graph.nodes)}
        self._conditions: list[tuple[int, str]] = []
        self._spatial = {trunk.input}
        """Values that depend on the channels, and not only on their shape."""
        self._users: dict[str, list[Node]] = {}
        for node in self._graph.nodes:
            if node.operator != "Shape" and self._spatial.intersection(node.inputs):
                self._spatial.update(node.outputs)
                for name in dict.fromkeys(node.inputs):
                    self._users.setdefault(name, []).append(node)

    def read(self) -> ResidualTrunk:
        value, mix = self._pointwise(self._trunk.input)
        value = self._silu(self._told(value, 0))
        blocks = []
        while self._has(value, "Slice"):
            value, block = self._block(value)
            blocks.append(block)
            value = self._silu(self._told(value, len(blocks)))
        value, head = self._pointwise(value)
        features = self._silu(value)
        convolutions = [node for node in self._users.get(features, []) if node.operator == "Conv"]
        outputs = [self._pointwise(features, node) for node in convolutions]
        answer = self._logistic(outputs[0][0]) if outputs else ""
        spread, ends = None, [answer]
        if len(outputs) == 2:
            error, spread = self._spread(*outputs[1])
            ends.append(error)
        self._finish(ends)
        spatial = {
            number
            for number, node in enumerate(self._graph.nodes)
            if self._spatial.intersection(node.outputs)
        }
        if self._passed != spatial or outputs[0][1].weights.shape[1] != 1:
            raise NoTrunkError("expected residual blocks, a head, xi and its spread, and nothing else")
        return ResidualTrunk(
            mix, tuple(blocks), head, outputs[0][1], spread, self._told_by(), *self._names_and_stages()
        )

    def _block(self, value: str) -> tuple[str, Block]:
        crop = self._take(value, "Slice")
        self._expect(self._slices(crop) == {1: (1, -1), 3: (1, -1), 4: (1, -1)})
        convolved, spread, added = self._symmetric(value)
        mixed, back = self._pointwise(self._silu(convolved))
        total = self._take(mixed, "Add")
        self._expect(set(total.inputs) == {crop.outputs[0], mixed})
        return total.outputs[0], Block(spread, added, back)

    def _symmetric(self, value: str) -> tuple[str, np.ndarray, np.ndarray]:
        """The convolution, as `reion_exports.planes` writes it: outer planes once, and the inner plane."""
        convolution = self._take(self._reshaped(value), "Conv")
        kernel, added = self._weights(convolution)
        self._expect(kernel.ndim == 4 and kernel.shape[2:] == (3, 3) and len(kernel) % 2 == 0)
        hidden = len(kernel) // 2
        outer, inner = kernel[:hidden], kernel[hidden:]
        kinds = np.stack([inner[..., 1, 1], outer[..., 1, 1], inner[..., 0, 0], outer[..., 0, 0]])
        for plane, centre, side, corner in ((inner, 0, 1, 2), (outer, 1, 2, 3)):
            whole = [[corner, side, corner], [side, centre, side], [corner, side, corner]]
            self._expect(np.array_equal(plane, np.moveaxis(kinds[np.array(whole)], (0, 1), (2, 3))))
        stacked = self._reshaped(convolution.outputs[0])
        parts: dict[str, dict[int, tuple[int, int]]] = {}
        for node in self._users.get(stacked, []):
            self._expect(node.operator == "Slice")
            self._pass(node)
            parts[node.outputs[0]] = self._slices(node)
        total = ""
        names = list(parts)
        self._expect(len(names) == 3)
        for name in names[1:]:
            addition = self._take(name, "Add")
            self._expect(set(addition.inputs) == {total or names[0], name})
            total = addition.outputs[0]
        low, high = {2: (0, hidden)}, {2: (hidden, 2 * hidden)}
        expected = ({1: (0, -2), **low}, {1: (2, _END), **low}, {1: (1, -1), **high})
        self._expect(all(part in parts.values() for part in expected))
        return total, kinds.transpose(2, 0, 1), 2 * added[:hidden] + added[hidden:]

    def _spread(self, value: str, hidden: Pointwise) -> tuple[str, Spread]:
        value, output = self._pointwise(self._silu(value))
        times = self._take(self._logistic(value), "Mul")
        more = self._take(times.outputs[0], "Add")
        scale, least = (self._number(node) for node in (times, more))
        self._expect(output.weights.shape[1] == 1)
        return more.outputs[0], Spread(hidden, output, least, scale)

    def _finish(self, ends: Sequence[str]) -> None:
        """Follow the graph from the answers, which may be concatenated, to the outputs."""
        ends = [self._reshaped(end) for end in ends]
        if len(ends) > 1:
            joined = self._take(ends[0], "Concat")
            self._expect(joined.inputs == tuple(ends))
            ends = [joined.outputs[0]]
        places = {}
        for end in ends:
            for node in self._users.get(end, []):
                self._expect(node.operator in ("Slice", "Squeeze"))
                self._pass(node)
                name = node.outputs[0]
                if node.operator == "Slice":
                    places[self._named(name)] = self._slices(node).get(2)
                else:
                    places[self._last(name)] = (0, 1)
        self._expect(
            [places.get(name) for name in self._trunk.outputs]
            == [(number, number + 1) for number in range(len(self._trunk.outputs))]
        )

    def _named(self, value: str) -> str:
        return self._last(self._take(value, "Squeeze").outputs[0])

    def _last(self, value: str) -> str:
        return self._take(value, "Identity").outputs[0] if self._has(value, "Identity") else value

    def _told(self, value: str, stage: int) -> str:
        """The value after its condition vector is added, if it has one."""
        if not self._has(value, "Add"):
            return value
        node = self._take(value, "Add")
        self._conditions.append((stage, next(name for name in node.inputs if name != value)))
        return node.outputs[0]

    def _told_by(self) -> bytes:
        ends = [name for _, name in self._conditions]
        inputs = [(name, [] if name == CELL_SIZE else ["batch"]) for name in self._trunk.numbers]
        dims: list[str | int] = ["batch", 1, "channel", 1, 1]
        outputs = [(name, dims) for name in ends]
        return self._graph.model(self._graph.behind(self._trunk.input, ends), inputs, outputs)

    def _names_and_stages(self) -> tuple[tuple[str, ...], tuple[int, ...]]:
        return tuple(name for _, name in self._conditions), tuple(stage for stage, _ in self._conditions)

    def _pointwise(self, value: str, node: Node | None = None) -> tuple[str, Pointwise]:
        if node is None:
            node = self._take(self._reshaped(value), "Conv")
        else:
            self._pass(node)
        kernel, added = self._weights(node)
        self._expect(kernel.ndim == 4 and kernel.shape[2:] == (1, 1))
        return self._reshaped(node.outputs[0]), Pointwise(kernel[:, :, 0, 0].T, added)

    def _weights(self, node: Node) -> tuple[np.ndarray, np.ndarray]:
        kernel, *more = [self._graph.constant(name) for name in node.inputs[1:]]
        # What is added is left out of a graph where it is zero, as in a network that has not learnt.
        added = more[0] if more or kernel is None else np.zeros(len(kernel), dtype=kernel.dtype)
        if kernel is None or added is None:
            raise NoTrunkError("expected convolutions with constant weights")
        return kernel, added

    def _silu(self, value: str) -> str:
        logistic = self._logistic(value)
        product = self._take(value, "Mul")
        self._expect(set(product.inputs) == {value, logistic})
        return product.outputs[0]

    def _logistic(self, value: str) -> str:
        return self._take(value, "Sigmoid").outputs[0]

    def _reshaped(self, value: str) -> str:
        """The value after a reshape between planes and a stack, if there is one."""
        return self._take(value, "Reshape").outputs[0] if self._has(value, "Reshape") else value

    def _slices(self, node: Node) -> dict[int, tuple[int, int]]:
        """Start and end of a slice, by the axes along which it leaves cells out."""
        found = [self._graph.constant(name) for name in node.inputs[1:]]
        if len(found) != 3 or any(values is None for values in found):
            raise NoTrunkError("expected slices between constants")
        starts, ends, axes = (values.tolist() for values in found if values is not None)
        places = dict(zip(axes, zip(starts, ends, strict=True), strict=True))
        return {
            axis: (start, min(end, _END))
            for axis, (start, end) in places.items()
            if (start, min(end, _END)) != (0, _END)
        }

    def _number(self, node: Node) -> float:
        constants = [self._graph.constant(name) for name in node.inputs]
        found = [values for values in constants if values is not None]
        if len(found) != 1 or found[0].size != 1:
            raise NoTrunkError("expected one number")
        return float(found[0].reshape(()))

    def _has(self, value: str, operator: str) -> bool:
        return any(node.operator == operator for node in self._users.get(value, []))

    def _take(self, value: str, operator: str) -> Node:
        found = [node for node in self._users.get(value, []) if node.operator == operator]
        if len(found) != 1:
            raise NoTrunkError(f"expected one {operator} of {value}; there are {len(found)}")
        self._pass(found[0])
        return found[0]

    def _pass(self, node: Node) -> None:
        self._passed.add(self._numbers[id(node)])

    def _expect(self, truth: bool) -> None:
        if not truth:
            raise NoTrunkError("expected a trunk of symmetric residual blocks")


_END = 2**31 - 1
"""A slice to the end of an axis has this end or a larger one."""
