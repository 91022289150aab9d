"""The trunk of a shipped model in 8-bit integers (onnxruntime, static QDQ): what it loses and how fast it is.

`python benchmarks/integers.py MODEL CALIBRATION.zarr TEST.zarr...` calibrates on every other snapshot of one
simulation and prints, for each of the others, R² over all cells from its second snapshot on with float32 and
with integers, and how many times faster integers are, in turn on the same channels. It needs the packages
onnx and sympy.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from reion.prediction.emulator import Emulator
from reion.prediction.inputs import conditions_at
from reion.prediction.sessions import open_session
from reion.readers import open_simulation
from reion.simulation.photons import with_n_ion

ROUNDS = 3


def trunk_inputs(model: str, source: str, step: int) -> list[tuple[dict[str, np.ndarray], Any]]:
    """What onnxruntime gets for each snapshot of a simulation in one block, and the true xi."""
    sim = with_n_ion(open_simulation(source))
    emulator = Emulator(model, device="cpu").for_cells_of(sim)
    stages = emulator.stages
    assert stages is not None  # noqa: S101 (for the type)
    rows = []
    for index, redshift in list(enumerate(sim["redshift"].values.tolist()))[1::step]:
        fields = {name: sim[name][index].values for name in emulator.card.inputs}
        conditions = conditions_at(emulator.card, sim, index)
        told = {name: np.array([value], dtype=np.float32) for name, value in conditions.items()}
        told["redshift"] = np.array([redshift], dtype=np.float32)
        channels = stages.first_stage(fields, conditions.get("max_mfp"))
        inputs = {**stages.trunk_numbers(told), stages.trunk.input: channels[None]}
        rows.append((inputs, sim["xi"][index].values))
    return rows


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Gives crops of the channels to the calibration."""

    def __init__(self, rows: list[tuple[dict[str, np.ndarray], Any]]) -> None:
        self._inputs = iter(
            [
                {
                    name: values if values.ndim < 5 else values[:, :36, :, :36, :36]
                    for name, values in row.items()
                }
                for row, _ in rows
            ]
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next crop; None after the last."""
        return next(self._inputs, None)


def main(model: str, calibration: str, tests: list[str]) -> None:
    """Print the figures of every test simulation."""
    trunk = Emulator(model, device="cpu").stages.trunk  # type: ignore[union-attr]
    with tempfile.TemporaryDirectory() as name:
        plain, integers = Path(name) / "trunk.onnx", Path(name) / "integers.onnx"
        whole = onnx.load_from_string(trunk.content)
        onnx.save(whole, plain)
        quantize_static(
            plain,
            integers,
            Reader(trunk_inputs(model, calibration, 2)),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=["Conv"],
        )
        sessions = [open_session(path.read_bytes(), "cpu", None, None) for path in (plain, integers)]
    for test in tests:
        seconds: list[list[float]] = [[], []]
        answers: list[list[np.ndarray]] = [[], []]
        truth = []
        for inputs, xi in trunk_inputs(model, test, 1):
            truth.append(xi)
            for number, session in enumerate(sessions):
                given = {item.name: inputs[item.name] for item in session.get_inputs()}
                answers[number].append(session.run(None, given)[0][0])
        for _ in range(ROUNDS):
            for number, session in enumerate(sessions):
                begin = time.perf_counter()
                session.run(None, {item.name: inputs[item.name] for item in session.get_inputs()})
                seconds[number].append(time.perf_counter() - begin)
        true = np.stack(truth)
        scores = [float(1 - ((np.stack(a) - true) ** 2).mean() / true.var()) for a in answers]
        row = {
            "model": model,
            "test": test,
            "r2": scores[0],
            "r2_integers": scores[1],
            "speed": statistics.median(b / a for b, a in zip(*seconds, strict=True)),
            "spread": sorted(b / a for b, a in zip(*seconds, strict=True))[:: ROUNDS - 1],
        }
        sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
