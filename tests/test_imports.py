"""The house: imports only point down, go round in no circle, and load nothing heavy before it is needed."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "reion": ROOT / "reion",
    "reion_kernels": ROOT / "kernels" / "reion_kernels",
    "reion_exports": ROOT / "exports" / "reion_exports",
}
TRAINING_EXTRA = ("tensorflow", "keras", "onnx", "tf2onnx")
NEEDS_TRAINING_EXTRA = (
    "reion.__main__",  # runs the command line
    "reion.models.build",
    "reion.models.layers",
    "reion.models.stems",
    "reion.models.trunks",
    "reion.models.validity",
    "reion.studies",
    "reion.training",
)
FLOORS: tuple[set[str], ...] = (
    {"keras_layers"},
    {"reion", "errors"},
    {"schema", "terminal", "simulation"},
    {"registry"},
    {"networks"},
    {"config"},
    {"jobs", "models", "sample"},
    {"metrics"},
    {"physics"},
    {"readers"},
    {"storage"},
    {"inspection", "prediction", "ray_tracing", "sky", "training"},
    {"evaluation"},
    {"bench", "demo", "studies", "testing"},
    {"cli"},
    {"__main__"},
)
"""The wings of `reion` from the ground up: a wing imports from floors below its own, and from no other wing.

`reion` stands for the package's own `__init__`, which holds the version and the public names.
"""
DISTRIBUTIONS = {
    "llvmlite": "numba",
    "distributed": "dask",
    "cloudpickle": "dask",
    "pydantic_core": "pydantic",
    "tomli_w": "tomli-w",
    "numcodecs": "zarr",
}
"""Where the import's name is not that of what is declared; each comes with that."""


def module_files() -> dict[str, Path]:
    """Name to file of every module of the three packages."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join((package, *(part for part in parts if part != "__init__")))] = path
    return found


MODULES = module_files()


def imported(tree: ast.AST, module: str, *, only_at_import: bool) -> Iterator[str]:
    """Absolute names that a module imports: all of them, or those that importing it imports."""
    for node in ast.iter_child_nodes(tree):
        if only_at_import and (isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or for_types(node)):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, (
                f"{module}: expected absolute imports; line {node.lineno} has a relative one"
            )
            base = node.module or ""
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield whole if whole in MODULES else base
        else:
            yield from imported(node, module, only_at_import=only_at_import)


def for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def imports_of(module: str, *, only_at_import: bool = False) -> set[str]:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    return set(imported(tree, module, only_at_import=only_at_import))


def top(name: str) -> str:
    return name.partition(".")[0]


def declared(requirements: list[str]) -> set[str]:
    return {re.split(r"[\s<>=!~;\[]", text, maxsplit=1)[0].lower() for text in requirements}


def run(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("module", [name for name in MODULES if top(name) == "reion_kernels"])
def test_kernels_know_numpy_and_numba_only(module):
    allowed = sys.stdlib_module_names | {"numpy", "numba", "reion_kernels"}
    assert {DISTRIBUTIONS.get(top(name), top(name)) for name in imports_of(module)} <= allowed


@pytest.mark.parametrize("module", [name for name in MODULES if top(name) == "reion_exports"])
def test_exports_know_nothing_of_the_other_floors(module):
    assert not {top(name) for name in imports_of(module)} & {"reion", "reion_kernels"}


def test_no_module_imports_itself_round_a_circle():
    graph = {}
    for module in MODULES:
        wanted = {name for name in imports_of(module, only_at_import=True) if name in MODULES}
        # Importing a.b.c also runs a and a.b, unless the importer lies in them.
        parents = {
            parent
            for name in wanted
            for parent in (name.rsplit(".", depth)[0] for depth in range(1, name.count(".") + 1))
            if not f"{module}.".startswith(f"{parent}.")
        }
        graph[module] = wanted | parents
    list(TopologicalSorter(graph).static_order())


def wing(module: str) -> str:
    """The wing of `reion` that a module lies in; `reion` for the package itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def test_every_wing_has_its_floor():
    wings = {wing(name) for name in MODULES if top(name) == "reion"}
    assert wings == set().union(*FLOORS)


def test_no_import_climbs():
    floor = {name: height for height, names in enumerate(FLOORS) for name in names}
    climbing = [
        f"{module} -> {name}"
        for module in MODULES
        if top(module) == "reion"
        for name in imports_of(module)
        if name in MODULES and top(name) == "reion" and wing(name) != wing(module)
        if floor[wing(name)] >= floor[wing(module)]
    ]
    assert not climbing


