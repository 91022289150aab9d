"""Write a network as one self-contained ONNX file, or nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reion_exports.anatomy import Anatomy, HostileFileError
from reion_exports.card import CardError, ModelCard
from reion_exports.convert import ExportError, Network, to_onnx, trunk_to_onnx
from reion_exports.data_sheet import read_card
from reion_exports.parity import ROUNDINGS, TOLERANCE, Case, compare, haloed_inputs, own_rounding
from reion_exports.stem import Stem, with_stem

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """The file that was written, and its agreement with the network.

    Parameters
    ----------
    path, bytes, sha256
        The file, its size and its checksum.
    operators
        Number of nodes of each operator in the graph.
    parity
        The comparisons with Keras, each within `TOLERANCE` or, for a steep network, within `ROUNDINGS` times
        the network's own rounding.
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


@dataclass(frozen=True, kw_only=True)
class Stages:
    """A network in two stages, whose stem is written into the file node by node.

    Parameters
    ----------
    trunk
        The network on channels, see `reion_exports.convert.trunk_to_onnx`.
    stem
        Computes the channels.
    channels
        Number of channels.
    """

    trunk: Network
    stem: Stem
    channels: int


def export(
    network: Network,
    card: ModelCard,
    path: str | Path,
    *,
    stages: Stages | None = None,
    force: bool = False,
    write: Callable[[Path, bytes], object] = Path.write_bytes,
) -> ExportReport:
    """Write a network as an ONNX file that predicts xi from raw fields; normalisation and wrap are inside.

    Parameters
    ----------
    network, card
        See `reion_exports.convert.to_onnx`.
    path
        The file.
    stages
        The same network in two stages; the file then serves any cell size (see
        `reion_exports.stem.with_stem`).
    force
        Replace an existing file.
    write
        Writes bytes to a path; it must be atomic if a kill has to leave the old file or the new one.

    Raises
    ------
    ExportError
        If the file would not be valid, or if xi or xi_std differs from the network's in any cell by more than
        `TOLERANCE` and by more than `ROUNDINGS` times the change that rounding the inputs makes in the
        network itself. Nothing is written then.
    FileExistsError
        If there is a file at `path` and `force` is not set.
    """
    path = Path(path)
    if path.exists() and not force:
        raise FileExistsError(f"{path} exists and is not overwritten without force")
    content: bytes = (to_onnx(network, card) if stages is None else _staged(stages, card)).SerializeToString()
    anatomy = _check(content)
    parity = _compare(content, network, card)
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, content)
    return ExportReport(
        path=path,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        operators=anatomy.operators,
        parity=parity,
    )


def _staged(stages: Stages, card: ModelCard) -> onnx.ModelProto:
    trunk = trunk_to_onnx(stages.trunk, card, stages.channels)
    trunk_radius = card.receptive_radius_cells - stages.stem.radius_cells
    return with_stem(trunk, stages.stem, card, trunk_radius_cells=trunk_radius)


def _check(content: bytes) -> Anatomy:
    """Check the bytes of a model with `onnx` and `read_card`; raise `ExportError` if they are not valid."""
    import onnx

    try:
        onnx.checker.check_model(content, full_check=True)
        return read_card(content)[1]
    except (
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
        HostileFileError,
        CardError,
    ) as error:
        raise ExportError(f"the converted graph is not valid: {error}") from None


def _compare(content: bytes, network: Network, card: ModelCard) -> tuple[Case, ...]:
    """Compare the bytes of a model in onnxruntime with the network; raise `ExportError` if they disagree."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        cases = tuple(compare(network, session, card))
    except Exception as error:
        raise ExportError(f"onnxruntime does not run the converted graph: {error}") from error
    for case in cases:
        if case.difference <= TOLERANCE:
            continue
        rounding = own_rounding(network, haloed_inputs(card, case.batch, case.cells))
        for name, difference in case.differences.items():
            explained = ROUNDINGS * rounding.get(name, 0.0)
            if difference > max(TOLERANCE, explained):
                raise ExportError(
                    f"expected the file to agree with Keras within {TOLERANCE:g} in every cell; {name} "
                    f"differs by {difference:.2g} (batch {case.batch}, cells {case.cells}), and rounding "
                    f"explains {explained:.1g} only"
                )
    return cases
