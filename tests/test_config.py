"""The schema: one object, whatever it is written in."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reion.config import load_config, write_config
from reion.errors import InputError
from reion.registry import NETWORKS
from reion.storage.store import write_simulation


@pytest.mark.parametrize("name", NETWORKS.own)
def test_written_and_read_back_it_is_the_same(name, tmp_path):
    config = load_config(settings=[f"model.name={name}", "seed=7"])
    write_config(config, tmp_path / "config.toml")
    assert load_config(tmp_path / "config.toml") == config
    assert config.model.name == name


@given(
    steps=st.integers(1, 10**6),
    rate=st.floats(1e-6, 1.0),
    augmentation=st.sampled_from(["none", "rotations", "symmetries"]),
    loss=st.sampled_from(["mse", "binary_cross_entropy", "focal"]),
)
@settings(deadline=None, max_examples=30)
def test_settings_reach_the_schema(steps, rate, augmentation, loss):
    config = load_config(
        settings=[
            f"training.steps={steps}",
            f"training.learning_rate={rate!r}",
            f"data.augmentation={augmentation}",
            f"training.loss.kind={loss}",
        ]
    )
    assert config.training.steps == steps
    assert config.training.learning_rate == rate
    assert config.data.augmentation == augmentation
    assert config.training.loss.kind == loss


def test_settings_win_over_the_file_and_the_file_over_the_base(tmp_path):
    (tmp_path / "c.toml").write_text("seed = 2\n[training]\nsteps = 20\n")
    config = load_config(tmp_path / "c.toml", ["seed=3"], base={"seed": 1, "training": {"steps": 10}})
    assert (config.seed, config.training.steps) == (3, 20)


def test_defaults_depend_on_the_model():
    assert load_config().training.crop_cells == 24
    assert load_config(settings=["model.name=patch"]).training.crop_cells == 1
    assert load_config(settings=["model.name=patch", "training.crop_cells=3"]).training.crop_cells == 3


@pytest.mark.parametrize(
    ("settings", "gradient", "power"),
    [
        ([], 2.0, 0.01),
        (["training.loss.kind=binary_cross_entropy"], 2.0, 0.01),
        (["training.loss.power=0.05"], 2.0, 0.05),
        (["training.loss.gradient=0"], 0.0, 0.01),
        (["training.loss.kind=mse"], 0.0, 0.0),
        (["training.loss.kind=focal", "training.loss.power=0.1"], 0.0, 0.1),
        (["model.name=unet"], 0.0, 0.0),
    ],
)
def test_the_default_network_learns_with_terms_for_edges(settings, gradient, power):
    loss = load_config(settings=settings).training.loss
    assert (loss.gradient, loss.power) == (gradient, power)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("model.name=transformer", "transformer"),
        ("training.stepz=3", "stepz"),
        ("training.steps=0", "steps"),
        ("model.smoothing_cells=[4]", "must be odd"),
        ("nonsense", "key=value"),
        ("training.learning_rate=fast", "learning_rate"),
        ("model=patch", "model"),
        ("model=3", "model"),
        ("model.name=[1]", "model"),
        ("training=3", "training"),
        ("training.loss=mse", "training.loss"),
        ("training.crop_cells=2", "power needs training.crop_cells of 3 or more; received 2; .*power=0 goes"),
        ("model={name='patch', target='normalised'}", "needs training.loss.kind=mse"),
    ],
)
def test_what_does_not_fit_is_one_error_that_names_it(setting, expected):
    with pytest.raises(InputError, match=expected):
        load_config(settings=[setting])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["training.step=40"], "training.step: there is no such setting; did you mean steps?"),
        (["model.widht=3"], "model.widht: there is no such setting; did you mean width?"),
        (["modle.name=x"], "modle: there is no such setting; did you mean model?"),
        (["data.x=1"], "data.x: there is no such setting; the settings here are inputs, augmentation,"),
        (["model.name=transprt"], "received 'transprt'; did you mean transport?"),
        (["training.step=40", "training.steps=0"], "training.steps: Input should be greater than"),
    ],
)
def test_the_setting_that_was_meant_is_named(settings, expected):
    with pytest.raises(InputError) as error:
        load_config(None, settings)
    assert expected in error.value.message
    assert "Extra inputs" not in error.value.message


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (["predict", "rt-word", "box", "--out", "xi"], "did you mean rt-worlds?"),
        (["evaluate", "rt-word", "box"], "did you mean rt-worlds?"),
        (["train", "box", "--from", "rt-world", "--out", "run"], "did you mean rt-worlds?"),
        (["train", "box", "--out", "run", "--set", "trainin.steps=4"], "did you mean training?"),
        (["inspect", "box", "--format", "c2rai"], "did you mean c2ray?"),
        (["inspect", "box", "--set", "box_szie=4"], "did you mean box_size?"),
    ],
)
def test_the_name_that_was_meant_is_named(line, expected, command, simulation, tmp_path):
    pytest.importorskip("keras")
    write_simulation(simulation, tmp_path / "box")
    code, _, said = command(
        *[str(tmp_path / word) if word in ("box", "xi", "run") else word for word in line]
    )
    assert code == 2
    assert expected in " ".join(said.split())


def test_a_file_that_is_no_toml_is_named(tmp_path):
    (tmp_path / "c.toml").write_text("steps: 3")
    with pytest.raises(InputError, match=r"c\.toml"):
        load_config(tmp_path / "c.toml")