def test_the_init_of_a_wing_is_a_docstring():
    """Importing one file of a wing loads none of its neighbours."""
    exempt = {"reion", "reion.bench", "reion.demo", "reion.metrics", "reion.readers", "reion.sample"}
    for module, path in MODULES.items():
        if top(module) == "reion" and path.name == "__init__.py" and module not in exempt:
            body = ast.parse(path.read_text(encoding="utf-8")).body
            assert [type(node) for node in body] == [ast.Expr], module


def test_what_is_imported_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    known = declared(project["dependencies"]) | set().union(
        *(declared(extras[name]) for name in ("train", "cluster", "mpi", "search", "testing"))
    )
    third_party = {
        (top(name), module)
        for module in MODULES
        for name in imports_of(module)
        if top(name) not in sys.stdlib_module_names and top(name) not in PACKAGES
    }
    undeclared = {item for item in third_party if DISTRIBUTIONS.get(item[0], item[0]) not in known}
    assert not undeclared


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        ("import reion", {"numba", "onnxruntime", *TRAINING_EXTRA}),
        (
            "from contextlib import redirect_stdout, suppress\n"
            "from io import StringIO\n"
            "from reion.cli.main import main\n"
            "sys.argv = ['reion', '--help']\n"
            "with suppress(SystemExit), redirect_stdout(StringIO()) as printed:\n"
            "    main()\n"
            "assert 'quickstart' in printed.getvalue()",
            {"numpy", "numba", "xarray", "onnxruntime", "pydantic", "rich", "distributed", *TRAINING_EXTRA},
        ),
        ("import reion.prediction.emulator, reion.prediction.predict", {"distributed", *TRAINING_EXTRA}),
    ],
    ids=["import reion", "reion --help", "prediction"],
)
def test_nothing_heavy_is_loaded_early(code, unwanted):
    loaded = json.loads(run(f"import json, sys\n{code}\nprint(json.dumps(list(sys.modules)))"))
    assert not {top(name) for name in loaded} & unwanted


@pytest.mark.slow
def test_a_prediction_from_store_to_store_goes_without_astropy(tmp_path):
    """It takes longer to load than most of the rest together."""
    code = f"""
import json, sys
import numpy as np
from reion.prediction.predict import predict
from reion.simulation.contract import make_simulation
from reion.storage.store import write_simulation
shape = (2, 4, 4, 4)
fields = {{"n_igm": np.full(shape, 4e-31, np.float32), "n_src": np.ones(shape, np.float32)}}
sim = make_simulation(fields, redshift=[12, 8], box_size=8.0).assign(max_mfp=("redshift", [30.0, 30.0]))
write_simulation(sim, {str(tmp_path / "sim.zarr")!r})
with __import__("warnings").catch_warnings(action="ignore"):
    predict("rt-worlds-fast", {str(tmp_path / "sim.zarr")!r}, {str(tmp_path / "xi.zarr")!r}, device="cpu")
print(json.dumps(list(sys.modules)))
"""
    loaded = {top(name) for name in json.loads(run(code))}
    assert "numba" in loaded
    assert not loaded & {"astropy", "h5py", *TRAINING_EXTRA}


@pytest.mark.slow
def test_without_the_training_extra_everything_else_imports():
    modules = [
        name
        for name in MODULES
        if not any(f"{name}.".startswith(f"{module}.") for module in NEEDS_TRAINING_EXTRA)
    ]
    run(
        "import sys\n"
        "from importlib import import_module\n"
        f"sys.modules.update(dict.fromkeys({TRAINING_EXTRA!r}))\n"
        f"for name in {modules!r}:\n"
        "    import_module(name)\n"
    )


@pytest.mark.slow
def test_the_public_names_of_reion_exist():
    run(
        "import reion\n"
        "for name in reion.__all__:\n"
        "    getattr(reion, name)\n"
        "assert dir(reion) == sorted(reion.__all__)\n"
    )


def test_the_page_of_the_architecture_names_files_that_exist():
    page = (ROOT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:reion|kernels|tests|docs)/[\w/.-]*)`", page)
    assert len(named) > 10
    assert not [path for path in named if not (ROOT / path).exists()]


def test_the_picture_of_the_architecture_has_every_wing():
    picture = (ROOT / "docs" / "images" / "architecture.svg").read_text(encoding="utf-8")
    wings = set().union(*FLOORS) - {"reion", "__main__"} | {"reion_exports", "reion_kernels"}
    assert not [name for name in wings if f">{name}<" not in picture], (
        "draw it again: python docs/drawings/architecture.py"
    )


@pytest.mark.parametrize("module", MODULES)
def test_a_file_can_be_read_in_one_sitting(module):
    """At most 450 lines a file and 80 a function, its docstring not counted."""
    text = MODULES[module].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 450
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node, clean=False)
            lines = node.end_lineno - node.lineno + 1 - (len(docstring.splitlines()) if docstring else 0)
            assert lines <= 80, node.name
