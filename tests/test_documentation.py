"""What the documentation says is true: commands, options, settings, names, links and examples."""

from __future__ import annotations

import csv
import json
import pkgutil
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer

import reion_kernels
from reion import metrics
from reion.cli.main import app
from reion.config import RunConfig, load_config
from reion.ray_tracing.settings import BlackBody, PowerLaw, RayTracing
from reion.ray_tracing.worlds import load_worlds
from reion.readers import FORMATS
from reion.readers.settings import COMMON
from reion.registry import AUGMENTATIONS, LOSSES, NETWORKS
from reion.storage.store import write_simulation
from reion.studies.ranges import load_search
from reion_exports import ModelCard
from reion_exports.anatomy import CHECKSUM
from reion_exports.data_sheet import MEANINGS_KEY

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "reion" / "sample" / "README.md",
    ROOT / "reion" / "weights" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "docs").rglob("*.ipynb")),
]
API = ROOT / "docs" / "reference" / "api"
TUTORIAL = ROOT / "docs" / "tutorial.md"  # has a test of its own
TRAINING = ROOT / "docs" / "how-to" / "train.md"
OWN_NETWORK = ROOT / "docs" / "how-to" / "own-network.md"  # trains
SIMULATING = ROOT / "docs" / "how-to" / "simulate.md"  # traces rays and trains
COMMANDS: Any = typer.main.get_command(app)
SCHEMA = RunConfig.model_json_schema()
METADATA = {CHECKSUM: "", MEANINGS_KEY: ""} | ModelCard(
    name="toy",
    version="1",
    inputs={"n_igm": "g cm-3"},
    cell_size_mpc=2.0,
    redshift_range=(6.0, 12.0),
    receptive_radius_cells=0,
).to_metadata()
PLACEHOLDERS = {"COMMAND"}
OTHERS_OPTIONS = {"--strict", "--list", "--nworkers", "--hours"}
"""Options in the text that belong to other programs."""


class Block(NamedTuple):
    page: str
    line: int
    language: str
    text: str


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def read(page: Path) -> str:
    """The text of a page; of a notebook its cells, those of code as blocks."""
    text = page.read_text(encoding="utf-8")
    if page.suffix != ".ipynb":
        return text
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"]]
    return "\n\n".join(
        source if kind == "markdown" else f"```python\n{source}\n```" for kind, source in cells
    )


def blocks(page: Path) -> Iterator[Block]:
    for found in re.finditer(r"^```(\w*)[^\n]*\n(.*?)^```$", read(page), re.MULTILINE | re.DOTALL):
        line = read(page)[: found.start()].count("\n") + 2
        yield Block(name_of(page), line, found[1], found[2])


