"""A run folder with a damaged file: one message that names the file, and no answer."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import zipfile

import numpy as np
import pytest

pytest.importorskip("keras")
pytest.importorskip("tensorflow")

from reion.config import load_config
from reion.errors import InputError
from reion.training.run import train
from reion.training.run_folder import load_run
from tests.tiny import TINY_NETWORK

FILES = ("config.toml", "normalizer.json", "metrics.json", "provenance.json", "model.keras")
JSON = ("normalizer.json", "metrics.json", "provenance.json")


@pytest.fixture(scope="module")
def whole(toy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train([toy()], folder, load_config(settings=[*TINY_NETWORK, "training.batch_size=2", "training.steps=2"]))
    return folder


@pytest.fixture
def run(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


def seal(run):
    """Make the checksums those of the files, so that what is in the files is looked at."""
    sums = {name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in FILES}
    (run / "checksums.json").write_text(json.dumps(sums))


def expect_refusal(run, name):
    with pytest.raises(InputError) as refused:
        load_run(run)
    assert refused.value.file == str(run / name)
    assert refused.value.message


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_file_that_was_cut_off(run, name, share):
    content = (run / name).read_bytes()
    (run / name).write_bytes(content[: int(share * len(content))])
    expect_refusal(run, name)
    if name != "config.toml":  # what is missing there may be what the schema's defaults are
        seal(run)
        expect_refusal(run, name)


@pytest.mark.parametrize("name", JSON)
def test_values_of_other_kinds(run, name):
    values = json.loads((run / name).read_text())
    mutations = [
        {**values, "surplus": 1},
        *({key: value for key, value in values.items() if key != missing} for missing in values),
        *({**values, key: {"other": "kind"}} for key in values if key not in ("versions",)),
        *({**values, key: float("nan")} for key in values),
        *({**values, key: [float("inf")]} for key in values),
        [values],
        "text",
        None,
    ]
    for mutated in mutations:
        (run / name).write_text(json.dumps(mutated))
        seal(run)
        expect_refusal(run, name)


@pytest.mark.parametrize(
    ("key", "value"),
    [("std", [0.0]), ("std", []), ("redshift_std", -1.0), ("channels", ["other"]), ("transform", ["other"])],
)
def test_a_normalisation_that_fits_no_network(run, key, value):
    values = json.loads((run / "normalizer.json").read_text())
    count = len(values[key]) if isinstance(values[key], list) else 0
    values[key] = value * count if isinstance(value, list) and value else value
    (run / "normalizer.json").write_text(json.dumps(values))
    seal(run)
    expect_refusal(run, "normalizer.json")


def test_weights_that_are_no_numbers_or_of_another_network(run, whole):
    loaded = load_run(whole)
    first = loaded.network.get_weights()
    loaded.network.set_weights([np.full_like(weights, np.nan) for weights in first])
    loaded.network.save(run / "model.keras")
    seal(run)
    expect_refusal(run, "model.keras")
    with zipfile.ZipFile(run / "model.keras", "w") as archive:
        archive.writestr("model.weights.h5", b"nothing")
    seal(run)
    expect_refusal(run, "model.keras")
    shutil.copy(whole / "model.keras", run / "model.keras")
    text = (run / "config.toml").read_text()
    (run / "config.toml").write_text(text.replace("width = 6", "width = 5"))
    seal(run)
    expect_refusal(run, "model.keras")


@pytest.mark.parametrize("name", [*FILES, "checksums.json"])
def test_one_bit_that_flipped(run, whole, name):
    """Some flips give another sound value, a weight's for instance: only the checksum finds them."""
    content = (whole / name).read_bytes()
    chance = random.Random(name)
    for _ in range(12):
        damaged = bytearray(content)
        damaged[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        (run / name).write_bytes(damaged)
        with pytest.raises(InputError):
            load_run(run)


def test_weights_put_in_by_hand_are_not_taken_for_the_runs(run, command, toy):
    """Their scores and their provenance would be another network's."""
    loaded = load_run(run)
    loaded.network.set_weights([weights + 0.01 for weights in loaded.network.get_weights()])
    loaded.network.save(run / "model.keras")
    code, out, _ = command("export", "onnx", run, "--out", run.with_name("m.onnx"), "--json")
    error = json.loads(out)["error"]
    assert (code, error["file"]) == (2, str(run / "model.keras"))
    assert "changed after the run had finished" in error["message"]
    assert not run.with_name("m.onnx").exists()
    # The remedy that it names.
    assert "remove metrics.json" in error["hint"]
    (run / "metrics.json").unlink()
    train([toy()], run, loaded.config, resume=True)
    assert command("export", "onnx", run, "--out", run.with_name("m.onnx"))[0] == 0


def test_a_network_file_executes_nothing(run, tmp_path):
    """A .keras file can hold code, in a Lambda layer; only numbers are read from it."""
    import keras

    mark = tmp_path / "executed"
    name = str(mark)
    infected = keras.Sequential(
        [keras.Input((1,)), keras.layers.Lambda(lambda x: (open(name, "w").close(), x)[1])]  # noqa: PTH123
    )
    mark.unlink()  # Keras calls it once when it builds the network
    infected.save(run / "model.keras")
    seal(run)
    expect_refusal(run, "model.keras")
    assert not mark.exists()


def test_a_run_without_checksums(run):
    (run / "checksums.json").unlink()
    expect_refusal(run, "checksums.json")
