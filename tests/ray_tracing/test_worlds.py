"""Worlds: the photons and sources that their list says, made once."""

from __future__ import annotations

import contextlib
import json
from itertools import pairwise

import numpy as np
import pytest
import zarr

from reion.errors import InputError
from reion.ray_tracing.worlds import World, Worlds, load_worlds, make_world, make_worlds
from reion.readers import open_simulation
from reion.storage.store import write_simulation
from tests.ray_tracing.boxes import density_and_sources, interrupt_at


def test_a_world_has_the_photons_that_its_list_says():
    series = density_and_sources(sources=20)
    world = World(name="few", series="toy", max_mfp=9.0, photons=1.5, brightest=0.25)
    made = make_world(series, world)
    for index in range(3):
        before, after = (box["n_src"][index].values.astype(np.float64) for box in (series, made))
        assert (after > 0).sum() == 5
        assert after.sum() == pytest.approx(1.5 * before.sum(), rel=1e-6)
        assert before[after > 0].min() >= np.sort(before[before > 0])[-5]
    assert "n_ion" not in made.data_vars


@pytest.mark.parametrize("power", [0.0, 1.0, 2.5])
def test_a_world_whose_densest_cells_emit(power):
    series = density_and_sources(sources=20)
    world = World(name="diffuse", series="toy", max_mfp=9.0, photons=0.5, emitting=0.25, density_power=power)
    made = make_world(series, world)
    for index in range(3):
        density, before, after = (
            values[index].values.astype(np.float64)
            for values in (series["n_igm"], series["n_src"], made["n_src"])
        )
        emits = after > 0
        assert emits.sum() == round(0.25 * emits.size)
        assert density[emits].min() >= density[~emits].max()
        assert after.sum() == pytest.approx(0.5 * before.sum(), rel=1e-6)
        ratio = after[emits] / density[emits] ** power
        assert np.ptp(ratio) <= 1e-5 * ratio.mean()


def test_a_share_below_one_cell_leaves_one_emitting_cell():
    world = World(name="one", series="toy", max_mfp=9.0, emitting=1e-9)
    made = make_world(density_and_sources(sources=20), world)
    assert [(made["n_src"][index].values > 0).sum() for index in range(3)] == [1, 1, 1]


def test_worlds_are_made_once(tmp_path):
    series = write_simulation(density_and_sources(side=8), tmp_path / "toy.zarr")
    worlds = Worlds.model_validate(
        {
            "world": [
                {"name": "near", "series": "toy", "max_mfp": 4.0},
                {"name": "far", "series": "toy", "max_mfp": 7.0, "photons": 2.0, "clumping": 2.0},
            ],
            "ray_tracing": {"steps": 1},
        }
    )
    made = make_worlds([series], tmp_path / "worlds", worlds, only=["near"])
    assert list(made.worlds) == ["near"]
    made = make_worlds([series], tmp_path / "worlds", worlds)
    assert made.worlds["near"] is None
    assert made.worlds["far"] is not None
    far = open_simulation(tmp_path / "worlds" / "far.zarr")
    assert far["max_mfp"].values.tolist() == [7.0] * 3
    assert "world far" in far.attrs["source_code"]
    with pytest.raises(InputError, match="received near-far"):
        make_worlds([series], tmp_path / "worlds", worlds, only=["near-far"])