def inline_code(page: Path) -> list[str]:
    prose = re.sub(r"^```.*?^```$", "", read(page), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", prose)


def command_lines(text: str) -> Iterator[list[str]]:
    """Arguments of every call of reion in a block of shell, or of usage such as `[--json]`, `SIM...`."""
    for line in text.replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|[|>].*", line.removeprefix("$ ")):
            words = shlex.split(re.sub(r"\[(?=-|[A-Z])|(?<=[\w\"'])\]|\.\.\.", "", part), comments=True)
            if words and words[0].rpartition("/")[2] == "reion":
                yield words[1:]


def resolve(words: list[str]) -> tuple[Any, list[str]]:
    command = COMMANDS
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    return command, words


def options(command: Any) -> set[str]:
    own = {
        option
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
        if option.startswith("--")
    }
    return own | {"--help"}


def all_options(command: Any = COMMANDS) -> set[str]:
    nested = [all_options(child) for child in getattr(command, "commands", {}).values()]
    return options(command).union(*nested)


def leaves(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield name, command
    for child, nested in getattr(command, "commands", {}).items():
        yield from leaves(nested, f"{name} {child}".strip())


ALL_BLOCKS = [block for page in PAGES for block in blocks(page)]
SHELL = [block for block in ALL_BLOCKS if block.language in ("", "console", "bash", "sh")]
CALLS = [(f"{block.page}:{block.line}", call) for block in SHELL for call in command_lines(block.text)]
MENTIONS = [
    (name_of(page), call)
    for page in PAGES
    for code in inline_code(page)
    for call in command_lines(code)
    if not PLACEHOLDERS & set(call)
]
LEAVES = dict(leaves(COMMANDS))


def test_there_is_something_to_check():
    assert len(CALLS) > 20
    assert len(MENTIONS) > 20


@pytest.mark.parametrize(("where", "call"), CALLS, ids=[" ".join(call) for _, call in CALLS])
def test_commands_in_blocks_parse(where, call):
    command, words = resolve(call)
    if "--help" in words:
        return
    assert not hasattr(command, "commands"), f"{where}: no such command: reion {' '.join(call)}"
    context = command.make_context("reion", list(words))
    check_settings(command.name, context.params.get("settings") or ())


@pytest.mark.parametrize(("name", "command"), LEAVES.items(), ids=LEAVES)
def test_every_help_ends_with_an_example_that_parses(name, command):
    (call,) = command_lines(command.epilog)
    assert " ".join(call).startswith(f"{name} ")
    command.make_context("reion", call[len(name.split()) :])


def test_the_help_names_every_format():
    (option,) = (parameter for parameter in LEAVES["convert"].params if "--format" in parameter.opts)
    assert set(re.findall(r"\w+", option.help.partition(":")[2])) - {"or"} == set(FORMATS)


@pytest.mark.parametrize(("where", "call"), MENTIONS, ids=[" ".join(call) for _, call in MENTIONS])
def test_commands_in_the_text_exist(where, call):
    command, words = resolve(call)
    unknown = {word.partition("=")[0] for word in words if word.startswith("--")} - options(command)
    assert not unknown, where
    if hasattr(command, "commands"):
        assert not [word for word in words if not word.startswith("-")], where


def check_settings(command: str, settings: Sequence[str]) -> None:
    if command in ("train", "quickstart"):
        # The code of others is not here: the default network has settings of the same names.
        load_config(settings=[re.sub(r"(model\.name=)\w+:\w+", r"\1reion", text) for text in settings])
    else:
        known = set(COMMON).union(*(reader.settings for reader in FORMATS.values()))
        if command == "simulate":
            known |= set(RayTracing.model_fields)
        assert {setting.partition("=")[0] for setting in settings} <= known


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_options_settings_and_names_in_the_text_exist(page):
    keys = {key for section in schema_rows().values() for key in section}
    for code in inline_code(page):
        option = re.match(r"--[\w-]+", code)
        if option and option[0] not in OTHERS_OPTIONS:
            assert option[0] in all_options(), code
        setting = re.fullmatch(r"((?:data|model|training)\.[\w.]+)( ?= ?.*)?", code)
        if setting and not setting[1].endswith((".onnx", ".keras")):
            assert any(key == setting[1] or key.startswith(f"{setting[1]}.") for key in keys), code
        dotted = re.fullmatch(r"(reion|reion_kernels|reion_exports)(\.\w+)+(\(.*)?", code)
        if dotted and code not in METADATA:
            pkgutil.resolve_name(code.partition("(")[0])


@pytest.mark.parametrize(
    "block", [b for b in ALL_BLOCKS if b.language == "toml"], ids=lambda block: f"{block.page}:{block.line}"
)
def test_configurations_fit_the_schema(block, tmp_path):
    if set(tomllib.loads(block.text)) <= {"seed", "data", "model", "training"}:
        (tmp_path / "run.toml").write_text(block.text, encoding="utf-8")
        load_config(tmp_path / "run.toml")
    elif "ranges" in tomllib.loads(block.text):
        (tmp_path / "search.toml").write_text(block.text, encoding="utf-8")
        load_search(tmp_path / "search.toml")
    elif "world" in tomllib.loads(block.text):
        (tmp_path / "worlds.toml").write_text(block.text, encoding="utf-8")
        load_worlds(tmp_path / "worlds.toml")


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=name_of)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", read(page)):
        place = link.partition("#")[0]
        if place and "://" not in link:
            assert (page.parent / place).exists(), link


PYTHON = {
    page: found
    for page in PAGES
    if page != TUTORIAL
    and page.suffix != ".ipynb"  # these have tests of their own
    and (found := [b for b in blocks(page) if b.language == "python" and not b.text.startswith("--8<--")])
}


@pytest.fixture
def documented_places(tmp_path, monkeypatch, toy, toy_model):
    """A folder with the files that the examples read."""
    monkeypatch.chdir(tmp_path)
    Path("reion-quickstart").mkdir()
    for place in ("model.onnx", "reion-quickstart/model.onnx"):
        shutil.copyfile(toy_model, place)
    write_simulation(toy(), "box.zarr")
    return tmp_path


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.slow) if page in (SIMULATING, OWN_NETWORK) else page
        for page in PYTHON
        if page != TRAINING
    ],
    ids=name_of,
)
def test_examples_run(page, documented_places):
    run_examples(page)


