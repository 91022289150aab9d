"""Mean and σ in one pass, against scikit-learn and numpy in two; photons of sources in other units."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from reion.errors import InputError
from reion.models.normalizer import Normalizer, fit_normalizer, fit_photons_per_source
from reion.simulation.contract import hydrogen_density
from reion.simulation.photons import with_n_ion


def snapshots(count=3, shape=(6, 5, 4)):
    rng = np.random.default_rng(1)
    for index in range(count):
        channels = np.stack([4e-31 * rng.lognormal(0, 1, shape), rng.lognormal(3, 2, shape)])
        yield 8.0 - index, channels.astype(np.float32), rng.random(shape).astype(np.float32)


def test_it_is_what_a_standard_scaler_measures():
    fitted = fit_normalizer(["n_igm", "n_ion"], (1 / 4e-31, 1.0), ("log1p", "none"), snapshots())
    scaler = StandardScaler()
    xi = []
    for _, channels, truth in snapshots():
        table = np.stack([np.log1p(channels[0].astype(np.float64) / 4e-31), channels[1]], axis=-1)
        scaler.partial_fit(table.reshape(-1, 2))
        xi.append(truth)
    np.testing.assert_allclose(fitted.mean, scaler.mean_, rtol=1e-6)
    np.testing.assert_allclose(fitted.std, np.sqrt(scaler.var_), rtol=1e-6)
    assert fitted.xi_mean == pytest.approx(np.mean(xi, dtype=np.float64), rel=1e-6)
    assert fitted.xi_std == pytest.approx(np.std(xi, dtype=np.float64), rel=1e-6)
    assert (fitted.redshift_mean, fitted.redshift_std) == pytest.approx((7.0, np.std([8, 7, 6])))


def test_a_constant_channel_and_a_single_redshift_do_not_divide_by_zero():
    one = [(8.0, np.ones((1, 3, 3, 3), np.float32), np.zeros((3, 3, 3), np.float32))]
    fitted = fit_normalizer(["n_igm"], (1.0,), ("none",), one)
    assert fitted.std == (1.0,)
    assert fitted.redshift_std == 1.0
    assert fitted.xi_std == 1.0


def test_json_and_back():
    fitted = fit_normalizer(["a", "b"], (1.0, 1.0), ("none", "asinh"), snapshots())
    assert Normalizer.from_dict(fitted.to_dict()) == fitted


@pytest.mark.parametrize("shining_time", [None, 0.01])
def test_photons_of_sources_in_other_units_are_found(toy, shining_time):
    sim = with_n_ion(toy(redshift=(12.0, 11.0, 10.0, 9.0)))
    sources = sim["n_ion"] if shining_time is None else sim["n_src"] * shining_time
    atoms = hydrogen_density(sim["n_igm"].values)
    # As many atoms ionised as 0.7 times the photons, whatever the place.
    share = 0.7 * sources.values.mean(axis=(1, 2, 3)) / atoms.mean(axis=(1, 2, 3))
    assert 0 < share.max() < 0.8
    sim["xi"] = sim["xi"] * 0 + share[:, None, None, None].astype(np.float32)
    for name in ("n_src", "n_ion"):
        sim[name] = sim[name] / 1e5  # as if the sources were counted in a unit of 1e5 photons
    found = fit_photons_per_source([sim], shining_time=shining_time)
    assert found == pytest.approx(0.7e5, rel=1e-3)


def test_without_ionised_gas_the_photons_are_asked_for(toy):
    sim = toy()
    sim["xi"] = sim["xi"] * 0
    with pytest.raises(InputError, match="sources and ionised gas"):
        fit_photons_per_source([sim], shining_time=None)
