"""How the kernels are compiled and kept: what holds for all of them."""

import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from numba import config, float64
from numba.core.dispatcher import Dispatcher
from numba.core.registry import CPUDispatcher

import reion_kernels
from reion_kernels import _jit, cache_is_cold, compile_kernels
from reion_kernels._jit import FASTMATH, KERNELS

PACKAGE = Path(reion_kernels.__file__).parent

compiled_only = pytest.mark.skipif(bool(config.DISABLE_JIT), reason="nothing is compiled without JIT")

USE = """
import sys
import numpy as np
import reion_kernels as rk
cold = rk.cache_is_cold()
if "compile" in sys.argv:
    rk.compile_kernels()
rk.accumulate(np.zeros(3), np.ones(3), 2.0)
print(cold, rk.cache_is_cold())
"""


def use(*arguments, **environment):
    """Use the kernels in a fresh process; what `cache_is_cold` said before and after."""
    done = subprocess.run(
        [sys.executable, "-c", USE, *arguments],
        env={**os.environ, "NUMBA_DISABLE_JIT": "0", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def functions(compiled):
    return getattr(compiled, "py_func", compiled)


def test_no_kernel_calls_a_kernel_of_another_file():
    # Numba would not notice when that file changes, and go on running the old machine code.
    kernels = [functions(compiled) for compiled, _ in KERNELS]
    for kernel in kernels:
        called = [functions(value) for value in inspect.getclosurevars(kernel).globals.values()]
        foreign = [other for other in called if other in kernels and other.__module__ != kernel.__module__]
        assert not foreign, kernel


def test_fast_math_makes_no_assumption_about_nan_and_infinity():
    assert FASTMATH.isdisjoint({"nnan", "ninf", "fast"})


def test_numpy_and_numba_are_all_that_is_imported():
    code = (
        "import sys, reion_kernels;"
        "print(*{m.split('.')[0] for m in sys.modules} & {'reion', 'xarray', 'keras'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def twice(x):
    return 2.0 * x


@pytest.fixture
def dispatcher(monkeypatch, tmp_path):
    """The only kernel there is, compiled and cached in a folder of its own, with or without JIT."""
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    dispatcher = CPUDispatcher(twice, targetoptions={"nopython": True})
    monkeypatch.setattr(_jit, "KERNELS", [(dispatcher, [(float64,)])])
    return dispatcher


def test_the_cache_is_cold_until_it_is_filled_and_again_when_the_kernel_moves(dispatcher, tmp_path):
    dispatcher.enable_caching()
    assert cache_is_cold()
    compile_kernels()
    assert not cache_is_cold()
    assert dispatcher(3.0) == 6.0
    for index in tmp_path.rglob("*.nbi"):
        index.rename(index.with_name(index.name.replace("twice-", "twice-1")))  # as if it had stood elsewhere
    assert cache_is_cold()


def test_without_a_cache_what_is_not_compiled_yet_is_cold(dispatcher):
    assert cache_is_cold()
    compile_kernels()
    assert not cache_is_cold()


def test_a_kernel_that_cannot_be_cached_is_compiled_all_the_same(monkeypatch):
    asked = []

    def njit(*, cache=False, **options):
        asked.append(cache)
        if cache:
            raise RuntimeError("cannot cache function 'twice': no locator available")
        return lambda function: function

    monkeypatch.setattr(_jit, "njit", njit)
    monkeypatch.setattr(_jit, "KERNELS", [])
    assert _jit.kernel()(twice) is twice
    assert asked == [True, False]
    assert [(twice, ())] == _jit.KERNELS


@compiled_only
def test_only_the_declared_types_are_ever_compiled():
    compile_kernels()
    for compiled, signatures in KERNELS:
        assert isinstance(compiled, Dispatcher)
        if signatures:
            assert set(compiled.signatures) == set(signatures), compiled


@compiled_only
@pytest.mark.slow
def test_the_cache_is_cold_once(tmp_path):
    assert use("compile", NUMBA_CACHE_DIR=str(tmp_path)) == ["True", "False"]
    assert use(NUMBA_CACHE_DIR=str(tmp_path)) == ["False", "False"]


@compiled_only
def test_nowhere_to_keep_the_cache_is_no_error(tmp_path):
    # A file in the place of the cache folder: nobody, root included, can write to it.
    package = tmp_path / "reion_kernels"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "__pycache__").write_text("")
    home = tmp_path / "home"
    home.write_text("")
    places = {"HOME": str(home), "XDG_CACHE_HOME": str(home), "LOCALAPPDATA": str(home)}
    assert use(PYTHONPATH=str(tmp_path), PYTHONDONTWRITEBYTECODE="1", **places) == ["True", "True"]


def test_without_jit_there_is_nothing_to_wait_for():
    assert use("compile", NUMBA_DISABLE_JIT="1") == ["False", "False"]


def test_what_is_compiled_here_is_not_cold():
    compile_kernels()
    assert not cache_is_cold()
