"""What became of the photons, counted after the network."""

from __future__ import annotations

import numpy as np
import pytest

from reion.prediction.budget import backwards, budgets, tile_sums
from reion.prediction.predict import predict
from reion.prediction.tiles import Tiling
from reion.simulation.contract import cosmology, hydrogen_density, make_simulation
from reion.storage.store import write_simulation
from reion_exports import ModelCard

CARD = ModelCard(
    name="untrained",
    version="0",
    inputs={"n_igm": "g cm-3", "n_ion": "1e66 Mpc-3"},
    cell_size_mpc=2.0,
    redshift_range=(6.0, 12.0),
    receptive_radius_cells=0,
    mean_error_share=0.1,
)


def uniform(xi: float, photons_per_atom: float) -> dict[str, float]:
    gas = np.full((3, 4, 5), 4.2e-31, dtype=np.float32)
    photons = photons_per_atom * hydrogen_density(gas)
    return tile_sums(np.full_like(gas, xi), {"n_igm": gas, "n_ion": photons})


def series(redshifts: list[float]):
    gas = np.full((len(redshifts), 3, 4, 5), 4.2e-31, dtype=np.float32)
    return make_simulation({"n_igm": gas}, redshift=redshifts, box_size=[6.0, 8.0, 10.0], source_code="toy")


def test_the_error_of_the_mean_is_a_share_of_the_mean_error():
    gas = np.full((3, 4, 5), 4.2e-31, dtype=np.float32)
    fields = {"n_igm": gas, "n_ion": np.zeros_like(gas)}
    sums = [tile_sums(gas * 0, fields, np.full_like(gas, 0.2)), tile_sums(gas * 0, fields)]
    with_spread, without = budgets(series([9.0, 8.0]), CARD, sums)
    assert with_spread.mean_xi_std == pytest.approx(0.1 * 0.2)
    assert without.mean_xi_std is None


def test_photons_that_ionise_one_atom_each_are_used_up():
    (row,) = budgets(series([9.0]), CARD, [uniform(0.3, 0.3)])
    assert row.mean_xi == pytest.approx(0.3)
    assert row.mean_xi_mass == pytest.approx(0.3)
    assert row.photons_per_atom == pytest.approx(0.3)
    assert row.recombinations_per_atom == 0
    assert row.used_share == pytest.approx(1)


def test_mass_counts_where_the_gas_is():
    gas = np.array([1.0, 3.0]).reshape(2, 1, 1) * 4.2e-31
    sums = tile_sums(np.array([0.0, 1.0]).reshape(2, 1, 1), {"n_igm": gas, "n_ion": np.zeros_like(gas)})
    (row,) = budgets(series([9.0]), CARD, [sums])
    assert (row.mean_xi, row.mean_xi_mass) == pytest.approx((0.5, 0.75))
    assert row.used_share is None


def test_ionised_gas_recombines_at_the_rate_of_case_b():
    sim = series([7.0, 6.9])
    _, row = budgets(sim, CARD, [uniform(1.0, 1.0), uniform(1.0, 1.0)])
    # n_H = ρ / (1.222 m_p) in proper cm-3, α_B(1e4 K) = 2.59e-13 cm3 / s
    hydrogen = 4.2e-31 / (1.222 * 1.6726219e-24)
    rates = [2.59e-13 * hydrogen * (1 + z) ** 3 for z in (7.0, 6.9)]
    seconds = np.diff(cosmology(sim).age([7.0, 6.9]).to_value("s"))[0]
    assert row.recombinations_per_atom == pytest.approx(np.mean(rates) * seconds, rel=1e-4)
    assert row.used_share == pytest.approx(1 + row.recombinations_per_atom)


def test_a_history_that_goes_backwards_is_said():
    falling = budgets(series([8.0, 7.0]), CARD, [uniform(0.5, 1.0), uniform(0.4, 1.0)])
    (said,) = backwards(falling)
    assert "falls from 0.500 at z = 8 to 0.400 at z = 7" in said
    assert not backwards(budgets(series([8.0, 7.0]), CARD, [uniform(0.5, 1.0), uniform(0.6, 1.0)]))


def test_predict_tells_it_whatever_the_tiles(toy, toy_model, tmp_path, monkeypatch):
    write_simulation(toy(), tmp_path / "sim.zarr")
    histories = []
    for name, tile in (("one", (12, 10, 8)), ("many", (5, 10, 3))):

        def tiles(mesh, *, halo_cells, tile=tile, **_):
            return Tiling(mesh=tuple(mesh), tile=tile, halo_cells=halo_cells)

        monkeypatch.setattr("reion.prediction.memory.cheapest_tiles", tiles)
        result = predict(toy_model, tmp_path / "sim.zarr", tmp_path / f"{name}.zarr", device="cpu")
        assert (result.tiles > 1) == (name == "many")
        rows = [row.to_json() for row in result.history]
        assert len(rows) == 4
        histories.append([[row[key] or 0.0 for key in sorted(row)] for row in rows])
    np.testing.assert_allclose(histories[0], histories[1], rtol=1e-4)
