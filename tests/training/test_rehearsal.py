"""Rehearsal: a run that starts from another network repeats that network's answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from reion.config import load_config
from reion.errors import InputError
from reion.models.build import build_model, build_network
from reion.simulation.contract import with_max_mfp
from reion.simulation.photons import with_n_ion
from reion.training.loop import Loop
from reion.training.parent import Parent, load_parent
from reion.training.rehearsal import SNAPSHOTS
from reion.training.run import train
from reion.training.run_folder import load_run

pytestmark = pytest.mark.slow
SMALL = (
    *("model.name=transport", "model.smoothing_mpc=[5, 9]", "model.diffusion_mpc=[4, 7, 4]"),
    *("model.farthest_mpc=9", "model.width=6", "model.hidden=4", "model.blocks=1"),
    *("training.crop_cells=4", "training.batch_size=4", "training.steps=4", "training.round_steps=2"),
)


@pytest.fixture(scope="module")
def worlds(toy) -> list[xr.Dataset]:
    boxes = [(2.0, 15.0), (4.0, 30.0)]
    return [
        with_max_mfp(toy(shape=(12, 10, 8), cell_mpc=cell_mpc, seed=seed), [reach_mpc] * 4)
        for seed, (cell_mpc, reach_mpc) in enumerate(boxes)
    ]


@pytest.fixture(scope="module")
def parent(worlds, tmp_path_factory) -> Parent:
    folder = tmp_path_factory.mktemp("rehearsal") / "run"
    train(worlds, folder, load_config(settings=SMALL))
    return load_parent(folder)


@pytest.fixture
def new_world(toy) -> xr.Dataset:
    return with_max_mfp(toy(shape=(12, 10, 8), cell_mpc=2.0, seed=9), [6.0] * 4)


@pytest.fixture
def loop(parent, new_world, tmp_path) -> Loop:
    return Loop.prepare([new_world], load_config(base=parent.defaults()), tmp_path, parent=parent)


def test_what_is_repeated_are_the_answers_that_the_network_gave_before(parent, new_world, loop):
    """The whole network in Keras, told another world's reach and cells, answers the same."""
    assert len(loop.rehearsed) == SNAPSHOTS
    sim = with_n_ion(new_world)
    (reach_low, reach_high), (cell_low, cell_high) = map(parent.coverage.range_of, ("max_mfp", "cell_size"))
    rng = np.random.default_rng((loop.state.model.config.seed, SNAPSHOTS))
    for snapshot in loop.rehearsed[:4]:
        assert rng.integers(1) == 0
        index = int(rng.integers(4))
        reach = reach_low * (reach_high / reach_low) ** rng.uniform()
        cell = cell_low * (cell_high / cell_low) ** rng.uniform()
        factor = 2.0 ** rng.uniform(-1, 1)
        assert snapshot.redshift == sim["redshift"][index]
        assert 15.0 <= reach <= 30.0
        assert 2.0 <= cell <= 4.0
        model = build_model(parent.config, cell_size_mpc=cell)
        network = build_network(model, parent.normalizer)
        model.trunk.set_weights(parent.weights)
        halo = [(model.radius_cells, model.radius_cells)] * 3
        fields = {
            "n_igm": sim["n_igm"][index].values,
            "n_ion": sim["n_ion"][index].values * np.float32(factor),
        }
        windows = {name: np.pad(values, halo, mode="wrap")[None] for name, values in fields.items()}
        numbers = {"redshift": [snapshot.redshift], "max_mfp": [reach]}
        told = {name: np.array(values, np.float32) for name, values in numbers.items()}
        answer = {name: np.asarray(value)[0] for name, value in network({**windows, **told}).items()}
        np.testing.assert_allclose(snapshot.xi, answer["xi"], atol=2e-5)
        np.testing.assert_allclose(np.sqrt(snapshot.variance), answer["xi_std"], atol=2e-5)


def test_the_schema_gives_the_share_of_the_crops(loop):
    """In the second channel of the target, a crop of the new world has 0 and a repeated one the variance."""
    repeated = [
        target[row, ..., 1].any() for _, target in loop.batches(200).read(range(200)) for row in range(4)
    ]
    # 800 draws with a probability of a half: 5 standard deviations are 71.
    assert abs(sum(repeated) - 400) < 71


def test_only_the_new_world_is_validated_and_counts_as_covered(loop):
    assert len(loop.snapshots) == 4
    assert loop.coverage.range_of("max_mfp") == (6.0, 6.0)


def test_a_killed_run_ends_as_an_unbroken_one(parent, new_world, tmp_path):
    settings = ["training.steps=4", "training.round_steps=2"]
    config = load_config(settings=settings, base=parent.defaults())
    assert config.training.rehearsal == 0.5
    train([new_world], tmp_path / "unbroken", config, parent=parent)

    class KilledError(Exception):
        pass

    def kill(step: int, *_) -> None:
        if step == 3:
            raise KilledError

    with pytest.raises(KilledError):
        train([new_world], tmp_path / "killed", config, parent=parent, progress=kill)
    train([new_world], tmp_path / "killed", config, parent=parent, resume=True)
    unbroken, killed = (
        load_run(tmp_path / name).model.trunk.get_weights() for name in ("unbroken", "killed")
    )
    for a, b in zip(unbroken, killed, strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_is_repeated_is_forgotten_less(parent, new_world, worlds, tmp_path):
    """After steps at a high rate, the answers in an old world have moved less with rehearsal than without."""
    before = _answers(parent.weights, parent, worlds[0])
    moved = {}
    for share in (0.0, 0.5):
        settings = ["training.steps=60", "training.round_steps=60", "training.learning_rate=0.01"]
        config = load_config(settings=[*settings, f"training.rehearsal={share}"], base=parent.defaults())
        folder = tmp_path / f"{share}"
        train([new_world], folder, config, parent=parent)
        after = _answers(load_run(folder).model.trunk.get_weights(), parent, worlds[0])
        moved[share] = float(np.sqrt(np.mean((after - before) ** 2)))
    assert moved[0.5] < 0.8 * moved[0.0]


def _answers(weights: list[np.ndarray], parent: Parent, world: xr.Dataset) -> np.ndarray:
    loop = Loop.prepare([world], parent.config, Path())
    loop.state.model.trunk.set_weights(weights)
    loop.normalizer = parent.normalizer
    return np.concatenate([predicted[..., 0] for predicted, _, _ in loop._validated(loop.snapshots)])


def test_rehearsal_without_a_network_to_repeat_is_refused(new_world, tmp_path):
    config = load_config(settings=(*SMALL, "training.rehearsal=0.5"))
    with pytest.raises(InputError, match="this run starts from none"):
        train([new_world], tmp_path / "run", config)
    assert not (tmp_path / "run").exists()


def test_a_network_that_cannot_tell_worlds_apart_repeats_nothing(toy, tmp_path):
    settings = [
        "model.smoothing_cells=[3]",
        "model.diffusion_cells=[3]",
        "model.blocks=1",
        "training.steps=1",
    ]
    settings += ["training.crop_cells=3", "training.batch_size=1"]
    train([toy()], tmp_path / "old", load_config(settings=settings))
    parent = load_parent(tmp_path / "old")
    assert parent.defaults()["training"]["rehearsal"] == 0
    config = load_config(settings=["training.rehearsal=0.2"], base=parent.defaults())
    with pytest.raises(InputError, match="needs a network that is told max_mfp"):
        train([toy()], tmp_path / "run", config, parent=parent)
    assert not (tmp_path / "run").exists()
