"""Arithmetic on fields that writes the nodes of an ONNX graph instead of computing.

Code that computes the channels of a stem with `+ - * /` and the methods of `FieldGraph` writes the stem of a
model file when it gets one. That needs `onnx`, but neither TensorFlow nor Keras.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    import onnx

PREFIX = "stem/"
"""Prefix of the names of all values and constants that are written here."""

_END = int(np.iinfo(np.int64).max)


class Kernel(Protocol):
    """A box filter along one axis: the cells from −half to +half; the two outermost have the weight `end`."""

    @property
    def half(self) -> int:
        """Cells on either side; 0 is no filter."""

    @property
    def end(self) -> float:
        """Weight of the two outermost cells, from 0 to 1."""

    @property
    def weight(self) -> float:
        """Sum of the weights."""


class Value:
    """A float32 value of the graph; arithmetic on it writes nodes."""

    def __init__(self, graph: FieldGraph, name: str) -> None:
        self.graph, self.name = graph, name

    def __add__(self, other: Value | float) -> Value:
        return self.graph.write("Add", self, other)

    def __radd__(self, other: float) -> Value:
        return self.graph.write("Add", other, self)

    def __sub__(self, other: Value | float) -> Value:
        return self.graph.write("Sub", self, other)

    def __rsub__(self, other: float) -> Value:
        return self.graph.write("Sub", other, self)

    def __mul__(self, other: Value | float) -> Value:
        return self.graph.write("Mul", self, other)

    def __rmul__(self, other: float) -> Value:
        return self.graph.write("Mul", other, self)

    def __truediv__(self, other: Value | float) -> Value:
        return self.graph.write("Div", self, other)


class FieldGraph:
    """Writes nodes that work on fields (batch, x, y, z) and on numbers (batch, 1, 1, 1).

    Along an axis where `periodic` is 1 a field is a whole periodic box: it is wrapped for every filter, by no
    more than that filter needs, and keeps its shape. Along other axes it is a window and gets shorter.

    Parameters
    ----------
    periodic
        Name of the graph's input (3,) int64. None for a graph that takes only windows: its shapes are then
        known beforehand.
    """

    def __init__(self, periodic: str | None) -> None:
        self._periodic = periodic
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._derived: dict[tuple[object, ...], str] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def input(self, name: str) -> Value:
        """A field from the inputs of the graph."""
        return Value(self, name)

    def number(self, name: str) -> Value:
        """A number for each box from the inputs of the graph, (batch,)."""
        shape = self.constant(np.array([-1, 1, 1, 1]))
        return Value(self, self._node("Reshape", [name, shape]))

    def write(self, op_type: str, *values: Value | float) -> Value:
        """Write a node with this operator, whose inputs are values and numbers; return its output."""
        names = [
            value.name if isinstance(value, Value) else self.constant(np.float32(value)) for value in values
        ]
        return Value(self, self._node(op_type, names))

    def log(self, value: Value) -> Value:
        """The natural logarithm."""
        return self.write("Log", value)

    def sqrt(self, value: Value) -> Value:
        """The square root."""
        return self.write("Sqrt", value)

    def minimum(self, a: Value, b: Value | float) -> Value:
        """The smaller of two values, cell by cell."""
        return self.write("Min", a, b)

    def maximum(self, a: Value, b: Value | float) -> Value:
        """The larger of two values, cell by cell."""
        return self.write("Max", a, b)

    def mean(self, value: Value, kernel: Kernel) -> Value:
        """The mean under a box filter along each axis."""
        half = kernel.half
        if not half:
            return value
        for axis in (1, 2, 3):
            wide = self._wrapped(value, half, axis)
            if abs(kernel.end - 1) < 1e-9:
                total = self._sum_along(wide, 2 * half + 1, axis)
            else:
                inner = self._cut(self._sum_along(wide, 2 * half - 1, axis), axis, 1, -1)
                ends = self._cut(wide, axis, 0, -2 * half) + self._cut(wide, axis, 2 * half, _END)
                total = inner + ends * kernel.end
            value = total * (1.0 / kernel.weight)
        return value

    def squared_distance(self, marked: Value, cells: int) -> Value:
        """Squared distance in cells to the nearest cell above 0, at most `cells` squared."""
        zero, farthest = self.constant(np.float32(0)), self.constant(np.float32(cells**2))
        above = self._node("Greater", [marked.name, zero])
        squares = Value(self, self._node("Where", [above, zero, farthest]))
        for axis in (1, 2, 3):
            squares = self._wrapped(squares, cells, axis)
            for step in range(1, cells + 1):
                nearer = self.minimum(self._cut(squares, axis, 0, -2), self._cut(squares, axis, 2, _END))
                squares = self.minimum(self._cut(squares, axis, 1, -1), nearer + (2.0 * step - 1.0))
        return squares

    def crop(self, value: Value, cells: int) -> Value:
        """A field without `cells` cells on either side, along the axes along which it is a window."""
        if not cells:
            return value
        starts, ends = self._margins(cells)
        return Value(
            self, self._node("Slice", [value.name, starts, ends, self.constant(np.array([1, 2, 3]))])
        )

    def wrapped_volume(self, values: Sequence[Value], cells: int, output: str) -> None:
        """Stack fields to a volume (batch, channel, x, y, z) named `output`, wrapped by `cells` cells."""
        axis = self.constant(np.array([1]))
        channels = [self._node("Unsqueeze", [value.name, axis]) for value in values]
        volume = Value(self, self._node("Concat", channels, axis=1))
        for number in (2, 3, 4):
            volume = self._wrapped(volume, cells, number, spatial=number - 2)
        self._node("Identity", [volume.name], output=output)

    def repeated(self, name: str, least_cells: int) -> Value:
        """A field from the inputs, repeated along periodic axes up to at least `least_cells` cells."""
        if self._periodic is None:
            return self.input(name)
        one, least = self.constant(np.array([1])), self.constant(np.array([least_cells - 1]))
        counts = [one]
        for axis in range(3):
            size = self._node("Shape", [name], start=axis + 1, end=axis + 2)
            # ceil(least_cells / size), but 1 for a window
            beyond = self._node("Mul", [self._node("Div", [least, size]), self._flag(axis)])
            counts.append(self._node("Add", [beyond, one]))
        return Value(self, self._node("Tile", [name, self._node("Concat", counts, axis=0)]))

    def first_cells(self, value: str, field: str, radius_cells: int, output: str) -> None:
        """Write `output`: the cells of `value` that the input `field` has, without repetitions and halo."""
        if self._periodic is None:
            self._node("Identity", [value], output=output)
            return
        one, halo = self.constant(np.array([1] * 3)), self.constant(np.array([2 * radius_cells] * 3))
        lost = self._node("Mul", [self._once(("window",), "Sub", [one, self._periodic]), halo])
        cells = self._node("Sub", [self._node("Shape", [field], start=1, end=4), lost])
        zero, axes = self.constant(np.array([0] * 3)), self.constant(np.array([1, 2, 3]))
        self._node("Slice", [value, zero, cells, axes], output=output)

    def constant(self, value: np.ndarray | np.generic) -> str:
        """The name of a constant; equal constants share one name."""
        import onnx

        array = np.asarray(value)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = f"{PREFIX}constant_{len(self._constants)}"
            self.initializers.append(onnx.numpy_helper.from_array(array, self._constants[key]))
        return self._constants[key]

    def _node(
        self, op_type: str, inputs: Sequence[str], *, output: str | None = None, **attributes: Any
    ) -> str:
        import onnx

        output = output or f"{PREFIX}value_{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(op_type, list(inputs), [output], **attributes))
        return output

    def _once(self, key: tuple[object, ...], op_type: str, inputs: Sequence[str]) -> str:
        """The output of a node that is written only at the first call with this key."""
        if key not in self._derived:
            self._derived[key] = self._node(op_type, inputs)
        return self._derived[key]

    def _flag(self, axis: int) -> str:
        """The entry of `periodic` for an axis: 1 if the axis is periodic, (1,) int64."""
        bounds = [self.constant(np.array([axis])), self.constant(np.array([axis + 1]))]
        return self._once(("flag", axis), "Slice", [self._periodic or "", *bounds])

    def _wrapped(self, value: Value, cells: int, axis: int, *, spatial: int | None = None) -> Value:
        """A field extended periodically by `cells` cells on both sides of an axis, if that is periodic."""
        if self._periodic is None or not cells:
            return value
        spatial = axis - 1 if spatial is None else spatial
        number = self.constant(np.array([cells]))
        width = self._once(("width", cells, spatial), "Mul", [self._flag(spatial), number])
        where = self.constant(np.array([axis]))
        size = self._node("Shape", [value.name], start=axis, end=axis + 1)
        start = self._node("Sub", [size, width])
        before = self._node("Slice", [value.name, start, size, where])
        after = self._node("Slice", [value.name, self.constant(np.array([0])), width, where])
        return Value(self, self._node("Concat", [before, value.name, after], axis=axis))

    def _margins(self, cells: int) -> tuple[str, str]:
        """Start and end, along the three axes, of a crop by `cells` cells."""
        number = self.constant(np.array([cells] * 3))
        if self._periodic is None:
            return number, self.constant(np.array([-cells] * 3))
        one, end = self.constant(np.array([1] * 3)), self.constant(np.array([_END] * 3))
        window = self._once(("window",), "Sub", [one, self._periodic])
        starts = self._once(("starts", cells), "Mul", [window, number])
        # The end is −cells along the axes of a window, and the end of the axis along periodic axes.
        kept = self._once(("kept",), "Mul", [self._periodic, end])
        ends = self._once(("ends", cells), "Sub", [kept, starts])
        return starts, ends

    def _sum_along(self, value: Value, width: int, axis: int) -> Value:
        """Sums of `width` cells along an axis, from sums of 1, 2, 4, ... cells; `width − 1` cells fewer."""
        sums, length = value, 1
        parts: list[Value] = []
        covered = 0
        while True:
            if width & length:
                part = self._cut(sums, axis, covered, covered + length - width or _END)
                parts.append(part)
                covered += length
            if 2 * length > width:
                break
            sums = self._cut(sums, axis, 0, -length) + self._cut(sums, axis, length, _END)
            length *= 2
        return functools.reduce(operator.add, parts)

    def _cut(self, value: Value, axis: int, start: int, stop: int) -> Value:
        """The cells from `start` to `stop` along an axis; a negative `stop` counts from the end."""
        if start == 0 and stop == _END:
            return value
        bounds = [self.constant(np.array([number])) for number in (start, stop, axis)]
        return Value(self, self._node("Slice", [value.name, *bounds]))
