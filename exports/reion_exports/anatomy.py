"""The parts of an ONNX file, read from its bytes without running anything; files of other origin are refused.

Prediction works without the `onnx` package and must examine a file before onnxruntime opens it. This module
reads only the fields of the protocol buffer that decide whether reion wrote the file. Their numbers are those
of `onnx.proto`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

OPSET = 18

CHECKSUM = "reion.checksum"
"""Metadata key of the checksum over everything else in a file."""

# fmt: off
OPERATORS = frozenset({
    "Abs", "Add", "And", "Asinh", "Atan", "AveragePool", "BatchNormalization", "Cast", "Ceil", "Clip",
    "Concat", "Constant", "ConstantOfShape", "Conv", "ConvTranspose", "Cos", "Cosh", "Div", "Elu",
    "Equal", "Erf", "Exp", "Expand", "Flatten", "Floor", "Gather", "Gemm", "GlobalAveragePool",
    "GlobalMaxPool", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity",
    "InstanceNormalization", "LeakyRelu", "Less", "LessOrEqual", "Log", "LogSoftmax", "MatMul", "Max",
    "MaxPool", "Mean", "Min", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pad", "Pow", "Range",
    "Reciprocal", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "Relu", "Reshape", "Resize",
    "Round", "Selu", "Shape", "Sigmoid", "Sign", "Sin", "Sinh", "Slice", "Softmax", "Softplus",
    "Softsign", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "ThresholdedRelu", "Tile", "Transpose",
    "Unsqueeze", "Where",
})
# fmt: on
"""The operators that a network may have: plain arithmetic, without loops, branches or random numbers."""

MOST_FIELDS = 1_000_000
"""Most fields of the protocol buffer that are read, in about a second. Files of reion have some 10,000."""

MOST_NODES = 10_000
"""Most nodes of a graph. Files of reion have some hundreds, those for cells of 1 Mpc and any reach 4,000. The
time that onnxruntime takes to open a chain of slices grows with the square of its length: 18 s for 5,000."""


class HostileFileError(ValueError):
    """The file is no ONNX model, or contains something that a model file of reion never contains."""


@dataclass(frozen=True)
class Anatomy:
    """The parts of an ONNX model.

    Parameters
    ----------
    opsets
        The version of each operator domain.
    operators
        The number of nodes of each operator.
    inputs, outputs, initializers
        Names of inputs, outputs and initializers.
    metadata
        The `metadata_props` of the file.
    checksum
        Checksum of the content: see the function of that name.
    """

    opsets: Mapping[str, int]
    operators: Mapping[str, int]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    initializers: tuple[str, ...]
    metadata: Mapping[str, str]
    checksum: str


def checksum(model: bytes) -> str:
    """SHA-256 over everything in an ONNX file except the checksum that it holds.

    The fields of the outermost message are hashed in the order of their numbers. Each field gives its number
    (four bytes), the length of its content (eight bytes, both little-endian) and its content; the content of
    an integer is its decimal digits. Repeated fields are taken in the order of the file, metadata in that of
    their bytes.

    Raises
    ------
    HostileFileError
        If the bytes are no ONNX model.
    """
    return _digest(list(Fields().walk(model)))


def _digest(outermost: Sequence[tuple[int, int | bytes]]) -> str:
    parts = [(number, value if isinstance(value, bytes) else b"%d" % value) for number, value in outermost]
    metadata = sorted(part for part in parts if part[0] == 14 and not _is_checksum(part[1]))
    others = [part for part in parts if part[0] != 14]
    digest = hashlib.sha256()
    for number, value in sorted([*others, *metadata], key=lambda part: part[0]):
        digest.update(number.to_bytes(4, "little") + len(value).to_bytes(8, "little"))
        digest.update(value)
    return digest.hexdigest()


def _is_checksum(entry: bytes) -> bool:
    return dict(Fields().walk(entry)).get(1) == CHECKSUM.encode()


def dissect(model: bytes) -> Anatomy:
    """Read the parts of an ONNX model.

    Raises
    ------
    HostileFileError
        If the bytes are no ONNX model; if data are outside the file; if there are operators that are not in
        `OPERATORS`, other operator sets, functions, or graphs inside nodes; if a name is given twice; if
        nodes are out of order or compute from constants alone; if there are more than `MOST_FIELDS` fields or
        `MOST_NODES` nodes.
    """
    opsets: dict[str, int] = {}
    metadata: dict[str, str] = {}
    graphs = []
    fields = Fields()
    outermost = list(fields.walk(model))
    for number, value in outermost:
        if number == 7:
            graphs.append(_message(value))
        elif number == 8:
            entry = dict(fields.walk(_message(value)))
            domain = _text(entry.get(1, b""))
            if domain in opsets:
                raise HostileFileError(f"expected one version of each operator set; {domain!r} comes twice")
            opsets[domain] = _integer(entry.get(2, 0))
        elif number == 14:
            entry = dict(fields.walk(_message(value)))
            key = _text(entry.get(1, b""))
            if key in metadata:
                raise HostileFileError(f"expected metadata that do not contradict; {key[:80]!r} comes twice")
            metadata[key] = _text(entry.get(2, b""))
        elif number in (20, 25):
            raise HostileFileError("expected a plain graph; the file brings functions or training steps")
    if len(graphs) != 1:
        raise HostileFileError(f"expected an ONNX model with one graph; found {len(graphs)}")
    if opsets.get("", opsets.get("ai.onnx")) != OPSET or len(opsets) != 1:
        raise HostileFileError(f"expected opset {OPSET} of ONNX and no other; the file needs {opsets}")
    anatomy = _dissect_graph(graphs[0], fields)
    return Anatomy(**anatomy, opsets=opsets, metadata=metadata, checksum=_digest(outermost))


@dataclass(frozen=True)
class Node:
    """A node of a graph: its operator and the names of its inputs and outputs."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def _dissect_graph(graph: bytes, fields: Fields) -> dict[str, Any]:
    """The parts of an `Anatomy` that are in the graph."""
    nodes = []
    names: dict[int, list[str]] = {5: [], 11: [], 12: []}
    for number, value in fields.walk(graph):
        if number == 1:
            nodes.append(read_node(_message(value), fields))
        elif number == 5:
            names[5].append(_check_tensor(_message(value), fields))
        elif number in (11, 12):
            names[number].append(_text(dict(fields.walk(_message(value))).get(1, b"")))
        elif number == 15:
            raise HostileFileError("expected dense constants; the file has sparse ones")
    operators = Counter(node.operator for node in nodes)
    unknown = sorted(set(operators) - OPERATORS)
    if unknown:
        raise HostileFileError(f"expected operators that a model of ours uses; the file has {unknown[:8]}")
    _check_order(nodes, inputs=names[11], initializers=names[5])
    return {
        "operators": dict(operators.most_common()),
        "inputs": tuple(names[11]),
        "outputs": tuple(names[12]),
        "initializers": tuple(names[5]),
    }


