"""The Emulator: the same numbers as onnxruntime alone, and no answer where there is none."""

import json
import os
import re
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import onnxruntime
import pytest

from reion.errors import InputError
from reion.prediction.emulator import Emulator
from reion.simulation.photons import with_n_ion
from reion.simulation.regridding import regrid
from reion_exports.anatomy import CHECKSUM, checksum


@pytest.fixture
def emulator(toy_model):
    return Emulator(toy_model, device="cpu", threads=1)


@pytest.fixture
def late_simulation(simulation):
    return with_n_ion(simulation)


def raw(sim, index):
    fields = {name: sim[name][index : index + 1].values for name in ("n_igm", "n_ion")}
    return fields, np.array([float(sim["redshift"][index])], dtype=np.float32)


def test_a_simulation_gives_what_onnxruntime_alone_gives(emulator, toy_model, simulation):
    xi = emulator.predict(simulation)
    assert xi.name == "xi"
    assert xi.dims == ("redshift", "x", "y", "z")
    assert xi.attrs["units"] == "1"
    assert xi.attrs["model"] == "toy 1"
    assert xi.attrs["model_sha256"] == emulator.sha256
    assert xi.attrs["box_size"] == simulation.attrs["box_size"]
    cpu = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(toy_model, providers=cpu)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    of_the_same_kernels = onnxruntime.InferenceSession(toy_model, options, providers=cpu)
    sim = with_n_ion(simulation)
    for index in range(sim.sizes["redshift"]):
        fields, redshift = raw(sim, index)
        (expected,) = session.run(["xi"], {**fields, "redshift": redshift})
        np.testing.assert_allclose(xi[index].values, expected[0], rtol=0, atol=1e-6)
        (expected,) = of_the_same_kernels.run(["xi"], {**fields, "redshift": redshift})
        np.testing.assert_array_equal(xi[index].values, expected[0])


def test_bytes_and_path_are_the_same_model(emulator, toy_model):
    assert Emulator(toy_model.read_bytes(), device="cpu").card == emulator.card


def test_arrays_with_and_without_a_batch(emulator, late_simulation):
    fields, redshift = raw(late_simulation, 2)
    alone = emulator.predict_arrays(redshift[0], **{name: box[0] for name, box in fields.items()})
    twice = emulator.predict_arrays(
        [redshift[0], 7.0], **{name: np.repeat(box, 2, axis=0) for name, box in fields.items()}
    )
    assert alone.shape == late_simulation["n_igm"].shape[1:]
    np.testing.assert_allclose(twice[0], alone, rtol=0, atol=1e-6)
    assert not np.allclose(twice[1], alone)


