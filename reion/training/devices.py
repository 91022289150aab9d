"""The device on which the Keras backend computes, and the precision that suits it."""

from __future__ import annotations

import os
from importlib import import_module

import keras

from reion.errors import InputError

_BFLOAT16_CAPABILITY = (8, 0)
"""Lowest CUDA compute capability of GPUs that multiply bfloat16 fast."""


def has_gpu() -> bool:
    """Whether the backend sees a GPU that it may use."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "-1":
        return False
    match keras.backend.backend():
        case "tensorflow":
            return bool(import_module("tensorflow").config.list_physical_devices("GPU"))
        case "jax":
            return bool(import_module("jax").default_backend() == "gpu")
        case "torch":
            return bool(import_module("torch").cuda.is_available())
    return False


def resolve_precision(precision: str) -> str:
    """The Keras dtype policy that a schema's `training.precision` means on this machine.

    `auto` is mixed_bfloat16 on a GPU that multiplies bfloat16 fast, and float32 everywhere else.

    Raises
    ------
    InputError
        For mixed_float16 without a GPU: there are no kernels for it on a CPU.
    """
    if precision == "auto":
        return "mixed_bfloat16" if has_gpu() and _capability() >= _BFLOAT16_CAPABILITY else "float32"
    if precision == "mixed_float16" and not has_gpu():
        raise InputError(
            "training.precision=mixed_float16 needs a GPU; the backend sees none",
            hint="auto takes half precision where it helps and float32 elsewhere",
        )
    return precision


def _capability() -> tuple[int, ...]:
    match keras.backend.backend():
        case "tensorflow":
            config = import_module("tensorflow").config
            details = config.experimental.get_device_details(config.list_physical_devices("GPU")[0])
            return tuple(details.get("compute_capability", (0, 0)))
        case "jax":
            found = str(getattr(import_module("jax").devices()[0], "compute_capability", "0.0"))
            return tuple(int(part) for part in found.split("."))
        case "torch":
            return tuple(import_module("torch").cuda.get_device_capability())
    return (0, 0)
