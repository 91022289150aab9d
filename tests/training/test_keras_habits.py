"""What users of Keras expect: callbacks, optimisers by name, moving averages, more steps, several seeds."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

pytest.importorskip("keras")
pytest.importorskip("tensorflow")

import keras

from reion.config import load_config
from reion.errors import InputError
from reion.studies.seeds import train_seeds
from reion.training.checkpoints import load_newest
from reion.training.optimizer import WarmUp, build_optimizer
from reion.training.run import train
from reion.training.run_folder import load_run
from tests.training.runs import assert_same_weights, copied_at, history, weights

pytestmark = pytest.mark.slow

TINY = [
    "model.name=voxel",
    "model.hidden=[4]",
    "training.batch_size=64",
    "training.steps=12",
    "training.round_steps=3",
]


def config(*settings):
    return load_config(settings=[*TINY, *settings])


def assert_same_run(a, b):
    assert history(a) == history(b)
    assert_same_weights(a, b)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, toy):
    """A run of twelve steps; a test that changes it takes a copy."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    train([toy()], folder, config())
    return folder


class Recorder(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.events = []

    def on_train_begin(self, logs=None):
        self.events.append("train begins")

    def on_epoch_begin(self, epoch, logs=None):
        self.events.append(f"epoch {epoch} begins")

    def on_train_batch_end(self, batch, logs=None):
        self.events.append(f"batch {batch}")
        assert np.isfinite(logs["loss"])

    def on_test_end(self, logs=None):
        self.events.append("validated")

    def on_epoch_end(self, epoch, logs=None):
        assert set(logs) == {"loss", "val_loss", "val_mse", "val_r2", "learning_rate"}
        self.events.append(f"epoch {epoch} ends")

    def on_train_end(self, logs=None):
        self.events.append("train ends")


def test_callbacks_hear_what_happens_in_the_order_of_keras(toy, tmp_path):
    recorder = Recorder()
    train([toy()], tmp_path / "run", config("training.steps=5"), callbacks=[recorder])
    assert recorder.events == [
        "train begins",
        *("epoch 0 begins", "batch 0", "batch 1", "batch 2", "validated", "epoch 0 ends"),
        *("epoch 1 begins", "batch 0", "batch 1", "validated", "epoch 1 ends"),
        "train ends",
    ]


def stopping():
    """Stops at the second round, whose loss is never better by so much, and goes back to the first."""
    return keras.callbacks.EarlyStopping("val_loss", min_delta=1e3, patience=2, restore_best_weights=True)


def test_a_callback_ends_the_run_and_puts_weights_back(toy, tmp_path):
    metrics = train([toy()], tmp_path / "run", config(), callbacks=[stopping()])
    assert metrics.steps == 9
    train([toy()], tmp_path / "short", config(), progress=None, callbacks=[StopAfter(1)])
    for x, y in zip(weights(tmp_path / "run"), weights(tmp_path / "short"), strict=True):
        np.testing.assert_array_equal(x, y)
    assert metrics.validation_r2 == pytest.approx(history(tmp_path / "run")[0]["validation_r2"], abs=1e-6)


def test_the_average_that_a_callback_puts_back_is_what_is_kept(toy, tmp_path):
    averaged = config("training.ema_momentum=0.8")
    metrics = train([toy()], tmp_path / "run", averaged, callbacks=[stopping()])
    train([toy()], tmp_path / "short", averaged, callbacks=[StopAfter(1)])
    for x, y in zip(weights(tmp_path / "run"), weights(tmp_path / "short"), strict=True):
        np.testing.assert_array_equal(x, y)
    assert metrics.validation_r2 == pytest.approx(history(tmp_path / "run")[0]["validation_r2"], abs=1e-6)


class StopAfter(keras.callbacks.Callback):
    def __init__(self, rounds):
        super().__init__()
        self.rounds = rounds

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch + 1 >= self.rounds


def test_callbacks_go_on_where_they_were(toy, tmp_path):
    constant = config("training.schedule.name=Constant", "training.warmup_share=0")

    def callbacks():
        return [
            keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=1, min_delta=1e3),
            stopping(),
        ]

    whole, killed = tmp_path / "whole", {when: tmp_path / f"killed at {when}" for when in (4, 8)}

    def keep(*called):
        for when, folder in killed.items():
            copied_at(when, whole, folder)(*called)

    train([toy()], whole, constant, callbacks=callbacks(), progress=keep)
    rates = [row["learning_rate"] for row in history(whole)]
    assert rates[-1] < rates[0]
    for run in killed.values():
        with pytest.raises(InputError, match=r"started with the callbacks .*EarlyStopping; received none"):
            train([toy()], run, constant, resume=True)
        train([toy()], run, constant, resume=True, callbacks=callbacks())
        assert_same_run(whole, run)


