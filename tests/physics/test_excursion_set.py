"""The excursion set against a sum over every sphere, and for sources whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reion import InputError, make_simulation, with_n_ion
from reion.physics import excursion_set
from reion.simulation.contract import cosmology, hydrogen_density
from reion.simulation.photons import N_ION_TIME_S


def distances(shape, centre):
    """Periodic distance of every cell from `centre`, in cells."""
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    offset = np.abs(grid - centre)
    return np.linalg.norm(np.minimum(offset, np.array(shape) - offset), axis=-1)


def by_hand(n_photons, n_hydrogen, radii):
    out = np.zeros(n_photons.shape)
    for cell in np.ndindex(n_photons.shape):
        distance = distances(n_photons.shape, cell)
        for radius in radii:
            sphere = distance <= radius + 1e-9
            out[cell] = max(out[cell], n_photons[sphere].sum() / n_hydrogen[sphere].sum())
    return out


def test_the_ladder_goes_from_sixteen_cells_to_one():
    radii = excursion_set.RADII_CELLS
    assert radii[0] == 16
    assert radii[-1] == pytest.approx(1)
    assert np.allclose(np.diff(np.log2(radii)), -1 / 8)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 1000), shape=st.tuples(*[st.integers(3, 9)] * 3))
def test_every_sphere_is_summed(seed, shape):
    rng = np.random.default_rng(seed)
    n_photons = np.where(rng.random(shape) < 0.1, rng.lognormal(2, 1, shape), 0.0)
    n_hydrogen = rng.lognormal(0, 0.3, shape)
    radii = (5.0, 2.5, 1.0)
    found = excursion_set.photons_per_atom(n_photons, n_hydrogen, radii_cells=radii)
    assert np.allclose(found, by_hand(n_photons, n_hydrogen, radii), rtol=1e-9, atol=1e-9)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 1000), shift=st.tuples(*[st.integers(0, 8)] * 3))
def test_moving_the_periodic_box_moves_the_answer(seed, shift):
    rng = np.random.default_rng(seed)
    n_photons, n_hydrogen = rng.random((8, 7, 9)) ** 8, rng.lognormal(0, 0.5, (8, 7, 9))
    here = excursion_set.photons_per_atom(n_photons, n_hydrogen)
    there = excursion_set.photons_per_atom(
        np.roll(n_photons, shift, (0, 1, 2)), np.roll(n_hydrogen, shift, (0, 1, 2))
    )
    assert np.allclose(np.roll(here, shift, (0, 1, 2)), there, rtol=1e-9)


def test_a_single_source_ionises_the_sphere_it_can():
    shape, centre = (40, 40, 40), (3, 20, 39)
    atoms = np.ones(shape)
    photons = np.zeros(shape)
    distance = distances(shape, centre)
    photons[centre] = (distance <= 8).sum()
    ionised = excursion_set.ionised(photons, atoms)
    assert np.array_equal(ionised, distance <= 8)


def test_no_photons_and_no_atoms():
    photons, atoms = np.zeros((6, 6, 6)), np.ones((6, 6, 6))
    assert not excursion_set.ionised(photons, atoms).any()
    photons[3, 3, 3] = 1
    assert np.isposinf(excursion_set.photons_per_atom(photons, np.zeros_like(atoms))).all()
    hollow = np.zeros((40, 40, 40))
    hollow[20, 20, 20] = 1.0
    source = np.zeros((40, 40, 40))
    source[0, 0, 0] = 1.0
    ratio = excursion_set.photons_per_atom(source, hollow, radii_cells=(2.0,))
    assert np.isposinf(ratio[0, 0, 0])
    assert ratio[10, 10, 10] == 0


def test_bad_input_is_refused():
    ones = np.ones((4, 4, 4))
    with pytest.raises(InputError, match="not negative"):
        excursion_set.photons_per_atom(-ones, ones)
    with pytest.raises(InputError, match="positive threshold"):
        excursion_set.ionised(ones, ones, threshold=0.0)
    with pytest.raises(InputError, match="finite"):
        excursion_set.ionised(ones * np.nan, ones)


def test_history_is_n_ion_and_instant_is_the_rate_times_the_age(simulation):
    summed = np.stack(list(excursion_set.photons(simulation, "history")))
    stored = with_n_ion(simulation)
    assert np.allclose(summed, stored["n_ion"].values, rtol=1e-6)
    assert np.array_equal(np.stack(list(excursion_set.photons(stored, "history"))), stored["n_ion"].values)
    age = cosmology(simulation).age(simulation["redshift"].values).to_value("s") / N_ION_TIME_S
    instant = np.stack(list(excursion_set.photons(simulation, "instant")))
    assert np.allclose(instant, simulation["n_src"].values * age[:, None, None, None], rtol=1e-6)
    with pytest.raises(InputError, match="needs n_src"):
        list(excursion_set.photons(simulation.drop_vars("n_src"), "instant"))
    with pytest.raises(InputError, match="'history' or 'instant'"):
        list(excursion_set.photons(simulation, "past"))


def test_a_series_that_starts_late_is_a_warning(toy):
    late = toy(shape=(6, 6, 6), redshift=(9.0, 8.0))
    with pytest.warns(UserWarning, match="starts at z = 9.*lacks the photons emitted before"):
        list(excursion_set.photons(late, "history"))
    list(excursion_set.photons(late, "instant"))
    dark = late.assign(n_src=late["n_src"] * 0)
    assert not any(photons.any() for photons in excursion_set.photons(dark, "history"))


@pytest.mark.parametrize("threshold", [0.4, 1.0, 2.3])
def test_the_fitted_threshold_is_the_one_that_made_the_truth(toy, threshold):
    boxes = []
    for seed in (1, 2):
        box = toy(shape=(12, 12, 12), seed=seed)
        box = box.assign(n_src=box["n_src"] * 500)
        atoms = hydrogen_density(box["n_igm"].values)
        xi = [
            excursion_set.ionised(photons, n, threshold=threshold)
            for photons, n in zip(excursion_set.photons(box, "history"), atoms, strict=True)
        ]
        assert 0.02 < np.mean(xi) < 0.98
        boxes.append(box.assign(xi=(box["xi"].dims, np.array(xi, dtype=np.float32), box["xi"].attrs)))
    fitted = excursion_set.fit_threshold(boxes)
    assert fitted == pytest.approx(threshold, rel=0.05)
    for box in boxes:
        for photons, n_igm, xi in zip(
            excursion_set.photons(box, "history"), box["n_igm"].values, box["xi"].values, strict=True
        ):
            again = excursion_set.ionised(photons, hydrogen_density(n_igm), threshold=fitted)
            assert np.mean(again != xi) < 2e-3


@pytest.mark.slow
def test_the_fit_beats_every_other_threshold(simulation):
    box = simulation.isel(x=slice(8), y=slice(8), z=slice(8), redshift=slice(1, 3))
    box = make_simulation(
        {name: box[name].values for name in ("n_igm", "n_src", "xi")},
        redshift=box["redshift"].values,
        box_size=16.0,
    )

    def squares(threshold):
        return sum(
            float(
                np.square(
                    excursion_set.ionised(photons, hydrogen_density(n_igm), threshold=threshold) - xi
                ).sum()
            )
            for photons, n_igm, xi in zip(
                excursion_set.photons(box, "instant"), box["n_igm"].values, box["xi"].values, strict=True
            )
        )

    best = squares(excursion_set.fit_threshold([box], "instant"))
    assert best <= min(squares(threshold) for threshold in np.geomspace(0.01, 100, 40)) * 1.001


def test_a_fit_without_photons_is_refused(toy, simulation):
    with pytest.raises(InputError, match="no photons"):
        excursion_set.fit_threshold([toy(shape=(6, 6, 6)).assign(n_src=lambda s: s["n_src"] * 0)])
    with pytest.raises(InputError, match="needs xi"):
        excursion_set.fit_threshold([simulation.drop_vars("xi")])
