"""Prediction and training on a GPU: agreement with the CPU, and speed as a share of the GPU's own.

Without a GPU nothing is measured, and a line says so. Every function takes the device, so that tests can run
it on a CPU.
"""

from __future__ import annotations

import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from reion.bench.harness import Ratio, Result
from reion.bench.predict import example_box
from reion.errors import InputError
from reion.prediction.emulator import Emulator
from reion.prediction.model_file import shipped_models
from reion.prediction.sessions import Device, may_use_cuda, open_session

SIDES = (64, 96, 128, 192, 256, 320, 384, 448, 512)
"""Sides of boxes that are predicted as a whole, until one does not fit."""

MOST_ELEMENTS = 1 << 31
"""Largest number of elements that 32 bits with a sign can count; larger arrays may give wrong results."""

MATRIX_SIDE = 8192
COPY_ELEMENTS = 1 << 28
ROUNDS = 5
STEPS = 50
TOLERANCE = 1e-4
"""Allowed difference of xi between GPU and CPU, which add float32 in different orders."""

BACKENDS = {"tensorflow": "tensorflow", "jax": "jax", "torch": "torch"}
"""The package that each backend of Keras needs."""

_TRAIN = """
import json, sys, tempfile, time
from pathlib import Path
from reion.config import load_config
from reion.sample import load_sample
from reion.training.devices import has_gpu
from reion.training.loop import Loop

steps, device, *settings = sys.argv[1:]
steps = int(steps)
if device == "cuda" and not has_gpu():
    print(json.dumps(None))
    sys.exit()
answers = {}
for precision in ("float32", "mixed_bfloat16"):
    given = [*settings, "training.steps=1000000", f"training.precision={precision}"]
    config = load_config(settings=given)
    with tempfile.TemporaryDirectory() as folder:
        loop = Loop.prepare([load_sample().train.isel(redshift=slice(4, 8))], config, Path(folder))
        loop.steps(steps)
        state, begin, waited = loop.state, time.perf_counter(), loop.state.waiting_seconds
        loop.steps(steps)
        seconds = time.perf_counter() - begin
        (values, redshift), xi = loop.batches(1)[0]
        answers[precision] = {
            "steps_per_second": steps / seconds,
            "waiting_share": (state.waiting_seconds - waited) / seconds,
            "loss": float(state.trunk.test_on_batch([values, redshift], xi)),
        }
print(json.dumps(answers))
"""


def measure(say: Callable[[str], None]) -> Iterator[Result]:
    """Measure prediction and training on the GPU, if there is one."""
    if _sees_gpu():
        yield from predicting("cuda", say)
    else:
        say("gpu: onnxruntime can use no GPU here; nothing of prediction was measured")
    yield from training("cuda", say)


def _sees_gpu() -> bool:
    """Whether an open session of onnxruntime runs on a GPU."""
    if not may_use_cuda("auto"):
        return False
    session = open_session(_operator("Neg", 1), "auto", None, None)
    return bool(session.get_providers()[0] == "CUDAExecutionProvider")


def predicting(device: Device, say: Callable[[str], None]) -> Iterator[Result]:
    """Compare every shipped model with the CPU and, in boxes of growing size, with the device's own speed."""
    say(f"gpu: a matrix product and a copy on {device}")
    matrix, copy = matrix_flops(device), copy_bytes(device)
    for name in shipped_models():
        emulator = Emulator(name, device=device)
        say(f"gpu: {name} on {emulator.provider} and on the CPU")
        yield agreement(emulator, SIDES[0])
        yield from rates(emulator, matrix, copy)
        say(f"gpu: {name} on a box whose channels are more than 2^31 numbers")
        yield beyond(emulator)


def agreement(emulator: Emulator, side: int) -> Result:
    """The largest difference of xi between this device and the CPU."""
    fields = _fields(emulator, side)
    other = Emulator(emulator.file_content, device="cpu")
    difference = float(np.abs(_predict(emulator, fields) - _predict(other, fields)).max())
    return Result(
        name=f"gpu_{emulator.card.name}_agrees",
        ratio=Ratio.of([TOLERANCE / max(difference, 1e-9)]),
        against=f"a difference of {TOLERANCE:g} in xi from the CPU in any cell of {side}^3",
        target=1.0,
        extra={"largest_difference": difference},
    )


def rates(emulator: Emulator, matrix_flops: float, copy_bytes: float) -> Iterator[Result]:
    """Cells per second, from the smallest box to the largest that fits, against the smallest on the CPU."""
    cpu = Emulator(emulator.file_content, device="cpu")
    fields = _fields(cpu, SIDES[0])
    baseline = SIDES[0] ** 3 / statistics.median(_seconds(lambda: _predict(cpu, fields)))
    for side in SIDES:
        fields = _fields(emulator, side)
        try:
            seconds = _seconds(functools.partial(_predict, emulator, fields))
        except InputError:  # it does not fit
            return
        rate = side**3 / statistics.median(seconds)
        yield Result(
            name=f"gpu_{emulator.card.name}_{side}_vs_cpu",
            ratio=Ratio.of(side**3 / second / baseline for second in seconds),
            against=f"the CPU on {SIDES[0]}^3 cells",
            target=10.0,
            extra={
                "cells_per_second": rate,
                "share_of_matrix_rate": _flops(emulator, side) / side**3 * rate / matrix_flops,
                "share_of_copy_bandwidth": sum(emulator.card.working_bytes) * rate / copy_bytes,
            },
        )


