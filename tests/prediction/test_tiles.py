"""Tiles: the answer put together from them is the answer of the whole box, whatever the predictor."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from reion.errors import InputError
from reion.prediction.tiles import Tiling, cheapest_tiles, predict_tile, read_window

MESHES = st.tuples(*[st.integers(1, 23)] * 3)
SEEDS = st.integers(0, 2**32 - 1)


def box_mean(halo):
    """A predictor whose answer for the whole box scipy knows: the mean over a cube of half side `halo`."""

    def predict(fields, periodic):
        window = fields["field"].astype(np.float64)
        for axis, whole in enumerate(periodic):
            mean = ndimage.uniform_filter1d(window, 2 * halo + 1, axis=axis, mode="wrap")
            inner = slice(None) if whole else slice(halo, mean.shape[axis] - halo)
            window = mean[(slice(None),) * axis + (inner,)]
        return window

    return predict


def whole_box_mean(box, halo):
    return ndimage.uniform_filter(box.astype(np.float64), 2 * halo + 1, mode="wrap")


def put_together(predict, box, tiling):
    out = np.full(tiling.mesh, np.nan)
    for number in range(len(tiling)):
        where = tiling.place(number)
        assert np.isnan(out[where]).all(), "a cell was predicted twice"
        out[where] = predict_tile(predict, {"field": box}, tiling, number)
    return out


@given(mesh=MESHES, tile=MESHES, halo=st.integers(0, 9), seed=SEEDS)
@settings(deadline=None, max_examples=100)
def test_tiles_give_the_whole(mesh, tile, halo, seed):
    box = np.random.default_rng(seed).normal(size=mesh).astype(np.float32)
    tiling = Tiling(mesh=mesh, tile=tile, halo_cells=halo)
    np.testing.assert_allclose(
        put_together(box_mean(halo), box, tiling), whole_box_mean(box, halo), atol=1e-6
    )


@given(mesh=MESHES, origin=st.tuples(*[st.integers(-50, 50)] * 3), shape=MESHES, seed=SEEDS)
@settings(deadline=None, max_examples=100)
def test_windows_wrap_as_often_as_needed(mesh, origin, shape, seed):
    box = np.random.default_rng(seed).normal(size=mesh).astype(np.float32)
    index = [np.arange(o, o + n) % cells for o, n, cells in zip(origin, shape, mesh, strict=True)]
    np.testing.assert_array_equal(read_window(box, origin, shape), box[np.ix_(*index)])


@given(
    mesh=st.tuples(*[st.integers(1, 400)] * 3),
    halo=st.integers(0, 40),
    stride=st.sampled_from([1, 2, 4, 8]),
    allowed=st.floats(1e5, 1e9),
)
@settings(deadline=None, max_examples=200)
def test_plans_fit_in_memory_and_cover_the_box_on_the_stride(mesh, halo, stride, allowed):
    def needed(tile):
        return 4 * math.prod(side + 2 * halo for side in tile)

    if needed((stride,) * 3) > allowed:
        with pytest.raises(InputError, match="needs at least"):
            cheapest_tiles(
                mesh, halo_cells=halo, stride_cells=stride, needed_bytes=needed, allowed_bytes=allowed
            )
        return
    tiling = cheapest_tiles(
        mesh, halo_cells=halo, stride_cells=stride, needed_bytes=needed, allowed_bytes=allowed
    )
    assert needed(tiling.tile) <= allowed
    for n, side, count, chunk in zip(mesh, tiling.tile, tiling.counts, tiling.chunk, strict=True):
        assert side % stride == 0
        assert (count - 1) * side < n <= count * side
        assert chunk <= 128
        assert count == 1 or side % chunk == 0, "two tiles would share a chunk of the store"


@given(
    mesh=st.tuples(*[st.integers(1, 40)] * 3),
    halo=st.integers(0, 12),
    stride=st.sampled_from([1, 4]),
    share=st.floats(0.05, 1.2),
)
@example(mesh=(3, 16, 33), halo=1, stride=4, share=1.0)
@settings(deadline=None, max_examples=100)
def test_no_other_tiles_that_fit_compute_fewer_cells(mesh, halo, stride, share):
    def window(tile):
        # A window that spans the box has the cells of the box, also where the tile goes beyond it.
        return math.prod(n if side >= n else side + 2 * halo for side, n in zip(tile, mesh, strict=True))

    def needed(tile):
        return 4 * window(tile) + 7 * math.prod(tile)

    allowed = share * needed(mesh) + needed((stride,) * 3)
    chosen = cheapest_tiles(
        mesh, halo_cells=halo, stride_cells=stride, needed_bytes=needed, allowed_bytes=allowed
    )
    every_side = [range(stride, n + stride, stride) for n in mesh]
    for tile in itertools.product(*every_side):
        if needed(tile) <= allowed:
            count = math.prod(-(-n // side) for n, side in zip(mesh, tile, strict=True))
            assert len(chosen) * window(chosen.tile) <= count * window(tile)


def test_cells_of_the_tiles_are_those_of_the_box():
    tiling = Tiling(mesh=(7, 4, 5), tile=(2, 4, 2), halo_cells=1)
    assert [tile.origin for tile in tiling][:4] == [(0, 0, 0), (0, 0, 2), (0, 0, 4), (2, 0, 0)]
    assert [tiling.cells(number) for number in range(3)] == [16, 16, 8]
    assert sum(map(tiling.cells, range(len(tiling)))) == 7 * 4 * 5


def test_too_little_memory_says_how_much_it_takes():
    with pytest.raises(InputError, match=r"8 x 8 x 8 cells needs at least 5 MiB.*2 MiB are allowed"):
        cheapest_tiles(
            (8, 8, 8), halo_cells=1, stride_cells=2, needed_bytes=lambda _: 5 * 2**20, allowed_bytes=2 * 2**20
        )
