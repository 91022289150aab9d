"""The examples of other languages and of Python without reion predict what reion predicts."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from reion.prediction.emulator import Emulator
from reion.simulation.photons import with_n_ion
from reion.storage.store import write_simulation

EXAMPLES = Path(__file__).parents[2] / "examples"
SHAPE = (9, 8, 7)


@pytest.fixture
def box():
    rng = np.random.default_rng(3)
    return {
        "n_igm": (4e-31 * rng.lognormal(0, 0.5, SHAPE)).astype(np.float32),
        "n_ion": (2e3 * rng.lognormal(0, 1, SHAPE) * (rng.random(SHAPE) < 0.1)).astype(np.float32),
    }


@pytest.fixture
def expected(toy_model, box):
    return Emulator(toy_model, device="cpu").predict_arrays(7.5, **box)


def test_python_without_reion(toy_model, box, expected, tmp_path):
    np.savez(tmp_path / "box.npz", allow_pickle=False, redshift=7.5, **box)
    command = [sys.executable, "-P", EXAMPLES / "predict_without_reion.py"]
    subprocess.run([*command, toy_model, tmp_path / "box.npz", tmp_path / "xi.npy"], check=True)
    # onnxruntime's own settings take other kernels for 2D convolutions than the Emulator does.
    xi = np.load(tmp_path / "xi.npy", allow_pickle=False)
    np.testing.assert_allclose(xi, expected, rtol=0, atol=1e-6)


def test_python_without_reion_takes_a_snapshot_of_a_converted_series(toy_model, toy, command, tmp_path):
    sim = with_n_ion(toy(shape=(9, 8, 7)))
    write_simulation(sim, tmp_path / "sim.zarr")
    code, _, said = command("convert", tmp_path / "sim.zarr", "--out", tmp_path / "box.npz")
    assert code == 0, said
    line = [sys.executable, "-P", EXAMPLES / "predict_without_reion.py", toy_model, tmp_path / "box.npz"]
    subprocess.run([*line, tmp_path / "xi.npy", "2"], check=True)
    expected = Emulator(toy_model, device="cpu").predict(sim.isel(redshift=[2]))
    xi = np.load(tmp_path / "xi.npy", allow_pickle=False)
    np.testing.assert_allclose(xi, expected.values[0], rtol=0, atol=1e-6)
    refused = subprocess.run([*line, tmp_path / "none.npy"], check=False, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "holds 4 snapshots: name one, 0 to 3" in refused.stderr
    np.savez(tmp_path / "box.npz", n_igm=sim["n_igm"].values, redshift=sim["redshift"].values)
    refused = subprocess.run([*line, tmp_path / "none.npy", "0"], check=False, capture_output=True, text=True)
    assert "has no n_ion, which the model needs" in refused.stderr
    assert not (tmp_path / "none.npy").exists()


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_c(toy_model, box, expected, tmp_path):
    libraries = list((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))
    if not libraries:
        pytest.skip("this wheel of onnxruntime brings no shared library of its own")
    program = tmp_path / "predict"
    header = Path(__file__).parent / "c_api"
    warnings = ["-Wall", "-Wextra", "-Werror", "-std=c11"]
    # The wheel's file carries its full version, the program asks for the major one.
    library = tmp_path / "libonnxruntime.so.1"
    library.symlink_to(libraries[0])
    subprocess.run(
        ["cc", *warnings, EXAMPLES / "predict.c", f"-I{header}", library, "-o", program], check=True
    )
    fields = []
    for name, values in box.items():
        values.tofile(tmp_path / f"{name}.raw")
        fields.append(f"{name}={tmp_path / name}.raw")
    subprocess.run(
        [program, toy_model, *map(str, SHAPE), "7.5", tmp_path / "xi.raw", *fields],
        check=True,
        env={"LD_LIBRARY_PATH": str(tmp_path)},
    )
    xi = np.fromfile(tmp_path / "xi.raw", dtype=np.float32).reshape(SHAPE)
    np.testing.assert_allclose(xi, expected, rtol=0, atol=1e-6)