def test_threads_do_not_disturb_one_another(emulator, late_simulation):
    boxes = [raw(late_simulation, index) for index in range(4)] * 4
    expected = [emulator.predict_arrays(redshift, **fields) for fields, redshift in boxes]
    with ThreadPoolExecutor(4) as pool:
        received = list(pool.map(lambda box: emulator.predict_arrays(box[1], **box[0]), boxes))
    for one, other in zip(received, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_window_with_its_halo_gives_the_interior(emulator, late_simulation):
    fields, redshift = raw(late_simulation, 1)
    whole = emulator.predict_arrays(redshift, **fields)[0]
    radius = emulator.card.receptive_radius_cells
    window = [np.arange(3 - radius, 8 + radius), np.arange(-radius, 2 + radius), np.arange(0, 8)]
    cut = {
        name: box[0][np.ix_(*(i % n for i, n in zip(window, box.shape[1:], strict=True)))]
        for name, box in fields.items()
    }
    part = emulator.predict_window(float(redshift[0]), cut, periodic=(0, 0, 1))
    np.testing.assert_allclose(part, whole[3:8, 0:2, :], rtol=0, atol=1e-6)


def test_symmetrised_prediction_turns_with_the_box(emulator, late_simulation):
    fields, redshift = raw(late_simulation, 2)
    mean = emulator.predict_arrays(redshift, symmetrise=48, **fields)
    turned = {name: box.transpose(0, 2, 3, 1)[:, ::-1] for name, box in fields.items()}
    received = emulator.predict_arrays(redshift, symmetrise=48, **turned)
    np.testing.assert_allclose(received, mean.transpose(0, 2, 3, 1)[:, ::-1], rtol=0, atol=2e-6)
    assert not np.allclose(mean, emulator.predict_arrays(redshift, **fields), atol=1e-4)


@pytest.mark.parametrize(("length_mpc", "cells"), [(76.8, 32), (50.9, 20), (61.4, 40)])
def test_the_hint_to_regrid_leads_to_a_prediction(emulator, toy, length_mpc, cells):
    sim = toy(shape=(cells,) * 3, redshift=(12.0, 10.0), cell_mpc=length_mpc / cells)
    with pytest.raises(InputError) as refused:
        emulator.predict(sim)
    (cell_size,) = re.findall(r"reion convert --cell-size (\S+)`", str(refused.value))
    again = regrid(sim, float(cell_size))
    assert emulator.predict(again).shape[1:] == (round(length_mpc / 2),) * 3


@pytest.mark.parametrize("box", [(9.0, 9.0, 9.0), (40.0, 40.0, 41.0)])
def test_where_no_mesh_fits_no_regridding_is_advised(emulator, toy, box):
    sim = toy(shape=(12, 12, 12), redshift=(8.0,), cell_mpc=1.0)
    sim = sim.assign_attrs(box_size=list(box))
    coords = {axis: (axis, (np.arange(12) + 0.5) * side / 12) for axis, side in zip("xyz", box, strict=True)}
    with pytest.raises(InputError, match="regridding does not help"):
        emulator.predict(sim.assign_coords(coords))


def test_a_missing_file_says_how_to_get_one(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.onnx: expected an ONNX file.*\n.*reion export onnx"):
        Emulator(tmp_path / "nothing.onnx")


def test_cuda_is_refused_where_there_is_none(toy_model, monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(InputError, match="expected a CUDA device; the live session has CPUExecutionProvider"):
        Emulator(toy_model, device="cuda")


def test_the_live_session_decides_about_cuda(toy_model):
    provider = Emulator(toy_model, device="auto").provider
    if provider == "CUDAExecutionProvider":
        assert Emulator(toy_model, device="cuda").provider == provider
    else:
        with pytest.raises(InputError, match="live session has CPUExecutionProvider"):
            Emulator(toy_model, device="cuda")


def test_a_process_predicts_on_the_cores_that_it_was_given(toy_model):
    """onnxruntime, left to itself, binds a thread to every core of the machine."""
    if not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two cores and a way to be given one")
    code = (
        "import os, sys; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from reion.prediction.emulator import Emulator\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        f"emulator = Emulator({str(toy_model)!r}, device='cpu')\n"
        "threads = os.listdir('/proc/self/task')\n"
        "print(len(threads) - before, {len(os.sched_getaffinity(int(thread))) for thread in threads})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split(maxsplit=1) == ["0", "{1}\n"]


def with_metadata(path, **changes):
    model = onnx.load(path)
    metadata = {item.key: item.value for item in model.metadata_props}
    for key, value in changes.items():
        if value is None:
            del metadata[f"reion.{key}"]
        else:
            metadata[f"reion.{key}"] = value
    metadata.pop(CHECKSUM)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, metadata)
    model.metadata_props.add(key=CHECKSUM, value=json.dumps(checksum(model.SerializeToString())))
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": None}, "missing reion.inputs"),
        ({"inputs": '{"n_igm": "g cm-3"}'}, "the graph has"),
        ({"inputs": '{"n_igm": "g cm-3", "n_src": "1e48 s-1 Mpc-3"}'}, "the graph has"),
        ({"inputs": "[1, 2"}, "expected JSON under reion.inputs"),
        ({"cell_size_mpc": "-2.0"}, "cell_size_mpc"),
        ({"receptive_radius_cells": "2.5"}, "receptive_radius_cells"),
        ({"redshift_range": "12"}, "expected a list"),
        ({"format": "1"}, "metadata of format 2; received 1"),
    ],
)
def test_metadata_that_are_missing_or_contradict_are_refused(toy_model, changes, message):
    with pytest.raises(InputError, match=message):
        Emulator(with_metadata(toy_model, **changes), device="cpu")


def test_prediction_loads_neither_tensorflow_nor_onnx(toy_model):
    code = (
        "import sys; from reion.prediction.emulator import Emulator; import numpy as np\n"
        f"xi = Emulator({str(toy_model)!r}, device='cpu').predict_arrays(8.0, "
        "n_igm=np.full((4, 4, 4), 4e-31), n_ion=np.ones((4, 4, 4)))\n"
        "assert xi.shape == (4, 4, 4)\n"
        "print(sorted({'tensorflow', 'keras', 'onnx', 'tf2onnx', 'numba'} & set(sys.modules)))"
    )
    with warnings.catch_warnings():
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert done.stderr == ""
