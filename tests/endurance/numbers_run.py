"""A training that takes a moment: the real one with its folder, lock and loop, but a network of four numbers.

`train` replaces parts of `reion.training.run` for good: it is for child processes (see
`tests.endurance.works.in_child`). Kills undo no write, so nothing is brought to the disk here.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from reion.config import RunConfig, load_config
from reion.training import provenance, run
from reion.training.loop import Loop
from reion.training.state import State
from tests.conftest import toy_simulation

BOX = toy_simulation((6, 4, 4), (9.0, 8.0))
ROUND = 2
"""Steps between two checkpoints."""


def settings(seed: int, steps: int) -> RunConfig:
    """The schema of such a run."""
    return load_config(settings=[f"seed={seed}", f"training.steps={steps}", f"training.round_steps={ROUND}"])


def normalisation(seed: int) -> dict[str, list[float]]:
    """What the run has in normalizer.json."""
    return {"mean": [seed + 0.5]}


class Numbers(np.ndarray):
    """Numbers that are assigned to as a variable of Keras is."""

    path = "numbers"

    def assign(self, values: np.ndarray) -> None:
        self[...] = values


def network(config: RunConfig, **_: object) -> SimpleNamespace:
    """What `build_model` gives, as far as a run asks: a trunk of four numbers."""
    numbers = np.full(4, config.seed, np.float32).view(Numbers)
    trunk = SimpleNamespace(
        variables=[numbers],
        trainable_variables=[numbers],
        non_trainable_variables=[],
        optimizer=SimpleNamespace(variables=[np.zeros(1).view(Numbers)], learning_rate=1e-3),
        output_shape=(None, 1),
        count_params=lambda: 4,
        get_weights=lambda: [np.array(numbers)],
        set_weights=lambda weights: numbers.assign(weights[0]),
    )
    return SimpleNamespace(config=config, trunk=trunk, trunk_radius_cells=1, radius_cells=1)


def step(numbers: np.ndarray, number: int, steps: int) -> np.ndarray:
    """What a step makes of the numbers; like a learning rate, it depends on the length of the run."""
    return np.float32(0.9) * numbers + np.float32(number + steps / 100)


class NumbersLoop(Loop):
    """The loop of a run, with another step and another validation."""

    @classmethod
    def prepare(cls, simulations, config, cache, **_):
        normalizer = SimpleNamespace(to_dict=lambda: normalisation(config.seed))
        model = network(config)
        return cls(State(model), model.trunk, [], normalizer)

    def steps(self, count: int) -> float:
        (numbers,) = self.state.trunk.variables
        for _ in range(count):
            numbers.assign(step(numbers, self.state.step, self._training.steps))
            self.state.step += 1
        return 1.0

    def _validate(self) -> tuple[float, float, float]:
        return 0.5, 0.5, 0.5


def stored_network(model: SimpleNamespace, _: object) -> SimpleNamespace:
    """What `build_network` gives, as far as a run asks. As Keras does, it writes down when it was saved."""

    def save(path: Path) -> None:
        Path(path).write_bytes(model.trunk.get_weights()[0].tobytes() + str(time.time_ns()).encode())

    return SimpleNamespace(save=save)


def train(path: Path, config: RunConfig, *, resume: bool = False, force: bool = False) -> None:
    """Train four numbers; for a child process, whose `reion.training.run` is then another one."""
    run.Loop, run.build_model, run.build_network = NumbersLoop, network, stored_network
    run.require_valid = lambda *_, **__: None
    run.fit_threshold = lambda *_: 1.0
    os.fsync = lambda _: None
    provenance._git_commit = lambda: None
    run.train([BOX], path, config, resume=resume, force=force)


def numbers_of(path: Path, steps_done: int) -> np.ndarray:
    """The numbers that a run must have after so many steps, as its own provenance tells its story."""
    config = load_config(path / "config.toml")
    story = json.loads((path / "provenance.json").read_text()).get("lengthened", [])
    story = [change for change in story if change["after"] <= config.training.steps]
    first = story[0]["before"] if story else config.training.steps
    numbers = np.full(4, config.seed, np.float32)
    for number in range(steps_done):
        lengths = [change["after"] for change in story if change["at_step"] <= number]
        numbers = step(numbers, number, lengths[-1] if lengths else first)
    return numbers
