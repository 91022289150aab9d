"""Seeing a run: its curve as text, what is said of how it stands, and what TensorBoard is given."""

from __future__ import annotations

import fcntl
import io
import json
import shutil

import numpy as np
import pytest

pytest.importorskip("keras")
pytest.importorskip("tensorflow")

from matplotlib.image import imread

from reion.config import load_config
from reion.errors import InputError
from reion.training.pictures import PICTURES, Slices, is_drawn
from reion.training.run import train
from reion.training.watch import draw, in_words, watch

VOXEL = [
    "model.name=voxel",
    "model.hidden=[4]",
    "training.batch_size=64",
    "training.steps=8",
    "training.round_steps=2",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory, toy):
    folder = tmp_path_factory.mktemp("watched") / "run"
    train([toy()], folder, load_config(settings=VOXEL))
    return folder


def test_a_finished_run_is_drawn_with_its_last_figures(run):
    watched = watch(run)
    assert (watched.state, watched.step, watched.steps) == ("finished", 8, 8)
    text = in_words(watched, width=60)
    assert f"now {watched.rounds[-1]['validation_r2']:.4f}" in text
    assert max(map(len, text.splitlines()[1:-1])) <= 61  # the first line is the path
    assert text.count("•") >= 2 * len(watched.rounds)


def test_a_run_that_is_not_finished_says_what_to_do(run, tmp_path, command):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    (folder / "metrics.json").unlink()
    with (tmp_path / ".run.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert watch(folder).state == "training"
    code, out, _ = command("watch", folder, "--every", "0.1")
    assert code == 0
    assert "no process writes it: the same `reion train` with --resume goes on" in out
    (folder / "diverged.npz").touch()
    assert "lower training.learning_rate" in watch(folder).advice
    assert json.loads(command("watch", folder, "--json")[1])["state"] == "diverged"
    with pytest.raises(InputError, match="expected a run folder"):
        watch(tmp_path)


def test_a_curve_is_drawn_where_it_is():
    lines = draw({"•": [0.0, 1.0, np.nan, 0.5]}, [1, 2, 3, 4], 4, width=22)
    cells = [line.partition("│")[2] for line in lines[:10]]
    assert [row for row, text in enumerate(cells) if "•" in text] == [0, 5, 9]
    assert cells[9].index("•") == 2
    assert cells[0].index("•") == 5
    assert "1" in lines[0]
    assert draw({"•": [np.nan]}, [1], 4, width=22) == ["no value yet"]


def events(folder):
    import tensorflow as tf

    path = folder / "events.out.tfevents.reion"
    return [
        (event.step, value)
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
    ]


def test_tensorboard_gets_slices_histograms_and_settings(run):
    drawn = events(run / "logs" / "pictures")
    images = [(step, value) for step, value in drawn if "truth" in value.tag]
    assert [step for step, _ in images] == [2, 4, 6, 8]
    picture = imread(io.BytesIO(images[0][1].image.encoded_image_string), format="png")
    assert picture.shape[1] > 3 * picture.shape[0] / 2
    names = {value.tag for step, value in drawn if step == 8}
    assert any(name.startswith("weights/") and name.endswith("kernel") for name in names)
    (settings,) = [value for _, value in events(run / "logs") if "hparams" in value.tag]
    assert b"training.learning_rate" in settings.metadata.plugin_data.content


def test_a_slice_shows_truth_prediction_and_difference():
    true = np.zeros((20, 30))
    true[:, 15:] = 1.0
    picture = imread(io.BytesIO(Slices(8.0, true, true).to_png()), format="png")[..., :3]
    factor = picture.shape[0] // 20
    assert factor * min(true.shape) >= 192
    side = 30 * factor
    left, middle, right = picture[:, :side], picture[:, side + 4 : 2 * side + 4], picture[:, -side:]
    np.testing.assert_array_equal(left, middle)
    assert np.ptp(right, axis=(0, 1)).max() == 0
    assert not np.array_equal(left[0, 0], left[0, -1])


@pytest.mark.parametrize(("steps", "round_steps"), [(100, 50), (5000, 50), (100_000, 7)])
def test_about_fifty_rounds_are_drawn_and_the_last(steps, round_steps):
    ends = [min(steps, end) for end in range(round_steps, steps + round_steps, round_steps)]
    drawn = [step for step in ends if is_drawn(step, steps=steps, round_steps=round_steps)]
    assert drawn[-1] == steps
    assert min(len(ends), PICTURES) <= len(drawn) <= 2 * PICTURES + 1
