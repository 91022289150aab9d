import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reion_kernels import N_SYMMETRIES, affine, crop, crop_batch, inverse, permutation_and_flips, symmetry
from tests.kernels.strategies import LENGTHS, arrays

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # without JIT, NumPy comments on NaN


def twin(fields, origin, shape, index, scale, mean, std, transform):
    """Take, normalise, turn and stack, one after the other."""
    permutation, _ = permutation_and_flips(inverse(index))
    window = fields
    for axis in range(3):
        cells = np.arange(origin[axis], origin[axis] + shape[permutation[axis]])
        window = np.take(window, cells, axis=axis + 1, mode="wrap")
    normalised = [
        affine(np.ascontiguousarray(field), scale=a, mean=b, std=c, transform=t)
        for field, a, b, c, t in zip(window, scale, mean, std, transform, strict=True)
    ]
    return np.stack([symmetry(field, index) for field in normalised], axis=-1).astype(np.float32)


def batch_of(shape, seed):
    """A batch to write to, in an order of memory that depends on the seed."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(shape)) if seed % 2 else np.arange(len(shape))
    return np.full([shape[axis] for axis in order], np.nan, dtype=np.float32).transpose(np.argsort(order))


@given(data=st.data())
@settings(deadline=None, max_examples=200)
def test_a_crop_is_take_normalise_turn_and_stack(data):
    count = data.draw(st.integers(1, 3))
    box = [data.draw(LENGTHS) for _ in range(3)]
    fields = data.draw(arrays(shape=(count, *box), magnitudes=(1.0, 1e-31)))
    shape = [data.draw(st.sampled_from([1, 2, 5, 17, 20])) for _ in range(3)]
    origin = [data.draw(st.integers(-40, 40)) for _ in range(3)]
    index = data.draw(st.integers(0, N_SYMMETRIES - 1))
    scale = [data.draw(st.sampled_from([1.0, 3.0])) for _ in range(count)]
    mean = [data.draw(st.sampled_from([0.0, 0.5])) for _ in range(count)]
    std = [data.draw(st.sampled_from([1.0, 0.3])) for _ in range(count)]
    transform = [data.draw(st.sampled_from(["none", "log1p", "asinh"])) for _ in range(count)]
    out = batch_of((*shape, count), data.draw(st.integers(0, 9)))
    before = fields.copy()
    result = crop(fields, origin, out=out, index=index, scale=scale, mean=mean, std=std, transform=transform)
    assert result is out
    expected = twin(fields.astype(np.float64), origin, shape, index, scale, mean, std, transform)
    assert np.allclose(out, expected, rtol=1e-6, atol=1e-6, equal_nan=True)
    assert np.array_equal(fields, before, equal_nan=True)


@pytest.mark.parametrize("index", range(N_SYMMETRIES))
def test_every_turn_of_a_window_that_is_no_cube(index):
    fields = np.random.default_rng(0).normal(size=(2, 9, 10, 11))
    out = np.empty((5, 21, 7, 2), dtype=np.float32)
    crop(fields, (-3, 8, 40), out=out, index=index)
    none = (1.0, 1.0), (0.0, 0.0), (1.0, 1.0), ("none", "none")
    assert np.array_equal(out, twin(fields, (-3, 8, 40), (5, 21, 7), index, *none))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_batch_is_its_crops(threads):
    rng = np.random.default_rng(1)
    fields = rng.lognormal(size=(3, 12, 13, 14)).astype(np.float32)
    origins = rng.integers(-50, 50, (7, 3))
    indices = rng.integers(0, N_SYMMETRIES, 7)
    constants = {"scale": 2.0, "mean": [1.0, 2.0, 3.0], "std": 0.5, "transform": ["none", "log1p", "asinh"]}
    batch = np.empty((7, 8, 8, 8, 3), dtype=np.float32)
    assert crop_batch(fields, origins, out=batch, indices=indices, threads=threads, **constants) is batch
    for place, origin, index in zip(batch, origins, indices, strict=True):
        expected = crop(fields, origin, out=np.empty_like(place), index=index, **constants)
        assert np.array_equal(place, expected)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_batch_is_filled_place_by_place_and_nowhere_else(threads):
    rng = np.random.default_rng(5)
    fields = rng.normal(size=(2, 9, 10, 11)).astype(np.float32)
    origins, indices = rng.integers(-20, 20, (4, 3)), rng.integers(0, N_SYMMETRIES, 4)
    places = [6, 0, 3, 2]
    batch = np.full((8, 5, 5, 5, 2), np.nan, dtype=np.float32)
    crop_batch(fields, origins, out=batch, places=places, indices=indices, threads=threads)
    for place, origin, index in zip(places, origins, indices, strict=True):
        expected = crop(fields, origin, out=np.empty_like(batch[0]), index=index)
        assert np.array_equal(batch[place], expected)
    assert np.isnan(batch[[1, 4, 5, 7]]).all()


@pytest.mark.parametrize("places", [[0, 0], [0, 2], [-1, 0], [[0, 1]]])
def test_a_window_has_one_place_in_the_batch(places):
    batch = np.zeros((2, 3, 3, 3, 2), np.float32)
    with pytest.raises(ValueError, match="places: expected"):
        crop_batch(FIELDS, [[0, 0, 0]] * 2, out=batch, places=places)


@pytest.mark.parametrize("places", [[0.0, 1.0], [0.5, 1.0], [True, False]])
def test_places_are_whole_numbers(places):
    batch = np.zeros((2, 3, 3, 3, 2), np.float32)
    with pytest.raises(TypeError, match="places: expected whole numbers"):
        crop_batch(FIELDS, [[0, 0, 0]] * 2, out=batch, places=places)


def test_the_default_uses_threads_and_gives_the_same_bits():
    rng = np.random.default_rng(2)
    fields = rng.normal(size=(2, 32, 32, 32)).astype(np.float32)
    origins = rng.integers(0, 32, (10, 3))
    one, many = np.empty((2, 10, 32, 32, 32, 2), dtype=np.float32)
    crop_batch(fields, origins, out=one, threads=1)
    crop_batch(fields, origins, out=many)
    assert np.array_equal(one, many)


def test_a_turned_box_gives_turned_crops():
    rng = np.random.default_rng(3)
    fields = rng.normal(size=(1, 8, 8, 8)).astype(np.float32)
    whole = np.empty((8, 8, 8, 1), dtype=np.float32)
    for index in range(N_SYMMETRIES):
        crop(fields, (0, 0, 0), out=whole, index=index)
        assert np.array_equal(whole[..., 0], symmetry(fields[0], index))


def test_windows_of_python_threads_do_not_mix():
    rng = np.random.default_rng(4)
    fields = rng.normal(size=(2, 20, 20, 20)).astype(np.float32)
    origins = rng.integers(0, 20, (40, 3))
    batch = np.zeros((40, 16, 16, 16, 2), dtype=np.float32)

    def fill(first):
        for b in range(first, 40, 4):
            crop(fields, origins[b], out=batch[b], index=b)

    workers = [threading.Thread(target=fill, args=(first,)) for first in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    expected = crop_batch(fields, origins, out=np.empty_like(batch), indices=np.arange(40), threads=1)
    assert np.array_equal(batch, expected)


def test_nothing_to_do_is_done():
    fields = np.zeros((2, 3, 3, 3), dtype=np.float32)
    assert crop_batch(fields, np.empty((0, 3), int), out=np.empty((0, 4, 4, 4, 2), np.float32)).size == 0
    assert crop(fields, (0, 0, 0), out=np.empty((0, 4, 4, 2), np.float32)).size == 0


def test_origins_far_beyond_the_box_wrap():
    fields = np.arange(60.0).reshape(1, 3, 4, 5)
    near, far = np.empty((2, 2, 2, 2, 1), dtype=np.float32)
    crop(fields, (1, 2, 3), out=near)
    crop(fields, (1 - 3 * 10**15, 2 + 4 * 10**15, 3), out=far)
    assert np.array_equal(near, far)


FIELDS = np.zeros((2, 4, 4, 4), dtype=np.float32)


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (ValueError, "fields: expected shape", {"fields": FIELDS[0]}),
        (ValueError, "fields: expected shape", {"fields": FIELDS[:, :0]}),
        (TypeError, "fields: expected a numpy array", {"fields": FIELDS.astype(int)}),
        (TypeError, "out: expected a numpy array", {"out": None}),
        (ValueError, "out: expected shape", {"out": np.zeros((3, 3, 3, 1), np.float32)}),
        (TypeError, "out: expected float32", {"out": np.zeros((3, 3, 3, 2))}),
        (ValueError, "overlaps an input", {"out": FIELDS.transpose(1, 2, 3, 0)}),
        (TypeError, "origin: expected whole numbers of cells", {"origin": (0.5, 0.0, 0.0)}),
        (ValueError, "origin: expected three cells", {"origin": (0, 0)}),
        (ValueError, "index: expected a symmetry", {"index": 48}),
        (ValueError, "mean: expected one number or 2", {"mean": [1.0, 2.0, 3.0]}),
        (ValueError, "transform: expected one or 2", {"transform": ["none"]}),
        (ValueError, "std: expected a standard deviation other than zero", {"std": [1.0, 0.0]}),
    ],
)
def test_bad_arguments_are_named(error, message, change):
    arguments = {"fields": FIELDS, "origin": (0, 0, 0), "out": np.zeros((3, 3, 3, 2), np.float32)} | change
    fields, origin = arguments.pop("fields"), arguments.pop("origin")
    with pytest.raises(error, match=message):
        crop(fields, origin, **arguments)


def test_a_batch_needs_a_turn_for_each_window():
    with pytest.raises(ValueError, match="indices: expected one symmetry for each of 1 windows"):
        crop_batch(FIELDS, [[0, 0, 0]], out=np.zeros((1, 3, 3, 3, 2), np.float32), indices=[0, 1])
