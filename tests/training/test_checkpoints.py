"""A checkpoint is whole or it is not there."""

from __future__ import annotations

import errno

import numpy as np
import pytest

from reion.training.checkpoints import Checkpoint, load_newest, save_checkpoint


def checkpoint(step):
    arrays = {"network": [np.full((3, 2), step, np.float32), np.array(step)], "optimizer": [np.arange(step)]}
    return Checkpoint(step, arrays, {"best_r2": 0.5, "history": [{"step": step}]})


def test_read_back_it_is_the_same(tmp_path):
    save_checkpoint(tmp_path, checkpoint(12))
    read = load_newest(tmp_path)
    assert read.step == 12
    assert read.state == checkpoint(12).state
    for group, arrays in checkpoint(12).arrays.items():
        for stored, expected in zip(read.arrays[group], arrays, strict=True):
            np.testing.assert_array_equal(stored, expected)
            assert stored.dtype == expected.dtype


def test_only_the_newest_are_kept(tmp_path):
    for step in (1, 2, 3, 4):
        save_checkpoint(tmp_path, checkpoint(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000003", "step-000000004"]


def test_what_a_run_wrote_after_the_step_that_it_went_back_to_is_removed(tmp_path):
    for step in (30, 40):
        (save_checkpoint(tmp_path, checkpoint(step)) / "arrays.npz").write_bytes(b"")
    assert load_newest(tmp_path) is None
    save_checkpoint(tmp_path, checkpoint(10))
    save_checkpoint(tmp_path, checkpoint(20))
    assert load_newest(tmp_path).step == 20
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000010", "step-000000020"]


@pytest.mark.parametrize("name", ["arrays.npz", "state.json", "checksums.json"])
@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_a_damaged_one_is_passed_over(tmp_path, name, damage):
    save_checkpoint(tmp_path, checkpoint(1))
    path = save_checkpoint(tmp_path, checkpoint(2)) / name
    content = path.read_bytes()
    if damage == "remove":
        path.unlink()
    elif damage == "truncate":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    assert load_newest(tmp_path).step == 1


def test_where_there_is_none_there_is_none(tmp_path):
    assert load_newest(tmp_path / "nowhere") is None


@pytest.mark.parametrize("stage", ["checkpoints.write_json", "checkpoints.sha256_of", "outputs._sync"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_full_disk_or_a_kill_in_the_middle_leaves_the_older_one(tmp_path, monkeypatch, stage, error):
    save_checkpoint(tmp_path, checkpoint(1))

    def fail(*_args):
        raise error

    monkeypatch.setattr(f"reion.{'jobs' if stage.startswith('outputs') else 'training'}.{stage}", fail)
    with pytest.raises(type(error)):
        save_checkpoint(tmp_path, checkpoint(2))
    monkeypatch.undo()
    assert load_newest(tmp_path).step == 1
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001"]
    save_checkpoint(tmp_path, checkpoint(2))
    assert load_newest(tmp_path).step == 2
