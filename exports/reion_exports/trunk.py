"""The trunk of a model file alone: what comes after the first stage, which learns nothing.

Prediction on a CPU computes the first stage faster than onnxruntime does, and opens only the rest. As in
`reion_exports.anatomy`, the file is read and written without the `onnx` package.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from reion_exports.anatomy import Fields, Node, read_node
from reion_exports.convert import CELL_SIZE, CHANNELS, OUTPUTS

_FLOAT = 1
_DIMS = ("batch", "x", "channel", "y", "z")


class NoTrunkError(ValueError):
    """The file has no first stage that can be cut off."""


@dataclass(frozen=True)
class Trunk:
    """A graph that takes channels, as a model of its own.

    Attributes
    ----------
    content
        The bytes of an ONNX model.
    input
        Name of its input of channels, (batch, x + 2 r, channel, y + 2 r, z + 2 r) float32, each multiplied by
        its `scale`, its `shift` added.
    channels
        How many.
    scale, shift
        The normalisation that the file applies to its channels, (channels,) float64.
    numbers
        Names of the inputs that are one number a box, (batch,) float32; `CELL_SIZE` among them, (), where the
        trunk is told the cell size.
    outputs
        Names of its outputs, (batch, x, y, z): what the file calls `OUTPUTS`, in their order.
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
        Names of the inputs that the first stage takes.
    outputs
        How many of `OUTPUTS` are wanted at most.

    Raises
    ------
    NoTrunkError
        If the first convolution takes no planes of channels, or what comes after it needs the fields.
    """
    graph = _Graph(content)
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
    message = [
        *(_field(1, graph.raw_nodes[number]) for number in nodes),
        _field(2, b"trunk"),
        *(_field(5, raw) for name, raw in graph.initializers.items() if name in needed - {CELL_SIZE}),
        _field(11, _value(cut, [dim if dim != "channel" else channels for dim in _DIMS])),
        *(_field(11, _value(name, dims)) for name, dims in taken),
        *(_field(12, _value(name, ["batch", "x'", "y'", "z'"])) for name in ends),
    ]
    model = b"".join([*graph.head, _field(7, b"".join(message))])
    return Trunk(model, cut, channels, scale, shift, tuple(numbers), tuple(ends))


class _Graph:
    """A model's nodes, each also as it is in the file, initializers and inputs."""

    def __init__(self, content: bytes) -> None:
        fields = Fields()
        self.head: list[bytes] = []
        self.nodes: list[Node] = []
        self.raw_nodes: list[bytes] = []
        self.initializers: dict[str, bytes] = {}
        self.inputs: list[str] = []
        for number, value in fields.walk(content):
            if number == 1 and isinstance(value, int):
                self.head.append(_varint(8) + _varint(value))
            elif number == 8 and isinstance(value, bytes):
                self.head.append(_field(8, value))
            elif number == 7 and isinstance(value, bytes):
                self._read(value, fields)
        self.producer = {name: node for node in self.nodes for name in node.outputs}

    def _read(self, graph: bytes, fields: Fields) -> None:
        for number, value in fields.walk(graph):
            if not isinstance(value, bytes):
                continue
            if number == 1:
                self.raw_nodes.append(value)
                self.nodes.append(read_node(value, fields))
            elif number == 5:
                self.initializers[_name(value, 8)] = value
            elif number == 11:
                self.inputs.append(_name(value, 1))

    def constant(self, name: str) -> np.ndarray | None:
        """The float32 values of an initializer in its shape; None if it is no such."""
        raw = self.initializers.get(name)
        if raw is None:
            return None
        dims: list[int] = []
        data, kind = b"", 0
        for number, value in Fields().walk(raw):
            if number == 1:
                dims += [value] if isinstance(value, int) else list(_varints(value))
            elif number == 2 and isinstance(value, int):
                kind = value
            elif number in (4, 9) and isinstance(value, bytes):
                data += value
        if kind != _FLOAT or len(data) != 4 * int(np.prod(dims)):
            return None
        return np.frombuffer(data, dtype="<f4").reshape(dims)

    def behind(self, start: str, ends: Sequence[str]) -> list[int]:
        """Numbers, in order, of the nodes that `ends` need beside the value `start`."""
        found: set[int] = set()
        wanted = set(ends)
        for number in reversed(range(len(self.nodes))):
            node = self.nodes[number]
            if wanted.intersection(node.outputs) - {start}:
                found.add(number)
                wanted.update(node.inputs)
        return sorted(found)


def _channels(graph: _Graph) -> tuple[int, str]:
    """How many channels the first convolution takes, and the name of their planes."""
    first = next((node for node in graph.nodes if node.operator == "Conv"), None)
    if first is None:
        raise NoTrunkError("expected a network with convolutions")
    stack = graph.producer.get(first.inputs[0])
    kernel = graph.constant(first.inputs[1])
    if stack is None or stack.operator != "Reshape" or kernel is None or kernel.ndim != 4:
        raise NoTrunkError("expected a first convolution over planes")
    return int(kernel.shape[1]), stack.inputs[0]


def _factors(graph: _Graph, node: Node, channels: int) -> np.ndarray | None:
    """The numbers that a node multiplies channels by, or adds to them; None if it does something else."""
    if node.operator not in ("Mul", "Add"):
        return None
    constant = graph.constant(node.inputs[1])
    if constant is None or constant.shape not in ((1, 1, channels, 1, 1), ()):
        return None
    return np.broadcast_to(constant.reshape(-1).astype(np.float64), (channels,))


def _name(message: bytes, field: int) -> str:
    return next(
        value.decode()
        for number, value in Fields().walk(message)
        if number == field and isinstance(value, bytes)
    )


def _varints(data: bytes) -> Iterable[int]:
    value = shift = 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            yield value
            value = shift = 0


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _value(name: str, dims: Sequence[str | int]) -> bytes:
    """The description of a float32 value."""
    sizes = b"".join(
        _field(1, _field(2, dim.encode()) if isinstance(dim, str) else b"\x08" + _varint(dim)) for dim in dims
    )
    tensor = b"\x08" + _varint(_FLOAT) + _field(2, sizes)
    return _field(1, name.encode()) + _field(2, _field(1, tensor))
