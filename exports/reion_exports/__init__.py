"""Export Keras models as self-contained ONNX files, and check that both agree."""

from reion_exports.anatomy import Anatomy, HostileFileError, dissect
from reion_exports.card import CardError, ModelCard
from reion_exports.convert import PERIODIC, ExportError
from reion_exports.data_sheet import read_card, restamp
from reion_exports.onnx_file import ExportReport, Stages, export
from reion_exports.parity import TOLERANCE

__all__ = [
    "PERIODIC",
    "TOLERANCE",
    "Anatomy",
    "CardError",
    "ExportError",
    "ExportReport",
    "HostileFileError",
    "ModelCard",
    "Stages",
    "dissect",
    "export",
    "read_card",
    "restamp",
]
