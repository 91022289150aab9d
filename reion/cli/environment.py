"""What a command needs on this machine before it starts: Keras, a home folder, compiled kernels."""

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
    """Load Keras with the backend that KERAS_BACKEND names, TensorFlow by default.

    Commands open their inputs first, so that a mistyped path fails before Keras is loaded, which takes
    seconds. Training works with every backend; exporting needs TensorFlow. The user's keras.json, which all
    programs share, is ignored, because its settings change the networks.

    Parameters
    ----------
    command
        What needs Keras, in words.
    exports
        Whether the command also exports.

    Raises
    ------
    InputError
        If a package that the command needs is missing, or the backend is unknown or not installed.
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
    # TensorFlow would report its CPU features and missing GPUs in a dozen lines.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from reion.terminal import quiet_stderr

    with _without_keras_json(), quiet_stderr():
        if backend == "tensorflow":
            import tensorflow as tf

            tf.config.list_physical_devices("GPU")
        import_module("keras")


@contextlib.contextmanager
def _without_keras_json() -> Iterator[None]:
    """Hide keras.json from Keras, and from TensorFlow's copy of it, while the block imports them."""
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
    """Set HOME to a folder among the temporary files if the user has no home folder, as in many containers.

    astropy and other packages that keep settings in the home folder cannot be imported without one.
    """
    try:
        Path.home()
    except RuntimeError:
        home = Path(tempfile.gettempdir()) / f"reion-home-{os.getuid()}"
        with contextlib.suppress(OSError):
            home.mkdir(mode=0o700)
        # Files in a folder of another user are not to be trusted.
        if home.is_symlink() or not home.is_dir() or home.stat().st_uid != os.getuid():
            home = Path(tempfile.mkdtemp(prefix="reion-home-"))
        os.environ["HOME"] = str(home)


def announce_compilation() -> None:
    """Print a line when Numba compiles kernels for the first time on this machine, which takes a while."""
    import reion_kernels
    from reion.terminal import say

    reion_kernels.announce_compilation(
        lambda: say("compiling the kernels, once on this machine: some seconds each")
    )
