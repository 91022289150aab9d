"""The one way functions are compiled here: signatures, cache, fast-math set."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import float32, float64, int64, njit, types

# No nnan, no ninf: simulations do contain NaN and infinities, and the kernels must see them.
FASTMATH = frozenset({"nsz", "arcp", "contract", "afn", "reassoc"})

KERNELS: list[Any] = []
"""Every compiled function of the package, in the order of definition."""


INT = int64
FLOAT = float64
REALS = (float32, float64)
INTS = types.Array(int64, 1, "C")


def source(dtype: Any, ndim: int = 1) -> Any:
    """Return the type of a contiguous array that is only read."""
    return types.Array(dtype, ndim, "C", readonly=True)


def target(dtype: Any, ndim: int = 1) -> Any:
    """Return the type of a contiguous array that is written."""
    return types.Array(dtype, ndim, "C")


def kernel(
    *signatures: tuple[Any, ...], exact: bool = False, inline: bool = False
) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function with Numba on its first call, without the GIL, and keep the machine code on disk.

    A kernel may only call kernels of its own file: Numba renews its cache when the file of the function
    changes and does not notice a change in another one.

    Parameters
    ----------
    signatures
        The argument types the function is meant for, for `compile_kernels`; the public functions in front
        of the kernels see to it that no others arrive.
    exact
        Compile without fast-math, for arithmetic whose rounding errors are meant.
    inline
        Compile it into its callers: no call that counts references to every array it is given.

    Returns
    -------
    decorator
        Turns a function into a Numba dispatcher; into itself under ``NUMBA_DISABLE_JIT=1``.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        options: dict[str, Any] = {
            "nogil": True,
            "error_model": "numpy",
            "fastmath": False if exact else set(FASTMATH),
            "inline": "always" if inline else "never",
        }
        try:
            compiled = njit(cache=True, **options)(function)
        except RuntimeError:  # neither the package's folder nor the user's cache folder can be written
            compiled = njit(**options)(function)
        KERNELS.append((compiled, signatures))
        return compiled

    return decorate


def cache_is_cold() -> bool:
    """Say whether the next call will compile, so that the caller can tell the user why it takes seconds.

    Returns
    -------
    bool
        True if the machine code of some kernel, as it stands in its file now, was never put on disk.
    """
    return any(_is_cold(compiled) for compiled, signatures in KERNELS if signatures)


def _is_cold(compiled: Any) -> bool:
    if not hasattr(compiled, "stats"):  # NUMBA_DISABLE_JIT=1: there is nothing to compile
        return False
    if compiled.stats.cache_path is None:
        return not compiled.signatures
    code = compiled.py_func.__code__
    name = f"{Path(code.co_filename).stem}.{code.co_qualname}-{code.co_firstlineno}.*.nbi"
    return not any(Path(compiled.stats.cache_path).glob(name))


def compile_kernels() -> None:
    """Compile every kernel for every type it is meant for, or load it from the cache.

    For whoever wants the seconds of compilation at a time of their choice, in an image build for example.
    Compilation is left to another process, because what a process has compiled itself may round differently
    in the last bit from what it loads: so all processes on a machine agree.
    """
    if cache_is_cold():
        command = "import reion_kernels._jit as jit; jit.compile_or_load()"
        path = os.pathsep.join(filter(None, sys.path))
        # Where that process cannot be started, this one compiles.
        with contextlib.suppress(OSError):
            subprocess.run(
                [sys.executable, "-c", command], env={**os.environ, "PYTHONPATH": path}, check=False
            )
    compile_or_load()


def compile_or_load() -> None:
    """Compile what is not in the cache, in this process, and load the rest."""
    for compiled, signatures in KERNELS:
        if hasattr(compiled, "compile"):
            for signature in signatures:
                compiled.compile(signature)
