"""Compilation of kernels: without the GIL, without fast-math, and with a cache on disk."""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import float32, float64, int64, njit, types
from numba.core import event
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.dispatcher import Dispatcher

KERNELS: list[tuple[Any, tuple[Any, ...]]] = []
"""Every compiled function of the package with the signatures it is meant for, in the order of definition."""

INT = int64
FLOAT = float64
REALS = (float32, float64)
INTS = types.Array(int64, 1, "C")

_SOURCE = hashlib.sha256(
    b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
).hexdigest()
"""Hash of all files of the package, because the machine code of a kernel includes that of the kernels it
calls."""


def source(dtype: Any, ndim: int = 1) -> Any:
    """Return the type of a contiguous array that is only read."""
    return types.Array(dtype, ndim, "C", readonly=True)


def target(dtype: Any, ndim: int = 1) -> Any:
    """Return the type of a contiguous array that is written."""
    return types.Array(dtype, ndim, "C")


class _Cache(FunctionCache):
    """Numba's cache on disk, where a damaged file is compiled anew and a full disk is only a warning."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        # Numba would renew the cache only when the file of the function itself changes.
        self._cache_file = IndexDataCacheFile(self.cache_path, self._impl.filename_base, _SOURCE)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # noqa: BLE001 (unpickling a damaged file may raise anything)
            with contextlib.suppress(OSError):
                self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except OSError as error:
            _warn_unkept(f"in {self.cache_path} ({error.strerror})")


def _keep_on_disk(dispatcher: Any) -> None:
    try:
        dispatcher._cache = _Cache(dispatcher.py_func)
    except RuntimeError:  # Numba may write to no folder
        _warn_unkept("beside the package or in the user's cache folder")


def _warn_unkept(where: str) -> None:
    # Python shows the same warning of the same line once.
    warnings.warn(
        f"compiled kernels cannot be kept {where}: every process compiles its own, which takes some ten "
        "seconds; NUMBA_CACHE_DIR names another folder for them",
        RuntimeWarning,
        stacklevel=1,
    )


def kernel(*signatures: tuple[Any, ...], inline: bool = False) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function with Numba on its first call, without the GIL, and keep the machine code on disk.

    There is no fast-math: sums are added in the order in which they are written, so that results depend
    neither on the processor nor on how and when a kernel was compiled. A sum that must be fast is written as
    several partial sums (see `reion_kernels.moments`).

    Parameters
    ----------
    signatures
        The argument types that `compile_kernels` compiles; the public functions call the kernels with no
        others. Give none for a function that only kernels call.
    inline
        Compile the function into its callers, for functions that get literal arguments or are called for a
        few cells.

    Returns
    -------
    decorator
        Turns a function into a Numba dispatcher; under ``NUMBA_DISABLE_JIT=1`` it returns the function.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        options: dict[str, Any] = {
            "nogil": True,
            "error_model": "numpy",
            "inline": "always" if inline else "never",
            # No entry from C, and none from Python for functions that only kernels call: less to compile.
            "no_cfunc_wrapper": True,
            "no_cpython_wrapper": not signatures,
        }
        compiled = njit(**options)(function)
        if isinstance(compiled, Dispatcher):
            _keep_on_disk(compiled)
        KERNELS.append((compiled, signatures))
        return compiled

    return decorate


class _FirstCompilation(event.Listener):
    """Calls a function when Numba begins to compile for the first time."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._waiting = [call]

    def on_start(self, _: Any) -> None:
        if self._waiting:
            self._waiting.pop()()

    def on_end(self, _: Any) -> None:
        """Do nothing; Numba asks for it."""


def announce_compilation(call: Callable[[], None]) -> None:
    """Call a function once, when this process first compiles a kernel instead of loading it.

    A program can use it to tell its user why a call takes seconds.

    Parameters
    ----------
    call
        Called without arguments.
    """
    event.register("numba:compile", _FirstCompilation(call))


def compile_kernels() -> None:
    """Load every kernel, for every argument type that it is called with, from the cache, or compile it now.

    Use it to choose when the seconds of compilation are spent, for example when an image is built.
    """
    for compiled, signatures in KERNELS:
        if isinstance(compiled, Dispatcher):
            for signature in signatures:
                compiled.compile(signature)
