"""A pass that computes 3D convolutions as 2D convolutions over the planes of the box.

onnxruntime computes a 3D convolution by copying shifted volumes beside each other and multiplying matrices;
its 2D convolutions come closer to the speed of the machine. If a kernel is mirror-symmetric along x, as the
kernels of a symmetric network are, its outer planes need to be computed only once:

    y[d] = A x[d] + B (x[d - 1] + x[d + 1]) = u[d] + v[d - 1] + v[d + 1],   (u, v) one 2D convolution of x,

which is two thirds of the arithmetic. Without this pass the graphs of `reion`, `unet` and `pinion` take 1.1
to 1.2 times the processor time. The result is standard ONNX; only the order of summation changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from reion_exports.rewriting import Rewriting

if TYPE_CHECKING:
    import onnx

# fmt: off
CELL_BY_CELL = frozenset({
    "Abs", "Add", "Asinh", "Clip", "Div", "Elu", "Exp", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu",
    "Log", "Max", "Min", "Mul", "Neg", "PRelu", "Pow", "Reciprocal", "Relu", "Selu", "Sigmoid", "Softplus",
    "Softsign", "Sqrt", "Sub", "Sum", "Tanh", "ThresholdedRelu",
})
# fmt: on
"""Operators whose result in a cell depends only on the same cell of their inputs."""

_SWAPPED = {0: 0, 1: 2, 2: 1, 3: 3, 4: 4}
"""The axis of the planes (batch, x, channel, y, z) for each axis of a volume (batch, channel, x, y, z)."""

_END = int(np.iinfo(np.int64).max)


def in_planes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model that computes the same with 2D convolutions in place of 3D ones.

    Parameters
    ----------
    model
        A model of opset 15 or later; its dimensions may be dynamic. Convolutions of volumes (batch, channel,
        x, y, z) are rewritten if they have constant weights and no padding, stride, dilation and groups; so
        are the cell-by-cell arithmetic, Slice and Concat between them. All other nodes stay as they are.

    Returns
    -------
    A new model with the same inputs, outputs and metadata, and its nodes in the order of `Rewriting.finish`.
    """
    return _Planes(model).run()


