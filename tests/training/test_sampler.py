"""Batches: a function of seed and number, equal to the slow way, never from the validation slab."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("keras")

from reion.config import load_config
from reion.errors import InputError
from reion.models.build import build_model
from reion.models.normalizer import fit_normalizer
from reion.training.sampler import (
    CropSequence,
    TrainingSnapshot,
    prepare_snapshots,
    slab_pair,
    slabs_along_x,
    validation_pair,
)
from reion_kernels import symmetry

SHAPE = (16, 10, 12)


def make(augmentation="symmetries", seed=0, crop=3, redshift_jitter=0.0, **options):
    settings = [
        "model.smoothing_cells=[3]",
        "model.diffusion_cells=[3,3]",
        "model.blocks=1",
        f"data.augmentation={augmentation}",
        f"data.redshift_jitter={redshift_jitter}",
        f"training.crop_cells={crop}",
        "training.batch_size=5",
        f"seed={seed}",
    ]
    model = build_model(load_config(settings=settings))
    rng = np.random.default_rng(3)
    count = len(model.stem.channels)
    cell = (np.arange(np.prod(SHAPE)) / np.prod(SHAPE)).astype(np.float32).reshape(SHAPE)
    snapshots = [
        TrainingSnapshot(z, (), rng.normal(size=(count, *SHAPE)).astype(np.float32), cell, 2, {})
        for z in (9.0, 7.0)
    ]
    normalizer = fit_normalizer(
        model.stem.channels,
        model.stem.scale,
        model.stem.transform,
        ((s.redshift, s.channels, s.xi) for s in snapshots),
    )
    return snapshots, normalizer, model, CropSequence(snapshots, normalizer, model, batches=20, **options)


def test_a_batch_depends_on_the_seed_and_its_number_alone():
    *_, first = make()
    *_, again = make()
    *_, later = make(first=3)
    *_, other = make(seed=1)
    for a, b in ((first[5], again[5]), (first[5], later[2])):
        np.testing.assert_array_equal(a[0][0], b[0][0])
        np.testing.assert_array_equal(a[1], b[1])
    assert not np.array_equal(first[5][1], other[5][1])
    assert not np.array_equal(first[5][1], first[6][1])
    with pytest.raises(IndexError):
        first[20]


def test_shapes_are_those_the_trunk_takes():
    _, _, model, batches = make()
    (channels, redshift), xi = batches[0]
    side = 3 + 2 * model.trunk_radius_cells
    assert channels.shape == (5, side, side, side, len(model.stem.channels))
    assert redshift.shape == (5, 1)
    assert xi.shape == (5, 3, 3, 3, 1)
    assert model.trunk([channels, redshift]).shape == xi.shape


def test_crops_are_windows_of_the_periodic_box_normalised_and_turned():
    snapshots, normalizer, model, batches = make()
    mean, std = np.array(normalizer.mean), np.array(normalizer.std)
    radius = model.trunk_radius_cells
    for number in range(4):
        (channels, redshift), xi = batches[number]
        for values, when, target in zip(channels, redshift, xi, strict=True):
            z = when[0] * normalizer.redshift_std + normalizer.redshift_mean
            (snapshot,) = [s for s in snapshots if np.isclose(s.redshift, z)]
            start, index = origin_and_turn(snapshot.xi, target[..., 0])
            window = window_at(snapshot.channels.astype(np.float64), start - radius, 3 + 2 * radius)
            expected = (np.moveaxis(symmetry(window, index), 0, -1) - mean) / std
            np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)


def test_the_redshift_that_is_told_is_off_by_the_jitter_and_nothing_else_is():
    _, normalizer, _, exact = make()
    _, _, _, noisy = make(redshift_jitter=0.5)
    differences = []
    for number in range(4):
        ((channels, told), xi), ((same_channels, true), same_xi) = noisy[number], exact[number]
        np.testing.assert_array_equal(channels, same_channels)
        np.testing.assert_array_equal(xi, same_xi)
        told, true = (z * normalizer.redshift_std + normalizer.redshift_mean for z in (told, true))
        assert set(np.round(true.ravel(), 4)) <= {9.0, 7.0}
        differences += np.min(np.abs(told - [[9.0, 7.0]]), axis=1).tolist()
    assert max(differences) <= 0.5
    assert np.mean(differences) > 0.1


def window_at(box, start, size):
    for axis, first in zip((-3, -2, -1), start, strict=True):
        box = np.take(box, np.arange(first, first + size), axis=axis, mode="wrap")
    return box


def origin_and_turn(xi, target):
    """Find where `target` was cropped and how it was turned: every cell of `xi` has its own value."""
    middle = np.array(np.argwhere(np.isclose(xi, target[1, 1, 1], atol=1e-9))[0])
    start = middle - 1
    window = window_at(xi, start, 3)
    (index,) = [i for i in range(48) if np.array_equal(symmetry(window, i), target)]
    return start, index


def test_targets_never_come_from_the_validation_slab_or_its_margin():
    snapshots, _, model, batches = make()
    margin = model.config.data.validation_margin_cells
    first, last = SHAPE[0], -1
    for number in range(20):
        flat = np.rint(batches[number][1] * np.prod(SHAPE)).astype(int)
        x = flat // (SHAPE[1] * SHAPE[2])
        first, last = min(first, x.min()), max(last, x.max())
    assert first == snapshots[0].validation_cells + margin
    assert last == SHAPE[0] - margin - 1


def test_without_augmentation_windows_are_not_turned():
    *_, batches = make(augmentation="none")
    (_, _), xi = batches[0]
    difference = np.diff(xi[..., 0], axis=1) * np.prod(SHAPE)
    assert np.all(np.rint(difference) == SHAPE[1] * SHAPE[2])


def test_slabs_are_the_whole_box_with_their_halos():
    snapshots, normalizer, model, _ = make()
    slabs = list(slabs_along_x(snapshots[0]))
    assert [x.start for x in slabs] == list(range(0, SHAPE[0], 2))
    pairs = [slab_pair(snapshots[0], normalizer, model, x) for x in slabs]
    np.testing.assert_array_equal(np.concatenate([xi[0, ..., 0] for _, xi in pairs]), snapshots[0].xi)
    radius = model.trunk_radius_cells
    whole = np.concatenate([values[0, radius : -radius or None] for (values, _), _ in pairs])
    (one, _), _ = slab_pair(snapshots[0], normalizer, model, range(SHAPE[0]))
    np.testing.assert_array_equal(whole, one[0, radius : -radius or None])


def test_the_validation_pair_is_the_slab_with_its_halo():
    snapshots, normalizer, model, _ = make()
    (values, _), xi = validation_pair(snapshots[0], normalizer, model)
    assert xi.shape == (1, 2, SHAPE[1], SHAPE[2], 1)
    np.testing.assert_array_equal(xi[0, ..., 0], snapshots[0].xi[:2])
    assert model.trunk([values, np.zeros((1, 1), np.float32)]).shape == xi.shape
    wrapped = np.pad(snapshots[0].channels, [(0, 0), (1, 1), (1, 1), (1, 1)], mode="wrap")[:, :4]
    expected = (np.moveaxis(wrapped, 0, -1) - normalizer.mean) / normalizer.std
    np.testing.assert_allclose(values[0], expected, rtol=1e-4, atol=1e-5)


def test_snapshots_of_a_simulation(simulation, tmp_path, monkeypatch):
    settings = [
        "training.crop_cells=4",
        "model.smoothing_cells=[3]",
        "model.diffusion_cells=[3,3]",
        "model.blocks=1",
    ]
    config = load_config(settings=settings)
    model = build_model(config)
    snapshots = prepare_snapshots([simulation, simulation], model, tmp_path)
    assert [s.redshift for s in snapshots] == 2 * simulation["redshift"].values.tolist()
    assert snapshots[0].channels.shape == (len(model.stem.channels), 12, 10, 8)
    assert not list(tmp_path.iterdir())

    monkeypatch.setattr("reion.training.sampler.IN_MEMORY_BYTES", 1000)
    on_disk = prepare_snapshots([simulation], model, tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    for memory, disk in zip(snapshots, on_disk, strict=False):
        np.testing.assert_array_equal(memory.channels, disk.channels)


def test_a_box_too_small_for_the_crop_is_an_error_that_says_so(simulation, tmp_path):
    config = load_config(settings=["training.crop_cells=12"])
    with pytest.raises(InputError, match="room for crops of 12 cells"):
        prepare_snapshots([simulation], build_model(config), tmp_path)


def test_the_shares_of_the_workers_are_the_batch():
    _, _, _, batches = make()
    shares = [make(rows=slice(rank, 5, 2))[3] for rank in range(2)]
    (channels, redshift), xi = batches[1]
    for rank, share in enumerate(shares):
        (some_channels, some_redshift), some_xi = share[1]
        np.testing.assert_array_equal(some_channels, channels[rank::2])
        np.testing.assert_array_equal(some_redshift, redshift[rank::2])
        np.testing.assert_array_equal(some_xi, xi[rank::2])


def test_batches_read_together_and_ahead_are_those_read_one_by_one(monkeypatch):
    *_, sequence = make()
    alone = [sequence[index] for index in range(len(sequence))]
    values = alone[0][0][0].size
    for together in (values, 3 * values, 100 * values):
        monkeypatch.setattr("reion.training.sampler._VALUES_AT_ONCE", together)
        ahead = list(sequence.ahead())
        assert len(ahead) == len(alone)
        for ((one, z_one), xi_one), ((other, z_other), xi_other) in zip(alone, ahead, strict=True):
            np.testing.assert_array_equal(one, other)
            np.testing.assert_array_equal(z_one, z_other)
            np.testing.assert_array_equal(xi_one, xi_other)
