"""3D convolutions restated as 2D ones over the planes of the box.

onnxruntime computes a 3D convolution by copying shifted volumes beside each other and multiplying matrices;
for 2D convolutions it comes closer to what the machine can do. And where a kernel is the same seen from above
and from below, as those of a symmetric network are, its outer planes need computing once:

    y[d] = A x[d] + B (x[d - 1] + x[d + 1]) = u[d] + v[d - 1] + v[d + 1],   (u, v) one 2D convolution of x,

two thirds of the arithmetic. All of it is standard ONNX; only the order of summation changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from reion_exports.constants import constants_of, put_back

if TYPE_CHECKING:
    import onnx

# fmt: off
CELL_BY_CELL = frozenset({
    "Abs", "Add", "Asinh", "Clip", "Div", "Elu", "Exp", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu",
    "Log", "Max", "Min", "Mul", "Neg", "PRelu", "Pow", "Reciprocal", "Relu", "Selu", "Sigmoid", "Softplus",
    "Softsign", "Sqrt", "Sub", "Sum", "Tanh", "ThresholdedRelu",
})
# fmt: on
_SWAPPED = {0: 0, 1: 2, 2: 1, 3: 3, 4: 4}
"""Axis of a volume to axis of its planes."""

_END = np.iinfo(np.int64).max


def in_planes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model that computes the same with 2D convolutions in place of 3D ones.

    Parameters
    ----------
    model
        Of opset 15 or later, all dimensions dynamic if need be. Restated are convolutions of volumes
        (batch, channel, x, y, z) without padding, stride, dilation and groups whose weights are constants,
        and what lies between them and works cell by cell; everything else stays as it is.

    Returns
    -------
    A new model, inputs, outputs and metadata the same.
    """
    return _Restatement(model).run()


