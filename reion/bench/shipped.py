"""The shipped models of the network `transport` compared with the excursion set, on a held-out box."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from reion.bench.harness import Ratio, Result, Timed, in_turn, interleaved
from reion.prediction.emulator import Emulator
from reion.prediction.sessions import open_session
from reion.sample import load_sample
from reion.simulation.contract import hydrogen_density
from reion.simulation.photons import with_n_ion

if TYPE_CHECKING:
    from reion.prediction.stages import Stages
    from reion_kernels.photon_channels import PhotonPlan

MODELS: Mapping[str, float] = {"rt-worlds-fast": 3.0, "rt-worlds": 1.5}
"""The speed that is asked of each model, by its name, relative to the excursion set."""

SIDES = (64, 128)
"""Sides of boxes: the held-out box of the packaged sample at `REDSHIFT`, repeated for the larger side."""

REDSHIFT = 8.0
REACH_MPC = 30.0
ROUNDS = 5
MATRIX_SIDE = 2048

ONE_FILE, EXCURSION_SET = "one file", "excursion set"


def measure(say: Callable[[str], None]) -> Iterator[Result]:
    """Measure every model, in two stages and as one file, in turn with the excursion set; then each stage."""
    emulators = {name: Emulator(name, device="cpu") for name in MODELS}
    for side in SIDES:
        fields = box(side)
        say(f"predict: {', '.join(MODELS)} and the excursion set in turn on {side}^3 cells")
        calls: dict[str, Callable[[], Any]] = {EXCURSION_SET: excursion_set(fields)}
        for name, emulator in emulators.items():
            calls[name] = _two_stages(emulator, fields)
            calls[f"{name}, {ONE_FILE}"] = one_file(emulator, fields, _told())
        yield from _compared(in_turn(calls, rounds=ROUNDS), side)
        for name, emulator in emulators.items():
            say(f"predict: the stages of {name} on {side}^3 cells against the machine")
            yield from _stages(name, emulator, fields, side)


def box(side: int) -> dict[str, np.ndarray]:
    """n_igm and n_ion of the held-out box of the packaged sample, each (side, side, side) float32."""
    sim = with_n_ion(load_sample().held_out).sel(redshift=REDSHIFT)
    fields = {}
    for name in ("n_igm", "n_ion"):
        values = sim[name].values.astype(np.float32)
        fields[name] = np.pad(values, [(0, max(0, side - n)) for n in values.shape], mode="wrap")[
            :side, :side, :side
        ]
    return fields


def _compared(times: Mapping[str, list[Timed]], side: int) -> Iterator[Result]:
    """Each model compared with everything else that was run in turn with it."""
    for name, asked in MODELS.items():
        for other, target in ((EXCURSION_SET, asked), (f"{name}, {ONE_FILE}", 1.3)):
            pairs = list(zip(times[other], times[name], strict=True))
            processor = Ratio.of(others.processor_seconds / ours.processor_seconds for others, ours in pairs)
            cost = {
                which: 1e6 * statistics.median(timed.processor_seconds for timed in times[each]) / side**3
                for which, each in (("", name), ("_of_the_other", other))
            }
            yield Result(
                name=f"predict_{name}_{side}_vs_{other.removeprefix(name + ', ').replace(' ', '_')}",
                ratio=Ratio.of(others.seconds / ours.seconds for others, ours in pairs),
                against=f"{other}, the same fields of {side}^3 cells",
                target=target,
                extra={
                    "cells_per_second": side**3 / statistics.median(ours.seconds for _, ours in pairs),
                    "cells_per_second_of_the_other": side**3
                    / statistics.median(others.seconds for others, _ in pairs),
                    "processor_ratio": processor.value,
                    "processor_ratio_smallest": processor.smallest,
                    "processor_ratio_largest": processor.largest,
                    **{f"processor_microseconds_per_cell{which}": value for which, value in cost.items()},
                },
            )


def _two_stages(emulator: Emulator, fields: Mapping[str, Any]) -> Callable[[], Any]:
    return lambda: emulator.predict_arrays(REDSHIFT, max_mfp=REACH_MPC, **fields)


def one_file(
    emulator: Emulator, fields: Mapping[str, np.ndarray], told: Mapping[str, np.ndarray]
) -> Callable[[], Any]:
    """A function that predicts the box with the whole file in onnxruntime; `told` holds the conditions."""
    session = open_session(emulator.content, "cpu", None, None)
    inputs = {**{name: values[None] for name, values in fields.items()}, **told}
    return lambda: session.run(["xi"], inputs)


def _told() -> dict[str, np.ndarray]:
    return {
        "redshift": np.array([REDSHIFT], dtype=np.float32),
        "max_mfp": np.array([REACH_MPC], dtype=np.float32),
    }


def excursion_set(fields: Mapping[str, np.ndarray]) -> Callable[[], Any]:
    """A function that computes the ionised cells of the box with the excursion set."""
    from reion.physics.excursion_set import ionised

    return lambda: ionised(fields["n_ion"], hydrogen_density(fields["n_igm"]))


def _stages(name: str, emulator: Emulator, fields: Mapping[str, np.ndarray], side: int) -> Iterator[Result]:
    import onnx

    from reion_exports.cost import convolution_flops

    window = (side + 2 * emulator.card.receptive_radius_cells,) * 3
    flops = convolution_flops(onnx.load_from_string(emulator.file_content), window)
    yield from shares(f"{name}_{side}_", emulator, fields, _told(), flops, ROUNDS)


def shares(
    name: str,
    emulator: Emulator,
    fields: Mapping[str, np.ndarray],
    told: Mapping[str, np.ndarray],
    flops: int,
    rounds: int,
) -> Iterator[Result]:
    """The speed of the trunk as a share of a matrix product's, and of the stem as a share of a copy's."""
    stages = emulator.stages
    assert stages is not None  # noqa: S101 (for the type)
    side = len(fields["n_igm"])

    reach = float(told["max_mfp"][0]) if "max_mfp" in told else None

    memory = stages.first_stage(fields, reach).base  # prediction keeps it from snapshot to snapshot

    def first_stage() -> np.ndarray:
        return stages.first_stage(fields, reach, memory=memory)

    yield _share_of_product(name, stages, first_stage(), told, side, flops, rounds)
    yield _share_of_copy(name, first_stage, stages.plan(reach), side, rounds)


def _share_of_product(
    name: str,
    stages: Stages,
    channels: np.ndarray,
    told: Mapping[str, np.ndarray],
    side: int,
    flops: int,
    rounds: int,
) -> Result:
    """The operations per second of the trunk's convolutions as a share of those of a matrix product."""
    answers = np.empty((1, *(side,) * 3), dtype=np.float32)
    left = np.random.default_rng(0).random((MATRIX_SIDE, MATRIX_SIDE), dtype=np.float32)
    right = left.T.copy()
    compared = interleaved(
        lambda: stages.run_trunk(channels, told, answers), lambda: left @ right, rounds=rounds
    )
    return Result(
        name=f"predict_{name}trunk_share_of_sgemm",
        ratio=compared.ratio.times(flops / (2 * MATRIX_SIDE**3)),
        against=f"float32 matrix product of {MATRIX_SIDE} x {MATRIX_SIDE}; the file's convolutions",
        target=0.6,
        extra={"flops_per_cell": flops / side**3, "cells_per_second": side**3 / compared.seconds},
    )


def _share_of_copy(
    name: str, first_stage: Callable[[], Any], plan: PhotonPlan, side: int, rounds: int
) -> Result:
    """The bytes per second that the stem must move as a share of those of a copy."""
    # Every filter reads and writes its fields once, and every channel is written.
    filters = 2 * len(plan.smoothing) + 2 * len(plan.diffusion)
    bytes_per_cell = 8 * filters + 4 * plan.channels + 8
    source = np.ones(bytes_per_cell * side**3 // 8, dtype=np.float32)
    target = np.zeros_like(source)
    copied = interleaved(first_stage, lambda: np.copyto(target, source), rounds=rounds)
    return Result(
        name=f"predict_{name}stem_share_of_copy",
        ratio=copied.ratio,
        against="a copy of the bytes that the filters and channels of the first stage must move, one thread",
        target=0.5,
        extra={"bytes_per_cell": bytes_per_cell, "cells_per_second": side**3 / copied.seconds},
    )
