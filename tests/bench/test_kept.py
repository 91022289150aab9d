"""Results that are kept for every version, and what tells a regression."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import reion

ROOT = Path(__file__).parents[2]


def script(name, *arguments, given=""):
    return subprocess.run(
        [sys.executable, ROOT / "benchmarks" / name, *map(str, arguments)],
        input=given,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def result(name, ratio, spread):
    return {"name": name, "ratio": ratio, "against": "x", "target": 1.0, "spread": spread}


def test_what_a_benchmark_prints_is_kept_by_version_and_machine(tmp_path):
    printed = [
        {"results": [result("a", 1, [1, 2])]},
        {"results": [result("b", 3, [3, 3]), result("a", 2, [2, 2])]},
    ]
    for each in printed:
        done = script("keep.py", "--machine", "mine", "--folder", tmp_path, given=json.dumps(each))
        assert done.returncode == 0, done.stderr
    path = tmp_path / f"{reion.__version__}-mine.json"
    assert done.stdout.strip() == str(path)
    kept = json.loads(path.read_text())
    assert [(item["name"], item["ratio"]) for item in kept["results"]] == [("a", 2), ("b", 3)]
    assert kept["version"] == reion.__version__
    assert kept["cores"] >= 1


@pytest.mark.parametrize(("after", "code"), [(0.9, 0), (0.69, 0), (0.67, 1), (5.0, 0)])
def test_a_ratio_that_falls_below_what_was_measured_is_told(tmp_path, after, code):
    files = []
    for name, ratio in (("before", 1.0), ("after", after)):
        results = [result("a", ratio, [0.8 * ratio, 1.1 * ratio]), result(f"only {name}", 1, [1, 1])]
        files.append(tmp_path / f"{name}.json")
        files[-1].write_text(json.dumps({"processor": "p", "cores": 2, "results": results}))
    done = script("compare.py", *files)
    assert done.returncode == code, done.stderr
    assert ("FELL" in done.stdout) == bool(code)
    assert "not measured again: only before" in done.stdout


def test_without_21cmfast_it_says_how_to_get_it(tmp_path):
    empty = tmp_path / "python"
    empty.write_text(f"#!/bin/sh\nexec {sys.executable} -S -c 'import py21cmfast'\n")
    empty.chmod(0o755)
    done = script("beside_21cmfast.py", "--python", empty)
    assert done.returncode == 1
    assert "pip install 21cmFAST" in done.stderr


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.json")), ids=lambda path: path.stem)
def test_every_kept_file_has_its_machine_and_its_ratios(path):
    kept = json.loads(path.read_text(encoding="utf-8"))
    assert path.name.startswith(f"{kept['version']}-")
    assert kept["processor"]
    for item in kept["results"]:
        assert item["spread"][0] <= item["ratio"] <= item["spread"][1]
