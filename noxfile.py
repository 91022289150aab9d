"""Every check of the project. `nox` runs what a contribution must pass; `nox --list` shows the rest."""

import tempfile
from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
nox.options.sessions = ["lint", "types", "tests"]
nox.options.reuse_existing_virtualenvs = True


@nox.session
def lint(session: nox.Session) -> None:
    """Formatting and style (ruff)."""
    session.install("ruff>=0.17,<0.18")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Static types (mypy, strict)."""
    session.install("mypy>=1.18,<2", "-e", ".")
    session.run("mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """The whole test suite."""
    session.install("-e", ".[train,test]")
    # Two processes, each with whole files of tests, so that what a module sets up once is set up once.
    spread = ("-n", "2", "--dist", "loadfile")
    session.run("pytest", *spread, *session.posargs, env={"CUDA_VISIBLE_DEVICES": "-1"})


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
    """The wheel, installed and run outside the checkout."""
    session.install("build")
    with tempfile.TemporaryDirectory() as folder:
        session.run("python", "-m", "build", "--wheel", "--outdir", folder, ".")
        (wheel,) = Path(folder).glob("*.whl")
        session.run("pip", "uninstall", "-y", "-q", "reion")
        session.install(str(wheel))
        session.chdir(folder)
        session.run("reion", "--help", silent=True)
        session.run("python", "-c", "import reion; print(reion.load_sample().train.sizes)")


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