class _Restatement:
    """One pass over a graph in the order of computation.

    What was a volume (batch, channel, x, y, z) is held as planes (batch, x, channel, y, z) or, which is the
    same memory, as a stack (batch · x, channel, y, z); each form is made when something asks for it.
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
        self._marked = self._mark()
        self._nodes: list[Any] = []
        self._planes: dict[str, str] = {}
        self._stacks: dict[str, tuple[str, str]] = {}
        """Stack, and planes that have its batch and x."""
        self._volumes: set[str] = set()

    def run(self) -> onnx.ModelProto:
        graph = self._model.graph
        for index, node in enumerate(graph.node):
            if index in self._marked:
                self._restate(node)
                continue
            for name in node.input:
                self._volume(name)
            self._nodes.append(node)
        for value in graph.output:
            self._volume(value.name)
        nodes = self._nodes
        del graph.node[:], graph.value_info[:]
        graph.node.extend(nodes)
        put_back(self._constants, graph)
        return self._model

    def _mark(self) -> set[int]:
        """Which nodes are restated: convolutions over several planes and what is connected to them."""
        nodes = list(self._model.graph.node)
        able = [self._can_restate(node) for node in nodes]
        producer = {name: index for index, node in enumerate(nodes) for name in node.output}
        marked = {
            index
            for index, node in enumerate(nodes)
            if able[index] and node.op_type == "Conv" and self._constants[node.input[1]].shape[2] > 1
        }
        before = list(marked)
        while before:
            for name in nodes[before.pop()].input:
                index = producer.get(name, -1)
                # A volume of one channel is planes already, up to a reshape.
                wide = self._rank(name) == 5 and self._shapes[name][1] != 1
                if index >= 0 and able[index] and wide and index not in marked:
                    marked.add(index)
                    before.append(index)
        for index, node in enumerate(nodes):
            if able[index] and any(producer.get(name) in marked for name in node.input):
                marked.add(index)
        return marked

    def _can_restate(self, node: onnx.NodeProto) -> bool:
        attributes = self._attributes(node)
        ranks = [self._rank(name) for name in node.input if name and name not in self._constants]
        given = [name in self._constants for name in node.input[1:] if name]
        if node.op_type == "Conv":
            return (
                all(given)
                and ranks == [5]
                and attributes.get("group", 1) == 1
                and attributes.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
                and not any(attributes.get("pads", ()))
                and all(step == 1 for key in ("strides", "dilations") for step in attributes.get(key, ()))
            )
        if node.op_type in CELL_BY_CELL:
            return bool(ranks) and all(rank == 5 for rank in ranks)
        if node.op_type == "Concat":
            return ranks == [5] * len(node.input)
        if node.op_type == "Slice":
            return ranks == [5] and all(given)
        if node.op_type == "Squeeze":
            return ranks == [5] and all(given) and self._constants[node.input[1]].tolist() in ([1], [-4])
        return False

    def _rank(self, name: str) -> int:
        return len(self._shapes[name]) if name in self._shapes else -1

    def _restate(self, node: onnx.NodeProto) -> None:
        out = node.output[0]
        if node.op_type == "Conv":
            self._convolve(node)
        elif node.op_type in CELL_BY_CELL:
            self._cell_by_cell(node)
        elif node.op_type == "Concat":
            axis = _SWAPPED[self._attributes(node)["axis"] % 5]
            self._planes[out] = self._emit(
                "Concat", [self._as_planes(name) for name in node.input], axis=axis
            )
        elif node.op_type == "Slice":
            starts = self._constants[node.input[1]]
            axes = self._constants[node.input[3]] if len(node.input) > 3 else np.arange(len(starts))
            swapped = self._constant(np.array([_SWAPPED[int(axis) % 5] for axis in axes], dtype=np.int64))
            inputs = [self._as_planes(node.input[0]), *node.input[1:3], swapped, *node.input[4:]]
            self._planes[out] = self._emit("Slice", inputs)
        else:
            axes_name = self._constant(np.array([2], dtype=np.int64))
            self._emit("Squeeze", [self._as_planes(node.input[0]), axes_name], out=out)

    def _cell_by_cell(self, node: onnx.NodeProto) -> None:
        values = [name for name in node.input if name and name not in self._constants]
        constants = {name: self._constants[name] for name in node.input if name in self._constants}
        constants = {
            name: value.reshape((1,) * (5 - value.ndim) + value.shape)
            for name, value in constants.items()
            if value.ndim > 0
        }
        of = {self._stacks[name][1] if name in self._stacks else None for name in values}
        as_stack = len(of) == 1 and None not in of and all(v.shape[2] == 1 for v in constants.values())
        if as_stack:
            replaced = {name: self._stacks[name][0] for name in values}
            replaced |= {name: self._constant(value[:, :, 0]) for name, value in constants.items()}
        else:
            replaced = {name: self._as_planes(name) for name in values}
            replaced |= {name: self._constant(value.swapaxes(1, 2)) for name, value in constants.items()}
        inputs = [replaced.get(name, name) for name in node.input]
        result = self._emit(node.op_type, inputs, **self._attributes(node))
        if as_stack:
            self._stacks[node.output[0]] = (result, self._stacks[values[0]][1])
        else:
            self._planes[node.output[0]] = result

    def _convolve(self, node: onnx.NodeProto) -> None:
        kernel = self._constants[node.input[1]]
        outside, inside, depth = kernel.shape[:3]
        bias = self._constants[node.input[2]] if len(node.input) > 2 else None
        planes = [kernel[:, :, index] for index in range(depth)]
        mirrored = all(np.array_equal(planes[index], planes[depth - 1 - index]) for index in range(depth))
        # Which of the planes of weights that are different belongs to each plane of the kernel.
        which = [min(index, depth - 1 - index) if mirrored else index for index in range(depth)]
        different = planes[: max(which) + 1]
        if depth == 1:
            stack, of = self._as_stack(node.input[0], inside)
            self._stacks[node.output[0]] = (self._convolve_stack(node, stack, planes[0], bias), of)
        elif outside <= inside:
            stack, of = self._as_stack(node.input[0], inside)
            if bias is not None:
                share = bias / which.count(max(which))
                bias = np.concatenate([*(np.zeros_like(bias),) * max(which), share.astype(bias.dtype)])
            wide = self._unstack(self._convolve_stack(node, stack, np.concatenate(different), bias), of)
            # The two that are alike first: their sum takes the place of one of them.
            terms = [
                self._cut(wide, (index, index + 1 - depth), (part * outside, (part + 1) * outside))
                for index, part in sorted(enumerate(which), key=lambda item: item[1])
            ]
            self._planes[node.output[0]] = self._sum(terms)
        else:
            values = self._as_planes(node.input[0])
            shifted: list[list[str]] = [[] for _ in different]
            for index, part in enumerate(which):
                shifted[part].append(self._cut(values, (index, index + 1 - depth)))
            deep = self._emit("Concat", [self._sum(terms) for terms in shifted], axis=2)
            stack = self._stack(deep, inside * len(different))
            result = self._convolve_stack(node, stack, np.concatenate(different, axis=1), bias)
            self._stacks[node.output[0]] = (result, deep)

    def _convolve_stack(
        self, node: onnx.NodeProto, stack: str, kernel: np.ndarray, bias: np.ndarray | None
    ) -> str:
        inputs = [stack, self._constant(kernel)] + ([] if bias is None else [self._constant(bias)])
        result = self._emit("Conv", inputs, kernel_shape=list(kernel.shape[2:]))
        self._nodes[-1].name = node.name  # which says the layer
        return result

    def _sum(self, terms: Sequence[str]) -> str:
        total = terms[0]
        for term in terms[1:]:
            total = self._emit("Add", [total, term])
        return total

    def _cut(self, planes: str, x: tuple[int, int], channels: tuple[int, int] = (0, _END)) -> str:
        """Planes from x[0] to x[1] (0: the end) and some of their channels."""
        bounds = np.array([[x[0], channels[0]], [x[1] or _END, channels[1]], [1, 2]], dtype=np.int64)
        return self._emit("Slice", [planes, *(self._constant(row) for row in bounds)])

    def _volume(self, name: str) -> None:
        """See to it that the value is there under its own name, as a volume."""
        if (name in self._planes or name in self._stacks) and name not in self._volumes:
            self._volumes.add(name)
            self._emit("Transpose", [self._as_planes(name)], out=name, perm=[0, 2, 1, 3, 4])

    def _as_planes(self, name: str) -> str:
        if name not in self._planes:
            if name in self._stacks:
                self._planes[name] = self._unstack(*self._stacks[name])
            elif self._shapes[name][1] == 1:
                shape = self._constant(np.array([0, -1, 1, 0, 0], dtype=np.int64))
                self._planes[name] = self._emit("Reshape", [name, shape])
            else:
                self._planes[name] = self._emit("Transpose", [name], perm=[0, 2, 1, 3, 4])
        return self._planes[name]

    def _as_stack(self, name: str, channels: int) -> tuple[str, str]:
        if name not in self._stacks:
            planes = self._as_planes(name)
            self._stacks[name] = (self._stack(planes, channels), planes)
        return self._stacks[name]

    def _stack(self, planes: str, channels: int) -> str:
        ahead = self._constant(np.array([-1, channels], dtype=np.int64))
        shape = self._emit("Concat", [ahead, self._emit("Shape", [planes], start=3)], axis=0)
        return self._emit("Reshape", [planes, shape])

    def _unstack(self, stack: str, of: str) -> str:
        sizes = [self._emit("Shape", [of], start=0, end=2), self._emit("Shape", [stack], start=1)]
        return self._emit("Reshape", [stack, self._emit("Concat", sizes, axis=0)])

    def _emit(
        self, operator: str, inputs: Sequence[str], *, out: str | None = None, **attributes: Any
    ) -> str:
        out = out or f"planes_{len(self._nodes)}"
        node = self._onnx.helper.make_node(operator, inputs, [out], name=out, **attributes)
        self._nodes.append(node)
        return out

    def _constant(self, value: np.ndarray) -> str:
        value = np.ascontiguousarray(value)
        name: str
        for name, known in self._constants.items():
            if known.dtype == value.dtype and known.shape == value.shape and np.array_equal(known, value):
                return name
        name = f"planes_constant_{len(self._constants)}"
        self._constants[name] = value
        return name

    def _attributes(self, node: onnx.NodeProto) -> dict[str, Any]:
        return {item.name: self._onnx.helper.get_attribute_value(item) for item in node.attribute}