def _check_order(nodes: Sequence[Node], *, inputs: Sequence[str], initializers: Sequence[str]) -> None:
    """Check the number of nodes, that names are unique, and that inputs come first and are no constants."""
    if len(nodes) > MOST_NODES:
        raise HostileFileError(f"expected at most {MOST_NODES} nodes; the file has {len(nodes)}")
    constants = set(initializers) - set(inputs)
    available = {*inputs, *initializers}
    outputs = [name for node in nodes for name in node.outputs if name]
    names = Counter([*initializers, *set(inputs).difference(initializers), *outputs])
    repeated = [name for name, count in names.items() if count > 1]
    if repeated:
        raise HostileFileError(f"expected one value of each name; {repeated[0][:80]!r} comes twice")
    for node in nodes:
        needed = set(node.inputs) - {""}
        if not needed <= available:
            missing = min(needed - available)
            raise HostileFileError(
                f"expected nodes in the order of computation; {node.operator} needs {missing[:80]!r}, "
                "which no node before it computes"
            )
        available.update(node.outputs)
        if needed <= constants and (needed or node.operator != "Constant"):
            # Export folds constants, so reion never writes such a node; and a few bytes of Expand or Concat
            # can make onnxruntime fill the memory.
            raise HostileFileError(
                "expected constants as numbers; the file computes "
                f"{', '.join(node.outputs)[:80]!r} of them by {node.operator}"
            )
        if not needed:
            constants.update(node.outputs)


def read_node(node: bytes, fields: Fields) -> Node:
    """Read a node; raise `HostileFileError` if it holds a field that a node of reion never holds."""
    operator, domain = "", ""
    names: dict[int, list[str]] = {1: [], 2: []}
    for number, value in fields.walk(node):
        if number in names:
            names[number].append(_text(value))
        elif number == 4:
            operator = _text(value)
        elif number == 7:
            domain = _text(value)
        elif number == 5:
            for part, content in fields.walk(_message(value)):
                if part in (5, 10):
                    _check_tensor(_message(content), fields)
                elif part in (6, 11, 22, 23):
                    raise HostileFileError("expected plain nodes; one holds a graph or a sparse tensor")
    if domain not in ("", "ai.onnx"):
        raise HostileFileError(f"expected operators of ONNX itself; the file has {domain}.{operator}")
    return Node(operator, tuple(names[1]), tuple(names[2]))


def _check_tensor(tensor: bytes, fields: Fields) -> str:
    """The name of a tensor; raise `HostileFileError` unless all its data are in the file."""
    name = ""
    for number, value in fields.walk(tensor):
        if number == 8:
            name = _text(value)
        elif number == 13 or (number == 14 and value != 0):
            raise HostileFileError("expected all data inside the file; some lie in another file")
    return name


class Fields:
    """Reads the messages of one file, at most `MOST_FIELDS` fields in all."""

    def __init__(self) -> None:
        self._left = MOST_FIELDS

    def walk(self, message: bytes) -> Iterator[tuple[int, int | bytes]]:
        """Yield the number and the value (an integer or bytes) of every field of a message."""
        position, end = 0, len(message)
        while position < end:
            self._left -= 1
            if self._left < 0:
                raise HostileFileError(f"expected an ONNX model of ours; it has over {MOST_FIELDS} fields")
            key, position = _varint(message, position)
            number, wire = key >> 3, key & 7
            value: int | bytes
            if key >= 1 << 32:
                raise HostileFileError("expected an ONNX model; received bytes that are not one")
            if wire == 0:
                value, position = _varint(message, position)
            else:
                if wire == 2:
                    size, position = _varint(message, position)
                elif wire in (1, 5):
                    size = 8 if wire == 1 else 4
                else:
                    raise HostileFileError("expected an ONNX model; received bytes that are not one")
                if position + size > end:
                    raise HostileFileError("expected an ONNX model; the file is cut short or damaged")
                value = message[position : position + size]
                position += size
            yield number, value


def _varint(message: bytes, position: int) -> tuple[int, int]:
    """An integer of up to ten bytes at a position, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise HostileFileError("expected an ONNX model; the file is cut short or damaged")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise HostileFileError("expected an ONNX model; received bytes that are not one")


def _message(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise HostileFileError("expected an ONNX model; received bytes that are not one")
    return value


def _integer(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise HostileFileError("expected an ONNX model; received bytes that are not one")
    return value


def _text(value: int | bytes) -> str:
    try:
        return _message(value).decode()
    except UnicodeDecodeError:
        raise HostileFileError("expected names in UTF-8; the file is damaged") from None
