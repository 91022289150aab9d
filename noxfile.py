"""Every check of the project. `nox` runs what a contribution must pass; `nox --list` shows the rest."""

import os
import re
import tempfile
import tomllib
from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
nox.options.sessions = ["lint", "types", "tests"]
nox.options.reuse_existing_virtualenvs = True
nox.options.default_venv_backend = "uv|virtualenv"  # uv installs in seconds what pip installs in minutes

ON_THE_CPU = {"CUDA_VISIBLE_DEVICES": "-1"}
# A process for each core, two at least. Each has whole files of tests, so that what a module sets up once
# is set up once; in the order of tests/conftest.py, those that take longest first.
SPREAD = ("-n", str(max(2, min(8, os.cpu_count() or 2))), "--dist", "loadfile", "--no-loadscope-reorder")


@nox.session
def lint(session: nox.Session) -> None:
    """Formatting and style (ruff)."""
    session.install("ruff>=0.17,<0.18")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Static types (mypy, strict)."""
    session.install("mypy>=1.18,<2", "-e", ".[testing]")
    session.run("mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """The whole test suite, in one go: what is slow runs beside what is not, so that no core waits."""
    session.install("-e", ".[train,test]")
    session.run("pytest", *SPREAD, *session.posargs, env=ON_THE_CPU)


@nox.session(venv_backend="none")
def quick(session: nox.Session) -> None:
    """What is not marked `slow`, in the environment of `tests`: under six minutes on two cores."""
    session.notify("tests", ["-m", "not slow", *session.posargs])


@nox.session(python=["3.11", "3.12", "3.13"])
def pythons(session: nox.Session) -> None:
    """The whole test suite on every Python that is claimed."""
    session.install("-e", ".[train,test]")
    session.run("pytest", *SPREAD, *session.posargs, env=ON_THE_CPU)


@nox.session
def base(session: nox.Session) -> None:
    """What runs on every system, without the training extra: reading, kernels, judging, prediction."""
    session.install("-e", ".[test]")
    wings = ("kernels", "simulation", "readers", "storage", "metrics", "inspection", "sky")
    shipped = (
        "tests/prediction/test_shipped_models.py",
        "tests/test_models_command.py",
        "tests/test_testing.py",
    )
    session.run("pytest", *(f"tests/{wing}" for wing in wings), *shipped, *session.posargs)


@nox.session
def minimums(session: nox.Session) -> None:
    """The whole test suite with the lowest versions that pyproject.toml claims."""
    session.install("-e", ".[train,test]", *lowest_versions("train", "testing"))
    # Of a package at its lowest version, the newest of those that it uses say what it should no longer call.
    session.run("pytest", *SPREAD, "-W", "ignore::DeprecationWarning", *session.posargs, env=ON_THE_CPU)


@nox.session
def newest(session: nox.Session) -> None:
    """The whole test suite with the newest versions there are, those before a release too."""
    session.install("--upgrade", "--pre", "-e", ".[train,test]")
    session.run("pytest", *SPREAD, *session.posargs, env=ON_THE_CPU)


def lowest_versions(*extras: str) -> list[str]:
    """Of the dependencies and these extras: `name>=version` as `name==version`, with its marker."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(text for extra in extras for text in project["optional-dependencies"][extra]),
    ]
    found = (re.fullmatch(r"([\w.-]+)>=([\w.]+)[^;]*(;.*)?", text) for text in wanted)
    return [f"{item[1]}=={item[2]}{item[3] or ''}" for item in found if item]


@nox.session
def endurance(session: nox.Session) -> None:
    """A hundred kills of each command and full disks, in 20 minutes; more with `-- --hours H`.

    Then the state machines of a run folder and of a store, for some minutes, and leaks.
    """
    session.install("-e", ".[train,test]")
    session.run("python", "-m", "tests.endurance.kills", *session.posargs, env=ON_THE_CPU)
    files = ("test_run_folder_machine.py", "test_store_machine.py", "test_leaks.py")
    env = {**ON_THE_CPU, "REION_ENDURANCE": "1"}
    session.run("pytest", *(f"tests/endurance/{file}" for file in files), env=env)


@nox.session
def mutations(session: nox.Session) -> None:
    """Ten thousand damaged models, runs, checkpoints, settings and stores."""
    session.install("-e", ".[train,test]")
    session.run("python", "-m", "tests.endurance.mutations", *session.posargs, env=ON_THE_CPU)


@nox.session
def tests_nojit(session: nox.Session) -> None:
    """The kernels as plain Python, every line covered."""
    session.install("-e", ".[test]")
    session.run(
        "pytest",
        "tests/kernels",
        "--cov=reion_kernels",
        "--cov-report=",
        *session.posargs,
        env={"NUMBA_DISABLE_JIT": "1"},
    )
    session.run("coverage", "report", "--include=kernels/*", "--show-missing", "--fail-under=100")


@nox.session
@nox.parametrize("backend", ["jax", "torch"])
def backends(session: nox.Session, backend: str) -> None:
    """Losses, networks and training with Keras on JAX and on PyTorch instead of TensorFlow."""
    session.install("-e", ".[train,test]", backend)
    files = ("tests/training/test_losses.py", "tests/models", "tests/training/test_run.py")
    env = {"CUDA_VISIBLE_DEVICES": "-1", "KERAS_BACKEND": backend}
    session.run("pytest", *files, *session.posargs, env=env)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Ten thousand damaged files of every format."""
    session.install("-e", ".[test]")
    session.run("pytest", "tests/readers/test_fuzz.py", *session.posargs, env={"REION_FUZZ_CASES": "10000"})


@nox.session
def oracles(session: nox.Session) -> None:
    """Readers, metrics and light cones against tools21cm."""
    session.install("-e", ".[test]", "tools21cm")
    files = ("tests/readers/test_tools21cm.py", *Path("tests").glob("*/test_against_tools21cm.py"))
    session.run("pytest", *map(str, files))


@nox.session
def bench(session: nox.Session) -> None:
    """Speed ratios against the hardware and the alternatives."""
    session.install("-e", ".[train]")
    session.run("reion", "bench", *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    """The source archive, and the wheel that is built from it, installed and run outside the checkout.

    Both are left in the folder that is given: `nox -s build -- dist`.
    """
    session.install("build")
    with tempfile.TemporaryDirectory() as elsewhere:
        folder = Path(*(session.posargs or [elsewhere])).absolute()
        session.run("python", "-m", "build", "--outdir", str(folder), ".")
        (wheel,) = folder.glob("*.whl")
        session.install(str(wheel))
        session.install("--force-reinstall", "--no-deps", str(wheel))  # and not an older one of this version
        session.chdir(elsewhere)
        session.run("reion", "--help", silent=True)
        session.run("python", "-c", "import reion; print(reion.load_sample().train.sizes)")
        session.run("reion", "models")


@nox.session
def portability(session: nox.Session) -> None:
    """The same model file in Python, in Node and in headless Chromium (needs node, npm and chromium)."""
    session.install("-e", ".[train,test]")
    with tempfile.TemporaryDirectory() as folder:
        session.run("npm", "install", "--prefix", folder, "onnxruntime-web@1.30", external=True)
        runtime = Path(folder) / "node_modules" / "onnxruntime-web" / "dist"
        env = {"CUDA_VISIBLE_DEVICES": "-1", "REION_WEB_RUNTIME": str(runtime)}
        session.run("pytest", "tests/portability", *session.posargs, env=env)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation, built strictly."""
    session.install("-e", ".[docs]")
    session.run("mkdocs", "build", "--strict")
