"""`reion models` and `reion info` say what the model files say."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import onnx
import pytest

import reion
from reion.prediction.model_file import shipped_models

WEIGHTS = Path(reion.__file__).parent / "weights"


@pytest.fixture(scope="module")
def metadata():
    """Of the shipped models, as onnx reads it."""
    read = {}
    for name in shipped_models():
        properties = onnx.load(WEIGHTS / f"{name}.onnx").metadata_props
        read[name] = {item.key.removeprefix("reion."): json.loads(item.value) for item in properties}
    return read


def test_all_that_is_shipped_is_listed(command, metadata):
    code, printed, said = command("models", "--json")
    assert (code, said) == (0, "")
    assert json.loads(printed)["models"] == [
        {
            "name": name,
            "inputs": card["inputs"],
            "conditions": card["conditions"],
            "cell_size_mpc": card["cell_size_mpc"],
            "cell_sizes_mpc": [
                min(low for _, low, _ in card["coverage"]["cell_size"]),
                max(high for _, _, high in card["coverage"]["cell_size"]),
            ],
            "redshift_range": card["redshift_range"],
            "r2": card["scores"]["pooled"]["r2"],
            "licence": card["licence"],
        }
        for name, card in metadata.items()
    ]
    code, printed, _ = command("models")
    assert code == 0
    for name, card in metadata.items():
        (row,) = [line for line in printed.splitlines() if name in line.split()]
        assert f"{card['scores']['pooled']['r2']:.4f}" in row
        assert "6 to 12" in row


def test_the_card_is_shown_whole(command, metadata):
    code, printed, _ = command("info", "rt64-history", "--json")
    assert code == 0
    shown, card = json.loads(printed), metadata["rt64-history"]
    for key in set(card) - {"format", "working_bytes", "checksum"}:
        assert shown[key] == card[key]
    content = (WEIGHTS / "rt64-history.onnx").read_bytes()
    assert shown["sha256"] == hashlib.sha256(content).hexdigest()
    code, printed, _ = command("info", WEIGHTS / "rt64-history.onnx")
    assert code == 0
    assert "n_ion [1e66 Mpc-3]" in printed
    assert "n_igm baryon density, comoving; unit g cm-3" in printed
    assert "38 cells" in printed
    assert "MIT" in printed


def test_a_model_without_scores(command, toy_model):
    code, printed, _ = command("info", toy_model, "--json")
    assert code == 0
    assert json.loads(printed)["r2"] is None
    assert command("info", toy_model)[0] == 0


def test_what_is_no_model_is_one_message(command, tmp_path):
    (tmp_path / "text.onnx").write_text("no model")
    for model in ("absent", tmp_path / "text.onnx"):
        code, printed, said = command("info", model, "--json")
        assert (code, said) == (2, "")
        assert str(model) in json.loads(printed)["error"]["file"]