def beyond(emulator: Emulator, most_elements: int = MOST_ELEMENTS) -> Result:
    """A box whose channels have more elements than 32 bits can count equals its tiles, or is refused."""
    channels = len(emulator.card.normalizer.get("mean", ())) or 32
    side = int(np.ceil((most_elements / channels) ** (1 / 3))) + 1
    fields = _fields(emulator, side)
    radius, tile = emulator.card.receptive_radius_cells, min(side, 16)
    # The last cells of the box, which have the highest indices.
    index = np.arange(side - tile - radius, side + radius) % side
    windows = {name: values[np.ix_(index, index, index)] for name, values in fields.items()}
    conditions = dict.fromkeys(emulator.card.conditions, 30.0)
    try:
        whole = _predict(emulator, fields)
    except InputError:
        difference = 0.0
        how = "which is refused"
    else:
        part = emulator.predict_window(8.0, windows, conditions=conditions)
        difference = float(np.abs(whole[-tile:, -tile:, -tile:] - part).max())
        how = "whose last tile is predicted alone"
    return Result(
        name=f"gpu_{emulator.card.name}_beyond_32_bits",
        ratio=Ratio.of([TOLERANCE / max(difference, 1e-9)]),
        against=f"a difference of {TOLERANCE:g} in xi in a box of {side}^3 cells, {how}",
        target=1.0,
        extra={"largest_difference": difference},
    )


def matrix_flops(device: Device, side: int | None = None) -> float:
    """Operations per second of a large float32 matrix product in onnxruntime."""
    side = side or (MATRIX_SIDE if device == "cuda" else 1024)
    values = np.random.default_rng(0).random((side, side), dtype=np.float32)
    return 2 * side**3 / statistics.median(_on_device("MatMul", [values, values], device))


def copy_bytes(device: Device, elements: int | None = None) -> float:
    """Bytes per second that the device reads and writes when it negates a large array."""
    values = np.ones(elements or (COPY_ELEMENTS if device == "cuda" else 1 << 22), dtype=np.float32)
    return 2 * values.nbytes / statistics.median(_on_device("Neg", [values], device))


def training(device: Device, say: Callable[[str], None], settings: Sequence[str] = ()) -> Iterator[Result]:
    """Steps per second on every backend that sees the device, in bfloat16 against float32."""
    for backend, package in BACKENDS.items():
        if find_spec(package) is None:
            continue
        say(f"gpu: training with {backend}")
        answers = _train(backend, device, settings)
        if answers is None:
            say(f"gpu: {backend} sees no GPU; nothing was measured with it")
            continue
        whole, half = answers["float32"], answers["mixed_bfloat16"]
        yield Result(
            name=f"gpu_train_{backend}_bfloat16",
            ratio=Ratio.of([half["steps_per_second"] / whole["steps_per_second"]]),
            against="the same steps in float32",
            target=1.3,
            extra={
                "steps_per_second": half["steps_per_second"],
                "steps_per_second_float32": whole["steps_per_second"],
                "waiting_share": half["waiting_share"],
                "loss": half["loss"],
                "loss_float32": whole["loss"],
            },
        )


def _train(backend: str, device: Device, settings: Sequence[str]) -> Mapping[str, Any] | None:
    """Train in a process with this backend; None if the backend does not see the device."""
    environment = {**os.environ, "KERAS_BACKEND": backend}
    command = [sys.executable, "-c", _TRAIN, str(STEPS), device, *settings]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    answers: Mapping[str, Any] | None = json.loads(done.stdout.splitlines()[-1])
    return answers


def _fields(emulator: Emulator, side: int) -> dict[str, np.ndarray]:
    sim = example_box(side)
    photons = sim["n_ion"][0].values
    return {
        name: sim["n_igm"][0].values if name == "n_igm" else photons * (10 if name == "n_src" else 1)
        for name in emulator.card.inputs
    }


def _predict(emulator: Emulator, fields: Mapping[str, Any]) -> np.ndarray:
    told: dict[str, Any] = {**fields, **dict.fromkeys(emulator.card.conditions, 30.0)}
    return emulator.predict_arrays(8.0, **told)


def _flops(emulator: Emulator, side: int) -> int:
    import onnx

    from reion_exports.cost import convolution_flops

    window = (side + 2 * emulator.card.receptive_radius_cells,) * 3
    return convolution_flops(onnx.load_from_string(emulator.content), window)


def _seconds(call: Callable[[], object]) -> list[float]:
    """Seconds of each of `ROUNDS` calls, after one call that is not counted."""
    call()
    seconds = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return seconds


def _on_device(operator: str, values: Sequence[np.ndarray], device: Device) -> list[float]:
    """Seconds of an operator whose inputs and output stay on the device."""
    import onnxruntime

    session = open_session(_operator(operator, len(values)), device, None, None)
    binding = session.io_binding()
    for number, value in enumerate(values):
        binding.bind_ortvalue_input(f"x{number}", onnxruntime.OrtValue.ortvalue_from_numpy(value, device, 0))
    binding.bind_output("y", device)

    def call() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return _seconds(call)


def _operator(name: str, inputs: int) -> bytes:
    """The bytes of an ONNX model with a single operator."""
    from onnx import TensorProto, helper

    names = [f"x{number}" for number in range(inputs)]
    graph = helper.make_graph(
        [helper.make_node(name, names, ["y"])],
        name,
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, None) for x in names],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content
