"""What an array says of itself counts: its unit, axes, coordinates, number type and masked cells."""

from __future__ import annotations

from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import xarray as xr
from astropy import units
from astropy.cosmology import FlatLambdaCDM, LambdaCDM, Planck18
from astropy.cosmology import units as cosmology_units
from astropy.utils.masked import Masked

from reion.errors import InputError
from reion.inspection.look import inspect
from reion.simulation.contract import DIMS, check_simulation, make_simulation
from reion.simulation.lazy import LazyField

SHAPE = (2, 4, 4, 4)
MEAN = 4.1e-31


@pytest.fixture
def n_igm():
    return (MEAN * np.random.default_rng(1).uniform(0.9, 1.1, SHAPE)).astype(np.float32)


def build(cosmology=None, box_size=8.0, redshift=(9.0, 8.0), **fields):
    return make_simulation(fields, redshift=redshift, box_size=box_size, cosmology=cosmology)


def named(values, *, coords=None, dims=DIMS, **attrs):
    return xr.DataArray(values, dims=dims, coords=coords or {}, attrs=attrs)


@pytest.mark.parametrize(
    ("kind", "taken"),
    [(">f4", "f4"), (">f8", "f8"), ("f2", "f4"), (np.longdouble, "f8"), ("f4", "f4"), ("f8", "f8")],
)
@pytest.mark.parametrize("wrap", [lambda values: values, named], ids=["array", "DataArray"])
def test_floats_of_any_kind_are_taken(wrap, kind, taken, n_igm):
    xi = np.linspace(0, 1, n_igm.size).reshape(SHAPE)
    sim = build(n_igm=n_igm, xi=wrap(xi.astype(kind)))
    assert sim["xi"].dtype == np.dtype(taken)
    np.testing.assert_allclose(sim["xi"].values, xi, atol=1e-3)
    inspect(sim)


def test_a_list_is_taken_and_whole_numbers_are_refused_with_what_to_do(n_igm):
    assert build(xi=np.full(SHAPE, 0.5).tolist())["xi"].dtype == np.float64
    with pytest.raises(InputError, match="expected float32 or float64; received int64") as error:
        build(n_src=np.ones(SHAPE, np.int64))
    assert "astype('float32')" in error.value.hint


@pytest.mark.parametrize("kind", [">f4", "f2", np.longdouble])
def test_a_dataset_of_other_floats_is_no_simulation(kind, simulation):
    with pytest.raises(InputError, match="expected float32 or float64; received "):
        check_simulation(simulation.assign(xi=simulation["xi"].astype(kind)))


def test_lazy_fields_stay_lazy():
    class Unread(LazyField):
        def snapshot(self, index, key):
            raise AssertionError

    lazy = xr.Variable(DIMS, Unread(SHAPE).as_variable_data())
    make_simulation(
        {"n_src": lazy, "n_igm": xr.DataArray(lazy, coords={"redshift": [9.0, 8.0]})},
        redshift=[9.0, 8.0],
        box_size=8.0,
        check_values=False,
    )


@pytest.mark.parametrize("unit", ["g cm-3", "kg m-3", "g/pc^3", "Msun Mpc-3"])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_the_unit_of_a_data_array_counts(unit, kind, n_igm, tmp_path):
    given = (n_igm.astype(np.float64) * units.Unit("g cm-3")).to(unit)
    plain = given.value.astype(kind)
    pinted = SimpleNamespace(magnitude=plain, units=unit, shape=SHAPE, __array__=lambda: plain)
    with h5py.File(tmp_path / "field.h5", "w") as file:
        file["n_igm"] = plain
        file["n_igm"].attrs["units"] = np.bytes_(unit)
        for values in (named(plain, units=unit), given.astype(kind), file["n_igm"], pinted):
            taken = build(n_igm=values)["n_igm"]
            assert taken.attrs["units"] == "g cm-3"
            assert taken.dtype == kind
            np.testing.assert_allclose(taken.values, n_igm, rtol=1e-6)


def test_numbers_that_float32_cannot_hold_become_float64(n_igm):
    rate = build(n_src=named(np.full(SHAPE, 1e-30, np.float32), units="1e20 s-1 Mpc-3"))["n_src"]
    assert rate.dtype == np.float64
    np.testing.assert_allclose(rate.values, 1e-58)


def test_a_unit_that_is_none_of_the_field_is_refused_with_what_to_do(n_igm):
    for unit in ("Msun Mpc-3", "s-1 per cell", "no unit"):
        with pytest.raises(InputError, match=f"expected 1e48 s-1 Mpc-3; received numbers in {unit}") as error:
            build(n_src=named(np.ones(SHAPE), units=unit))
        assert "n_src_units" in error.value.hint
    with pytest.raises(
        InputError, match=r"n_igm: expected g cm-3; received numbers in proper g cm-3"
    ) as error:
        build(n_igm=named(n_igm, units="proper g cm-3"))
    assert "convert the numbers" in error.value.hint
    masses = make_simulation(
        {"n_src": named(np.ones(SHAPE), units="Msun Mpc-3")},
        redshift=[9.0, 8.0],
        box_size=8.0,
        n_src_units="Msun Mpc-3",
    )
    assert masses["n_src"].attrs["units"] == "Msun Mpc-3"
    assert build(xi=named(np.full(SHAPE, 50.0), units="%"))["xi"].values.max() == 0.5
    assert build(xi=named(np.full(SHAPE, 0.5), units=""))["xi"].values.max() == 0.5