class _Planes:
    """One run of the pass.

    A volume (batch, channel, x, y, z) of the old graph is held as planes (batch, x, channel, y, z) or, with
    the same memory, as a stack (batch · x, channel, y, z). Each form is written when a node needs it.
    `_planes` holds, for each value, the name of its planes; `_stacks` the name of its stack, and of planes
    with the same batch and x, which give the shape to unstack it; `_volumes` the values that were written as
    volumes.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._new = Rewriting(model)
        self._constants, self._shapes = self._new.constants, self._new.shapes
        self._planes: dict[str, str] = {}
        self._stacks: dict[str, tuple[str, str]] = {}
        self._volumes: set[str] = set()

    def run(self) -> onnx.ModelProto:
        rewritten = self._choose()
        for index, node in enumerate(self._new.graph.node):
            if index in rewritten:
                self._rewrite(node)
                continue
            for name in node.input:
                self._make_volume(name)
            self._new.keep(node)
        for value in self._new.graph.output:
            self._make_volume(value.name)
        return self._new.finish()

    def _choose(self) -> set[int]:
        """Indices of the nodes to rewrite: convolutions over several planes, and nodes connected to them."""
        nodes = list(self._new.graph.node)
        able = [self._can_rewrite(node) for node in nodes]
        producer = {name: index for index, node in enumerate(nodes) for name in node.output}
        chosen = {
            index
            for index, node in enumerate(nodes)
            if able[index] and node.op_type == "Conv" and self._constants[node.input[1]].shape[2] > 1
        }
        consumers = list(chosen)
        while consumers:
            for name in nodes[consumers.pop()].input:
                index = producer.get(name, -1)
                # A volume of one channel becomes planes by a Reshape: rewriting earlier nodes gains nothing.
                has_channels = self._rank(name) == 5 and self._shapes[name][1] != 1
                if index >= 0 and able[index] and has_channels and index not in chosen:
                    chosen.add(index)
                    consumers.append(index)
        for index, node in enumerate(nodes):
            if able[index] and any(producer.get(name) in chosen for name in node.input):
                chosen.add(index)
        return chosen

    def _can_rewrite(self, node: onnx.NodeProto) -> bool:
        attributes = self._new.attributes(node)
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

    def _rewrite(self, node: onnx.NodeProto) -> None:
        output = node.output[0]
        if node.op_type == "Conv":
            self._convolve(node)
        elif node.op_type in CELL_BY_CELL:
            self._cell_by_cell(node)
        elif node.op_type == "Concat":
            planes = [self._as_planes(name) for name in node.input]
            axis = _SWAPPED[self._new.attributes(node)["axis"] % 5]
            self._planes[output] = self._new.write("Concat", planes, axis=axis)
        elif node.op_type == "Slice":
            starts = self._constants[node.input[1]]
            axes = self._constants[node.input[3]] if len(node.input) > 3 else np.arange(len(starts))
            swapped = self._new.constant([_SWAPPED[int(axis) % 5] for axis in axes])
            inputs = [self._as_planes(node.input[0]), *node.input[1:3], swapped, *node.input[4:]]
            self._planes[output] = self._new.write("Slice", inputs)
        else:
            planes_of_one = [self._as_planes(node.input[0]), self._new.constant([_SWAPPED[1]])]
            self._new.write("Squeeze", planes_of_one, output=output)

    def _cell_by_cell(self, node: onnx.NodeProto) -> None:
        values = [name for name in node.input if name and name not in self._constants]
        constants = {
            name: constant.reshape((1,) * (5 - constant.ndim) + constant.shape)
            for name in node.input
            if (constant := self._constants.get(name)) is not None and constant.ndim > 0
        }
        siblings = {self._stacks[name][1] if name in self._stacks else "" for name in values}
        as_stack = len(siblings) == 1 and "" not in siblings
        if as_stack and all(constant.shape[2] == 1 for constant in constants.values()):
            inputs = {name: self._stacks[name][0] for name in values}
            inputs |= {name: self._new.constant(constant[:, :, 0]) for name, constant in constants.items()}
            stack = self._write_alike(node, inputs)
            self._stacks[node.output[0]] = (stack, siblings.pop())
        else:
            inputs = {name: self._as_planes(name) for name in values}
            inputs |= {
                name: self._new.constant(constant.swapaxes(1, 2)) for name, constant in constants.items()
            }
            self._planes[node.output[0]] = self._write_alike(node, inputs)

    def _write_alike(self, node: onnx.NodeProto, inputs: dict[str, str]) -> str:
        """Write the same operator with some of its inputs replaced."""
        names = [inputs.get(name, name) for name in node.input]
        return self._new.write(node.op_type, names, **self._new.attributes(node))

    def _convolve(self, node: onnx.NodeProto) -> None:
        kernel = self._constants[node.input[1]]
        channels_out, channels_in, depth = kernel.shape[:3]
        bias = self._constants[node.input[2]] if len(node.input) > 2 else None
        planes = [kernel[:, :, index] for index in range(depth)]
        mirrored = all(np.array_equal(planes[index], planes[depth - 1 - index]) for index in range(depth))
        # For each plane of the kernel, its number among the distinct planes of weights.
        number_of = [min(index, depth - 1 - index) if mirrored else index for index in range(depth)]
        distinct = planes[: max(number_of) + 1]
        if depth == 1:
            stack, sibling = self._as_stack(node.input[0], channels_in)
            self._stacks[node.output[0]] = (self._convolve_stack(stack, planes[0], bias), sibling)
        elif channels_out <= channels_in:
            # Convolve with all planes of weights at once, then shift and add the results.
            stack, sibling = self._as_stack(node.input[0], channels_in)
            if bias is not None:
                # The bias must enter the sum once: the last plane of weights carries it, divided by the
                # number of terms that use that plane.
                share = (bias / number_of.count(max(number_of))).astype(bias.dtype)
                bias = np.concatenate([*(np.zeros_like(bias),) * max(number_of), share])
            wide = self._convolve_stack(stack, np.concatenate(distinct), bias)
            wide = self._unstack(wide, sibling)
            # Terms with equal planes of weights come first: their sum reuses the memory of one of them.
            terms = [
                self._cut(
                    wide, (index, index + 1 - depth), (number * channels_out, (number + 1) * channels_out)
                )
                for index, number in sorted(enumerate(number_of), key=lambda item: item[1])
            ]
            self._planes[node.output[0]] = self._sum(terms)
        else:
            # Shift and add the input first, then convolve with all planes of weights at once.
            values = self._as_planes(node.input[0])
            shifted: list[list[str]] = [[] for _ in distinct]
            for index, number in enumerate(number_of):
                shifted[number].append(self._cut(values, (index, index + 1 - depth)))
            deep = self._new.write("Concat", [self._sum(terms) for terms in shifted], axis=2)
            stack = self._stack(deep, channels_in * len(distinct))
            result = self._convolve_stack(stack, np.concatenate(distinct, axis=1), bias)
            self._stacks[node.output[0]] = (result, deep)

    def _convolve_stack(self, stack: str, kernel: np.ndarray, bias: np.ndarray | None) -> str:
        """Convolve with a kernel (channels out, channels in, y, z)."""
        inputs = [stack, self._new.constant(kernel)]
        if bias is not None:
            inputs.append(self._new.constant(bias))
        return self._new.write("Conv", inputs, kernel_shape=list(kernel.shape[2:]))

    def _sum(self, terms: Sequence[str]) -> str:
        total = terms[0]
        for term in terms[1:]:
            total = self._new.write("Add", [total, term])
        return total

    def _cut(self, planes: str, x: tuple[int, int], channels: tuple[int, int] = (0, _END)) -> str:
        """Planes from x[0] to x[1] (0 means to the end), and channels[0] to channels[1] of each."""
        bounds = ([x[0], channels[0]], [x[1] or _END, channels[1]], [1, 2])
        return self._new.write("Slice", [planes, *map(self._new.constant, bounds)])

    def _make_volume(self, name: str) -> None:
        """Write the volume under its own name if only its planes or its stack have been written."""
        if (name in self._planes or name in self._stacks) and name not in self._volumes:
            self._volumes.add(name)
            self._new.write("Transpose", [self._as_planes(name)], output=name, perm=[0, 2, 1, 3, 4])

    def _as_planes(self, name: str) -> str:
        if name not in self._planes:
            if name in self._stacks:
                self._planes[name] = self._unstack(*self._stacks[name])
            elif self._shapes[name][1] == 1:
                shape = self._new.constant([0, -1, 1, 0, 0])
                self._planes[name] = self._new.write("Reshape", [name, shape])
            else:
                self._planes[name] = self._new.write("Transpose", [name], perm=[0, 2, 1, 3, 4])
        return self._planes[name]

    def _as_stack(self, name: str, channels: int) -> tuple[str, str]:
        if name not in self._stacks:
            planes = self._as_planes(name)
            self._stacks[name] = (self._stack(planes, channels), planes)
        return self._stacks[name]

    def _stack(self, planes: str, channels: int) -> str:
        sides = self._new.write("Shape", [planes], start=3)
        shape = self._new.write("Concat", [self._new.constant([-1, channels]), sides], axis=0)
        return self._new.write("Reshape", [planes, shape])

    def _unstack(self, stack: str, sibling: str) -> str:
        """The stack as planes, with the batch and x of the planes `sibling`."""
        sizes = [
            self._new.write("Shape", [sibling], start=0, end=2),
            self._new.write("Shape", [stack], start=1),
        ]
        return self._new.write("Reshape", [stack, self._new.write("Concat", sizes, axis=0)])
