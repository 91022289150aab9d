"""The training loop compared with its compiled step alone, and that step with and without our gradients."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from reion.bench.harness import Result, interleaved
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
        loop = Loop.prepare([load_sample().train.isel(redshift=slice(4, 8))], config, Path(folder))
        state = loop.state
        (values, redshift), xi = loop.batches(_STEPS)[0]

        def bare() -> None:
            for _ in range(_STEPS):
                float(state.trunk.train_on_batch([values, redshift], xi))

        say("training: steps with and without the sampler")
        compared = interleaved(lambda: loop.steps(_STEPS), bare, rounds=8)
        say("training: steps with and without the gradients of reion's own layers")
        other = Loop.prepare(
            [load_sample().train.isel(redshift=slice(4, 5))], config, Path(folder)
        ).state.trunk
        for layer in other.layers:
            if isinstance(layer, SymmetricConv3D | PointwiseConv3D):
                layer.own_gradients = False

        def backend() -> None:
            for _ in range(_STEPS):
                float(other.train_on_batch([values, redshift], xi))

        gradients = interleaved(bare, backend, rounds=5)
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
        name="train_step_vs_gradients_of_the_backend",
        ratio=gradients.ratio,
        against="the same compiled step with the gradients that the backend has for convolutions",
        target=1.5,
    )
