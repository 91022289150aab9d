"""One version, told everywhere alike; workflows call sessions that exist; lowest versions can be told."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

import reion

ROOT = Path(__file__).parents[1]
NOXFILE = ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SESSIONS = {
    node.name
    for node in NOXFILE.body
    if isinstance(node, ast.FunctionDef) and any("nox.session" in ast.unparse(d) for d in node.decorator_list)
}
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_one_source_of_the_version():
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "reion.__version__"}
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.*)$", citation, re.MULTILINE)[1] == reion.__version__
    assert f"## {reion.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_call_sessions_that_exist(path):
    text = path.read_text(encoding="utf-8")
    called = re.findall(r'nox -s "?(\w+)', text)
    called += re.findall(r"session: \[([\w, ]+)\]", text)[0].split(", ") if "matrix.session" in text else []
    assert set(called) <= SESSIONS
    assert "contents: read" in text, "no workflow may write to the repository"


def test_contributing_names_sessions_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = {name for words in re.findall(r"nox -s ([\w ]+)", text) for name in words.split()}
    assert named
    assert named <= SESSIONS


def test_every_python_that_is_claimed_is_tested():
    claimed = set(re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["project"]["classifiers"])))
    (pythons,) = (n for n in NOXFILE.body if isinstance(n, ast.FunctionDef) and n.name == "pythons")
    assert claimed == set(re.findall(r"3\.\d+", ast.unparse(pythons.decorator_list[0])))


def test_every_dependency_has_a_lowest_version():
    """Which the session `minimums` installs."""
    extras = PROJECT["project"]["optional-dependencies"]
    for text in [*PROJECT["project"]["dependencies"], *extras["train"], *extras["testing"]]:
        assert re.fullmatch(r"[\w.-]+>=[\w.]+[^;]*(;.*)?", text), text
