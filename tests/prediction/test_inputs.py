"""What a model is given: the same door for a Simulation, for arrays and for files."""

import warnings

import numpy as np
import pytest
import xarray as xr
from astropy import units

from reion.errors import InputError
from reion.prediction.emulator import Emulator
from reion.prediction.predict import predict
from reion.sample import load_sample
from reion.simulation.contract import make_simulation
from reion.simulation.photons import with_n_ion
from reion.storage.store import write_simulation


@pytest.fixture
def emulator(toy_model):
    return Emulator(toy_model, device="cpu", threads=1)


def test_cells_of_another_size_are_refused(emulator, simulation):
    sim = simulation.assign_attrs(box_size=[2 * length for length in simulation.attrs["box_size"]])
    sim = sim.assign_coords({axis: (axis, 2 * sim[axis].values, sim[axis].attrs) for axis in "xyz"})
    with pytest.raises(InputError, match=r"cells of 2 Mpc; received cells of 4 Mpc.*\n.*--cell-size 2"):
        emulator.predict(sim)


def test_other_units_are_refused(emulator, simulation):
    sim = with_n_ion(simulation)
    sim["n_ion"].attrs["units"] = "1e18 s Mpc-3"
    with pytest.raises(InputError, match="n_ion: the model toy was trained on '1e66 Mpc-3'"):
        emulator.predict(sim)


def test_missing_fields_are_named(emulator, simulation):
    with pytest.raises(InputError, match="the model toy needs n_ion; this simulation has n_igm, xi"):
        emulator.predict(simulation.drop_vars("n_src"))


@pytest.fixture
def with_history(simulation):
    return with_n_ion(simulation)


def test_a_redshift_outside_the_training_is_an_extrapolation(emulator, with_history):
    fields = {name: with_history[name][:1].values for name in ("n_igm", "n_ion")}
    sim = make_simulation(fields, redshift=[15.0], box_size=[24.0, 20.0, 16.0])
    with pytest.warns(UserWarning, match="z = 15 is an extrapolation"):
        emulator.predict(sim)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_ion": np.zeros((2, 2, 2), np.float32)}, "one shape"),
        ({"n_ion": None}, "takes n_igm, n_ion; received n_igm"),
        ({"xi": np.zeros((4, 4, 4), np.float32)}, "takes n_igm, n_ion"),
        ({"n_ion": np.full((4, 4, 4), np.nan, np.float32)}, r"finite numbers.*64.*cell \(0, 0, 0\)"),
        ({"n_igm": np.full((4, 4, 4), -1, np.float32)}, "no negative values"),
        ({"redshift": [7.0, 8.0]}, "one finite redshift"),
    ],
)
def test_wrong_arrays_are_refused(emulator, change, message):
    arguments = {
        "redshift": 8.0,
        "n_igm": np.full((4, 4, 4), 4e-31, np.float32),
        "n_ion": np.zeros((4, 4, 4), np.float32),
        **change,
    }
    arguments = {name: value for name, value in arguments.items() if value is not None}
    with pytest.raises(InputError, match=message):
        emulator.predict_arrays(**arguments)


@pytest.mark.parametrize("redshift", [-2, -1.0, np.nan, "8", None, 8 + 0j, np.datetime64("2026-01-01"), True])
def test_redshifts_that_are_none_are_refused(emulator, redshift):
    fields = {name: np.full((4, 4, 4), 1e-31, np.float32) for name in ("n_igm", "n_ion")}
    with pytest.raises(InputError, match="redshift"):
        emulator.predict_arrays(redshift, **fields)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((4, 4, 4), 4e-31, np.float16), "n_igm: expected float32 or float64; received float16"),
        (np.ones((4, 4, 4), bool), "received bool"),
        (np.full((4, 4, 4), 4e-31, np.complex64), "received complex64"),
        (np.full((4, 4, 4), "4e-31"), "received <U5"),
        (np.full((4, 4, 4), np.datetime64("2026-01-01")), "received datetime64"),
        (np.full((4, 4, 4), 4e-31, dtype=object), "received object"),
        (np.full((4, 4, 4), 4e-57), "64 of those received become zero"),
        (np.full((4, 4, 4), 1e300), "n_igm at z = 8: expected finite numbers"),
        (np.ma.masked_less(np.r_[0.0, np.full(63, 4e-31)].reshape(4, 4, 4), 1e-31), "masks 1 of them"),
        (np.full((4, 4, 4), 4e-31) * units.Mpc, "expected g cm-3; received numbers in Mpc"),
        (
            xr.DataArray(np.full((4, 4, 4), 4e-31), dims=("z", "y", "x")),
            "the last axes x, y, z; received z, y, x",
        ),
    ],
    ids=[
        "float16",
        "truth values",
        "complex",
        "text",
        "dates",
        "objects",
        "too small",
        "too large",
        "masked",
        "quantity",
        "axes",
    ],
)
def test_arrays_that_are_no_densities_are_refused(emulator, values, message):
    with pytest.raises(InputError, match=message):
        emulator.predict_arrays(8.0, n_igm=values, n_ion=np.zeros((4, 4, 4)))


