"""What a command needs of this machine before it works: optional packages and compiled kernels."""

from __future__ import annotations

import os
from importlib.util import find_spec

from reion.errors import InputError


def need_training(command: str, *, exports: bool = False) -> None:
    """Raise InputError if `command`, which trains or also exports, lacks what that needs.

    Training takes Keras on any backend; exporting takes TensorFlow. TensorFlow, if used, is loaded quietly.
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
    if backend not in ("tensorflow", "jax", "torch") or find_spec(backend) is None:
        raise InputError(
            f"{command} cannot compute with KERAS_BACKEND={backend}",
            hint="expected tensorflow, jax or torch, installed",
        )
    if backend == "tensorflow":
        from reion.terminal import quiet_stderr

        # TensorFlow reports its CPU features and missing GPUs in a dozen lines that help nobody here.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        with quiet_stderr():
            import tensorflow as tf

            tf.config.list_physical_devices("GPU")


def announce_compilation() -> None:
    """Say so when Numba compiles what it has not compiled on this machine before, since it takes a while."""
    import reion_kernels
    from reion.terminal import say

    reion_kernels.announce_compilation(
        lambda: say("compiling the kernels, once on this machine: some seconds each")
    )
