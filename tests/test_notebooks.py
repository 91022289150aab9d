"""The notebooks of the documentation run as they stand and print what is stored in them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

START = Path(__file__).parents[1] / "docs" / "start"
NOTEBOOKS = sorted(START.glob("*.ipynb"))
NUMBER = re.compile(r"(?<![\w.])-?\d+\.\d+")


def printed(cell: Any) -> str:
    """What a cell of code printed, as one text; a picture is a line of its own."""
    lines = []
    for output in cell["outputs"]:
        if output.get("name") == "stdout":
            lines.append("".join(output["text"]))
        elif "image/png" in output.get("data", {}):
            lines.append("a picture\n")
    return "".join(lines)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_there_is_a_notebook_for_each_newcomer():
    assert [path.stem for path in NOTEBOOKS] == ["21cmfast", "c2ray", "onnx-file"]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_prints_what_is_stored_in_it(path, tmp_path):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    stored = json.loads(path.read_text(encoding="utf-8"))
    notebook = nbformat.read(path, as_version=4)
    folder = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=folder).execute()
    for before, after in zip(code_cells(stored), code_cells(notebook), strict=True):
        old, new = printed(before), printed(after)
        assert NUMBER.sub("#", new) == NUMBER.sub("#", old)
        # Two digits of a score, which processors round differently.
        found = [float(number) for number in NUMBER.findall(new)]
        assert found == pytest.approx([float(number) for number in NUMBER.findall(old)], abs=0.03)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small_and_holds_nothing_of_the_machine_it_ran_on(path):
    text = path.read_text(encoding="utf-8")
    assert len(text) < 100_000
    notebook = json.loads(text)
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    assert all(not cell["metadata"] for cell in notebook["cells"])
    outputs = [output for cell in code_cells(notebook) for output in cell["outputs"]]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert all(cell["execution_count"] for cell in code_cells(notebook))