def test_masked_cells_are_never_taken_for_values(n_igm):
    mask = n_igm == n_igm.max()
    for values in (
        np.ma.masked_array(n_igm, mask),
        np.ma.masked_array(n_igm.astype(">f4"), mask),
        Masked(n_igm, mask=mask),
        Masked(n_igm * units.g / units.cm**3, mask=mask),
    ):
        with pytest.raises(InputError, match="expected finite numbers; received 1 that are not"):
            build(n_igm=values)


def test_the_axes_of_a_data_array_are_those_of_a_field(n_igm):
    turned = named(np.moveaxis(n_igm[:, :2, :2, :2], 0, -1), dims=("x", "y", "z", "redshift"))
    with pytest.raises(InputError, match="redshift, x, y, z; received x, y, z, redshift") as error:
        build(n_igm=turned)
    assert "n_igm.transpose('redshift', 'x', 'y', 'z')" in error.value.hint
    build(n_igm=turned.transpose(*DIMS))
    with pytest.raises(InputError, match="received dim_0, dim_1, dim_2, dim_3") as error:
        build(n_igm=xr.DataArray(n_igm))
    assert ".values" in error.value.hint


def test_the_coordinates_of_a_data_array_are_those_of_the_simulation(n_igm):
    build(n_igm=named(n_igm, coords={"redshift": [9.0005, 8.0], "x": [0, 1, 2, 3]}))
    with pytest.raises(InputError, match=r"that are given, 9, 8; received .* says 8, 9") as error:
        build(n_igm=named(n_igm, coords={"redshift": [8.0, 9.0]}))
    assert "redshift=n_igm.redshift" in error.value.hint
    with pytest.raises(InputError, match="ascend along y; received 3, 2, 1, 0"):
        build(n_igm=named(n_igm, coords={"y": [3, 2, 1, 0]}))
    with pytest.raises(InputError, match="2 Mpc apart along z, as the box size says; received 3 to 3 Mpc"):
        build(n_igm=named(n_igm, coords={"z": ("z", [1.5, 4.5, 7.5, 10.5], {"units": "Mpc"})}))


def test_a_cosmology_of_astropy_is_taken(n_igm):
    attrs = build(Planck18, n_igm=n_igm).attrs
    assert (attrs["H0"], attrs["Om0"], attrs["Ob0"]) == (67.66, Planck18.Om0, Planck18.Ob0)
    assert attrs["cosmology_assumed"] == 0
    hubble = 70 * units.km / units.s / units.Mpc
    assert build({"H0": hubble, "Om0": 0.3, "Ob0": 0.05}, n_igm=n_igm).attrs["H0"] == 70.0
    assert build(None, n_igm=n_igm).attrs["cosmology_assumed"] == 1


@pytest.mark.parametrize(
    ("cosmology", "message"),
    [
        (FlatLambdaCDM(70, 0.3), "received no Ob0"),
        ({"H0": 70}, "received no Om0 and no Ob0"),
        ({}, "received no H0 and no Om0 and no Ob0"),
        ({"H0": 70, "Om0": 0.3, "Ob0": 0.05, "sigma8": 0.8}, "received sigma8 as well"),
        (
            {"H0": "seventy", "Om0": 0.3, "Ob0": 0.05},
            "H0: expected numbers in km s-1 Mpc-1; received 'seventy'",
        ),
        ({"H0": 70, "Om0": np.nan, "Ob0": 0.05}, "Om0: expected one number"),
        (LambdaCDM(70, 0.3, 0.6, Ob0=0.05), "of a flat LCDM; received astropy.LambdaCDM"),
        ("Planck18", "of a flat LCDM; received str"),
    ],
)
def test_a_cosmology_is_not_completed_from_another(cosmology, message, n_igm):
    with pytest.raises(InputError, match=message):
        build(cosmology, n_igm=n_igm)


def test_a_box_size_and_redshifts_have_units_too(n_igm):
    z = [9.0, 8.0] * cosmology_units.redshift
    for box_size, sides in (
        (8000 * units.kpc, 8.0),
        ([8 * units.Mpc] * 3, [8.0] * 3),
        (units.Quantity([8, 8, 8], "Mpc"), [8.0] * 3),
        ((8, 8, 8), [8.0] * 3),
        (np.float32(8), 8.0),
    ):
        assert build(box_size=box_size, redshift=z, n_igm=n_igm).attrs["box_size"] == sides
    for box_size, message in (
        (8 * units.s, "box_size: expected Mpc; received numbers in s"),
        ([8, 8], "one length in comoving Mpc, or three; received 2"),
        ("large", "expected numbers in Mpc; received 'large'"),
    ):
        with pytest.raises(InputError, match=message):
            build(box_size=box_size, n_igm=n_igm)
    with pytest.raises(InputError, match="redshift: expected numbers; received 'early'"):
        build(redshift="early", n_igm=n_igm)