@pytest.mark.parametrize(
    "settings",
    [
        [
            "training.optimizer.name=AdamW",
            "training.weight_decay=0.01",
            "training.schedule={name='ExponentialDecay', arguments={decay_rate=0.1}}",
        ],
        [
            "training.optimizer.name=lion",
            "training.optimizer.arguments.beta_1=0.95",
            "training.ema_momentum=0.8",
        ],
        ["training.optimizer.name=Muon"],
        [
            "training.optimizer.name=SGD",
            "training.optimizer.arguments={momentum=0.9, nesterov=true}",
            "training.schedule.name=CosineDecayRestarts",
            "training.warmup_share=0.3",
        ],
    ],
    ids=lambda settings: settings[0],
)
def test_every_optimiser_of_keras_trains_and_resumes_exactly(settings, toy, tmp_path):
    if settings[0].endswith("Muon") and not hasattr(keras.optimizers, "Muon"):
        pytest.skip("this Keras has no Muon")
    whole, run = tmp_path / "whole", tmp_path / "run"
    train([toy()], whole, config(*settings), progress=copied_at(8, whole, run))
    train([toy()], run, config(*settings), resume=True)
    assert_same_run(whole, run)


def test_an_optimiser_gets_its_arguments_and_says_what_it_takes():
    optimizer = build_optimizer(
        config("training.optimizer={name='Lion', arguments={beta_2=0.9}}", "training.clip_norm=3").training
    )
    assert type(optimizer).__name__ == "Lion"
    assert (optimizer.beta_2, optimizer.clipnorm) == (0.9, 3)
    for setting, expected in {
        "training.optimizer.name=Fast": "training.optimizer.name: expected one of .*AdamW.*received 'Fast'",
        "training.optimizer.arguments.speed=2": "(?s)training.optimizer.arguments of Adam: .*takes .*beta_1",
        "training.schedule.name=Later": "expected one of .*CosineDecay.*Constant",
        "training.schedule.name=ExponentialDecay": "(?s)decay_rate",
    }.items():
        with pytest.raises(InputError, match=expected):
            build_optimizer(config(setting).training)


def test_a_warm_up_rises_in_a_line_and_then_follows_the_schedule():
    after = keras.optimizers.schedules.InverseTimeDecay(0.5, decay_steps=2, decay_rate=1.0)
    schedule = WarmUp(after, 4, 0.5)
    rates = [float(schedule(step)) for step in range(9)]
    expected = [0.0, 0.125, 0.25, 0.375, *(0.5 / (1 + step / 2) for step in range(5))]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)
    again = WarmUp.from_config(schedule.get_config())
    assert [float(again(step)) for step in range(9)] == rates


