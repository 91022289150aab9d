"""What is read lazily is what would have been read at once, and only the part that is asked for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reion.readers import binary, open_simulation
from reion.readers.filenames import label_of, redshift_of
from tests.readers.layouts import LAYOUTS, random_simulation, write_epfl

SIM = random_simulation((7, 7, 5), (9.0, 8.0, 7.0))


def index(size):
    # xarray itself fails on empty slices with a negative step.
    slices = st.slices(size).filter(lambda part: len(range(size)[part]) > 0)
    return st.one_of(st.integers(-size, size - 1), slices, st.just(slice(2, 2)))


@pytest.fixture(scope="module", params=LAYOUTS)
def opened(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("layout")
    return open_simulation(folder, settings=LAYOUTS[request.param](folder, SIM))


@settings(deadline=None, max_examples=25)
@given(key=st.tuples(index(3), index(7), index(7), index(5)), number=st.integers(0, 5))
def test_any_part_is_a_part_of_the_whole(opened, key, number):
    names = sorted(opened.data_vars)
    field = names[number % len(names)]
    np.testing.assert_array_equal(opened[field][key].values, opened[field].values[key])


def test_lists_of_indices(opened):
    for name in opened.data_vars:
        whole = opened[name].values
        part = opened[name][[2, 0], :, [1, 1, 3]].values
        np.testing.assert_array_equal(part, whole[[2, 0]][:, :, [1, 1, 3]])


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("block", [1, 100, 1 << 20])
def test_blocks_and_memory_order_change_nothing(tmp_path, monkeypatch, order, block):
    monkeypatch.setattr(binary, "_BLOCK_BYTES", block)
    found = open_simulation(tmp_path, settings=write_epfl(tmp_path, SIM, order=order))
    np.testing.assert_array_equal(found["xi"].values, SIM["xi"].values)
    np.testing.assert_array_equal(found["xi"][1, 2:4, 1:, 3].values, SIM["xi"].values[1, 2:4, 1:, 3])


def test_opening_reads_no_values(tmp_path):
    given_settings = write_epfl(tmp_path, SIM)
    bad = tmp_path / "xHII_z8.000.npy"
    data = bytearray(bad.read_bytes())
    data[-8:] = np.array(7.0).tobytes()
    bad.write_bytes(data)
    sim = open_simulation(tmp_path, settings=given_settings)
    assert np.isfinite(sim["xi"][0].values).all()
    with pytest.raises(ValueError, match=r"first at cell \(6, 6, 4\): 7.0"):
        sim["xi"][1].values  # noqa: B018 (reading is what raises)
    with pytest.raises(ValueError, match=r"first at cell \(6, 6, 4\): 7.0"):
        sim["xi"][1, 3:, 5:, 2:].values  # noqa: B018 (reading is what raises)


@pytest.mark.parametrize(
    ("name", "redshift", "label"),
    [
        ("box1_z06.000.npz", 6.0, "box1"),
        ("z8.397.npz", 8.397, "run"),
        ("coeval_z10.h5", 10.0, "coeval"),
        ("coeval-z10.5.h5", 10.5, "coeval"),
        ("my_box_z7.305_high.h5", 7.305, "my_box_high"),
        ("quiz.h5", None, "quiz"),
        ("snap_012.hdf5", None, "snap_012"),
    ],
)
def test_redshifts_and_labels_in_names(tmp_path, name, redshift, label):
    path = tmp_path / "run" / name
    assert redshift_of(path) == redshift
    assert label_of(path) == label