@pytest.mark.parametrize("edit", [{"photons": 2.0}, {"brightest": 0.5}])
def test_a_world_that_was_edited_is_not_gone_on_with(edit, tmp_path, monkeypatch):
    """Its first snapshots have other photons: traced anew it is the same as one that nobody interrupted."""
    series = write_simulation(density_and_sources(side=8), tmp_path / "toy.zarr")
    one = {"name": "one", "series": "toy", "max_mfp": 4.0}
    before, after = (
        Worlds.model_validate({"world": [world], "ray_tracing": {"steps": 1}}) for world in (one, one | edit)
    )
    interrupt_at(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        make_worlds([series], tmp_path / "worlds", before)
    monkeypatch.undo()
    make_worlds([series], tmp_path / "worlds", after)
    make_worlds([series], tmp_path / "unbroken", after)
    made, unbroken = (open_simulation(tmp_path / name / "one.zarr") for name in ("worlds", "unbroken"))
    for name in ("n_src", "n_ion", "xi"):
        assert np.array_equal(made[name].values, unbroken[name].values), name
    assert json.loads(made.attrs["world"]) == after.world[0].model_dump(mode="json")


@pytest.mark.parametrize(
    ("edit", "steps", "said"),
    [
        ({}, 1, None),
        ({"photons": 2.0}, 1, "photons = 1.0, the list says 2.0: remove it"),
        ({"max_mfp": 5.0}, 1, "max_mfp = 4.0, the list says 5.0"),
        ({}, 2, "steps = 1, the list says 2"),
    ],
)
def test_a_world_that_is_there_and_was_edited_since_is_kept_and_named(edit, steps, said, tmp_path):
    series = write_simulation(density_and_sources(side=8), tmp_path / "toy.zarr")
    one = {"name": "one", "series": "toy", "max_mfp": 4.0}
    make_worlds(
        [series],
        tmp_path / "worlds",
        Worlds.model_validate({"world": [one], "ray_tracing": {"steps": 1}}),
    )
    group = zarr.open_group(tmp_path / "worlds" / "one.zarr", mode="r+")
    entry = json.loads(group.attrs["world"])
    del entry["emitting"], entry["density_power"]  # a record need not name what was left unchanged
    group.attrs["world"] = json.dumps(entry)
    edited = Worlds.model_validate({"world": [one | edit], "ray_tracing": {"steps": steps}})
    with contextlib.nullcontext() if said is None else pytest.warns(UserWarning, match=said):
        assert make_worlds([series], tmp_path / "worlds", edited).worlds == {"one": None}


def test_a_series_that_is_missing(tmp_path):
    series = write_simulation(density_and_sources(side=8), tmp_path / "toy.zarr")
    with pytest.raises(InputError, match="need the series box1, box3, c1, c1394"):
        make_worlds([series], tmp_path / "worlds", load_worlds())


def test_the_list_that_comes_with_reion_spans_what_users_have():
    worlds = load_worlds().world
    assert {world.series for world in worlds} == {*("box1", "box3", "c1", "c1394", "c2", "c2381", "c4", "d2")}
    reaches = sorted({world.max_mfp for world in worlds})
    assert (reaches[0], reaches[-1]) == (7.0, 60.0)
    # A network that knew 20 and 30 Mpc but nothing between had R² 0.92 at 25.
    assert max(after / before for before, after in pairwise(reaches)) <= 1.25
    assert min(world.photons for world in worlds) < 1 < max(world.photons for world in worlds)
    assert min(world.brightest for world in worlds) <= 0.05
    emitting = [world.emitting for world in worlds if world.emitting is not None]
    assert (min(emitting), max(emitting)) == (0.1, 1.0)
    # What further recombinations take is subtracted before a network sees the photons.
    assert {world.clumping for world in worlds} == {1.0}


def test_two_worlds_of_one_name(tmp_path):
    file = tmp_path / "worlds.toml"
    file.write_text('[[world]]\nname = "a"\nseries = "s"\nmax_mfp = 3\n' * 2)
    with pytest.raises(InputError, match="different names"):
        load_worlds(file)


@pytest.mark.parametrize("max_mfp", ["-3.0", "0", "inf", '"worsek"'])
def test_a_reach_that_is_none_is_refused_with_the_list(max_mfp, tmp_path):
    file = tmp_path / "worlds.toml"
    file.write_text(f'[[world]]\nname = "a"\nseries = "s"\nmax_mfp = {max_mfp}\n')
    with pytest.raises(InputError, match=r"world\.0\.max_mfp"):
        load_worlds(file)
