"""Every command that reads simulations takes the same facts, and says the same of what it does not use."""

from __future__ import annotations

import warnings
from importlib.util import find_spec

import h5py
import numpy as np
import pytest

from reion.errors import InputError

FIELDS = ("n_igm", "n_src", "xi")


@pytest.fixture
def files(toy, tmp_path):
    """Two boxes whose size the files lack, each with a field that no command uses."""
    paths = []
    for seed in (0, 1):
        sim = toy(shape=(12, 12, 12), seed=seed)
        paths.append(tmp_path / f"box{seed}.h5")
        with h5py.File(paths[-1], "w") as file:
            file.attrs.update({key: sim.attrs[key] for key in ("H0", "Om0", "Ob0")})
            file["redshift"] = sim["redshift"].values
            for name in FIELDS:
                file[name] = sim[name].values
                file[name].attrs["units"] = sim[name].attrs["units"]
            file["gas_velocity"] = sim["xi"].values
    return paths


def exit_as_done():
    raise SystemExit(0)


def arguments(verb, file, model, folder):
    out = ["--out", folder / "out"]
    return {
        "convert": [file, *out],
        "convert --dry-run": [file, *out, "--dry-run"],
        "inspect": [file],
        "predict": [model, file, *out],
        "predict --dry-run": [model, file, *out, "--dry-run"],
        "evaluate": [model, file],
        "plan": [model, file],
        "simulate": [file, *out, "--dry-run", "--set", "max_mfp=5"],
        "train": [file, *out, "--dry-run", "--set", "training.crop_cells=4"],
    }[verb]


@pytest.mark.parametrize(
    "verb",
    [
        *("convert", "convert --dry-run", "inspect", "predict", "predict --dry-run"),
        *("evaluate", "plan", "simulate", "train"),
    ],
)
def test_what_is_not_used_is_said_once_by_every_command(
    verb, command, files, toy_model, tmp_path, monkeypatch
):
    for place in ("training.cost.plan_train", "ray_tracing.cost.plan_simulate"):
        if verb in place:
            monkeypatch.setattr(f"reion.{place}", lambda *_, **__: exit_as_done())  # they time a step
    if verb == "train" and not find_spec("tensorflow"):
        pytest.skip("trains with TensorFlow")
    words = [verb.split()[0], *arguments(verb, files[0], toy_model, tmp_path)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        code, _, said = command(*words)
    assert code == 2
    assert "box_size" in said
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("default")
        code, _, said = command(*words, "--set", "box_size=24")
    assert code == 0, said
    texts = [str(warning.message) for warning in warned]
    assert [text for text in texts if "gas_velocity" in text] == ["not used: gas_velocity in box0.h5"]


@pytest.mark.filterwarnings("ignore:not used")
def test_compare_takes_facts_for_all_its_boxes(command, files, tmp_path, monkeypatch):
    pytest.importorskip("tensorflow")
    pytest.importorskip("tf2onnx")
    from reion.studies import comparison

    received = []

    def remember(study, simulations, tests, out, **_):
        received.extend([*simulations, *tests.values()])
        message = "enough"
        raise InputError(message)

    monkeypatch.setattr(comparison, "compare", remember)
    words = ["compare", "losses", files[0], "--test", files[1], "--out", tmp_path / "out"]
    code, _, said = command(*words)
    assert code == 2
    assert "box_size: side of the box" in said
    code, _, said = command(*words, "--set", "box_size=24", "--set", "max_mfp=7")
    assert (code, "enough" in said) == (2, True)
    assert [np.max(sim.attrs["box_size"]) for sim in received] == [24.0, 24.0]
    assert all((sim["max_mfp"] == 7).all() for sim in received)
