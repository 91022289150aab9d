"""How the kernels are compiled and kept: what holds for all of them."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from numba import config, float64, int64
from numba.core import event
from numba.core.caching import IndexDataCacheFile
from numba.core.dispatcher import Dispatcher
from numba.core.registry import CPUDispatcher

import reion_kernels
from reion_kernels import _jit, announce_compilation, compile_kernels
from reion_kernels._jit import KERNELS

PACKAGE = Path(reion_kernels.__file__).parent

compiled_only = pytest.mark.skipif(bool(config.DISABLE_JIT), reason="nothing is compiled without JIT")


def python(code, *arguments, **environment):
    """Run code in a fresh process; what it printed, and what it said on stderr."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "NUMBA_DISABLE_JIT": "0", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_numpy_and_numba_are_all_that_is_imported():
    code = (
        "import sys, reion_kernels;"
        "print(*{m.split('.')[0] for m in sys.modules} & {'reion', 'xarray', 'keras'})"
    )
    assert python(code)[0].strip() == ""


def test_no_kernel_is_compiled_with_fast_math():
    assert not any(getattr(compiled, "targetoptions", {}).get("fastmath") for compiled, _ in KERNELS)


@pytest.mark.slow
@compiled_only
def test_only_the_declared_types_are_ever_compiled():
    compile_kernels()
    for compiled, signatures in KERNELS:
        assert isinstance(compiled, Dispatcher)
        if signatures:
            assert set(compiled.signatures) == set(signatures), compiled


def twice(x):
    return 2.0 * x


@pytest.fixture
def define(monkeypatch, tmp_path):
    """Define the only kernel there is, with JIT or without, its cache in a folder of its own."""

    def njit(**options):
        return lambda function: CPUDispatcher(function, targetoptions={"nopython": True, **options})

    def define():
        monkeypatch.setattr(_jit, "KERNELS", [])
        return _jit.kernel((float64,))(twice)

    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(_jit, "njit", njit)
    return define


@pytest.fixture
def compilations():
    """Compile or load the kernels; how many were compiled."""

    def compilations():
        with event.install_recorder("numba:compile") as recorder:
            compile_kernels()
        return sum(record.is_start for _, record in recorder.buffer)

    return compilations


def test_what_was_compiled_once_is_loaded(define, compilations):
    define()
    assert [compilations(), compilations()] == [1, 0]
    kernel = define()
    assert compilations() == 0
    assert kernel(3.0) == 6.0


def test_compilation_is_announced_once_and_only_if_there_is_any(define):
    announced = []
    announce_compilation(lambda: announced.append("compiling"))
    kernel = define()
    assert announced == []
    kernel.compile((float64,))
    kernel.compile((int64,))
    assert announced == ["compiling"]
    announce_compilation(lambda: announced.append("again"))
    define().compile((float64,))  # is in the cache
    assert announced == ["compiling"]


def test_a_change_in_any_file_renews_the_cache(define, compilations, monkeypatch):
    define()
    compile_kernels()
    monkeypatch.setattr(_jit, "_SOURCE", "another")
    define()
    assert compilations() == 1


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
@pytest.mark.parametrize("kept", [0, 0.3, 0.9])
def test_a_damaged_cache_is_compiled_anew_once(define, compilations, tmp_path, suffix, kept):
    define()
    compile_kernels()
    for path in tmp_path.rglob(f"*.{suffix}"):
        whole = path.read_bytes()
        path.write_bytes(whole[: int(kept * len(whole))])
    kernel = define()
    assert compilations() == 1
    assert kernel(3.0) == 6.0
    define()
    assert compilations() == 0


def test_a_full_disk_is_a_warning_and_nothing_is_compiled_twice(define, compilations, monkeypatch, tmp_path):
    def save(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "a temporary name")

    monkeypatch.setattr(IndexDataCacheFile, "save", save)
    kernel = define()
    with pytest.warns(RuntimeWarning, match=f"cannot be kept in {tmp_path}.*No space left on device"):
        assert compilations() == 1
    assert kernel(3.0) == 6.0
    assert compilations() == 0


def test_a_kernel_without_a_folder_to_keep_it_is_compiled_all_the_same(define, compilations, monkeypatch):
    def no_folder(_):
        raise RuntimeError("cannot cache function 'twice': no locator available")

    monkeypatch.setattr(_jit, "_Cache", no_folder)
    with pytest.warns(RuntimeWarning, match="cannot be kept"):
        kernel = define()
    assert compilations() == 1
    assert kernel(3.0) == 6.0


USE = """
import numpy as np
import reion_kernels as rk
print(rk.deposit(np.zeros((1, 3)), np.ones(1), (1, 1, 1)))
"""


@pytest.mark.slow
@compiled_only
def test_nowhere_to_keep_the_cache_is_no_error_and_is_said_once(tmp_path):
    # A file in the place of the cache folder: nobody, root included, can write to it.
    package = tmp_path / "reion_kernels"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "__pycache__").write_text("")
    home = tmp_path / "home"
    home.write_text("")
    places = {"HOME": str(home), "XDG_CACHE_HOME": str(home), "LOCALAPPDATA": str(home)}
    places |= {"NUMBA_CACHE_DIR": "", "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    printed, said = python(USE, **places)
    assert printed.strip() == "[[[1.]]]"
    assert said.count("RuntimeWarning: compiled kernels cannot be kept") == 1


DIGEST = """
import hashlib
import numpy as np
import reion_kernels as rk
rng = np.random.default_rng(0)
x = rng.lognormal(size=(63, 65, 101)).astype(np.float32)
windows = np.empty((9, 21, 21, 21, 3), np.float32)
rk.crop_batch(x.reshape(3, 21, 65, 101), rng.integers(-40, 40, (9, 3)), out=windows, mean=0.3, std=0.7)
mesh = rk.deposit(rng.random((999, 3)) * 9, rng.random(999), (9, 9, 9), scheme="cloud_in_cell")
digest = hashlib.sha256()
moments = list(vars(rk.moments(x)).values())
for values in (rk.affine(x, scale=1.7, mean=0.3, std=0.7), windows, mesh, moments):
    digest.update(np.asarray(values, dtype=np.float64).tobytes())
print(digest.hexdigest())
"""


@compiled_only
@pytest.mark.slow
def test_every_processor_compiling_or_loading_computes_the_same_bits(tmp_path):
    here = {"NUMBA_CACHE_DIR": str(tmp_path)}
    compiled, loaded = python(DIGEST, **here), python(DIGEST, **here)
    plain = python(DIGEST, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="", **here)
    assert compiled == loaded == plain


def test_without_jit_there_is_nothing_to_compile():
    code = "import reion_kernels as rk; rk.announce_compilation(lambda: print('!')); rk.compile_kernels()"
    assert python(code, NUMBA_DISABLE_JIT="1") == ("", "")