def test_an_array_whose_last_axis_is_redshift_is_refused(emulator):
    turned = xr.DataArray(np.full((4, 4, 4, 4), 4e-31), dims=("x", "y", "z", "redshift"))
    with pytest.raises(InputError, match="the last axes x, y, z; received x, y, z, redshift"):
        emulator.predict_arrays([9.0, 8.0, 7.0, 6.0], n_igm=turned, n_ion=np.zeros((4, 4, 4, 4)))


def test_a_quantity_is_taken_in_its_unit(emulator):
    n_igm, n_ion = np.full((4, 4, 4), 4e-31), np.ones((4, 4, 4))
    expected = emulator.predict_arrays(8.0, n_igm=n_igm, n_ion=n_ion)
    n_igm = (n_igm * units.g / units.cm**3).to("kg m-3")
    np.testing.assert_allclose(emulator.predict_arrays(8.0, n_igm=n_igm, n_ion=n_ion), expected, rtol=1e-6)
    said = xr.DataArray(n_igm.value, dims=("x", "y", "z"), attrs={"units": "kg m-3"})
    np.testing.assert_allclose(emulator.predict_arrays(8.0, n_igm=said, n_ion=n_ion), expected, rtol=1e-6)
    fields = {"n_igm": n_igm[None], "xi": np.ones((1, 4, 4, 4), np.float32)}
    sim = make_simulation(fields, redshift=[8.0], box_size=8.0)
    np.testing.assert_allclose(sim["n_igm"].values, 4e-31, rtol=1e-6)


@pytest.mark.parametrize("dtype", [">f4", "<f8", ">f8"])
def test_any_order_of_bytes_and_a_mask_that_hides_nothing_give_the_same(emulator, dtype):
    rng = np.random.default_rng(0)
    n_igm = (4e-31 * rng.lognormal(0, 0.5, (4, 5, 6))).astype(np.float32)
    n_ion = rng.lognormal(3, 1, (4, 5, 6)).astype(np.float32)
    expected = emulator.predict_arrays(8.0, n_igm=n_igm, n_ion=n_ion)
    received = emulator.predict_arrays(
        8, n_igm=n_igm.astype(dtype), n_ion=np.ma.masked_less(n_ion.astype(dtype), 0)
    )
    np.testing.assert_array_equal(received, expected)


def test_integers_lose_nothing_and_are_taken(emulator):
    n_igm, n_ion = np.full((4, 4, 4), 4e-31), np.arange(64).reshape(4, 4, 4)
    expected = emulator.predict_arrays(8.0, n_igm=n_igm, n_ion=n_ion.astype(np.float32))
    np.testing.assert_array_equal(emulator.predict_arrays(8.0, n_igm=n_igm, n_ion=n_ion), expected)


def test_half_precision_in_a_simulation_is_refused(emulator, simulation):
    sim = with_n_ion(simulation)
    sim["n_ion"] = sim["n_ion"].astype(np.float16)
    with pytest.raises(InputError, match="n_ion: expected float32 or float64; received float16"):
        emulator.predict(sim)


@pytest.mark.filterwarnings("ignore:the series starts at z = 7")
@pytest.mark.parametrize("stored", ["n_src", "n_ion"])
def test_one_snapshot_without_its_history_is_refused(toy_model, simulation, tmp_path, stored):
    """The model would answer for a universe in which no source has ever shone: xi = 3e-5 instead of 0.73."""
    fields = {"n_igm": simulation["n_igm"][-1:].values, "n_src": simulation["n_src"][-1:].values}
    if stored == "n_ion":
        fields["n_ion"] = np.zeros_like(fields.pop("n_src"))
    sim = make_simulation(fields, redshift=[7.0], box_size=[24.0, 20.0, 16.0])
    path = write_simulation(sim, tmp_path / "sim.zarr")
    with pytest.raises(
        InputError, match=r"photons emitted so far, and at z = 7 .* has none .*\n.*earlier snap"
    ):
        predict(toy_model, path, tmp_path / "xi.zarr", device="cpu")
    assert [entry.name for entry in tmp_path.iterdir()] == ["sim.zarr"]


def test_before_the_first_sources_there_is_no_history_and_none_is_needed(emulator, simulation):
    first = with_n_ion(simulation.isel(redshift=[0]))
    assert float(first["redshift"][0]) == 12.0
    assert not first["n_ion"].any()
    assert np.isfinite(emulator.predict(first)).all()


