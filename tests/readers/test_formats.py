"""Every format gives the same simulation, in the same units."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import strategies as st

from reion.errors import InputError
from reion.readers import FORMATS, open_each, open_simulation
from reion.simulation.contract import box_size_mpc, check_simulation
from reion.testing import check_reader
from tests.readers.layouts import LAYOUTS, fields_of, random_simulation


def assert_same(found, expected, fields=("n_igm", "n_src", "xi")):
    check_simulation(found)
    np.testing.assert_allclose(found["redshift"].values, expected["redshift"].values, atol=1e-9)
    np.testing.assert_allclose(box_size_mpc(found), box_size_mpc(expected), rtol=1e-6)
    for name in fields:
        assert found[name].dtype == np.float32
        atol = 1e-7 if name == "xi" else 0
        np.testing.assert_allclose(found[name].values, expected[name].values, rtol=3e-6, atol=atol)


def test_every_format_is_tested():
    assert set(LAYOUTS) == set(FORMATS)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_format_is_recognised_and_read(name, tmp_path):
    sim = random_simulation((5, 5, 3))
    given_settings = LAYOUTS[name](tmp_path, sim)
    for chosen in (None, name):
        found = open_simulation(tmp_path, format=chosen, settings=given_settings)
        assert_same(found, sim, fields_of(name))
        assert found.attrs["H0"] == 70
        assert not found.attrs["cosmology_assumed"]


def test_many_boxes_of_different_size_and_kind(tmp_path):
    small, large = (
        random_simulation((4, 4, 4), box_size=8.0),
        random_simulation((6, 5, 4), (7.0, 6.0), seed=1),
    )
    for folder, sim in (("small", small), ("large", large)):
        (tmp_path / folder).mkdir()
        LAYOUTS["npz"](tmp_path / folder, sim)
        for path in list((tmp_path / folder).iterdir()):
            path.rename(tmp_path / f"{folder}{path.name.removeprefix('box')}")
    LAYOUTS["zarr"](tmp_path, small)
    files = sorted(tmp_path.glob("*.npz"))
    found = open_each([*files, tmp_path / "box.zarr", str(tmp_path / "large_*.npz")])
    for sim, expected in zip(found, [small, large, large, small], strict=True):
        assert_same(sim, expected)
    with pytest.raises(InputError, match="expected one simulation; received 2: large, small"):
        open_each([str(tmp_path / "*.npz")])


@pytest.mark.parametrize("name", LAYOUTS)
def test_any_shape_and_redshifts(name):
    whole = st.integers(1, 7)
    cubic = st.tuples(whole, whole).map(lambda sides: (sides[0], sides[0], sides[1]))
    shapes = {"shapes": cubic} if name == "21cmfast" else {}
    check_reader(FORMATS[name], LAYOUTS[name], fields=fields_of(name), examples=12, damages=0, **shapes)
