"""What a training covered, and what lies outside of it."""

from __future__ import annotations

import numpy as np
import pytest

from reion.models.coverage import Coverage, quantities
from reion.simulation.contract import hydrogen_density

GAS = np.full((8, 8, 8), 4.2108e-31, dtype=np.float32)


def numbers(photons: np.ndarray, **changes) -> dict[str, float]:
    options = {"photon_units": "1e66 Mpc-3", "cell_size_mpc": 2.0, "max_mfp": 30.0, **changes}
    return quantities(GAS, photons, **options)


def test_the_quantities_are_what_their_names_say():
    photons = np.zeros_like(GAS)
    # One source whose photons ionise a ball of 10 Mpc at mean density.
    photons[1, 2, 3] = 4 / 3 * np.pi * 10.0**3 / 2.0**3 * hydrogen_density(GAS)[0, 0, 0]
    found = numbers(photons)
    assert found["bubble_radius"] == pytest.approx(10, rel=1e-5)
    assert found["photons_per_atom"] == pytest.approx(4 / 3 * np.pi * 10**3 / 16**3, rel=1e-5)
    assert found["sources_per_volume"] == pytest.approx(1 / 16**3)
    assert found["mean_density"] == pytest.approx(1, rel=1e-6)
    assert found["density_spread"] == pytest.approx(0, abs=1e-6)
    assert (found["cell_size"], found["max_mfp"]) == (2.0, 30.0)


def test_sources_in_other_units_say_only_how_many_they_are():
    photons = np.ones_like(GAS)
    found = numbers(photons, photon_units="1e48 s-1 Mpc-3")
    assert "photons_per_atom" not in found
    assert found["sources_per_volume"] == pytest.approx(1 / 8)
    # What a unit of n_ion is worth makes no number of photons of a rate.
    assert "photons_per_atom" not in numbers(photons, photon_units="Msun Mpc-3", photons_per_source=2.5)
    counted = numbers(photons, photon_units="1e18 s Mpc-3", photons_per_source=1.0)
    assert counted["photons_per_atom"] == pytest.approx(1 / hydrogen_density(GAS)[0, 0, 0])
    assert "photons_per_atom" not in numbers(photons, photon_units="1e18 s Mpc-3", photons_per_source=None)


def test_what_the_training_had_is_covered_and_a_quarter_more():
    coverage = Coverage.of([(8.0, {"max_mfp": 20.0}), (8.0, {"max_mfp": 40.0}), (6.0, {"max_mfp": 20.0})])
    assert not coverage.outside(8.0, {"max_mfp": 49.0})
    (missed,) = coverage.outside(8.0, {"max_mfp": 51.0})
    assert (missed.low, missed.high) == (20.0, 40.0)
    assert missed.factor == pytest.approx(51 / 40)
    assert "max_mfp" in str(missed)
    assert "20 to 40" in str(missed)
    # Between two redshifts of the training the range is that between them.
    (missed,) = coverage.outside(7.0, {"max_mfp": 10.0})
    assert (missed.low, missed.high) == (20.0, 30.0)


def test_far_from_all_redshifts_only_what_hardly_depends_on_them_is_told():
    coverage = Coverage.of([(8.0, {"max_mfp": 20.0, "photons_per_atom": 1.0})])
    missed = coverage.outside(20.0, {"max_mfp": 50.0, "photons_per_atom": 0.001})
    assert [item.quantity for item in missed] == ["max_mfp"]


def test_it_comes_back_from_json_and_two_make_one():
    first = Coverage.of([(8.0, {"max_mfp": 20.0})])
    second = Coverage.of([(8.0, {"max_mfp": 60.0, "cell_size": 2.0})])
    assert Coverage.from_json(first.to_json()) == first
    both = first.with_others(second)
    assert both.range_of("max_mfp") == (20.0, 60.0)
    assert both.range_of("cell_size") == (2.0, 2.0)
    assert both.range_of("bubble_radius") is None


def test_a_clumping_factor_that_the_training_had_not_is_told():
    coverage = Coverage.of([(8.0, quantities_with_clumping(1.0)), (7.0, quantities_with_clumping(1.0))])
    assert not coverage.outside(7.5, quantities_with_clumping(1.2))
    (missed,) = coverage.outside(7.5, quantities_with_clumping(3.0))
    assert missed.quantity == "clumping"
    assert "clumping factor" in str(missed)
    unsaid = Coverage.of([(8.0, quantities_with_clumping(None)), (7.0, quantities_with_clumping(None))])
    assert [missed.quantity for missed in unsaid.outside(7.5, quantities_with_clumping(3.0))] == ["clumping"]
    assert not unsaid.outside(7.5, quantities_with_clumping(1.2))
    # A Simulation that does not say its clumping is not judged by it.
    assert not coverage.outside(7.5, quantities_with_clumping(None))


def quantities_with_clumping(clumping: float | None) -> dict[str, float]:
    return numbers(np.ones_like(GAS), clumping=clumping)
