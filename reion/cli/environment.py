"""What a command needs of this machine before it works: optional packages and compiled kernels."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from reion.errors import InputError

_BACKENDS = ("tensorflow", "jax", "torch")


def need_training(command: str, *, exports: bool = False) -> None:
    """Load Keras on the backend of KERAS_BACKEND, TensorFlow by default; call it when the inputs are open.

    Loading takes seconds, and nobody waits for it to read of a mistyped path.

    Training takes Keras on any backend; exporting takes TensorFlow. keras.json, which all programs of a user
    share, does not count: its settings make other networks.

    Raises
    ------
    InputError
        If `command`, which trains or also exports, lacks one of the packages that it needs.
    """
    backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
    packages = ["keras", "tensorboard"]
    if exports or backend == "tensorflow":
        packages.append("tensorflow")
    if exports:
        packages += ["onnx", "tf2onnx"]
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise InputError(f"{command} needs {', '.join(missing)}", hint="pip install 'reion[train]'")
    if backend not in _BACKENDS or find_spec(backend) is None:
        raise InputError(
            f"{command} cannot compute with KERAS_BACKEND={backend}",
            hint="expected tensorflow, jax or torch, installed",
        )
    os.environ["KERAS_BACKEND"] = backend
    # TensorFlow reports its CPU features and missing GPUs in a dozen lines that help nobody here.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from reion.terminal import quiet_stderr

    with _without_keras_json(), quiet_stderr():
        if backend == "tensorflow":
            import tensorflow as tf

            tf.config.list_physical_devices("GPU")
        import_module("keras")


@contextlib.contextmanager
def _without_keras_json() -> Iterator[None]:
    """Let Keras, and TensorFlow's copy of it, find no keras.json while they are imported in the block."""
    before = os.environ.get("KERAS_HOME")
    with tempfile.TemporaryDirectory(prefix="reion-keras-") as empty:
        os.environ["KERAS_HOME"] = empty
        try:
            yield
        finally:
            del os.environ["KERAS_HOME"]
            if before is not None:
                os.environ["KERAS_HOME"] = before


def ensure_home() -> None:
    """Give a user who has no home folder, as in many containers, one of its own among the temporary files.

    astropy and others that keep settings in a home folder cannot be imported without one.
    """
    try:
        Path.home()
    except RuntimeError:
        home = Path(tempfile.gettempdir()) / f"reion-home-{os.getuid()}"
        with contextlib.suppress(OSError):
            home.mkdir(mode=0o700)
        # What lies in a folder that belongs to another user may not be trusted.
        if home.is_symlink() or not home.is_dir() or home.stat().st_uid != os.getuid():
            home = Path(tempfile.mkdtemp(prefix="reion-home-"))
        os.environ["HOME"] = str(home)


def announce_compilation() -> None:
    """Say so when Numba compiles what it has not compiled on this machine before, since it takes a while."""
    import reion_kernels
    from reion.terminal import say

    reion_kernels.announce_compilation(
        lambda: say("compiling the kernels, once on this machine: some seconds each")
    )
