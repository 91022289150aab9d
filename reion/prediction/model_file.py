"""Model files: find them, read them and check them before anything runs them."""

from __future__ import annotations

import hashlib
from importlib import resources
from pathlib import Path

from reion.errors import InputError, did_you_mean
from reion_exports import data_sheet
from reion_exports.anatomy import HostileFileError
from reion_exports.card import CardError, ModelCard

MAX_FILE_BYTES = 2**31
"""ONNX files of this size or more need external data, which no model file of reion has."""

UNCHANGED = "expected a file that `reion export onnx` wrote, unchanged"


def shipped_models() -> tuple[str, ...]:
    """Names of the models that come with reion."""
    folder = resources.files("reion") / "weights"
    names = (item.name for item in folder.iterdir()) if folder.is_dir() else ()
    return tuple(sorted(name.removesuffix(".onnx") for name in names if name.endswith(".onnx")))


def read_card(source: str | Path | bytes) -> tuple[ModelCard, str]:
    """The card of a model file and the SHA-256 of the file, without opening the model.

    Raises
    ------
    InputError
        If the file is missing, damaged or not a model file of reion.
    """
    content, file = read_model(source)
    return card_of(content, file), hashlib.sha256(content).hexdigest()


def read_model(source: str | Path | bytes) -> tuple[bytes, str | None]:
    """The bytes of a model, and the name of the file that they come from; None for given bytes."""
    if isinstance(source, bytes):
        return source, None
    if str(source) in shipped_models():
        return (resources.files("reion") / "weights" / f"{source}.onnx").read_bytes(), f"{source}.onnx"
    path = Path(source)
    if not path.is_file():
        shipped = shipped_models()
        raise InputError(
            "expected an ONNX file"
            + (f" or the name of a shipped model ({', '.join(shipped)})" if shipped else "")
            + did_you_mean(str(source), shipped),
            file=path,
            hint="`reion export onnx RUN --out MODEL.onnx` makes one from a run folder",
        )
    if path.stat().st_size >= MAX_FILE_BYTES:
        raise InputError("expected a self-contained ONNX file, which is smaller than 2 GiB", file=path)
    return path.read_bytes(), str(path)


def card_of(content: bytes, file: str | None) -> ModelCard:
    """Check the bytes before onnxruntime sees them, and read the card."""
    try:
        return data_sheet.read_card(content)[0]
    except (HostileFileError, CardError) as error:
        raise InputError(str(error), file=file, hint=UNCHANGED) from None
