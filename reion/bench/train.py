"""The training loop compared with its compiled step alone, and that step with those of Keras' layers."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from reion.bench.harness import Ratio, Result, in_turn, interleaved
from reion.config import load_config
from reion.sample import load_sample

_STEPS = 5


def measure(say: Callable[[str], None]) -> Iterator[Result]:
    """Measure the training loop, batches included, against its compiled step alone."""
    from reion.models.layers import PointwiseConv3D, SymmetricConv3D
    from reion.training.loop import Loop

    say("training: preparing the packaged sample")
    config = load_config(settings=["training.steps=1000000", f"training.round_steps={_STEPS}"])
    with tempfile.TemporaryDirectory() as folder:

        def prepared(snapshots: int) -> Loop:
            sim = load_sample().train.isel(redshift=slice(4, 4 + snapshots))
            return Loop.prepare([sim], config, Path(folder))

        loop = prepared(4)
        batch, xi = loop.batches(_STEPS)[0]

        def steps_of(network: Any) -> Callable[[], None]:
            def steps() -> None:
                for _ in range(_STEPS):
                    float(network.train_on_batch(list(batch), xi))

            return steps

        say("training: steps with and without the sampler")
        compared = interleaved(lambda: loop.steps(_STEPS), steps_of(loop.stepping), rounds=8)
        say("training: steps by kernels, by Keras' layers, and by layers with the gradients of the backend")
        layers, backend = prepared(1).state.trunk, prepared(1).state.trunk
        for layer in backend.layers:
            if isinstance(layer, SymmetricConv3D | PointwiseConv3D):
                layer.own_gradients = False
        networks = {"kernels": loop.stepping, "layers": layers, "backend": backend}
        times = in_turn({name: steps_of(network) for name, network in networks.items()}, rounds=5)
    processor = {name: [timed.processor_seconds for timed in rounds] for name, rounds in times.items()}
    state = loop.state
    cells = config.training.batch_size * config.training.crop_cells**3 * _STEPS
    yield Result(
        name="train_step_vs_bare_loop",
        ratio=compared.ratio,
        against="the same compiled step on a batch in memory",
        target=0.9,
        extra={
            "cells_per_second": cells / compared.seconds,
            "waiting_share": state.waiting_seconds / state.seconds,
        },
    )
    yield Result(
        name="train_step_vs_layers",
        ratio=Ratio.of(b / a for a, b in zip(processor["kernels"], processor["layers"], strict=True)),
        against="processor time of the same step by Keras' layers, convolutions by sums of neighbours",
        target=1.5,
        extra={name: statistics.median(seconds) / _STEPS for name, seconds in processor.items()},
    )
    yield Result(
        name="train_step_vs_gradients_of_the_backend",
        ratio=Ratio.of(b / a for a, b in zip(processor["kernels"], processor["backend"], strict=True)),
        against="processor time of the same step with the convolutions and gradients of the backend",
        target=1.5,
    )
