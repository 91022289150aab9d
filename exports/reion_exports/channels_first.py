"""What TensorFlow computes with the channels behind the cells, with the channels before them.

Convolutions and pools of ONNX want (batch, channel, x, y, z). What lies before and between them comes out
of the conversion as (batch, x, y, z, channel), with transpositions where the two meet. onnxruntime is slow
at that: where the last axis is one channel long, it adds a constant cell by cell instead of row by row, and
puts channels side by side cell by cell. Only the order in memory changes here, no number does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from reion_exports.constants import constants_of, put_back
from reion_exports.planes import CELL_BY_CELL

if TYPE_CHECKING:
    import onnx

_FIRST = "BCXYZ"
_VOLUMES = frozenset({"AveragePool", "Conv", "ConvTranspose", "MaxPool"})


def channels_first(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model that computes the same with the channels of every volume before its cells.

    Parameters
    ----------
    model
        Of opset 13 or later. Restated is what works cell by cell, cuts or puts together volumes whose order
        of axes can be followed from a convolution, a pool or a box; everything else stays as it is.

    Returns
    -------
    A new model, inputs, outputs and metadata the same.
    """
    return _Restatement(model).run()


class _Restatement:
    """One pass over a graph in the order of computation.

    Of every value that can be followed it knows the layout, a letter an axis: B, C, X, Y, Z and 1 for an axis
    of length one (so a volume of one channel is "BXYZ1", "B1XYZ" or plain "BXYZ"), and the name of what has
    the same numbers as a volume (batch, channel, x, y, z).
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        import onnx

        self._onnx = onnx
        self._model = onnx.ModelProto()
        self._model.CopyFrom(model)
        graph = self._model.graph
        self._constants = constants_of(graph)
        inferred = onnx.shape_inference.infer_shapes(self._model).graph
        self._shapes = {
            value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            for value in (*inferred.value_info, *inferred.output, *inferred.input)
        }
        self._nodes: list[Any] = []
        self._layouts: dict[str, str] = {}
        self._volumes: dict[str, str] = {}

    def run(self) -> onnx.ModelProto:
        graph = self._model.graph
        for node in graph.node:
            if not self._restate(node):
                kept = self._onnx.NodeProto()
                kept.CopyFrom(node)
                kept.input[:] = [self._as_it_was(name) for name in node.input]
                self._nodes.append(kept)
                if node.op_type in _VOLUMES and len(self._shapes.get(node.output[0], ())) == 5:
                    self._know(node.output[0], _FIRST, node.output[0])
        for value in graph.output:
            name = self._as_it_was(value.name)
            if name != value.name:
                self._nodes.append(self._onnx.helper.make_node("Identity", [name], [value.name]))
        nodes = self._nodes
        del graph.node[:], graph.value_info[:]
        graph.node.extend(_needed(nodes, {value.name for value in graph.output}))
        put_back(self._constants, graph)
        return self._model

    def _restate(self, node: onnx.NodeProto) -> bool:
        """Restate a node if that can be done, or remember that it only says the same in another shape."""
        if not node.input:
            return False
        out, first = node.output[0], node.input[0]
        attributes = {item.name: self._onnx.helper.get_attribute_value(item) for item in node.attribute}
        if (
            node.op_type == "Unsqueeze"
            and first not in self._layouts
            and len(self._shapes.get(first, ())) == 4
        ):
            self._layouts[first] = "BXYZ"
        if node.op_type in CELL_BY_CELL:
            return self._cell_by_cell(node, attributes)
        if first not in self._layouts:
            return False
        layout = self._layouts[first]
        if node.op_type == "Transpose":
            return self._say_again(out, first, "".join(layout[axis] for axis in attributes["perm"]))
        if node.op_type == "Concat":
            return self._concatenate(node, attributes["axis"])
        if not all(name in self._constants for name in node.input[1:] if name):
            return False
        if node.op_type == "Slice":
            return self._slice(node)
        if node.op_type in ("Squeeze", "Unsqueeze", "Reshape") and len(node.input) == 2:
            given = [int(number) for number in self._constants[node.input[1]]]
            reshape = {"Squeeze": _squeezed, "Unsqueeze": _unsqueezed, "Reshape": _reshaped}[node.op_type]
            return not attributes.get("allowzero", 0) and self._say_again(out, first, reshape(layout, given))
        return False

    def _say_again(self, out: str, of: str, layout: str) -> bool:
        """Remember that a value is another one, its axes in another order or with more of length one."""
        letters = [letter for letter in layout if letter != "1"]
        if sorted(letters) not in (sorted("BXYZ"), sorted(_FIRST)):
            return False
        if "C" not in letters and letters != list("BXYZ"):
            return False
        self._know(out, layout, self._volume(of))
        return True

    def _know(self, name: str, layout: str, volume: str) -> None:
        if "C" in layout and len(layout) == 5 and self._shapes.get(name, [0] * 5)[layout.index("C")] == 1:
            layout = layout.replace("C", "1")
        self._layouts[name], self._volumes[name] = layout, volume

    def _cell_by_cell(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> bool:
        values = [name for name in node.input if name and name not in self._constants]
        layouts = {self._layouts.get(name, "") for name in values}
        # One channel among many: the layouts agree but for that.
        if len({_with_channel(layout) for layout in layouts}) != 1 or not all(map(_with_channel, layouts)):
            return False
        layout = max(layouts, key=lambda one: "C" in one)
        replaced = {name: self._volume(name) for name in values}
        for name in node.input:
            if name in self._constants:
                value = self._constants[name]
                if value.ndim > len(layout):
                    return False
                if value.size == 1:
                    replaced[name] = self._constant(value.reshape(()))
                    continue
                full = value.reshape((1,) * (len(layout) - value.ndim) + value.shape)
                order = [_with_channel(layout).index(letter) for letter in _FIRST]
                replaced[name] = self._constant(full.transpose(order))
        result = self._emit(
            node.op_type, [replaced.get(name, name) for name in node.input], node, **attributes
        )
        self._know(node.output[0], layout, result)
        return True

    def _concatenate(self, node: onnx.NodeProto, axis: int) -> bool:
        layouts = [self._layouts.get(name, "") for name in node.input]
        together = {_with_channel(layout) for layout in layouts}
        if len(together) != 1 or not (layout := together.pop()):
            return False
        letter = layout[axis % 5]
        volumes = [self._volume(name) for name in node.input]
        result = self._emit("Concat", volumes, node, axis=_FIRST.index(letter))
        self._know(node.output[0], layout if letter == "C" else layouts[0], result)
        return True

    def _slice(self, node: onnx.NodeProto) -> bool:
        layout = _with_channel(self._layouts[node.input[0]])
        if not layout:
            return False
        starts = self._constants[node.input[1]]
        axes = self._constants[node.input[3]] if len(node.input) > 3 else np.arange(len(starts))
        moved = np.array([_FIRST.index(layout[int(axis) % 5]) for axis in axes], dtype=np.int64)
        inputs = [self._volume(node.input[0]), *node.input[1:3], self._constant(moved), *node.input[4:]]
        self._know(node.output[0], layout, self._emit("Slice", inputs, node))
        return True

    def _volume(self, name: str) -> str:
        """The value as (batch, channel, x, y, z)."""
        if name not in self._volumes:
            axes = self._constant(np.array([1], dtype=np.int64))
            self._volumes[name] = self._emit("Unsqueeze", [name, axes])
        return self._volumes[name]

    def _as_it_was(self, name: str) -> str:
        """The value in its own layout."""
        if name not in self._volumes:
            return name
        layout, volume = self._layouts[name], self._volumes[name]
        if layout in (_FIRST, "B1XYZ"):
            return volume
        if "C" in layout:
            rest = layout.replace("1", "")
            result = self._emit("Transpose", [volume], perm=[_FIRST.index(letter) for letter in rest])
        else:
            result = self._emit("Squeeze", [volume, self._constant(np.array([1], dtype=np.int64))])
        ones = [axis for axis, letter in enumerate(layout) if letter == "1"]
        if ones:
            result = self._emit("Unsqueeze", [result, self._constant(np.array(ones, dtype=np.int64))])
        return result

    def _emit(
        self, operator: str, inputs: Sequence[str], of: onnx.NodeProto | None = None, **attributes: Any
    ) -> str:
        out = f"channels_first_{len(self._nodes)}"
        self._nodes.append(
            self._onnx.helper.make_node(operator, inputs, [out], name=of.name if of else out, **attributes)
        )
        return out

    def _constant(self, value: np.ndarray) -> str:
        value = np.ascontiguousarray(value).reshape(value.shape)
        name: str
        for name, known in self._constants.items():
            if known.dtype == value.dtype and known.shape == value.shape and np.array_equal(known, value):
                return name
        name = f"channels_first_constant_{len(self._constants)}"
        self._constants[name] = value
        return name


def _with_channel(layout: str) -> str:
    """The layout of a volume of five axes with C in its place, also where that is one long; else nothing."""
    named = layout if "C" in layout else layout.replace("1", "C")
    return named if sorted(named) == sorted(_FIRST) else ""


def _squeezed(layout: str, axes: Sequence[int]) -> str:
    """The layout without axes of length one; nothing where they may be longer."""
    gone = {axis % len(layout) for axis in axes}
    rest = "".join(letter for axis, letter in enumerate(layout) if axis not in gone)
    return rest if all(layout[axis] == "1" for axis in gone) else ""


def _unsqueezed(layout: str, axes: Sequence[int]) -> str:
    rank = len(layout) + len(axes)
    new = {axis % rank for axis in axes}
    letters = iter(layout)
    return "".join("1" if axis in new else next(letters) for axis in range(rank))


def _reshaped(layout: str, shape: Sequence[int]) -> str:
    """The layout after a Reshape to that shape; nothing where it mixes axes."""
    if any(size not in (-1, 0, 1) for size in shape) or any(
        size == 0 and axis >= len(layout) for axis, size in enumerate(shape)
    ):
        return ""
    kept = [layout[axis] if size == 0 else "1" if size == 1 else "?" for axis, size in enumerate(shape)]
    missing = [letter for letter in layout if letter != "1" and letter not in kept]
    if "?" not in kept:
        return "".join(kept) if not missing else ""
    if len(missing) > 1:
        return ""
    longer = "".join(missing[0] if letter == "?" and missing else letter for letter in kept).replace("?", "1")
    in_order = [letter for letter in longer if letter != "1"] == [
        letter for letter in layout if letter != "1"
    ]
    return longer if in_order else ""


def _needed(nodes: Sequence[Any], outputs: set[str]) -> list[Any]:
    """The nodes that something depends on, in their order."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(node.input)
    return kept[::-1]
