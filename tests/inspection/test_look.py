"""`inspect` measures what numpy measures, and says what looks wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import zarr
from rich.console import Console

from reion.cli.joining import opened
from reion.errors import InputError
from reion.inspection import look
from reion.inspection.look import inspect
from reion.inspection.pictures import Pictures
from reion.inspection.sources import mean_at_sources
from reion.inspection.table import render
from reion.simulation.contract import make_simulation
from reion.simulation.photons import with_n_ion
from reion.storage import store
from reion.storage.store import write_simulation
from tests.conftest import toy_simulation


def complaints(inspection):
    return {check.name: check.message for check in inspection.checks if not check.ok}


def remake(sim, **replaced):
    fields = {name: sim[name].values for name in ("n_igm", "n_src", "xi")}
    return make_simulation(
        {**fields, **replaced},
        redshift=sim["redshift"].values,
        box_size=sim.attrs["box_size"],
        cosmology={key: sim.attrs[key] for key in ("H0", "Om0", "Ob0")},
    )


@pytest.fixture(scope="module")
def cosmic():
    """A toy box as sound as a real one: cosmic mean density, sources in the bubbles, photons enough."""
    sim = toy_simulation()
    n_igm = sim["n_igm"].values
    sources = np.where(sim["xi"].values[-1:] > 0.5, np.float32(3000.0), np.float32(0.0))
    return remake(
        sim,
        n_igm=(n_igm * (4.2094e-31 / n_igm.mean())).astype(np.float32),
        n_src=np.repeat(sources, 4, axis=0),
    )


def test_statistics_are_those_of_numpy(cosmic):
    inspection = inspect(cosmic)
    for name in ("n_igm", "n_src", "xi"):
        field = inspection.fields[name]
        assert field.units == cosmic[name].attrs["units"]
        for index, snapshot in enumerate(field.snapshots):
            values = cosmic[name].values[index].astype(np.float64)
            mean, std = values.mean(), values.std()
            expected = {
                "mean": mean,
                "std": std,
                "minimum": values.min(),
                "maximum": values.max(),
                "skewness": scipy.stats.skew(values, axis=None),
                "empty_fraction": np.mean(values == 0),
            }
            for key, value in expected.items():
                measured = getattr(snapshot.statistics, key)
                assert measured == pytest.approx(value, rel=1e-6, abs=1e-40), (name, key)
            lines = {"x": values[:, 5, 4], "y": values[6, :, 4], "z": values[6, 5, :]}
            for axis, line in lines.items():
                np.testing.assert_allclose(snapshot.axis_lines[axis], line, rtol=1e-12)
                assert snapshot.axis_means[axis] == pytest.approx(line.mean(), rel=1e-6, abs=1e-40)
            normalised = (snapshot.statistics.normalised_minimum, snapshot.statistics.normalised_maximum)
            expected = ((values.min() - mean) / std, (values.max() - mean) / std)
            assert normalised == pytest.approx(expected, rel=1e-6, abs=1e-12)
        pooled = cosmic[name].values.astype(np.float64)
        assert field.pooled.std == pytest.approx(pooled.std(), rel=1e-6)
    density = cosmic["n_igm"].values.astype(np.float64)
    assert inspection.to_json()["fields"]["n_igm"]["pooled"]["mean_g_pc3"] == pytest.approx(
        density.mean() * 2.93799895e55, rel=1e-6
    )
    for index, point in enumerate(inspection.history):
        xi = cosmic["xi"].values[index].astype(np.float64)
        assert point.mean_xi_mass == pytest.approx(np.average(xi, weights=density[index]), rel=1e-6)
        rates = cosmic["n_src"].values[index].astype(np.float64)
        assert point.mean_xi_at_sources == pytest.approx(np.average(xi, weights=rates), rel=1e-6)


def test_photons_per_hydrogen_atom_need_no_n_ion(cosmic):
    derived = [point.photons_per_hydrogen for point in inspect(cosmic).history]
    integrated = [point.photons_per_hydrogen for point in inspect(with_n_ion(cosmic)).history]
    np.testing.assert_allclose(derived, integrated, rtol=1e-6)
    assert derived[0] == 0
    assert derived[-1] > 0


def test_blocks_change_nothing(cosmic, monkeypatch):
    whole = inspect(cosmic)
    monkeypatch.setattr(store, "_CHUNK_BYTES", 4 * 100)
    monkeypatch.setattr(store, "_BLOCK_BYTES", 4 * 300)
    slabs = inspect(cosmic)
    for name, field in whole.fields.items():
        for a, b in zip(field.snapshots, slabs.fields[name].snapshots, strict=True):
            assert a.statistics.std == pytest.approx(b.statistics.std, rel=1e-9, abs=1e-45)
            for axis, line in a.axis_lines.items():
                np.testing.assert_array_equal(line, b.axis_lines[axis])


def test_a_sound_simulation_has_no_complaints(cosmic):
    assert not complaints(inspect(cosmic))


def test_the_json_is_what_scripts_read(cosmic):
    inspection = json.loads(json.dumps(inspect(cosmic).to_json(), allow_nan=False))
    assert list(inspection) == [
        "shape",
        "box_size_mpc",
        "cell_size_mpc",
        "redshifts",
        "source_code",
        "cosmology",
        "fields",
        "history",
        "checks",
        "plots",
        "peak_memory_bytes",
    ]
    assert set(inspection["cosmology"]) == {"H0", "Om0", "Ob0", "assumed"}
    (first, *_) = inspection["fields"]["n_igm"]["snapshots"]
    statistics = ["mean", "std", "min", "max", "skewness", "empty_fraction", "normalised"]
    assert list(first) == ["redshift", *statistics, "axis_means"]
    assert list(first["normalised"]) == ["min", "max"]
    assert list(inspection["fields"]["n_igm"]["pooled"]) == [*statistics, "mean_g_pc3"]
    assert list(inspection["fields"]["xi"]["pooled"]) == statistics
    assert list(inspection["history"][0]) == [
        "redshift",
        "age_myr",
        "mean_xi",
        "mean_xi_mass",
        "mean_xi_at_sources",
        "photons_per_hydrogen",
    ]
    assert list(inspection["checks"][0]) == ["name", "ok", "message"]


def test_a_field_that_is_constant_has_no_skewness(cosmic):
    inspection = inspect(remake(cosmic, xi=np.full(cosmic["xi"].shape, 0.5, np.float32)))
    statistics = inspection.fields["xi"].snapshots[0].statistics
    assert statistics.skewness is None
    assert statistics.normalised_minimum is None
    assert statistics.normalised_maximum is None


def test_what_is_wrong_is_said_in_words(cosmic):
    density = cosmic["n_igm"].values
    growth = (1 + cosmic["redshift"].values[:, None, None, None]).astype(np.float32) ** 3
    wrong = {
        "proper": remake(cosmic, n_igm=density * growth),
        "matter": remake(cosmic, n_igm=density * np.float32(0.30964 / 0.04897)),
        "taken as proper": remake(cosmic, n_igm=density / growth),
        "1 + overdensity taken as overdensity": remake(cosmic, n_igm=density * np.float32(2)),
        **{
            f"a unit with h{power} taken without it": remake(
                cosmic, n_igm=density * np.float32(0.6766) ** -power
            )
            for power in (-3, -2, -1, 1, 2, 3)
        },
        "hydrogen": remake(cosmic, n_igm=density * np.float32(0.76)),
        "in kg m-3, taken as g cm-3": remake(cosmic, n_igm=density * np.float32(1e3)),
        "in Msun Mpc-3, taken as g cm-3": remake(
            cosmic, n_igm=(density.astype(np.float64) / 6.76963e-41).astype(np.float32)
        ),
        "in hydrogen cm-3, taken as g cm-3": remake(
            cosmic, n_igm=density * np.float32(1 / 1.222 / 1.67262e-24)
        ),
        "in 1 + overdensity, taken as g cm-3": remake(cosmic, n_igm=density / density.mean()),
        "its unit right": remake(cosmic, n_igm=density * np.float32(3e3)),
    }
    for word, sim in wrong.items():
        assert word in complaints(inspect(sim))["mean density"]
    assert "neutral" in complaints(inspect(remake(cosmic, xi=1 - cosmic["xi"].values)))["growth"]
    shuffled = cosmic["xi"].values[[0, 2, 1, 3]]
    assert "mixed up" in complaints(inspect(remake(cosmic, xi=shuffled)))["growth"]
    growing = 4.2094e-31 * (
        1 + np.linspace(0.7, 1.0, 4)[:, None, None, None] * (density / density.mean() - 1)
    )
    assert "structure" not in complaints(inspect(remake(cosmic, n_igm=growing.astype(np.float32))))
    exchanged = growing[[0, 2, 1, 3]].astype(np.float32)
    assert "at z = 10 to" in complaints(inspect(remake(cosmic, n_igm=exchanged)))["structure"]
    dark = cosmic["n_src"].values.copy()
    dark[1] = 0
    assert complaints(inspect(remake(cosmic, n_src=dark)))["sources"] == "no sources at z = 10"
    ramp = density * np.linspace(0.5, 1.5, 12, dtype=np.float32)[:, None, None]
    smooth = 4.2e-31 * np.ones_like(density) * np.linspace(0.5, 1.5, 12, dtype=np.float32)[:, None, None]
    assert "boundary" in complaints(inspect(remake(cosmic, n_igm=smooth)))["periodic"]
    assert "periodic" not in complaints(inspect(remake(cosmic, n_igm=ramp[:, ::-1] + ramp)))


def test_sources_outside_bubbles_are_noticed(cosmic):
    outside = np.where(cosmic["xi"].values < 0.1, np.float32(1.0), np.float32(0.0))
    assert "axes swapped" in complaints(inspect(remake(cosmic, n_src=outside)))["ionised sources"]


def test_swapped_axes_are_noticed_and_named():
    rng = np.random.default_rng(5)
    n_src = np.zeros((1, 16, 16, 16), np.float32)
    n_src[0][tuple(rng.integers(0, 16, (3, 40)))] = rng.lognormal(3, 1, 40)
    near = scipy.ndimage.maximum_filter(n_src[0], 3, mode="wrap") > 0
    xi = np.where(near, np.float32(0.95), np.float32(0.02))

    def look(xi):
        sim = make_simulation({"n_src": n_src, "xi": xi[None]}, redshift=[8.0], box_size=32.0)
        return complaints(inspect(sim)).get("ionised sources")

    assert look(xi) is None
    for axes, order in (((2, 1, 0), "zyx"), ((1, 0, 2), "yxz"), ((1, 2, 0), "zxy")):
        assert f"0.95 with its axes as {order}" in look(xi.transpose(axes))
    assert mean_at_sources(xi[:8], n_src[0][:8]).keys() == {"xyz", "xzy"}
    assert mean_at_sources(xi, np.zeros_like(xi)) == {}


@pytest.mark.slow
def test_it_draws_and_replaces_only_with_force(cosmic, tmp_path):
    inspection = inspect(cosmic, plot=tmp_path / "plots")
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == [
        "histograms.png",
        "history.png",
        "profiles.png",
        "slices.png",
    ]
    assert len(inspection.plots) == 4
    with pytest.raises(InputError, match="exists already"):
        inspect(cosmic, plot=tmp_path / "plots")
    inspect(cosmic[["xi"]].isel(redshift=[1]), plot=tmp_path / "plots", force=True)


def test_pictures_show_every_cell_of_every_kind_of_field():
    """Half of a velocity is negative, and rates are far below one."""
    sim = toy_simulation()
    rng = np.random.default_rng(0)
    shape = sim["n_igm"].shape
    sim = sim.assign(
        velocity_x=(sim["n_igm"].dims, rng.normal(0, 100, shape).astype(np.float32), {"units": "km s-1"}),
        ionisation_rate=(
            sim["n_igm"].dims,
            rng.lognormal(np.log(1e-13), 1, shape).astype(np.float32),
            {"units": "s-1"},
        ),
    )
    pictures = Pictures(sim)
    block = tuple(slice(0, n) for n in shape[1:])
    for name in ("velocity_x", "ionisation_rate"):
        for index in range(shape[0]):
            pictures.add(name, index, sim[name][index].values, block)
        counts = pictures.counts(name, 0)
        assert counts.sum() == np.prod(shape[1:])
        assert counts[0] == counts[-1] == 0
    positive = (sim["velocity_x"][0].values > 0).sum()
    counts = pictures.counts("velocity_x", 0)
    assert counts[len(counts) // 2 :].sum() == positive
    figure = pictures._slices_figure()
    velocity, rate = (row.get_images()[0] for row in figure.axes[:: len(figure.axes) // 2][:2])
    assert np.isfinite(np.asarray(velocity.get_array())).all()
    assert np.isfinite(np.asarray(rate.get_array())).all()


def test_the_legend_of_the_histograms_names_every_curve():
    """Without sources a snapshot has no curve in the panel of the sources, which is the last one here."""
    sim = toy_simulation()
    pictures = Pictures(sim)
    block = tuple(slice(0, n) for n in sim["n_igm"].shape[1:])
    for name in ("n_igm", "n_src"):
        for index in range(sim.sizes["redshift"]):
            values = sim[name][index].values
            pictures.add(
                name, index, np.zeros_like(values) if (name, index) == ("n_src", 0) else values, block
            )
    figure = pictures._histograms()
    gas, sources = (len(axes.patches) for axes in figure.axes)
    assert (gas, sources) == (4, 3)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["z = 12", "z = 10", "z = 8", "z = 7"]


def test_stores_of_one_series_are_opened_as_one(simulation, tmp_path):
    stores = [
        write_simulation(simulation[["n_igm", "xi"]].isel(redshift=part), tmp_path / f"box_z{z}.zarr")
        for part, z in (([0, 1], "12.0"), ([2, 3], "8.0"))
    ]
    assert opened(stores, None, None)["redshift"].values.tolist() == simulation["redshift"].values.tolist()


def test_a_store_of_others_with_xi_is_given_what_it_lacks(simulation, tmp_path):
    gas = write_simulation(simulation.drop_vars("xi"), tmp_path / "gas.zarr")
    theirs = simulation[["xi"]].assign_attrs({})
    theirs.attrs = {}
    theirs.drop_vars(["x", "y", "z"]).to_zarr(tmp_path / "theirs.zarr", zarr_format=3, consolidated=False)
    both = opened([tmp_path / "theirs.zarr", gas], None, ["box_size=24,20,16"])
    np.testing.assert_array_equal(both["xi"].values, simulation["xi"].values)


def test_stores_of_others_take_a_mapping(simulation, tmp_path):
    for index, z in ((0, "12.0"), (1, "10.0")):
        group = zarr.open_group(tmp_path / f"box_z{z}.zarr", mode="w")
        group.create_array("x_HII", data=simulation["xi"].values[index])
    (tmp_path / "mine.toml").write_text('[xi]\narray = "x_HII"\nunit = "1"\n')
    stores = [tmp_path / "box_z12.0.zarr", tmp_path / "box_z10.0.zarr"]
    sim = opened(stores, None, [f"mapping={tmp_path / 'mine.toml'}", "box_size=24,20,16"])
    np.testing.assert_array_equal(sim["xi"].values, simulation["xi"].values[:2])


def test_a_model_that_is_none_is_said_before_anything_is_read(simulation, tmp_path, command, monkeypatch):
    gas = write_simulation(simulation, tmp_path / "gas.zarr")
    monkeypatch.setattr(look, "inspect", lambda *_, **__: pytest.fail("read all values first"))
    code, _, said = command("inspect", gas, "--for", tmp_path / "nowhere.onnx")
    assert code == 2
    assert "nowhere.onnx" in said


def test_the_tables_show_every_field_and_check(cosmic):
    console = Console(width=200)
    with console.capture() as captured:
        console.print(render(inspect(cosmic)))
    text = captured.get()
    for word in (
        "n_igm (g cm-3)",
        "n_src (1e48 s-1 Mpc-3)",
        "xi (1)",
        "skewness",
        "z line",
        "history",
        "mean density",
    ):
        assert word in text


def test_a_store_of_xi_and_one_of_gas_are_looked_at_as_one(simulation, tmp_path, command):
    xi = write_simulation(simulation[["xi"]].isel(redshift=[1, 3]), tmp_path / "xi.zarr")
    gas = write_simulation(simulation.drop_vars("xi"), tmp_path / "gas.zarr")
    code, printed, said = command("inspect", xi, gas, "--json")
    assert code == 0, said
    found = json.loads(printed)
    assert found["redshifts"] == [10.0, 7.0]
    rates = tmp_path / "rates.npz"
    np.savez(
        rates, **{name: simulation[name].values for name in ("n_src", "redshift")}, box_size=[24, 20, 16]
    )
    with pytest.warns(UserWarning, match=r"no xi at z = 12, 8: photons of the sources there are not counted"):
        opened([xi, rates], None, None)
    assert {"n_igm", "n_src", "xi"} <= set(found["fields"])
    np.testing.assert_allclose(
        [point["mean_xi"] for point in found["history"]],
        simulation["xi"][[1, 3]].mean(("x", "y", "z")),
        rtol=1e-5,
    )
