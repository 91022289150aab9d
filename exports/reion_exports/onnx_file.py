"""Write a network as one self-contained ONNX file, or nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reion_exports.anatomy import dissect
from reion_exports.blame import disagreeing_layer
from reion_exports.card import ModelCard
from reion_exports.convert import PERIODIC, ExportError, in_single_precision, layer_of, restated, to_onnx
from reion_exports.parity import (
    HALF_TOLERANCE,
    ROUNDINGS,
    TOLERANCE,
    Case,
    compare,
    haloed_inputs,
    own_rounding,
)

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was written and how well it agrees with the network.

    Parameters
    ----------
    path, bytes, sha256
        The file.
    operators
        How many nodes the graph has of each operator.
    parity
        The comparisons with Keras, each within `TOLERANCE` (`HALF_TOLERANCE` for float16 weights) or, for a
        steep network, within `ROUNDINGS` times its own rounding.
    """

    path: Path
    bytes: int
    sha256: str
    operators: Mapping[str, int]
    parity: tuple[Case, ...]

    @property
    def nodes(self) -> int:
        """Number of nodes of the graph."""
        return sum(self.operators.values())

    @property
    def difference(self) -> float:
        """The largest difference of xi from Keras in any cell of any comparison."""
        return max(case.difference for case in self.parity)


def export(
    network: Any,
    card: ModelCard,
    path: str | Path,
    *,
    half: bool = False,
    force: bool = False,
    write: Callable[[Path, bytes], object] = Path.write_bytes,
) -> ExportReport:
    """Write a network as an ONNX file: raw fields in, xi out, units, normalisation and wrap inside.

    Parameters
    ----------
    network, card
        See `reion_exports.convert.to_onnx`.
    path
        The file.
    half
        Store the weights of convolutions and dense layers in float16; the arithmetic stays in float32.
    force
        Replace an existing file.
    write
        Writes bytes to a path, in one step where a kill must leave the old file or the new one.

    Raises
    ------
    ExportError
        If the file would not be valid, or disagrees with the network by more than `TOLERANCE` in any cell
        (with `half`, if the rounded weights change xi by more than `HALF_TOLERANCE`) and by more than
        `ROUNDINGS` times what rounding the inputs does to the network itself; the message names the layer.
        Nothing is written then.
    FileExistsError
        If there is a file at `path` and `force` is not set.
    """
    path = Path(path)
    if path.exists() and not force:
        raise FileExistsError(f"{path} exists and is not overwritten without force")
    network = in_single_precision(network)
    model = to_onnx(network, card)
    content, parity = prove(model, network, card)
    if half:
        content, parity = prove(with_half_weights(model), network, card, tolerance=HALF_TOLERANCE)
    return _write(path, content, parity, write)


def restate(path: str | Path) -> ExportReport:
    """Bring a file that an earlier version wrote to the graph that `export` writes today, in its place.

    What is proved is that both files agree, as `export` proves that the file and Keras do. Files with float16
    weights stay as they are: export them again.

    Raises
    ------
    ExportError
        If the new graph does not agree with the file, which then stays as it is.
    """
    import onnx
    import onnxruntime

    path = Path(path)
    before = path.read_bytes()
    card = ModelCard.from_metadata(dissect(before).metadata)
    session = onnxruntime.InferenceSession(before, providers=["CPUExecutionProvider"])

    def as_it_was(inputs: Mapping[str, np.ndarray], **_: Any) -> np.ndarray:
        xi: np.ndarray
        (xi,) = session.run(["xi"], {**inputs, PERIODIC: np.zeros(3, dtype=np.int64)})
        return xi

    model = restated(onnx.load_from_string(before), card)
    content, parity = prove(model, as_it_was, card)
    return _write(path, content, parity, Path.write_bytes)


def prove(
    model: onnx.ModelProto, network: Any, card: ModelCard, *, tolerance: float = TOLERANCE
) -> tuple[bytes, tuple[Case, ...]]:
    """Check a model (onnx.checker, onnxruntime, parity) and return its bytes and the comparisons.

    Raises
    ------
    ExportError
        If a check fails.
    """
    import onnx
    import onnxruntime

    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the converted graph is not valid ONNX: {error}") from None
    content: bytes = model.SerializeToString()
    dissect(content)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        cases = tuple(compare(network, session, card))
    except Exception as error:
        raise ExportError(f"onnxruntime does not run the converted graph: {error}") from error
    for case in sorted(cases, key=lambda case: -case.difference):
        if case.difference <= tolerance:
            break
        inputs = haloed_inputs(card, case.batch, case.cells)
        rounding = own_rounding(network, inputs)
        if case.difference > ROUNDINGS * rounding:
            layer = disagreeing_layer(network, inputs)
            raise ExportError(
                f"expected the file to agree with Keras within {tolerance:g} in every cell; it differs by "
                f"{case.difference:.2g} (batch {case.batch}, cells {case.cells}), and rounding explains "
                f"{ROUNDINGS * rounding:.1g} only"
                + (f"; the first layer that differs is {layer}" if layer else "")
            )
    return content, cases


def with_half_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with the weights of its convolutions and dense layers stored in float16.

    Raises
    ------
    ExportError
        If a weight is too large for float16; the message names the layer.
    """
    import onnx

    halved = onnx.ModelProto()
    halved.CopyFrom(model)
    graph = halved.graph
    users = {
        node.input[1]: node
        for node in graph.node
        if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")
    }
    casts = []
    for tensor in graph.initializer:
        if tensor.name not in users or tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        values = onnx.numpy_helper.to_array(tensor)
        if np.abs(values).max(initial=0.0) > np.finfo(np.float16).max:
            raise ExportError(
                f"expected weights that float16 can hold; layer {layer_of(users[tensor.name].name)} has "
                f"{np.abs(values).max():.3g}"
            )
        name = tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return halved


def _write(
    path: Path, content: bytes, parity: tuple[Case, ...], write: Callable[[Path, bytes], object]
) -> ExportReport:
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, content)
    return ExportReport(
        path=path,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        operators=dissect(content).operators,
        parity=parity,
    )