def test_a_stored_history_that_begins_late_at_zero_is_said(emulator, simulation):
    late = with_n_ion(simulation).isel(redshift=slice(2, None))
    late = late.assign(n_ion=late["n_ion"] - late["n_ion"][0])
    with pytest.warns(UserWarning, match="n_ion is zero everywhere at z = 8, with sources already shining"):
        emulator.check(late)
    emulator.check(late.assign(n_src=late["n_src"].where(late["redshift"] < 8, 0)))


def test_a_photon_anywhere_in_the_last_cells_is_a_history(emulator):
    n_ion = np.zeros((1, 130, 2, 2), dtype=np.float32)
    n_ion[0, -1, -1, -1] = 50
    fields = {"n_igm": np.full_like(n_ion, 4e-31), "n_ion": n_ion}
    emulator.check(make_simulation(fields, redshift=[8.0], box_size=[260.0, 4.0, 4.0]))


@pytest.fixture(scope="module")
def sample_snapshot():
    """A snapshot of the sample as plain arrays, for the model that it fits."""
    sim = with_n_ion(load_sample().held_out).sel(redshift=8.0)
    return {name: sim[name].values for name in ("n_igm", "n_ion")}


@pytest.fixture(scope="module")
def shipped():
    return Emulator("rt64-history", device="cpu")


def test_arrays_that_fit_are_taken_without_a_warning(shipped, sample_snapshot):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shipped.predict_arrays(8.0, **sample_snapshot)


@pytest.mark.parametrize(
    ("redshift", "change", "message"),
    [
        (50.0, {}, "z = 50 is an extrapolation"),
        (8.0, {"n_igm": 3}, "the mean of n_igm is"),
        (8.0, {"n_ion": 30}, "photons emitted so far"),
        (8.0, {"n_ion": 0}, "n_ion is zero everywhere at z = 8"),
    ],
)
def test_arrays_are_warned_of_as_simulations_are(shipped, sample_snapshot, redshift, change, message):
    fields = {
        name: np.stack([values, np.float32(change.get(name, 1)) * values])
        for name, values in sample_snapshot.items()
    }
    with pytest.warns(UserWarning, match=message):
        shipped.predict_arrays([8.0, redshift], **fields)


def test_a_snapshot_of_a_simulation_is_not_warned_of_twice(emulator, with_history):
    with pytest.warns(UserWarning, match="is an extrapolation") as said:
        emulator.predict(with_history.assign_coords(redshift=[20.0, 19.0, 8.0, 7.0]))
    assert sum("extrapolation" in str(item.message) for item in said) == 1
    assert not any("zero everywhere" in str(item.message) for item in said)


@pytest.mark.parametrize("wrong", ["1 + overdensity", "1e-7 times", "exchanged"])
def test_a_density_that_no_box_has_is_refused(shipped, sample_snapshot, wrong):
    n_igm, n_ion = sample_snapshot["n_igm"], sample_snapshot["n_ion"]
    fields = {
        "1 + overdensity": {"n_igm": n_igm / n_igm.mean(), "n_ion": n_ion},
        "1e-7 times": {"n_igm": np.float32(1e-7) * n_igm, "n_ion": n_ion},
        "exchanged": {"n_igm": n_ion, "n_ion": n_igm},
    }[wrong]
    with pytest.raises(InputError, match=r"(?s)received a mean of .* times that.*n_igm_unit"):
        shipped.predict_arrays(8.0, **fields)
    sim = make_simulation({name: field[None] for name, field in fields.items()}, redshift=[8.0], box_size=128)
    guess = "in 1 \\+ overdensity, taken as g cm-3" if wrong == "1 + overdensity" else "n_igm_unit"
    with pytest.raises(InputError, match=guess):
        shipped.check(
            sim.assign_coords(load_sample().held_out[["x", "y", "z"]].coords).assign_attrs(
                load_sample().held_out.attrs
            )
        )


def test_sources_in_every_cell_are_refused_where_the_training_had_few():
    shape = (1, 16, 16, 16)
    rng = np.random.default_rng(0)
    fields = {"n_igm": np.full(shape, 4e-31), "n_src": rng.lognormal(5, 1, shape)}
    sim = make_simulation(fields, redshift=[8.0], box_size=32.0)
    emulator = Emulator("rt64-instant", device="cpu")
    with pytest.raises(
        InputError, match=r"rt64-instant was trained on sources in 0\.1 to 0\.6 % .* 100 % of the"
    ):
        emulator.predict(sim)
    few = sim.assign(n_src=sim["n_src"].where(rng.random(shape) < 0.006, 0.0))
    emulator.check(few)


def test_the_sample_fits_both_models_that_come_with_reion():
    for box in load_sample():
        for name in ("rt64-history", "rt64-instant"):
            Emulator(name, device="cpu").check(box)