@pytest.mark.parametrize(
    "message", re.findall(r"^## `([^`]+)`$", read(ROOT / "docs" / "faq.md"), re.MULTILINE)
)
def test_messages_in_the_questions_are_those_of_reion(message):
    assert any(message in read(path) for path in (ROOT / "reion").rglob("*.py"))


def run_examples(page: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "example"}
    for block in PYTHON[page]:
        code = "\n" * (block.line - 1) + block.text
        exec(compile(code, block.page, "exec"), namespace)


@pytest.mark.slow
def test_training_page_runs_and_leaves_the_documented_run_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_examples(TRAINING)
    tables = reference_tables("run-folder.md")
    run = tmp_path / "run"
    assert {path.name for path in run.iterdir()} == {row[0].rstrip("/") for row in tables["The run folder"]}
    assert list(json.loads((run / "metrics.json").read_text())) == [row[0] for row in tables["metrics.json"]]
    with (run / "history.csv").open(newline="") as file:
        assert next(csv.reader(file)) == [row[0] for row in tables["history.csv"]]


def reference_tables(page: str) -> dict[str, list[list[str]]]:
    """Heading to the rows of the table under it, the first cell without its marks of code."""
    tables: dict[str, list[list[str]]] = {}
    heading = ""
    for line in read(ROOT / "docs" / "reference" / page).splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("| `"):
            first, *others = (cell.strip() for cell in line.strip("|").split(" | "))
            tables.setdefault(heading, []).append([first.strip("` "), *others])
    return tables


def test_command_line_reference_has_every_command_and_option():
    documented = {
        heading: {row[0] for row in rows} for heading, rows in reference_tables("command-line.md").items()
    }
    assert documented == {name: options(command) - {"--help"} for name, command in LEAVES.items()}


def test_configuration_reference_is_the_schema():
    documented = {
        heading: {row[0]: tuple(row[1:3]) for row in rows}
        for heading, rows in reference_tables("configuration.md").items()
    }
    assert documented == schema_rows()


def test_the_settings_of_a_ray_tracing_are_its_schema():
    rows = re.findall(r"^\| `([\w.]+)` \| ([^|]+) \|", read(SIMULATING), re.MULTILINE)
    spectrum = {f"spectrum.{name}" for name in (*BlackBody.model_fields, *PowerLaw.model_fields)}
    assert {name for name, _ in rows} == spectrum | set(RayTracing.model_fields) - {"spectrum"}
    defaults = {name: text for name, text in rows if re.fullmatch(r"[\d.e-]+", text)}
    for name, text in defaults.items():
        kind = PowerLaw() if name == "spectrum.index" else RayTracing().spectrum
        schema = kind if name.startswith("spectrum.") else RayTracing()
        assert getattr(schema, name.removeprefix("spectrum.")) == float(text), name


