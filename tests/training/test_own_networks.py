"""Networks, stems, losses and augmentations of others: the same commands, the same promises."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest
from pydantic import Field

pytest.importorskip("keras")
pytest.importorskip("tensorflow")

import keras
from keras import layers

import reion
from reion import keras_layers
from reion.config import RunConfig, load_config, write_config
from reion.errors import InputError
from reion.models import layers as layers_module
from reion.models import stems as stems_module
from reion.models.build import build_model
from reion.models.layers import PointwiseConv3D, add_conditions
from reion.registry import NETWORKS, STEMS
from reion.storage.store import write_simulation
from reion.training.export import export_run
from reion.training.run import train
from reion.training.run_folder import load_run
from tests.tiny import TINY_NETWORK
from tests.training.runs import assert_same_weights, copied_at, weights


class OwnPatch(reion.FieldsSettings):
    filters: tuple[int, int] = (3, 4)
    dense: tuple[int, ...] = (8, 4)
    dropout: float = 0.1


@reion.register_network(
    "own-patch",
    settings=OwnPatch,
    stem="fields",
    training={"crop_cells": 1, "batch_size": 256, "learning_rate": 1e-3},
)
def own_patch(settings, channels, conditions):
    """The network of the original project, written down once more by somebody else."""
    penalty = keras.regularizers.L2(1e-4)
    stages = []
    for filters, kernel in zip(settings.filters, (5, 3), strict=True):
        stages += [
            layers.Conv3D(filters, kernel, kernel_regularizer=penalty),
            layers.LeakyReLU(0.3),
            layers.BatchNormalization(),
            layers.AveragePooling3D(2, strides=1),
        ]
    branches = []
    for field in range(2):
        x = channels[..., field : field + 1]
        for stage in stages:
            x = stage(x)
        branches.append(x)
    x = layers.Concatenate()(branches)
    for number, width in enumerate(settings.dense):
        x = layers.Conv3D(width, 1, kernel_regularizer=penalty)(x)
        if number == 0:
            x = add_conditions(x, conditions, "redshift")
        x = layers.Dropout(settings.dropout)(layers.LeakyReLU(0.3)(x))
    xi = layers.Activation("sigmoid", dtype="float32")(PointwiseConv3D(1)(x))
    return keras.Model([channels, conditions], xi)


class Padded(reion.FieldsSettings):
    padding: str = "same"
    window_mean: bool = False


@reion.register_network("padded", settings=Padded, stem="fields")
def padded(settings, channels, conditions):
    x = layers.Conv3D(3, 3, padding=settings.padding, activation="tanh")(channels)
    if settings.window_mean:
        x = layers.Add()([x, layers.GlobalAveragePooling3D(keepdims=True)(x)])
    x = add_conditions(x, conditions, "redshift")
    return keras.Model([channels, conditions], layers.Conv3D(1, 1, activation="sigmoid")(x))


class Noise(reion.Schema):
    sigma: Annotated[float, Field(ge=0)] = 0.1


@reion.register_augmentation("own-noise", settings=Noise, orientations=24)
def noise(settings, rng, channels, conditions, xi):
    return channels + settings.sigma * rng.normal(size=channels.shape), conditions, xi


class Huber(reion.Schema):
    delta: float = 0.1


@reion.register_loss("own-huber", settings=Huber)
def huber(settings, true, predicted):
    return keras.losses.huber(true, predicted, delta=settings.delta)


SMALL = ["training.batch_size=8", "training.steps=6", "training.round_steps=2"]
OWN = [
    f"model.name={__name__}:own_patch",
    f"training.loss.kind={__name__}:huber",
    "training.loss.options.delta=0.2",
    f"data.augmentation={__name__}:noise",
    *SMALL,
]


@pytest.fixture(scope="module")
def patch_run(toy, tmp_path_factory):
    """A run of the patch network from outside."""
    folder = tmp_path_factory.mktemp("patch") / "own"
    train([toy()], folder, load_config(settings=["model.name=own-patch", *SMALL]))
    return folder


KILLED_AT = 5


@pytest.fixture(scope="module")
def own_run(toy, tmp_path_factory):
    """A run with all that others may register; `killed` beside it is what it was at the step `KILLED_AT`."""
    folder = tmp_path_factory.mktemp("own") / "run"
    copying = copied_at(KILLED_AT, folder, folder.with_name("killed"))
    train([toy()], folder, load_config(settings=OWN), progress=copying)
    return folder


@pytest.mark.slow
def test_the_original_projects_patch_from_outside_gives_the_numbers_of_the_shipped_one(
    toy, tmp_path, patch_run
):
    shipped = ["model.name=patch", "model.filters=[3,4]", "model.dense=[8,4]", *SMALL]
    train([toy()], tmp_path / "shipped", load_config(settings=shipped))
    assert_same_weights(tmp_path / "shipped", patch_run)
    own, other = (load_run(run).model for run in (patch_run, tmp_path / "shipped"))
    assert own.trunk_radius_cells == other.trunk_radius_cells == 4


@pytest.mark.slow
def test_a_registered_network_killed_and_resumed_equals_unbroken(toy, own_run):
    killed = own_run.with_name("killed")
    with pytest.raises(InputError, match="not finished"):
        load_run(killed)
    train([toy()], killed, load_config(settings=OWN), resume=True)
    assert_same_weights(own_run, killed)


@pytest.mark.slow
def test_loss_and_augmentation_of_others_are_what_is_learnt_with(toy, tmp_path, own_run):
    for name, settings in {
        "loss": ["training.loss.options.delta=1.0"],
        "augmentation": ["data.augmentation_options.sigma=0.5"],
    }.items():
        train([toy()], tmp_path / name, load_config(settings=[*OWN, *settings]))
    first = weights(own_run)
    for name in ("loss", "augmentation"):
        assert any(np.abs(a - b).max() > 0 for a, b in zip(first, weights(tmp_path / name), strict=True))


@pytest.mark.slow
def test_schema_file_and_provenance_say_where_the_code_is(tmp_path, own_run):
    config = load_config(settings=OWN)
    write_config(config, tmp_path / "config.toml")
    assert load_config(tmp_path / "config.toml") == config
    assert config.model.name == f"{__name__}:own_patch"
    assert config.training.loss.options == {"delta": 0.2}
    (network, loss, augmentation) = json.loads((own_run / "provenance.json").read_text())["code"]
    assert [network["kind"], loss["kind"], augmentation["kind"]] == ["network", "loss", "augmentation"]
    assert network["file"] == __file__
    assert len(network["sha256"]) == 64


def test_settings_of_others_are_checked_where_they_are(tmp_path):
    with pytest.raises(InputError, match=r"model\.filters.*model\.wings"):
        load_config(settings=["model.name=own-patch", "model.filters=[3]", "model.wings=2"])
    with pytest.raises(InputError, match=r"training\.loss\.options\.delta"):
        load_config(settings=[*OWN, "training.loss.options.delta=wide"])
    with pytest.raises(InputError, match="no network 'nothing' that is registered"):
        load_config(settings=[f"model.name={__name__}:nothing"])
    with pytest.raises(InputError, match=r"(?s)cannot be imported: ModuleNotFoundError.*PYTHONPATH"):
        load_config(settings=["model.name=no_such_file:mine"])


def test_a_python_object_is_as_good_as_a_file():
    config = RunConfig(model=OwnPatch(dropout=0.3), training={"steps": 4})
    assert config == load_config(settings=["model.name=own-patch", "model.dropout=0.3", "training.steps=4"])


def test_a_name_has_one_owner():
    with pytest.raises(InputError, match="registered already, by reion"):
        reion.register_network("patch", settings=OwnPatch, stem="fields")(padded)
    with pytest.raises(InputError, match="lack those of its stem photon_balance"):
        reion.register_network("other", settings=OwnPatch)
    assert "other" not in {entry.short for entry in NETWORKS}


@pytest.mark.parametrize("settings", [[], ["model.padding=valid", "model.window_mean=true"]])
def test_a_network_that_would_not_fit_in_tiles_is_refused(settings, toy, tmp_path):
    config = load_config(settings=["model.name=padded", *SMALL, "training.crop_cells=4", *settings])
    with pytest.raises(InputError, match="predicts a cell differently in another window"):
        train([toy()], tmp_path / "run", config)
    assert not (tmp_path / "run").exists()


def test_a_network_without_padding_is_taken():
    model = build_model(load_config(settings=["model.name=padded", "model.padding=valid"]))
    assert model.trunk_radius_cells == 1


MODULE = '''
import keras
from keras import layers, ops

import reion


class Mine(reion.NetworkSettings):
    width: int = 4


@keras.saving.register_keras_serializable("mine")
class Logarithms(keras.layers.Layer):
    """The logarithms of density and photons."""

    channels = ("density", "photons")
    radius_cells = 0
    scale = (1.0, 1.0)
    transform = ("none", "none")

    def __init__(self, photon_field, **options):
        super().__init__(**options)
        self.photon_field = photon_field

    def prepare(self, fields):
        import numpy as np

        photons = np.log(fields[self.photon_field] + 1e-3)
        return np.stack([np.log(fields["n_igm"] / 4e-31), photons]).astype("float32")

    def call(self, fields):
        photons = ops.log(fields[self.photon_field] + 1e-3)
        return ops.stack([ops.log(fields["n_igm"] / 4e-31), photons], axis=-1)


@reion.register_stem("own-logarithms")
def logarithms(settings, photon_field, cell_size_mpc):
    return Logarithms(photon_field, name="stem")


@reion.register_network("own-mine", settings=Mine, stem="own-logarithms")
def mine(settings, channels, conditions):
    x = layers.Conv3D(settings.width, 3, activation="relu")(channels)
    x = layers.Add()([x, layers.Reshape((1, 1, 1, settings.width))(layers.Dense(settings.width)(conditions))])
    xi = layers.Conv3D(1, 1, activation="sigmoid", dtype="float32")(x)
    return keras.Model([channels, conditions], xi)
'''


@pytest.mark.slow
def test_a_file_beside_the_data_is_all_that_the_commands_need(command, toy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    Path("networks.py").write_text(MODULE, encoding="utf-8")
    write_simulation(toy(), Path("box.zarr"))
    settings = [
        word
        for setting in ("model.name=networks:mine", "training.steps=4", "training.crop_cells=4")
        for word in ("--set", setting)
    ]
    for words in (
        ("train", "box.zarr", "--out", "run", *settings),
        ("export", "onnx", "run", "--out", "mine.onnx"),
        ("predict", "mine.onnx", "box.zarr", "--out", "xi.zarr"),
    ):
        code, _, err = command(*words)
        assert code == 0, err
    # Another process, in which the code is not there.
    Path("networks.py").unlink()
    importlib.invalidate_caches()
    monkeypatch.delitem(sys.modules, "networks")
    for registry, name in ((NETWORKS, "own-mine"), (STEMS, "own-logarithms")):
        monkeypatch.delitem(registry._entries, name)
    code, _, err = command("evaluate", "run", "box.zarr")
    assert code == 2
    assert "the code of the network networks:mine cannot be imported: ModuleNotFoundError" in err


@pytest.mark.slow
def test_keras_loads_a_network_by_itself_whichever_is_imported_first(toy, tmp_path):
    settings = [*TINY_NETWORK, "training.batch_size=1", "training.steps=1"]
    train([toy()], tmp_path / "run", load_config(settings=settings))
    place = tmp_path / "run" / "model.keras"
    code = (
        "import sys, reion\nassert 'keras' not in sys.modules\nimport keras\n"
        "assert 'reion.models.layers' not in sys.modules\n"
        f"model = keras.models.load_model({str(place)!r})\n"
        "print(type(model.get_layer('stem')).__module__, sum(w.numpy().sum() for w in model.weights))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    module, total = done.stdout.split()
    assert module == "reion.models.stems"
    assert float(total) == pytest.approx(sum(w.sum() for w in weights(tmp_path / "run")), rel=1e-5)


def test_keras_that_is_there_already_is_told_of_the_layers(monkeypatch):
    known = {}
    monkeypatch.setattr(keras.saving, "get_custom_objects", lambda: known)
    keras_layers.offer_layers()
    layer = known["reion>Standardise"].from_config({"mean": [1.0], "std": [2.0]})
    np.testing.assert_array_equal(layer(np.array([[5.0]], np.float32)), [[2.0]])
    saved = {
        kind.__name__
        for module in (layers_module, stems_module)
        for kind in vars(module).values()
        if isinstance(kind, type)
        and issubclass(kind, keras.layers.Layer)
        and kind.__module__ == module.__name__
    }
    assert {f"reion>{name}" for name in saved} == set(known)


@pytest.mark.slow
def test_an_own_network_exports(tmp_path, patch_run):
    assert export_run(patch_run, tmp_path / "own.onnx").max_difference < 1e-4
