"""Prediction compared with Keras, with the excursion set and with a matrix product."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reion.bench import shipped
from reion.bench.harness import Comparison, Ratio, Result, interleaved
from reion.bench.shipped import excursion_set, one_file, shares
from reion.prediction.emulator import Emulator
from reion.simulation.contract import make_simulation
from reion.storage.store import write_simulation

if TYPE_CHECKING:
    import xarray as xr

ROUNDS = 5
CELLS = 64
NETWORK: Mapping[str, Any] = {}
"""Settings that the measured network changes in the default schema."""

_TOLD = {"redshift": np.array([8.0], dtype=np.float32)}

SIDES = (64, 128, 256, 300)
"""Sides of boxes that are predicted from store to store, within `MEMORY_BYTES`."""

MEMORY_BYTES = 1 << 30

_STARTUP_TARGET_S = 1.5

_FRESH_PROCESS = """
import json, sys, time
begin = time.perf_counter()
from reion.prediction.predict import predict
result = predict(*sys.argv[1:4], device="cpu", memory_bytes=int(sys.argv[4]))
seconds = {"seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time()}
print(json.dumps({**result.to_json(), **seconds}))
"""


def measure(say: Callable[[str], None]) -> Iterator[Result]:
    """Measure prediction with the default network of the schema, untrained, and with the shipped models."""
    import onnx

    from reion_exports.cost import convolution_flops

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        say("predict: building and exporting the default network")
        network, model = _default_model(folder)
        emulator = Emulator(model, device="cpu")
        sim = example_box(CELLS)
        fields: dict[str, Any] = {name: sim[name][0].values for name in emulator.card.inputs}
        window = (CELLS + 2 * emulator.card.receptive_radius_cells,) * 3
        flops = convolution_flops(onnx.load(model), window)

        def ours() -> Any:
            return emulator.predict_arrays(8.0, **fields)

        say(f"predict: {CELLS}^3 cells against Keras with the same weights")
        keras = interleaved(ours, _keras(network, emulator, fields), rounds=ROUNDS)
        yield _result("predict_vs_keras", keras, "Keras on TensorFlow, the same weights and fields", 1.0)
        say("predict: in two stages against the whole file, and each stage against the machine")
        yield _in_stages(ours, emulator, fields)
        yield from _stages(emulator, fields, flops)
        say("predict: against the excursion set")
        es = interleaved(ours, excursion_set(fields), rounds=3)
        yield _result("predict_vs_excursion_set", es, "the excursion set on the same fields", 0.1)
        say("predict: a convolution in planes against 3D")
        yield _convolution_in_planes()
        say("predict: starting in a fresh process")
        yield _startup(model, folder)
        yield from _store_to_store(model, folder, say)
    yield from shipped.measure(say)


def _default_model(folder: Path) -> tuple[Any, Path]:
    from reion.config import RunConfig
    from reion.models.build import build_model, build_network
    from reion.models.normalizer import Normalizer
    from reion_exports import ModelCard, export

    config = RunConfig.model_validate({"model": NETWORK})
    parts = build_model(config)
    stem = parts.stem
    network = build_network(parts, Normalizer.unfitted(stem.channels, stem.scale, stem.transform))
    card = ModelCard(
        name="untrained",
        version="0",
        inputs={"n_igm": "g cm-3", "n_ion": "1e66 Mpc-3"},
        cell_size_mpc=2.0,
        redshift_range=(6.0, 12.0),
        receptive_radius_cells=parts.radius_cells,
        provenance={"config": config.model_dump(mode="json")},
    )
    return network, export(network, card, folder / "model.onnx").path


def example_box(side: int, redshifts: Sequence[float] = (8.0,)) -> xr.Dataset:
    """A simulation of `side` cells of 2 Mpc along each axis, with random fields in realistic units."""
    rng = np.random.default_rng(0)
    shape = (len(redshifts), side, side, side)
    has_sources = rng.random(shape) < 0.02
    fields = {
        "n_igm": (4.2e-31 * rng.lognormal(-0.1, 0.4, shape)).astype(np.float32),
        "n_ion": np.where(has_sources, 2e2 * rng.lognormal(0, 1, shape), 0).astype(np.float32),
    }
    return make_simulation(fields, redshift=redshifts, box_size=2.0 * side)


def _keras(network: Any, emulator: Emulator, fields: dict[str, np.ndarray]) -> Callable[[], Any]:
    """A function that predicts the box with the compiled Keras network; NumPy pads the periodic halo."""
    import tensorflow as tf

    radius = emulator.card.receptive_radius_cells
    compiled = tf.function(lambda inputs: network(inputs, training=False), jit_compile=False)
    redshift = tf.constant([8.0])

    def call() -> Any:
        haloed = {name: np.pad(values, radius, mode="wrap")[None] for name, values in fields.items()}
        return compiled({**{k: tf.constant(v) for k, v in haloed.items()}, "redshift": redshift}).numpy()

    return call


def _in_stages(ours: Callable[[], Any], emulator: Emulator, fields: dict[str, np.ndarray]) -> Result:
    """The model as the emulator runs it, compared with onnxruntime on the whole file."""
    compared = interleaved(ours, one_file(emulator, fields, _TOLD), rounds=ROUNDS)
    return _result("predict_vs_whole_file", compared, "the whole file in onnxruntime", 1.3)


def _stages(emulator: Emulator, fields: dict[str, np.ndarray], flops: int) -> Iterator[Result]:
    return shares("", emulator, fields, _TOLD, flops, ROUNDS)


def _convolution_in_planes() -> Result:
    """A mirror-symmetric 3x3x3 convolution, 32 to 24 channels: as planes, as in the file, against 3D."""
    from onnx import TensorProto, helper, numpy_helper

    from reion_exports.planes import in_planes

    inside, outside, side = 32, 24, 48
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(outside, inside, 3, 3, 3)).astype(np.float32)
    kernel += kernel[:, :, ::-1]
    x = rng.normal(size=(1, inside, *(side + 2,) * 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "k"], ["y"])],
        "convolution",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, inside, None, None, None])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, outside, None, None, None])],
        [numpy_helper.from_array(kernel, "k")],
    )
    volume = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    calls = [_as_the_emulator_runs(model, x) for model in (in_planes(volume), volume)]
    np.testing.assert_allclose(calls[0](), calls[1](), rtol=0, atol=1e-3)
    return _result("conv_in_planes_vs_conv3d", interleaved(*calls), "the same as one 3D convolution", 1.0)


def _as_the_emulator_runs(model: Any, x: np.ndarray) -> Callable[[], np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

    def call() -> np.ndarray:
        y: np.ndarray = session.run(None, {"x": x})[0]
        return y

    return call


def _startup(model: Path, folder: Path) -> Result:
    side = 8
    source = write_simulation(example_box(side), folder / "small.zarr")
    seconds = []
    for attempt in range(min(3, ROUNDS)):
        begin = time.perf_counter()
        _run_fresh(model, source, folder / f"small_xi{attempt}.zarr")
        seconds.append(time.perf_counter() - begin)
    return Result(
        name="predict_startup",
        ratio=Ratio.of(_STARTUP_TARGET_S / second for second in seconds),
        against=f"{_STARTUP_TARGET_S} s for a whole process that predicts {side}^3 cells from store to store",
        target=1.0,
        extra={"seconds": statistics.median(seconds)},
    )


def _store_to_store(model: Path, folder: Path, say: Callable[[str], None]) -> Iterator[Result]:
    """Cells per second from store to store, each box in its own process, against the smallest box."""
    first = 0.0
    for side in SIDES:
        say(f"predict: {side}^3 cells from store to store within {MEMORY_BYTES >> 20} MiB")
        source = write_simulation(example_box(side), folder / f"{side}.zarr")
        result = _run_fresh(model, source, folder / f"{side}_xi.zarr")
        rate = result["cells"] / result["seconds"]
        first = first or rate
        yield Result(
            name=f"predict_{side}_from_store_to_store",
            ratio=Ratio.of([rate / first]),
            against=f"the time per cell of {SIDES[0]}^3 cells",
            target=0.5,
            extra={
                "cells_per_second": rate,
                "cpu_microseconds_per_cell": 1e6 * result["cpu_seconds"] / result["cells"],
                "peak_memory_MiB": result["peak_memory_bytes"] / 2**20,
                "tiles": result["tiles"],
            },
        )


def _run_fresh(model: Path, source: Path, out: Path) -> dict[str, Any]:
    command = [sys.executable, "-c", _FRESH_PROCESS, str(model), str(source), str(out), str(MEMORY_BYTES)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _result(name: str, compared: Comparison, against: str, target: float) -> Result:
    return Result(
        name=name,
        ratio=compared.ratio,
        against=against,
        target=target,
        extra={"seconds": compared.seconds},
    )