@pytest.mark.parametrize(("package", "page"), [(reion_kernels, "kernels.md"), (metrics, "evaluation.md")])
def test_api_reference_has_every_public_name(package, page):
    listed = re.findall(
        r"^::: (\S+)(?:\n    options:\n      members: \[(.*)\])?", read(API / page), re.MULTILINE
    )
    names = {name for module, members in listed for name in (*members.split(", "), module.split(".")[-1])}
    assert set(package.__all__) <= names


def test_onnx_reference_has_every_key_of_the_metadata():
    section = (
        read(ROOT / "docs" / "reference" / "onnx-file.md").partition("## Metadata")[2].partition("## ")[0]
    )
    assert set(re.findall(r"`(reion\.\w+)`", section)) == set(METADATA)


def schema_rows() -> dict[str, dict[str, tuple[str, str]]]:
    """Heading to key to its default and what it may be, as the page words it."""
    sections = {"The run": {"seed": described("seed", SCHEMA["properties"]["seed"])}}
    for heading, definition in (("data", "DataConfig"), ("training", "TrainingConfig")):
        sections[heading] = dict(described_keys(SCHEMA["$defs"][definition], f"{heading}.", SCHEMA))
    for network in NETWORKS:
        if network.is_own:
            schema = network.settings.model_json_schema()
            sections[network.short] = dict(described_keys(schema, "model.", schema))
    return sections


def described_keys(
    definition: Mapping[str, Any], prefix: str, schema: Mapping[str, Any]
) -> Iterator[tuple[str, tuple[str, str]]]:
    for name, field in definition["properties"].items():
        if "$ref" in field:
            nested = schema["$defs"][field["$ref"].rpartition("/")[2]]
            yield from described_keys(nested, f"{prefix}{name}.", schema)
        else:
            yield f"{prefix}{name}", described(f"{prefix}{name}", field)


def described(key: str, field: Mapping[str, Any]) -> tuple[str, str]:
    section, _, name = key.partition(".")
    own = [NETWORKS.find(network) for network in NETWORKS.own]
    by_model = [
        f"`{json.dumps(network.training[name])}` ({network.short})"
        for network in own
        if section == "training" and name in network.training
    ]
    if by_model:
        return ", ".join(by_model), allowed(field)
    value = field.get("default", {})  # an empty table is made anew for everyone
    default = "absent" if value is None else f"`{json.dumps(value)}`"
    registered = {"data.augmentation": AUGMENTATIONS, "training.loss.kind": LOSSES}.get(key)
    if registered is not None:
        names = ", ".join(f"`{json.dumps(short)}`" for short in registered.own)
        return default, f"{names} or `module:function`"
    if key.startswith("training.loss."):
        name = key.rpartition(".")[2]
        by_model = [
            f"`{json.dumps(network.loss[name])}` ({network.short})" for network in own if name in network.loss
        ]
        default = ", ".join([*by_model, f"{default} (others)" if by_model else default])
    return default, allowed(field)


def allowed(field: Mapping[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(allowed(option) for option in field["anyOf"])
    values = field.get("enum", [field["const"]] if "const" in field else None)
    if values:
        return ", ".join(f"`{json.dumps(value)}`" for value in values)
    match field["type"]:
        case "null":
            return "absent"
        case "object":
            return "table"
        case "string":
            return "text"
        case "boolean":
            return "`true`, `false`"
        case "array" if "prefixItems" in field:
            return " and ".join(allowed(item) for item in field["prefixItems"])
        case "array":
            return f"list of: {allowed(field['items'])}"
        case kind:
            bounds = {
                "minimum": "at least",
                "exclusiveMinimum": "above",
                "maximum": "at most",
                "exclusiveMaximum": "below",
            }
            words = [f"{word} {field[bound]:g}" for bound, word in bounds.items() if bound in field]
            return ", ".join([{"integer": "whole number", "number": "number"}[kind], *words])
