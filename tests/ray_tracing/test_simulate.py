"""A store of density and sources becomes one with xi: counted, resumed, shared out, or refused."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import xarray as xr

from reion.errors import InputError
from reion.jobs.plan import Terms
from reion.ray_tracing import simulate as simulating
from reion.ray_tracing import tracers
from reion.ray_tracing.cost import plan_simulate
from reion.ray_tracing.settings import RayTracing
from reion.ray_tracing.simulate import simulate, traced_snapshots
from reion.ray_tracing.tracers import SharedTracing
from reion.readers import open_simulation
from reion.simulation.contract import FIELDS, cosmology, hydrogen_per_density, mean_baryon_density
from reion.simulation.cosmic_time import cosmic_age_s
from reion.simulation.recombinations import clumping_of, less_recombinations, with_clumping
from reion.storage.store import write_simulation
from reion_kernels import black_body_table, trace_rays
from tests.ray_tracing.boxes import density_and_sources, interrupt_at

TRACING = RayTracing(max_mfp=9.0, steps=2)


@pytest.fixture
def store(tmp_path):
    return write_simulation(density_and_sources(), tmp_path / "given.zarr")


def test_the_store_holds_what_went_in_and_what_came_out(store, tmp_path):
    result = simulate(store, tmp_path / "sim.zarr", TRACING, rates=True)
    given, sim = open_simulation(store), open_simulation(tmp_path / "sim.zarr")
    for name in ("n_igm", "n_src", "n_ion"):
        assert np.array_equal(sim[name].values, given[name].values), name
    xi = sim["xi"].values
    assert xi.min() >= 0
    assert xi.max() <= 1
    assert np.all(xi[0] == np.float32(2e-4))
    assert xi[2].mean() > 2 * xi[1].mean() > 0.002
    assert sim["max_mfp"].values.tolist() == [9.0, 9.0, 9.0]
    rate = xr.open_zarr(tmp_path / "sim.zarr")["ionisation_rate"]
    assert rate.attrs["units"] == "s-1"
    assert np.all(rate.values[0] == 0)
    assert rate.values[1].max() > 1e-13
    assert [snapshot.redshift for snapshot in result.snapshots] == [11.0, 10.0]
    assert [snapshot.mean_xi for snapshot in result.snapshots] == pytest.approx(xi[1:].mean(axis=(1, 2, 3)))
    assert traced_snapshots(sim) == result.snapshots
    assert json.loads(sim.attrs["ray_tracing"])["max_mfp"] == 9.0


def test_sources_shine_from_their_snapshot_to_the_next_one(tmp_path):
    sim = density_and_sources()
    last_dark = sim["n_src"].copy(deep=True)
    last_dark[2] = 0.0
    both = [
        simulate(write_simulation(box, tmp_path / f"{name}.zarr"), tmp_path / f"{name}_xi.zarr", TRACING)
        for name, box in (("lit", sim), ("dark", sim.assign(n_src=last_dark)))
    ]
    assert both[0].snapshots == both[1].snapshots


def test_photons_are_counted(store, tmp_path):
    photons = simulate(store, tmp_path / "sim.zarr", TRACING).photons
    sim = open_simulation(tmp_path / "sim.zarr")
    # Independent of the kernels: photons from n_src and the cosmology, atoms from n_igm and xi.
    age_s = cosmology(sim).age(sim["redshift"].values).to_value("s")
    cell_mpc3 = 2.0**3
    emitted = sum(
        float(sim["n_src"][i].sum(dtype=np.float64)) * 1e48 * cell_mpc3 * (age_s[i + 1] - age_s[i])
        for i in range(2)
    )
    atoms = sim["n_igm"][0].values.astype(np.float64) * hydrogen_per_density() * 1e66 * cell_mpc3
    ionised = float((atoms * (sim["xi"][2].values.astype(np.float64) - 2e-4)).sum())
    assert photons.emitted == pytest.approx(emitted, rel=1e-6)
    assert photons.ionised == pytest.approx(ionised, rel=1e-4)
    assert photons.absorbed + photons.lost == pytest.approx(photons.emitted, rel=1e-5)
    assert ionised + photons.recombinations == pytest.approx(
        photons.emitted - photons.lost + photons.collisional_ionisations, rel=5e-3
    )


@pytest.mark.slow
def test_interrupted_it_goes_on_and_ends_with_the_same_bits(store, tmp_path, monkeypatch):
    simulate(store, tmp_path / "unbroken.zarr", TRACING, rates=True)
    evolve = simulating.evolve
    interrupt_at(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        simulate(store, tmp_path / "sim.zarr", TRACING, rates=True)
    assert not (tmp_path / "sim.zarr").exists()
    traced = []

    def counted(sim, index, *args, **options):
        traced.append(index)
        return evolve(sim, index, *args, **options)

    monkeypatch.setattr(simulating, "evolve", counted)
    with pytest.raises(InputError, match="begun with other ray tracing"):
        simulate(store, tmp_path / "sim.zarr", RayTracing(max_mfp=8.0), rates=True, resume=True)
    simulate(store, tmp_path / "sim.zarr", TRACING, rates=True, resume=True)
    assert traced == [1]
    one, other = (xr.open_zarr(tmp_path / name) for name in ("unbroken.zarr", "sim.zarr"))
    for name in one.data_vars:
        assert np.array_equal(one[name].values, other[name].values), name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["given.zarr", "sim.zarr", "unbroken.zarr"]


class Backwards:
    """Workers that do the last piece first."""

    def map(self, job, pieces):
        for number, piece in reversed(list(enumerate(pieces))):
            yield number, job(piece)


def test_shared_out_over_workers_the_rays_are_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(tracers, "SOURCES_A_PIECE", 3)
    rng = np.random.default_rng(0)
    n_hi = rng.random((10, 9, 8)) * 1e-4
    positions, rates = rng.integers(0, 8, (11, 3)), rng.random(11) * 1e54
    how = {"cell_cm": 1e24, "max_mfp_cells": 4.0, "table": black_body_table()}
    alone = trace_rays(n_hi, positions, rates, **how)
    shared = SharedTracing(Backwards(), tmp_path)(n_hi, positions, rates, **how)
    # The strength of a source is kept in single precision, relative to all sources that are traced with it.
    assert np.allclose(shared.gamma, alone.gamma, rtol=1e-6, atol=alone.gamma.max() * 1e-10)
    assert shared.lost == pytest.approx(alone.lost, rel=1e-6)
    assert np.allclose(shared.escaped, alone.escaped, rtol=1e-5)
    assert not list(tmp_path.iterdir())


def test_without_sources_hardly_anything_happens(tmp_path):
    sim = density_and_sources()
    dark = write_simulation(sim.assign(n_src=sim["n_src"] * 0), tmp_path / "dark.zarr")
    photons = simulate(dark, tmp_path / "sim.zarr", TRACING).photons
    xi = open_simulation(tmp_path / "sim.zarr")["xi"].values
    assert photons.emitted == photons.absorbed == photons.lost == 0
    assert np.all(np.abs(xi - 2e-4) < 2e-6)  # collisions and recombinations, at 1e4 K


def test_an_empty_cell_is_no_obstacle(tmp_path):
    sim = density_and_sources()
    n_igm = sim["n_igm"].copy(deep=True)
    n_igm[:, 3, 3, 3] = 0.0
    store = write_simulation(sim.assign(n_igm=n_igm), tmp_path / "hole.zarr")
    simulate(store, tmp_path / "sim.zarr", TRACING)
    assert np.all(np.isfinite(open_simulation(tmp_path / "sim.zarr")["xi"].values))


def test_a_reach_of_more_than_half_the_box_is_said(store, tmp_path):
    with pytest.warns(UserWarning, match="more than half the box"):
        simulate(store, tmp_path / "sim.zarr", RayTracing(max_mfp=20.0, steps=1))


def test_a_xi_that_is_there_is_not_used_and_that_is_said(tmp_path, toy):
    sim = toy(shape=(8, 8, 8), redshift=(12.0, 11.0))
    store = write_simulation(sim, tmp_path / "given.zarr")
    with pytest.warns(UserWarning, match="is not used"):
        simulate(store, tmp_path / "sim.zarr", RayTracing(max_mfp=4.0, steps=1))


def test_rates_of_an_earlier_ray_tracing_are_not_kept_beside_another_xi(tmp_path):
    sim = density_and_sources(side=8)
    old = xr.full_like(sim["n_igm"], 1e-12).assign_attrs(units="s-1")
    store = write_simulation(sim.assign(ionisation_rate=old), tmp_path / "given.zarr")
    simulate(store, tmp_path / "sim.zarr", RayTracing(max_mfp=4.0, steps=1))
    assert "ionisation_rate" not in open_simulation(tmp_path / "sim.zarr")
    simulate(store, tmp_path / "rates.zarr", RayTracing(max_mfp=4.0, steps=1), rates=True)
    assert np.all(open_simulation(tmp_path / "rates.zarr")["ionisation_rate"].values[0] == 0)


def test_a_mapping_that_was_edited_is_not_gone_on_with(tmp_path, monkeypatch):
    sim = density_and_sources(side=8)
    for index, redshift in enumerate(sim["redshift"].values):
        arrays = {"gas": sim["n_igm"].values[index], "stars": sim["n_src"].values[index]}
        np.savez(tmp_path / f"toy_z{redshift:.3f}.npz", **arrays)
    mapping = tmp_path / "mine.toml"
    text = '[n_igm]\narray = "gas"\nunit = "g cm-3"\n[n_src]\narray = "stars"\nunit = "{} s-1 Mpc-3"\n'
    mapping.write_text(text.format("1e48"))

    def interrupted(sim, index, *args, **options):
        raise KeyboardInterrupt

    def call(**options):
        settings = {"mapping": str(mapping), "box_size": "16"}
        simulate(
            str(tmp_path / "toy_*.npz"),
            tmp_path / "sim.zarr",
            RayTracing(max_mfp=4.0),
            settings=settings,
            **options,
        )

    monkeypatch.setattr(simulating, "evolve", interrupted)
    with pytest.raises(KeyboardInterrupt):
        call()
    monkeypatch.undo()
    mapping.write_text(text.format("2e48"))
    with pytest.raises(InputError, match="begun with other files or sources"):
        call(resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda sim: sim.drop_vars("n_src"), "needs n_src"),
        (lambda sim: sim.isel(redshift=[0]), "two snapshots"),
        (lambda sim: sim.assign_attrs(box_size=[24.0, 24.0, 30.0]), "cubic cells"),
    ],
    ids=["no sources", "one snapshot", "oblong cells"],
)
def test_what_cannot_be_traced(tmp_path, change, message):
    sim = change(density_and_sources())
    if len(np.atleast_1d(sim.attrs["box_size"])) == 3:
        sim = sim.assign_coords(z=("z", (np.arange(12) + 0.5) * 2.5, sim["z"].attrs))
    store = write_simulation(sim, tmp_path / "given.zarr")
    with pytest.raises(InputError, match=message):
        simulate(store, tmp_path / "sim.zarr", TRACING)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["given.zarr"]


def test_masses_are_not_photons(tmp_path):
    sim = density_and_sources()
    sim["n_src"].attrs["units"] = "Msun Mpc-3"
    store = write_simulation(sim, tmp_path / "given.zarr")
    with pytest.raises(InputError, match="photon rate") as error:
        simulate(store, tmp_path / "sim.zarr", TRACING)
    assert "f_gamma" in error.value.hint


def test_a_reach_that_nobody_knows(store, tmp_path):
    with pytest.raises(InputError, match="how far photons reach") as error:
        simulate(store, tmp_path / "sim.zarr")
    assert "max_mfp=" in error.value.hint


def test_the_simulations_own_reach(store, tmp_path):
    simulate(store, tmp_path / "one.zarr", TRACING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is not used")
        again = simulate(tmp_path / "one.zarr", tmp_path / "two.zarr", RayTracing(steps=2))
    assert [snapshot.max_mfp_mpc for snapshot in again.snapshots] == [9.0, 9.0]


def test_the_reach_of_a_model_changes_with_redshift(store, tmp_path):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*more than half the box")
        result = simulate(store, tmp_path / "sim.zarr", RayTracing(max_mfp="worseck-2014", steps=1))
    first, second = (snapshot.max_mfp_mpc for snapshot in result.snapshots)
    assert 0 < first < second


@pytest.mark.slow
def test_the_command(store, tmp_path, command):
    words = ["simulate", store, "--out", tmp_path / "sim.zarr", "--json"]
    settings = ["--set", "max_mfp=9", "--set", "steps=1", "--set", "spectrum.temperature_k=1e5"]
    code, printed, said = command(*words, *settings, "--dry-run")
    assert code == 0, said
    (plan,) = json.loads(printed)["plans"]
    assert plan["cells"] > 0
    assert plan["rate"] > 0
    assert not (tmp_path / "sim.zarr").exists()
    code, printed, said = command(*words, *settings)
    assert code == 0, said
    result = json.loads(printed)
    assert result["converged"]
    assert result["photons"]["emitted"] > 0
    tracing = json.loads(open_simulation(tmp_path / "sim.zarr").attrs["ray_tracing"])
    assert tracing["spectrum"] == {"kind": "black_body", "temperature_k": 1e5, "highest_ry": 10.0}


@pytest.mark.parametrize("rates", [False, True])
@pytest.mark.parametrize("earlier", [[], ["xi"], ["xi", "ionisation_rate", "n_ion"]])
def test_the_plan_counts_what_is_written(rates, earlier, tmp_path):
    """As many values as the fields of the store have."""
    sim = density_and_sources(side=8)
    units = {"xi": "1", "ionisation_rate": "s-1", "n_ion": "1e66 Mpc-3"}
    for name in earlier:
        sim[name] = xr.zeros_like(sim["n_igm"]).assign_attrs(units=units[name])
    tracing = RayTracing(max_mfp=4.0, steps=1)
    planned = plan_simulate(sim, [], tracing, rates=rates, terms=Terms(rate=1e6))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the ionised fraction that the simulation holds")
        simulate(write_simulation(sim, tmp_path / "given.zarr"), tmp_path / "sim.zarr", tracing, rates=rates)
    stored = open_simulation(tmp_path / "sim.zarr")
    assert planned.bytes_written == sum(4 * stored[name].size for name in FIELDS if name in stored)


def test_a_dark_series_is_planned_as_no_work(tmp_path):
    dark = density_and_sources(side=8)
    dark["n_src"] = xr.zeros_like(dark["n_src"]).assign_attrs(dark["n_src"].attrs)
    planned = plan_simulate(dark, [], RayTracing(max_mfp=4.0), terms=Terms(rate=1e6, machines=4))
    assert planned.pieces == 1
    assert planned.seconds == 0


def test_a_simulation_brings_its_clumping_factor_and_a_setting_replaces_it(tmp_path):
    plain = density_and_sources()
    clumped = write_simulation(with_clumping(plain, [[12, 1.0], [10, 9.0]]), tmp_path / "clumped.zarr")
    factors = []
    for name, tracing in (("own", TRACING), ("other", TRACING.model_copy(update={"clumping": 2.0}))):
        simulate(clumped, tmp_path / f"{name}.zarr", tracing)
        sim = open_simulation(tmp_path / f"{name}.zarr")
        assert "clumping" not in sim.attrs  # the record of the ray tracing has it
        factors.append(clumping_of(sim.attrs, 11.0))
    assert factors == [5.0, 2.0]


def test_the_photons_that_clumping_takes_could_as_well_not_have_been_emitted(tmp_path):
    """In uniform gas, rays with a clumping factor ionise what weaker sources ionise without one.

    The bubble is large: in its edge, where cells are partly ionised, fewer atoms recombine.
    """
    redshift = (12.0, 11.0, 10.0, 9.0, 8.0)
    sim = density_and_sources(side=16, redshift=redshift, sources=1, cell_mpc=0.7)
    sim["n_igm"][:] = mean_baryon_density(sim)
    sim["n_src"] *= 8
    left = less_recombinations(with_clumping(sim, 4.0))["n_ion"].values.astype(np.float64)
    weaker = sim["n_src"].copy(deep=True)
    seconds = np.diff(cosmic_age_s(sim))[:, None, None, None]
    weaker[:-1] = (np.diff(left, axis=0) * 1e18 / seconds).astype(np.float32)
    assert float(weaker.min()) >= 0
    xi = {}
    for name, box, clumping in (
        ("clumped", sim, 4.0),
        ("weaker", sim.assign(n_src=weaker), 1.0),
        ("neither", sim, 1.0),
    ):
        store = write_simulation(box, tmp_path / f"{name}.zarr")
        simulate(store, tmp_path / f"{name}_xi.zarr", RayTracing(max_mfp=5.6, steps=4, clumping=clumping))
        xi[name] = open_simulation(tmp_path / f"{name}_xi.zarr")["xi"].values.astype(np.float64)
    for index in range(2, len(redshift)):
        clumped, weaker_mean, neither = (xi[name][index].mean() for name in ("clumped", "weaker", "neither"))
        assert abs(weaker_mean - clumped) < 0.15 * (neither - clumped)
    assert (
        np.square(xi["weaker"] - xi["clumped"]).mean()
        < 0.05 * np.square(xi["neither"] - xi["clumped"]).mean()
    )
