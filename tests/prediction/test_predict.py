"""From file to file: what is stored is the prediction of the whole box, however it was cut or interrupted."""

import json
import subprocess
import sys
import warnings

import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import reion
from reion.errors import InputError
from reion.evaluation.stored import attributes_of_xi, warnings_in
from reion.prediction import predict as prediction
from reion.prediction.emulator import Emulator
from reion.prediction.memory import FittedTiles
from reion.prediction.predict import predict
from reion.prediction.tiles import Tiling
from reion.simulation.contract import make_simulation
from reion.simulation.photons import with_n_ion
from reion.simulation.recombinations import less_recombinations, with_clumping
from reion.sky.history import history
from reion.storage.store import write_simulation


@pytest.fixture
def sim_path(simulation, tmp_path):
    return write_simulation(simulation.drop_vars("xi"), tmp_path / "sim.zarr")


@pytest.fixture
def tiles_of(monkeypatch):
    """Fix the tiles, whatever the memory."""

    def fix(tile):
        def chosen(mesh, *, halo_cells, **_):
            return Tiling(mesh=tuple(mesh), tile=tile, halo_cells=halo_cells)

        monkeypatch.setattr("reion.prediction.memory.cheapest_tiles", chosen)

    return fix


def test_the_store_holds_what_the_emulator_predicts(toy_model, sim_path, simulation, tmp_path):
    result = predict(toy_model, sim_path, tmp_path / "xi.zarr", device="cpu")
    assert result.cells == simulation["xi"].size
    assert result.provider == "CPUExecutionProvider"
    assert result.tiles == 1
    with xr.open_zarr(result.output) as stored:
        expected = Emulator(toy_model, device="cpu").predict(simulation)
        xr.testing.assert_equal(stored["xi"].drop_attrs(), expected.drop_attrs())
        assert stored["xi"].attrs["model_sha256"] == expected.attrs["model_sha256"]
        assert stored["xi"].attrs["units"] == "1"
        np.testing.assert_allclose(stored.attrs["box_size"], simulation.attrs["box_size"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:n_ion is zero everywhere")
@given(
    mesh=st.tuples(*[st.integers(1, 14)] * 3),
    tile=st.tuples(*[st.integers(1, 14)] * 3),
    keep_fields=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_tiled_equals_whole(toy_model, tmp_path_factory, mesh, tile, keep_fields, seed):
    rng = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("tiled")
    fields = {
        "n_igm": (4e-31 * rng.lognormal(0, 0.5, (1, *mesh))).astype(np.float32),
        "n_ion": (2e3 * rng.lognormal(0, 1, (1, *mesh)) * (rng.random(mesh) < 0.1)).astype(np.float32),
    }
    fields["n_ion"].flat[0] = 50  # a box without a photon is refused
    sim = make_simulation(fields, redshift=[8.0], box_size=[2.0 * n for n in mesh])
    path = write_simulation(sim, folder / "sim.zarr")
    emulator = Emulator(toy_model, device="cpu", threads=1)
    tiling = Tiling(mesh=mesh, tile=tile, halo_cells=emulator.card.receptive_radius_cells)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prediction, "fit_tiles", lambda *_: FittedTiles(tiling, keep_fields))
        predict(emulator, path, folder / "xi.zarr")
    with xr.open_zarr(folder / "xi.zarr") as stored:
        np.testing.assert_allclose(stored["xi"].values, emulator.predict(sim).values, rtol=0, atol=1e-6)


def test_a_network_with_a_stride_is_tiled_on_it(strided_toy_model, tmp_path):
    emulator = Emulator(strided_toy_model, device="cpu")
    card = emulator.card
    rng = np.random.default_rng(0)
    mesh = (18, 9, 16)
    fields = {
        "n_igm": (4e-31 * rng.lognormal(0, 0.5, (1, *mesh))).astype(np.float32),
        "n_ion": (2e3 * rng.lognormal(0, 1, (1, *mesh))).astype(np.float32),
    }
    sim = make_simulation(fields, redshift=[8.0], box_size=[2.0 * n for n in mesh])
    path = write_simulation(sim, tmp_path / "sim.zarr")
    tiling = Tiling(mesh=mesh, tile=(8, 4, 8), halo_cells=card.receptive_radius_cells)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prediction, "fit_tiles", lambda *_: FittedTiles(tiling, keep_fields=False))
        predict(emulator, path, tmp_path / "xi.zarr")
    with xr.open_zarr(tmp_path / "xi.zarr") as stored:
        np.testing.assert_allclose(stored["xi"].values, emulator.predict(sim).values, rtol=0, atol=1e-6)


def test_interrupted_it_goes_on_where_it_was(toy_model, sim_path, simulation, tmp_path, tiles_of):
    tiles_of((5, 10, 8))
    emulator = Emulator(toy_model, device="cpu")
    runs = []
    run = emulator.predict_window

    def count(*arguments, **options):
        if len(runs) == 7:
            raise KeyboardInterrupt
        runs.append(arguments[0])
        return run(*arguments, **options)

    emulator.predict_window = count
    out = tmp_path / "xi.zarr"
    with pytest.raises(KeyboardInterrupt):
        predict(emulator, sim_path, out)
    assert not out.exists()
    (work,) = tmp_path.glob(".xi.zarr.*")
    with (work / "tiles.txt").open("a") as file:
        file.write("3 1")  # a line that the end of the process cut short
    tiles_of((3, 3, 3))  # what was begun stays in its tiles
    emulator.predict_window = lambda *arguments, **options: (
        runs.append(arguments[0]) or run(*arguments, **options)
    )
    seen = []
    predict(emulator, sim_path, out, progress=lambda done, total: seen.append((done, total)))
    assert len(runs) == 3 * simulation.sizes["redshift"]
    assert seen[-1] == (simulation["xi"].size, simulation["xi"].size)
    assert seen[0][0] > simulation["xi"].size / 2
    with xr.open_zarr(out) as stored:
        xr.testing.assert_allclose(
            stored["xi"].drop_attrs(), Emulator(toy_model).predict(simulation).drop_attrs(), atol=1e-6
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sim.zarr", "xi.zarr"]


def test_another_model_does_not_go_on_with_what_one_began(
    toy_model, sim_path, tmp_path, tiles_of, monkeypatch
):
    tiles_of((5, 10, 8))
    out = tmp_path / "xi.zarr"
    emulator = Emulator(toy_model, device="cpu")
    run = emulator.predict_window
    emulator.predict_window = lambda *arguments, **options: 0 * run(*arguments, **options)
    with pytest.raises(ZeroDivisionError):
        predict(emulator, sim_path, out, progress=lambda done, total: 1 / 0)
    other = Emulator(toy_model, device="cpu")
    other.sha256 = "another"
    predict(other, sim_path, out)
    with xr.open_zarr(out) as stored:
        assert float(stored["xi"].min()) > 0, "a tile of the other model was kept"


def test_with_less_memory_it_begins_anew_in_smaller_tiles(toy_model, sim_path, tmp_path, tiles_of):
    tiles_of((5, 10, 8))
    out = tmp_path / "xi.zarr"
    with pytest.raises(ZeroDivisionError):
        predict(toy_model, sim_path, out, device="cpu", progress=lambda done, total: 1 / 0)
    tiles_of((4, 5, 8))
    less = prediction.default_memory_bytes() // 2
    assert predict(toy_model, sim_path, out, device="cpu", memory_bytes=less).tile_cells == (4, 5, 8)


def test_the_history_is_integrated_where_the_file_has_none(toy_model, simulation, tmp_path):
    for index, redshift in enumerate(simulation["redshift"].values):
        np.savez(
            tmp_path / f"box_z{redshift:06.3f}.npz",
            n_igm=simulation["n_igm"][index],
            n_src=simulation["n_src"][index],
            redshift=redshift,
            box_size=simulation.attrs["box_size"],
        )
    paths = sorted(tmp_path.glob("*.npz"))
    predict(toy_model, paths, tmp_path / "xi.zarr", device="cpu")
    with xr.open_zarr(tmp_path / "xi.zarr") as stored:
        expected = Emulator(toy_model, device="cpu").predict(simulation)
        np.testing.assert_allclose(stored["xi"].values, expected.values, rtol=0, atol=1e-5)


def test_nothing_is_overwritten_without_force(toy_model, sim_path, tmp_path):
    out = tmp_path / "xi.zarr"
    predict(toy_model, sim_path, out, device="cpu")
    written = (out / "zarr.json").stat().st_mtime_ns
    with pytest.raises(InputError, match="exists already"):
        predict(toy_model, sim_path, out, device="cpu")
    assert (out / "zarr.json").stat().st_mtime_ns == written
    predict(toy_model, sim_path, out, device="cpu", force=True)
    assert (out / "zarr.json").stat().st_mtime_ns > written
    with xr.open_zarr(out) as stored:
        assert bool(np.isfinite(stored["xi"]).all())


def test_what_is_not_ours_is_not_replaced(toy_model, sim_path, tmp_path):
    out = tmp_path / "xi.zarr"
    out.mkdir()
    (out / "precious").touch()
    for force in (False, True):
        with pytest.raises(InputError):
            predict(toy_model, sim_path, out, device="cpu", force=force)
    assert [path.name for path in out.iterdir()] == ["precious"]


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs the process's own peak memory")
def test_a_box_in_many_tiles_stays_within_its_memory(toy_model, tmp_path):
    rng = np.random.default_rng(0)
    shape = (1, 100, 100, 100)
    fields = {name: rng.random(shape, dtype=np.float32) for name in ("n_igm", "n_ion")}
    fields["n_igm"] *= np.float32(8e-31)
    path = write_simulation(make_simulation(fields, redshift=[8.0], box_size=200.0), tmp_path / "sim.zarr")
    allowed = 400 << 20
    code = (
        "import json, sys; from reion.prediction.predict import predict\n"
        f"print(json.dumps(predict(*sys.argv[1:], device='cpu', memory_bytes={allowed}).to_json()))"
    )
    command = [sys.executable, "-c", code, toy_model, path, tmp_path / "xi.zarr"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    assert result["tiles"] > 1
    assert result["peak_memory_bytes"] < 1.25 * allowed


def test_too_little_memory_is_said_and_nothing_is_left(toy_model, sim_path, tmp_path):
    with pytest.raises(InputError, match=r"needs at least .* MiB"):
        predict(toy_model, sim_path, tmp_path / "xi.zarr", device="cpu", memory_bytes=1 << 20)
    assert [path.name for path in tmp_path.iterdir()] == ["sim.zarr"]


def test_z_reion_is_that_of_the_history_of_what_is_written(toy_model, sim_path, tmp_path, tiles_of):
    tiles_of((5, 10, 8))
    emulator = Emulator(toy_model, device="cpu")
    run = emulator.predict_window
    share = {12.0: 0.0, 10.0: 0.3, 8.0: 0.75, 7.0: 0.9}  # a history in which some cells are not ionised
    emulator.predict_window = lambda z, *rest, **options: share[z] * run(z, *rest, **options)
    out = tmp_path / "xi.zarr"
    with pytest.raises(ZeroDivisionError):
        predict(emulator, sim_path, out, z_reion=True, progress=lambda done, total: 1 / 0)
    # Begun with z_reion, it does not end without: there would be an array that nobody fills.
    with pytest.raises(InputError, match="begun with other z_reion"):
        predict(emulator, sim_path, out, resume=True)
    found = predict(emulator, sim_path, out, z_reion=True, resume=True)
    made = history(reion.open_simulation(out), tmp_path / "history.zarr")
    assert 0 < made.oddities.never < made.oddities.cells, "a history worth comparing"
    assert found.z_reion == made.oddities
    with xr.open_zarr(out) as stored, xr.open_zarr(made.output) as expected:
        np.testing.assert_array_equal(stored["z_reion"].values, expected["z_reion"].values)
        assert stored["z_reion"].attrs["never"] == made.oddities.never
        assert stored["z_reion"].dims == ("x", "y", "z")


@pytest.mark.parametrize("name", ["xi.zarr", "xi.h5", "xi.npz"])
def test_a_history_that_goes_backwards_is_said_and_stays_with_its_xi(toy_model, sim_path, tmp_path, name):
    emulator = Emulator(toy_model, device="cpu")
    run = emulator.predict_window
    share = {12.0: 0.5, 10.0: 0.3, 8.0: 0.75, 7.0: 0.9}
    emulator.predict_window = lambda z, *rest, **options: share[z] * run(z, *rest, **options)
    with pytest.warns(UserWarning, match="the history goes backwards") as said:
        predict(emulator, sim_path, tmp_path / name)
    expected = [str(item.message) for item in said if "backwards" in str(item.message)]
    found = [text for text in warnings_in(attributes_of_xi(tmp_path / name)) if "backwards" in text]
    assert found == expected
    assert "at z = 12 to" in found[0]


def test_what_the_model_warns_of_stays_with_its_xi(toy_model, sim_path, tmp_path):
    emulator = Emulator(toy_model, device="cpu")
    check = emulator.check

    def doubtful(sim):
        warnings.warn("the cells are too large", stacklevel=2)
        return check(sim)

    emulator.check = doubtful
    with pytest.warns(UserWarning, match="the cells are too large"):
        found = predict(emulator, sim_path, tmp_path / "xi.zarr")
    assert found.warnings[0] == "the cells are too large"
    assert all(text.startswith("the history goes backwards") for text in found.warnings[1:])
    assert warnings_in(attributes_of_xi(tmp_path / "xi.zarr")) == list(found.warnings)


@pytest.mark.parametrize("name", ["xi.zarr", "xi.h5", "xi.npz"])
@pytest.mark.parametrize("stored", ["n_src", "n_ion"])
def test_every_warning_of_the_command_is_in_its_json_in_its_store_and_said_beforehand(
    toy_model, toy, tmp_path, command, name, stored
):
    """A series that starts late: its n_ion lacks photons, which is what most changes the answer."""
    sim = toy(redshift=(10.0, 9.0, 8.0)).drop_vars("xi")
    if stored == "n_ion":
        with pytest.warns(UserWarning, match="the series starts at z = 10"):
            sim = with_n_ion(sim).drop_vars("n_src")
    path = (
        write_simulation(sim, tmp_path / "sim.zarr")
        if stored == "n_ion"
        else _write_archives(sim, tmp_path / "sim")
    )
    expected = {"n_src": "the series starts at z = 10", "n_ion": "n_ion is zero everywhere at z = 10"}[stored]
    with warnings.catch_warnings(record=True) as given_warnings:
        warnings.simplefilter("always", UserWarning)
        code, printed, _ = command(
            "predict", toy_model, path, "--out", tmp_path / name, "--z-reion", "--json"
        )
    assert code == 0, printed
    texts = [str(item.message) for item in given_warnings if issubclass(item.category, UserWarning)]
    assert sum(text.startswith(expected) for text in texts) == 1, "the same is said once"
    assert sorted(json.loads(printed)["warnings"]) == sorted(texts)
    assert sorted(warnings_in(attributes_of_xi(tmp_path / name))) == sorted(texts)
    code, printed, _ = command("inspect", path, "--for", toy_model, "--json")
    assert any(text.startswith(expected) for text in json.loads(printed)["for"]["warnings"])


def _write_archives(sim, folder):
    """Write one archive a snapshot, without n_ion, which `write_simulation` would sum up."""
    folder.mkdir()
    for index, redshift in enumerate(sim["redshift"].values):
        fields = {name: sim[name][index].values for name in ("n_igm", "n_src")}
        np.savez(
            folder / f"box_z{redshift:06.3f}.npz", **fields, redshift=redshift, box_size=sim.attrs["box_size"]
        )
    return folder


@pytest.mark.parametrize("keep", ["n_src", "n_ion", "both"])
def test_of_clumpy_gas_it_takes_the_photons_that_are_left(toy, toy_model, tmp_path, tiles_of, keep):
    """From a store, in tiles, and in memory: as a simulation that was given this n_ion by hand."""
    box = toy(shape=(12, 12, 12), redshift=(12.0, 10.0, 9.0, 7.0))
    full = with_n_ion(box)
    sim = {"n_src": box, "n_ion": full.drop_vars("n_src"), "both": full}[keep]
    by_hand = full.copy()
    by_hand["n_ion"] = less_recombinations(with_clumping(full, 3.0))["n_ion"].load()
    emulator = Emulator(toy_model, device="cpu")
    expected = emulator.predict(by_hand).values
    assert not np.allclose(expected, emulator.predict(full).values, atol=1e-3)
    np.testing.assert_allclose(emulator.predict(with_clumping(sim, 3.0)).values, expected, atol=1e-5)
    write_simulation(sim, tmp_path / "sim.zarr")
    predict(toy_model, tmp_path / "sim.zarr", tmp_path / "xi.zarr", settings={"clumping": "3"})
    stored = xr.open_zarr(tmp_path / "xi.zarr")["xi"]
    np.testing.assert_allclose(stored.values, expected, atol=1e-5)
    assert stored.attrs["clumping"] == "3"
