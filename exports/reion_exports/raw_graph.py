"""Read and write the graph of a model file without the `onnx` package, as in `reion_exports.anatomy`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from reion_exports.anatomy import Fields, Node, read_node

_TYPES = {1: "<f4", 7: "<i8"}
_FLOAT = 1


class RawGraph:
    """The nodes of a model, parsed and as bytes, its initializers and its inputs."""

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
        """The values of a float32 or int64 initializer, in its shape; None if there is no such one."""
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
        if kind not in _TYPES or len(data) != np.dtype(_TYPES[kind]).itemsize * int(np.prod(dims)):
            return None
        return np.frombuffer(data, dtype=_TYPES[kind]).reshape(dims)

    def behind(self, start: str, ends: Sequence[str]) -> list[int]:
        """Indices, in order, of the nodes that compute the values `ends` from the value `start`."""
        found: set[int] = set()
        wanted = set(ends)
        for number in reversed(range(len(self.nodes))):
            node = self.nodes[number]
            if wanted.intersection(node.outputs) - {start}:
                found.add(number)
                wanted.update(node.inputs)
        return sorted(found)

    def model(
        self,
        nodes: Iterable[int],
        inputs: Sequence[tuple[str, Sequence[str | int]]],
        outputs: Sequence[tuple[str, Sequence[str | int]]],
    ) -> bytes:
        """The bytes of a model that consists of some of the nodes.

        Inputs and outputs are names with dimensions, all float32; an initializer may become an input.
        """
        numbers = list(nodes)
        given = {name for name, _ in inputs}
        needed = {name for number in numbers for name in self.nodes[number].inputs} - given
        message = [
            *(_field(1, self.raw_nodes[number]) for number in numbers),
            _field(2, b"part"),
            *(_field(5, raw) for name, raw in self.initializers.items() if name in needed),
            *(_field(11, _value(name, dims)) for name, dims in inputs),
            *(_field(12, _value(name, dims)) for name, dims in outputs),
        ]
        return b"".join([*self.head, _field(7, b"".join(message))])


def _name(message: bytes, field: int) -> str:
    return next(
        value.decode()
        for number, value in Fields().walk(message)
        if number == field and isinstance(value, bytes)
    )


def _varints(data: bytes) -> Iterator[int]:
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
    """The bytes that describe a float32 value."""
    sizes = b"".join(
        _field(1, _field(2, dim.encode()) if isinstance(dim, str) else b"\x08" + _varint(dim)) for dim in dims
    )
    tensor = b"\x08" + _varint(_FLOAT) + _field(2, sizes)
    return _field(1, name.encode()) + _field(2, _field(1, tensor))