def test_the_moving_average_is_what_is_judged_and_kept(toy, tmp_path):
    """By the formula, from the weights that a run without it goes through, which it does not change."""
    momentum, trajectory = 0.6, []

    class Keep(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            trajectory.append([np.array(weight) for weight in self.model.get_weights()])

    train([toy()], tmp_path / "plain", config(), callbacks=[Keep()])
    average = trajectory[0]
    for step in trajectory[1:]:
        average = [momentum * a + (1 - momentum) * w for a, w in zip(average, step, strict=True)]
    train([toy()], tmp_path / "averaged", config(f"training.ema_momentum={momentum}"))
    trunk = load_run(tmp_path / "averaged").model.trunk
    for kept, expected in zip(trunk.get_weights(), average, strict=True):
        np.testing.assert_allclose(kept, expected, rtol=1e-4, atol=1e-6)
    losses = [[row["loss"] for row in history(tmp_path / name)] for name in ("plain", "averaged")]
    assert losses[0] == losses[1]


def test_the_validation_loss_is_the_loss(toy, tmp_path, finished):
    """With mse it is the other column; with the cross-entropy it is computed here once more."""
    train([toy()], tmp_path / "mse", config("training.loss.kind=mse"))
    for row in history(tmp_path / "mse"):
        assert row["validation_loss"] == pytest.approx(row["validation_mse"], rel=1e-5)
    sim = toy()
    run = load_run(finished)
    predicted = np.clip(run.predict(sim).values, 1e-7, 1 - 1e-7)
    true = sim["xi"].values
    cells = round(0.125 * sim.sizes["x"])
    entropy = [
        -(t * np.log(p) + (1 - t) * np.log1p(-p))[:cells]
        for t, p in zip(true, predicted, strict=True)
        if 0.001 < t.mean() < 0.999
    ]
    assert history(finished)[-1]["validation_loss"] == pytest.approx(np.mean(entropy), rel=1e-3)


def test_a_finished_run_is_lengthened_with_the_schedule_of_its_new_length(toy, tmp_path, finished):
    shutil.copytree(finished, tmp_path / "run")
    said = []
    with pytest.raises(InputError, match=r"training\.steps=12 instead of 6"):
        train([toy()], tmp_path / "run", config("training.steps=6"), resume=True)
    longer = config("training.steps=24")
    metrics = train([toy()], tmp_path / "run", longer, resume=True, say=said.append)
    assert metrics.steps == 24
    assert "from step 12 on, the learning rate is that of a run of 24 steps" in said[0]
    assert load_config(tmp_path / "run" / "config.toml") == longer
    provenance = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert provenance["lengthened"] == [{"at_step": 12, "before": 12, "after": 24}]
    train([toy()], tmp_path / "long", longer)
    rates = {name: [row["learning_rate"] for row in history(tmp_path / name)] for name in ("run", "long")}
    assert rates["run"][4:] == rates["long"][4:]
    assert rates["run"][:4] != rates["long"][:4]
    checkpoint = load_newest(tmp_path / "run" / "checkpoints")
    assert checkpoint.step == 24


def test_a_run_that_ended_by_itself_is_not_lengthened(toy, tmp_path):
    train([toy()], tmp_path / "run", config(), callbacks=[StopAfter(2)])
    with pytest.raises(InputError, match="ended by itself at step 6"):
        train([toy()], tmp_path / "run", config("training.steps=24"), resume=True, callbacks=[StopAfter(2)])


def test_the_command_lengthens_with_the_setting_alone(command, toy, tmp_path):
    from reion.storage.store import write_simulation

    write_simulation(toy(), tmp_path / "box.zarr")
    settings = [word for setting in TINY for word in ("--set", setting)]
    words = ("train", tmp_path / "box.zarr", "--out", tmp_path / "run")
    assert command(*words, *settings)[0] == 0
    code, out, err = command(*words, "--resume", "--set", "training.steps=15")
    assert code == 0, err
    assert "after 15 steps" in out
    assert "lengthened from 12 to 15 steps" in err


def test_several_seeds_and_their_spread(toy, tmp_path):
    result = train_seeds([toy()], tmp_path / "seeds", config("seed=4"), seeds=2)
    assert [run.run for run in result.runs] == ["seed-4", "seed-5"]
    r2 = [load_run(tmp_path / "seeds" / run.run).metrics.validation_r2 for run in result.runs]
    assert len(set(r2)) == 2
    assert result.mean_r2 == pytest.approx(np.mean(r2))
    assert result.std_r2 == pytest.approx(np.std(r2, ddof=1))
    with pytest.raises(InputError, match="already there") as refused:
        train_seeds([toy()], tmp_path / "seeds", config("seed=4"), seeds=2)
    assert "--resume goes on" in refused.value.hint
    assert train_seeds([toy()], tmp_path / "seeds", config("seed=4"), seeds=2, resume=True) == result
    with pytest.raises(InputError, match="other simulations: values of box 1"):
        train_seeds([toy(seed=1)], tmp_path / "seeds", config("seed=4"), seeds=2, resume=True)
